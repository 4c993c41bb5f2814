//! Flows that hold every construct there is, and how their steps behave.

use std::sync::Arc;

use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::Digest;
use serde_json::{Value, json};

/// Bytes that stand for every flow's code.
pub(crate) const PACKAGE: &[u8] = b"package";

/// Pool of the steps that ask for one by name; all others go to `default`.
pub(crate) const OTHER_POOL: &str = "other";

/// A step from a line such as `start > a b`, `fan each work`, `choose ? a b`, `join* > end` or `end`, where `*` marks a join;
/// behind `|` may stand `retry`, `catch`, `timeout` and `other` (the pool).
fn step(line: &str) -> Value {
    let (line, options) = line.split_once('|').unwrap_or((line, ""));
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = |word: &str| word.trim_end_matches('*').to_owned();
    let next = match words[1..] {
        [] => json!("end"),
        [">", to] => json!({"linear": {"to": name(to)}}),
        ["each", to] => json!({"foreach": {"to": name(to), "variable": "items"}}),
        ["?", ref to @ ..] => {
            let cases: Vec<Value> = to.iter().enumerate().map(|(value, to)| json!({"value": value, "to": name(to)})).collect();
            json!({"switch": {"condition": "kind", "cases": cases}})
        }
        [">", ref to @ ..] => json!({"branch": {"to": to.iter().map(|word| name(word)).collect::<Vec<_>>()}}),
        _ => panic!("{line}"),
    };
    let mut step = json!({"name": name(words[0]), "line": 0, "doc": "", "join": words[0].ends_with('*'), "next": next});
    for option in options.split_whitespace() {
        match option {
            "retry" => step["retry"] = json!({"times": 3, "delay_seconds": 0.5, "factor": 2.0, "cap_seconds": 2.0, "jitter": 0.5}),
            "catch" => step["catch"] = json!({}),
            "other" => step["resources"] = json!({"pool": OTHER_POOL}),
            "timeout" => {
                step["timeout_seconds"] = json!(1.0);
                step["grace_seconds"] = json!(0.5);
            }
            _ => panic!("{option} is no option of a step"),
        }
    }
    step
}

fn flow(name: &str, lines: &[&str], triggers: &Value) -> Arc<Flow> {
    let steps: Vec<Value> = lines.iter().map(|line| step(line)).collect();
    let definition = json!({"format": 1, "name": name, "language": "python", "file": "flow.py", "package": Digest::of(PACKAGE).to_string(),
        "doc": "", "steps": steps, "parameters": [], "triggers": triggers});
    let definition: Definition = serde_json::from_value(definition).unwrap_or_else(|error| panic!("{name}: {error}"));
    Arc::new(Flow::try_from(definition).unwrap_or_else(|problems| panic!("{name}: {problems:?}")))
}

/// The flows that are submitted.
pub(crate) fn submitted() -> Vec<Arc<Flow>> {
    let none = json!([]);
    vec![
        flow("Linear", &["start > middle", "middle > end|retry other", "end"], &none),
        flow("Branch", &["start > a b", "a > join|retry", "b > join|retry timeout", "join* > end", "end"], &none),
        flow("Foreach", &["start > fan|retry", "fan each work|retry", "work > join|retry catch", "join* > end|retry", "end"], &none),
        flow(
            "Nested",
            &["start each outer", "outer each inner|retry", "inner > in_join|retry catch", "in_join* > out_join", "out_join* > end", "end"],
            &none,
        ),
        flow("Switch", &["start > choose", "choose ? a b|retry", "a > end|retry", "b > end|catch", "end"], &none),
        flow("Recursion", &["start > again", "again ? again done|retry", "done > end", "end"], &none),
        flow(
            "Mixed",
            &[
                "start > left right",
                "left each item|retry",
                "item > gathered|retry catch",
                "gathered* > both",
                "right ? one two|retry",
                "one > both",
                "two > both|other",
                "both* > end|retry",
                "end",
            ],
            &none,
        ),
        flow("Fragile", &["start > work", "work > end|timeout", "end"], &none),
    ]
}

/// The flows that are deployed and wait for events.
pub(crate) fn deployed() -> Vec<Arc<Flow>> {
    vec![
        flow("OnArrival", &["start > end|retry", "end"], &json!([{"events": [{"name": "arrived"}]}])),
        flow("OnBoth", &["start > end|retry", "end"], &json!([{"events": [{"name": "arrived"}, {"name": "approved"}]}])),
    ]
}
