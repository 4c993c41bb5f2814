//! Flows that hold every construct there is, and how their steps behave.

use std::sync::{Arc, LazyLock};

use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::{Digest, FlowName};
use serde_json::{Value, json};

/// Bytes that stand for every flow's code.
pub(crate) const PACKAGE: &[u8] = b"package";

/// Pool of the steps that ask for one by name; all others go to `default`.
pub(crate) const OTHER_POOL: &str = "other";

/// The step that starts runs of [`CHILD`].
pub(crate) const SPAWNING: &str = "spawn";

/// The flow whose steps are memoised.
pub(crate) const MEMOISED: &str = "Memoised";

/// Flows that are started by others, by the clock, and for a span of time.
pub(crate) const CHILD: &str = "Child";
pub(crate) const SCHEDULED: &str = "Scheduled";
pub(crate) const FILLED: &str = "Filled";

/// A step from a line such as `start > a b`, `fan each work`, `open gang train`, `choose ? a b`, `join* > end` or `end`, where `*` marks a
/// join; behind `|` may stand `retry`, `catch`, `timeout`, `other` (the pool), `gathers` (a member of a gang), `approved`, `signal`,
/// `hurried` (a signal that is not waited for long), `memo`, and `briefly` (a result that is soon too old to be taken).
fn step(line: &str) -> Value {
    let (line, options) = line.split_once('|').unwrap_or((line, ""));
    let words: Vec<&str> = line.split_whitespace().collect();
    let name = |word: &str| word.trim_end_matches('*').to_owned();
    let next = match words[1..] {
        [] => json!("end"),
        [">", to] => json!({"linear": {"to": name(to)}}),
        ["each", to] => json!({"foreach": {"to": name(to), "variable": "items"}}),
        ["gang", to] => json!({"gang": {"to": name(to)}}),
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
            "gathers" => step["gather_seconds"] = json!(15.0),
            "approved" => step["gate"] = json!({"approval": {}}),
            "signal" => step["gate"] = json!({"signals": [{"name": "go"}]}),
            "hurried" => step["gate"] = json!({"signals": [{"name": "go", "timeout_seconds": 4.0, "default": {"value": null}}]}),
            "memo" => step["memo"] = json!({}),
            "briefly" => step["memo"] = json!({"expires_seconds": 4.0}),
            _ => panic!("{option} is no option of a step"),
        }
    }
    step
}

/// A flow with these steps; `more` are further fields of its definition.
fn flow(name: &str, lines: &[&str], more: Value) -> Arc<Flow> {
    let steps: Vec<Value> = lines.iter().map(|line| step(line)).collect();
    let mut definition = json!({"format": 1, "name": name, "language": "python", "file": "flow.py",
        "package": Digest::of(PACKAGE).to_string(), "steps": steps});
    if let (Some(definition), Value::Object(more)) = (definition.as_object_mut(), more) {
        definition.extend(more);
    }
    let definition: Definition = serde_json::from_value(definition).unwrap_or_else(|error| panic!("{name}: {error}"));
    Arc::new(Flow::try_from(definition).unwrap_or_else(|problems| panic!("{name}: {problems:?}")))
}

/// The flows that are submitted, and those that are deployed: they wait for events, for others to start them, for the clock.
pub(crate) static SUBMITTED: LazyLock<Vec<Arc<Flow>>> = LazyLock::new(submitted);
pub(crate) static DEPLOYED: LazyLock<Vec<Arc<Flow>>> = LazyLock::new(deployed);

/// A flow by its name.
pub(crate) fn named(name: &FlowName) -> &'static Flow {
    SUBMITTED.iter().chain(&*DEPLOYED).find(|flow| flow.definition().name == *name).expect("a flow of the simulation")
}

fn submitted() -> Vec<Arc<Flow>> {
    let plain = |name, lines: &[&str]| flow(name, lines, Value::Null);
    vec![
        plain("Linear", &["start > middle", "middle > end|retry other", "end"]),
        plain("Branch", &["start > a b", "a > join|retry", "b > join|retry timeout", "join* > end", "end"]),
        plain("Foreach", &["start > fan|retry", "fan each work|retry", "work > join|retry catch", "join* > end|retry", "end"]),
        plain(
            "Nested",
            &["start each outer", "outer each inner|retry", "inner > in_join|retry catch", "in_join* > out_join", "out_join* > end", "end"],
        ),
        plain("Switch", &["start > choose", "choose ? a b|retry", "a > end|retry", "b > end|catch", "end"]),
        plain("Recursion", &["start > again", "again ? again done|retry", "done > end", "end"]),
        plain(
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
        ),
        plain("Fragile", &["start > work", "work > end|timeout", "end"]),
        plain("Gang", &["start > open", "open gang train|retry", "train > join|retry gathers", "join* > end", "end"]),
        plain(
            "Gangs",
            &[
                "start > a b",
                "a gang x|retry",
                "x > ax|retry gathers",
                "ax* > join",
                "b gang y",
                "y > by|retry gathers other",
                "by* > join",
                "join* > end",
                "end",
            ],
        ),
        plain("Gated", &["start > a b", "a > join|signal retry memo", "b > join|hurried", "join* > end", "end"]),
        plain("Approved", &["start > fan", "fan each work", "work > join|approved retry", "join* > end|hurried", "end"]),
        plain("Parent", &["start > spawn", "spawn > end|retry memo", "end"]),
        plain(
            MEMOISED,
            &[
                "start > fan|memo",
                "fan each work|retry memo",
                "work > join|retry memo",
                "join* > again|retry briefly",
                "again ? again left right|retry memo",
                "left > both|memo",
                "right > both",
                "both > end|retry memo other",
                "end",
            ],
        ),
        flow("Limited", &["start each spawn", "spawn > join|retry", "join* > end", "end"], json!({"timeout_seconds": 20.0})),
    ]
}

fn deployed() -> Vec<Arc<Flow>> {
    let short = |name, more| flow(name, &["start > end|retry", "end"], more);
    let (arrived, approved) = (json!({"name": "arrived"}), json!({"name": "approved"}));
    let on = |events: Value, strategy: &str| json!({"triggers": [{"events": events}], "concurrency": {"strategy": strategy}});
    // Every twenty seconds, and every minute.
    let schedules = json!([{"cron": "*/20 * * * * * *", "catch_up": "all", "catch_up_max": 2}, {"cron": "* * * * *", "jitter_seconds": 5}]);
    vec![
        short("OnArrival", on(json!([arrived]), "queue")),
        short("OnBoth", on(json!([arrived, approved]), "latest")),
        short("OnApproval", on(json!([approved]), "replace")),
        short("Seldom", on(json!([arrived]), "skip")),
        flow(CHILD, &["start > work", "work > end|retry other", "end"], json!({"standing": {"priority": 5}})),
        short(SCHEDULED, json!({"schedules": schedules, "concurrency": {"strategy": "skip", "max": 2}})),
        short(FILLED, json!({})),
    ]
}
