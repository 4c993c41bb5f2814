//! Decoders are total: whatever bytes come, they answer with a value or an error, and a value means the same when it is written again.

use causey_protocol::codec::{self, MESSAGE_BYTES_MAX, TURN_BYTES_MAX};
use causey_protocol::event::CloudEvent;
use causey_protocol::flow::Flow;
use causey_protocol::input::RequestMessage;
use causey_protocol::live::{Ask, LiveOutput, Told};
use causey_protocol::record::Turn;
use causey_protocol::task::{Dispatch, Report};
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What is read must be the same after it was written.
fn decode<T: Serialize + DeserializeOwned>(bytes: &[u8], bytes_max: usize) {
    if let Ok(message) = codec::decode::<T>(bytes, bytes_max) {
        let written = codec::encode(&message);
        let again: T = codec::decode(&written, usize::MAX).expect("what was written is read");
        assert_eq!(codec::encode(&again), written);
    }
}

fn decode_all(bytes: &[u8]) {
    decode::<RequestMessage>(bytes, MESSAGE_BYTES_MAX);
    decode::<Report>(bytes, MESSAGE_BYTES_MAX);
    decode::<Dispatch>(bytes, MESSAGE_BYTES_MAX);
    decode::<Turn>(bytes, TURN_BYTES_MAX);
    decode::<Ask>(bytes, MESSAGE_BYTES_MAX);
    decode::<Told>(bytes, MESSAGE_BYTES_MAX);
    decode::<LiveOutput>(bytes, MESSAGE_BYTES_MAX);
}

/// Golden messages with some bytes overwritten get further into the decoders than random ones.
fn damaged() -> impl Strategy<Value = Vec<u8>> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let golden: Vec<Vec<u8>> = std::fs::read_dir(folder).unwrap().map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    let damage = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    (prop::sample::select(golden), damage, any::<prop::sample::Index>()).prop_map(|(mut bytes, damage, end)| {
        for (place, byte) in damage {
            let place = place.index(bytes.len());
            bytes[place] = byte;
        }
        bytes.truncate(end.index(bytes.len()) + 1);
        bytes
    })
}

proptest! {
    #[test]
    fn random_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..300), version: bool) {
        if version && !bytes.is_empty() {
            bytes[0] = codec::VERSION;
        }
        decode_all(&bytes);
    }

    /// Row 31 of the fault model.
    #[test]
    fn damaged_messages_never_panic(bytes in damaged()) {
        decode_all(&bytes);
    }

    #[test]
    fn random_json_is_an_event_a_flow_or_an_error(text in "[\\[\\]{}\":,a-z0-9 .-]{0,200}") {
        if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
            let _ = CloudEvent::from_structured(value.clone());
            let _ = serde_json::from_value::<Flow>(value);
        }
    }
}

/// Row 31 of the fault model.
#[test]
fn deep_nesting_is_refused_before_it_is_built() {
    let mut bytes = vec![codec::VERSION];
    bytes.extend(std::iter::repeat_n(0x91, 100_000));
    assert!(codec::decode::<Turn>(&bytes, TURN_BYTES_MAX).is_err());
    assert!(codec::decode::<RequestMessage>(&bytes, MESSAGE_BYTES_MAX).is_err());
}
