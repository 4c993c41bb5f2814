//! Readable run names such as `brisk-otter-41`, derived from the origin so that the same origin always gets the same words.

use causey_protocol::id::{Origin, RunName};

use crate::state::State;

const ADJECTIVES: [&str; 64] = [
    "amber", "apt", "bold", "brave", "bright", "brisk", "calm", "clear", "clever", "cool", "crisp", "daring", "deft", "eager", "early",
    "fair", "fast", "fine", "firm", "fleet", "fond", "fresh", "gentle", "glad", "golden", "grand", "green", "happy", "hardy", "honest",
    "jolly", "keen", "kind", "light", "lively", "loyal", "lucky", "mellow", "merry", "mild", "neat", "nimble", "noble", "open", "plain",
    "prime", "proud", "quick", "quiet", "rapid", "ready", "robust", "sharp", "silver", "smart", "snug", "steady", "sunny", "swift", "tidy",
    "true", "vivid", "warm", "wise",
];

const NOUNS: [&str; 64] = [
    "badger", "bear", "beaver", "bison", "bobcat", "camel", "condor", "coral", "crane", "cricket", "deer", "dolphin", "dove", "eagle",
    "egret", "elk", "falcon", "ferret", "finch", "fox", "gecko", "gibbon", "goose", "hare", "hawk", "heron", "horse", "ibex", "jackal",
    "jay", "koala", "lark", "lemur", "lion", "lynx", "marten", "mole", "moose", "newt", "ocelot", "orca", "osprey", "otter", "owl",
    "panda", "parrot", "pelican", "pika", "puffin", "puma", "quail", "rabbit", "raven", "robin", "seal", "shark", "sparrow", "stork",
    "swan", "tapir", "tiger", "trout", "walrus", "wren",
];

/// The name of the run that `origin` starts: its words, and its number or the next free one.
pub(crate) fn run_name(state: &State, origin: &Origin) -> RunName {
    let [adjective, noun, number, ..] = origin.0;
    let words = (ADJECTIVES[usize::from(adjective) % 64], NOUNS[usize::from(noun) % 64]);
    (u32::from(number) % 100..)
        .filter_map(|number| RunName::new(format!("{}-{}-{number}", words.0, words.1)).ok())
        .find(|name| state.run_named(name).is_none())
        .expect("the numbers do not run out before the memory does")
}
