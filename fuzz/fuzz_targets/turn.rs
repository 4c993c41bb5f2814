#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    causey_tests::decoders::turn(bytes);
});
