//! The fuzz targets on every machine: seeds that each decoder accepts, damaged in reproducible ways. `make fuzz` lets libFuzzer look
//! further where there is a nightly toolchain.

use causey_tests::decoders::ALL;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Bytes that mean something to MessagePack, JSON or tar: lengths, ends of ranges, brackets.
const TELLING: &[u8] = &[
    0, 1, 0x7f, 0x80, 0x90, 0x91, 0xc0, 0xc1, 0xc4, 0xca, 0xcb, 0xcf, 0xd9, 0xdb, 0xdc, 0xdd, 0xde, 0xdf, 0xff, b'"', b'[', b'{', b'}',
    b'-', b'9', b'.', b'/',
];

fn place(random: &mut StdRng, bytes: &[u8]) -> usize {
    random.random_range(0..=bytes.len().saturating_sub(1))
}

/// Changes bytes in one of the ways in which messages go wrong.
fn damage(random: &mut StdRng, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
    let at = place(random, bytes);
    let end = (at + random.random_range(1..=16)).min(bytes.len());
    match random.random_range(0..9) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..end)),
        2 => {
            let again: Vec<u8> = bytes[at..end].to_vec();
            bytes.splice(at..at, again);
        }
        3 => bytes.insert(at, *TELLING.choose(random).unwrap()),
        4 => {
            // The rest of one message behind the beginning of another.
            let other = seeds.choose(random).unwrap();
            bytes.truncate(at);
            bytes.extend_from_slice(&other[place(random, other)..]);
        }
        5 => bytes[at..end].reverse(),
        6 if !bytes.is_empty() => bytes[at] ^= 1 << random.random_range(0..8),
        7 if !bytes.is_empty() => bytes[at] = random.random(),
        _ if !bytes.is_empty() => bytes[at] = *TELLING.choose(random).unwrap(),
        _ => {}
    }
}

/// Reads every seed and so many damaged ones.
fn read(name: &str, rounds: u64) {
    let decoder = ALL.into_iter().find(|decoder| decoder.name == name).expect("there is such a target");
    let seeds = (decoder.seeds)();
    assert!(!seeds.is_empty(), "{name} has no seeds");
    for seed in &seeds {
        assert!((decoder.read)(seed), "{name} refuses its own seed {:?}", String::from_utf8_lossy(seed));
    }
    for round in 0..rounds {
        let random = &mut StdRng::seed_from_u64(round);
        let mut bytes = seeds.choose(random).unwrap().clone();
        for _ in 0..random.random_range(1..=4) {
            damage(random, &mut bytes, &seeds);
        }
        let caught = std::panic::catch_unwind(|| (decoder.read)(&bytes));
        assert!(caught.is_ok(), "round {round} of {name}: {:?}", String::from_utf8_lossy(&bytes));
    }
}

macro_rules! decoders {
    ($($name:ident $rounds:literal),+ $(,)?) => {
        $(#[test]
        fn $name() {
            read(stringify!($name), $rounds);
        })+

        #[test]
        fn every_target_is_read_here_and_has_a_file_for_libfuzzer() {
            let here = [$(stringify!($name)),+];
            assert_eq!(ALL.map(|decoder| decoder.name), here);
            for name in here {
                let file = causey_tests::tools::workspace().join(format!("fuzz/fuzz_targets/{name}.rs"));
                let text = std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
                assert!(text.contains(&format!("decoders::{name}(")), "{text}");
            }
        }
    };
}

decoders! {
    turn 10_000,
    dispatch 20_000,
    report 20_000,
    request 20_000,
    live 20_000,
    chunk 20_000,
    event 40_000,
    flow 20_000,
    host_line 60_000,
    package 600,
    object 20_000,
    snapshot 2_000,
    history 5_000,
    inputs 3_000,
}
