use super::*;
use crate::id::FlowName;
use crate::policy::CatchPolicy;
use crate::share::Standing;

/// Builds a definition from lines such as `start > a b`, `a > join*`, `fan each work`, `choose ? a b`, `join* > end`; `*` marks a join.
fn definition(lines: &[&str]) -> Definition {
    let steps = lines.iter().enumerate().map(|(place, line)| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let name = |word: &str| StepName::new(word.trim_end_matches('*')).unwrap();
        let next = match words[1..] {
            [] => Transition::End,
            [">", to] => Transition::Linear { to: name(to) },
            ["each", to] => Transition::Foreach { to: name(to), variable: "items".into() },
            ["gang", to] => Transition::Gang { to: name(to) },
            ["?", ref to @ ..] => Transition::Switch { condition: "kind".into(), cases: cases(to) },
            [">", ref to @ ..] => Transition::Branch { to: to.iter().map(|word| name(word)).collect() },
            _ => panic!("{line}"),
        };
        let line = u32::try_from(place).unwrap() + 10;
        Step {
            name: name(words[0]),
            line,
            doc: String::new(),
            join: words[0].ends_with('*'),
            next,
            retry: None,
            catch: None,
            resources: None,
            host: None,
            visits_max: None,
            timeout_seconds: None,
            grace_seconds: None,
            gather_seconds: None,
            gate: None,
            memo: None,
            code: None,
            surroundings: None,
        }
    });
    Definition {
        format: 1,
        name: FlowName::new("Demo").unwrap(),
        language: "python".into(),
        file: "demo.py".into(),
        package: Digest::of(b""),
        doc: String::new(),
        steps: steps.collect(),
        parameters: Vec::new(),
        triggers: Vec::new(),
        timeout_seconds: None,
        schedules: Vec::new(),
        concurrency: None,
        standing: Standing::default(),
    }
}

/// Cases `0`, `1`, … in order.
fn cases(to: &[&str]) -> Vec<Case> {
    to.iter().enumerate().map(|(value, to)| Case { value: value.into(), to: StepName::new(to).unwrap() }).collect()
}

fn error(lines: &[&str]) -> String {
    Flow::try_from(definition(lines)).unwrap_err().message
}

#[test]
fn a_nested_foreach_knows_its_levels_and_the_split_each_join_closes() {
    let flow = Flow::try_from(definition(&[
        "start each outer",
        "outer each inner",
        "inner > left right",
        "left > meet",
        "right > meet",
        "meet* > collect",
        "collect* > gather",
        "gather* > end",
        "end",
    ]))
    .unwrap();
    let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
    let closed = |name: &str| flow.closes(find(name)).map(|split| flow.step(split.step).name.to_string());
    assert_eq!(closed("meet").as_deref(), Some("inner"));
    assert_eq!(closed("collect").as_deref(), Some("outer"));
    assert_eq!(closed("gather").as_deref(), Some("start"));
    let levels = |name: &str| flow.foreach_levels(find(name)).map(|step| flow.step(step).name.to_string()).collect::<Vec<_>>();
    assert_eq!(levels("left"), ["start", "outer"]);
    assert_eq!(levels("collect"), ["start"]);
    assert!(levels("end").is_empty());
}

#[test]
fn a_single_step_is_a_flow() {
    assert!(Flow::try_from(definition(&["only"])).is_ok());
}

#[test]
fn faulty_graphs_are_refused_with_step_and_line() {
    assert_eq!(
        error(&["start > a", "a > start", "end"]),
        "demo.py:10: step `start` is part of a cycle: following its transitions leads back to it"
    );
    assert_eq!(
        error(&["start > a", "a > b", "b > a c", "c"]),
        "demo.py:11: step `a` is part of a cycle: following its transitions leads back to it"
    );
    assert_eq!(error(&["start > nowhere", "end"]), "demo.py:10: step `start` goes on to `nowhere`, which is not a step");
    assert_eq!(error(&["start > end", "lost > end", "end"]), "demo.py:11: step `lost` is never reached: no step goes on to it");
    assert_eq!(
        error(&["start > a b", "a > end", "b > end", "end"]),
        "demo.py:13: step `end` is reached by several steps but is no join; a join takes the argument `inputs`"
    );
    assert_eq!(error(&["start > end", "end*"]), "demo.py:11: step `end` joins, but no split is open before it");
    assert_eq!(
        error(&["start each a", "a > end", "end"]),
        "demo.py:12: step `end` ends the flow inside the split of step `start`, which no join closes"
    );
    assert_eq!(
        error(&["start > a b c", "a > j", "b > j", "c > k", "j* > k", "k* > end", "end"]),
        "demo.py:14: step `j` joins 2 of the 3 paths that step `start` opens; all must meet in one join"
    );
    assert_eq!(
        error(&["start > a b", "a each x", "x > j", "b > j", "j* > end", "end"]),
        "demo.py:14: step `j` joins steps of different splits; close the inner split with a join of its own first"
    );
}

#[test]
fn the_paths_of_a_switch_may_meet_in_a_step_or_in_the_join_around_it() {
    assert!(Flow::try_from(definition(&["start ? a end", "a > end", "end"])).is_ok(), "a path may end early");
    let meeting = Flow::try_from(definition(&["start ? a b", "a > c", "b > c", "c > end", "end"])).unwrap();
    let certain: Vec<bool> = meeting.indices().map(|step| meeting.is_certain(step)).collect();
    assert_eq!(certain, [true, false, false, true, true]);
    let flow =
        Flow::try_from(definition(&["start > right left", "left ? a b", "a > meet", "b > meet", "right > meet", "meet* > end", "end"]))
            .unwrap();
    let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
    let parents: Vec<_> = flow.parents(find("meet")).iter().map(|parent| flow.step(*parent).name.to_string()).collect();
    assert_eq!(parents, ["right", "a", "b"], "in the order of the branches, alternatives together");
}

#[test]
fn a_switch_may_lead_back_to_its_own_step() {
    let flow = Flow::try_from(definition(&["start > again", "again ? again end", "end"])).unwrap();
    assert!(flow.indices().all(|step| flow.is_certain(step)));
    let again = flow.find(&StepName::new("again").unwrap()).unwrap();
    assert!(flow.recurs(again));
    assert_eq!(flow.parents(again), [flow.start()]);
    assert_eq!(flow.visits_max(again), VISITS_MAX_DEFAULT);
}

#[test]
fn faulty_switches_are_refused_with_step_and_line() {
    assert_eq!(error(&["start ? a", "a > end", "end"]), "demo.py:10: step `start` switches between 1 cases; at least two are needed");
    assert_eq!(error(&["start ? nowhere end", "end"]), "demo.py:10: step `start` goes on to `nowhere`, which is not a step");
    assert_eq!(
        error(&["start > a", "a > b", "b ? a end", "end"]),
        "demo.py:11: step `a` is part of a cycle: following its transitions leads back to it"
    );
    assert_eq!(
        error(&["start ? start end", "end"]),
        "demo.py:10: step `start` is the first step and leads back to itself; put a step before it"
    );
    assert_eq!(
        error(&["start each work", "work ? join other", "other > join", "join* > end", "end"]),
        "demo.py:11: step `work` switches straight into the join `join`; put a step between them"
    );
    assert_eq!(
        error(&["start > a b", "a ? x y", "x > join", "y > b", "b > join", "join* > end", "end"]),
        "demo.py:14: step `b` is reached by several steps but is no join; a join takes the argument `inputs`"
    );
    let mut caught = definition(&["start ? a end", "a > end", "end"]);
    caught.steps[0].catch = Some(CatchPolicy { variable: None });
    assert_eq!(
        Flow::try_from(caught).unwrap_err().message,
        "demo.py:10: step `start` has catch and a switch: when it fails there is no value to choose a case by"
    );
}

#[test]
fn a_bound_of_visits_is_for_recursion_and_within_range() {
    let mut flow = definition(&["start > again", "again ? again end", "end"]);
    flow.steps[1].visits_max = Some(0);
    assert_eq!(
        Flow::try_from(flow.clone()).unwrap_err().message,
        "demo.py:11: step `again` bounds its visits at 0; 1 to 100000 are possible"
    );
    (flow.steps[0].visits_max, flow.steps[1].visits_max) = (Some(5), None);
    assert_eq!(
        Flow::try_from(flow).unwrap_err().message,
        "demo.py:10: step `start` bounds its visits, but no case of a switch leads back to it"
    );
}

#[test]
fn a_gang_goes_from_one_step_to_one_join() {
    let lines = ["start gang train", "train > meet", "meet* > end", "end"];
    let flow = Flow::try_from(definition(&lines)).unwrap();
    let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
    assert!(flow.is_gang(find("train")) && !flow.is_gang(find("meet")) && !flow.is_gang(find("start")));
    assert_eq!(flow.foreach_levels(find("train")).collect::<Vec<_>>(), [find("start")]);
    assert_eq!(flow.closes(find("meet")), Some(Split { step: find("start"), foreach: true }));
    assert_eq!(
        error(&["start gang meet", "meet* > end", "end"]),
        "demo.py:10: step `start` splits straight into the join `meet`; put a step between them"
    );
    let alone = "demo.py:11: step `train` runs as a gang, so it has to go on to a join and to nothing else";
    assert_eq!(error(&["start gang train", "train > more", "more > meet", "meet* > end", "end"]), alone);
    assert_eq!(error(&["start gang train", "train each more", "more > meet", "meet* > all", "all* > end", "end"]), alone);
    assert_eq!(error(&["start gang train", "train"]), alone);
    assert_eq!(
        error(&["start ? a b", "a gang train", "b > train", "train > meet", "meet* > end", "end"]),
        "demo.py:13: step `train` is reached by several steps but is no join; a join takes the argument `inputs`"
    );
    let change = |change: &dyn Fn(&mut Definition)| {
        let mut flow = definition(&lines);
        change(&mut flow);
        Flow::try_from(flow).unwrap_err().message
    };
    assert_eq!(
        change(&|flow| flow.steps[1].catch = Some(CatchPolicy { variable: None })),
        "demo.py:11: step `train` has catch and runs as a gang: when a member fails, the others cannot go on without it"
    );
    assert_eq!(
        change(&|flow| flow.steps[0].catch = Some(CatchPolicy { variable: None })),
        "demo.py:10: step `start` has catch and opens a gang: when it fails there is no number of members to go on with"
    );
    assert_eq!(
        change(&|flow| flow.steps[1].gather_seconds = Some(0.0)),
        "demo.py:11: step `train` is wrong: a timeout of 0 seconds is not between 0 (excluded) and 31536000"
    );
    assert_eq!(
        change(&|flow| flow.steps[2].gather_seconds = Some(5.0)),
        "demo.py:12: step `meet` says how long its gang may gather, but no step opens a gang of it"
    );
}

#[test]
fn a_timeout_of_zero_is_refused() {
    let mut flow = definition(&["start > end", "end"]);
    flow.steps[0].timeout_seconds = Some(0.0);
    assert_eq!(
        Flow::try_from(flow.clone()).unwrap_err().message,
        "demo.py:10: step `start` is wrong: a timeout of 0 seconds is not between 0 (excluded) and 31536000"
    );
    (flow.steps[0].timeout_seconds, flow.timeout_seconds) = (None, Some(f64::NAN));
    assert_eq!(
        Flow::try_from(flow.clone()).unwrap_err().message,
        "flow Demo is wrong: a timeout of NaN seconds is not between 0 (excluded) and 31536000"
    );
    (flow.timeout_seconds, flow.steps[1].grace_seconds) = (Some(0.5), Some(-1.0));
    assert_eq!(
        Flow::try_from(flow).unwrap_err().message,
        "demo.py:11: step `end` is wrong: a grace of -1 seconds is not between 0 and 3600"
    );
}

#[test]
fn a_schedule_that_cannot_be_is_named_by_its_line() {
    let mut flow = definition(&["only"]);
    let schedule: crate::schedule::Schedule = serde_json::from_str(r#"{"cron": "0  2 * * *", "line": 7}"#).unwrap();
    assert_eq!((schedule.catch_up.as_str(), schedule.catch_up_max, schedule.identity().as_str()), ("latest", 100, "0 2 * * * UTC"));
    flow.schedules = vec![schedule.clone(), schedule.clone()];
    let refused = |flow: &Definition| Flow::try_from(flow.clone()).unwrap_err().message;
    assert_eq!(refused(&flow), "demo.py:7: schedule `0 2 * * * UTC` of flow Demo is wrong: it is there twice");
    flow.schedules = vec![crate::schedule::Schedule { parameters: [("day".into(), "date".into())].into(), ..schedule.clone() }];
    assert!(refused(&flow).ends_with("it fills parameter `day`, which the flow does not have"));
    flow.schedules = vec![crate::schedule::Schedule { catch_up_max: 0, ..schedule }];
    assert!(refused(&flow).ends_with("it catches up with 0 firings; 1 to 1000 are possible"));
    flow.schedules.clear();
    flow.concurrency = Some(crate::schedule::Concurrency { strategy: crate::schedule::Strategy::Skip, max: 0 });
    assert_eq!(refused(&flow), "flow Demo has a concurrency that is wrong: 0 runs at once are not between 1 and 1000");
}

#[test]
fn a_gate_is_checked_and_is_not_for_recursion() {
    let gate = |json| Some(Box::new(serde_json::from_value(json).unwrap()));
    let mut flow = definition(&["start > again", "again ? again end", "end"]);
    flow.steps[0].gate = gate(serde_json::json!({"signals": [{"name": "go"}]}));
    assert!(Flow::try_from(flow.clone()).is_ok(), "the first step may wait too");
    flow.steps[1].gate = gate(serde_json::json!({"approval": {}}));
    assert_eq!(
        Flow::try_from(flow.clone()).unwrap_err().message,
        "demo.py:11: step `again` waits for a signal or an approval, and leads back to itself"
    );
    (flow.steps[1].gate, flow.steps[2].gate) = (None, gate(serde_json::json!({"signals": [{"name": "go"}, {"name": "go"}]})));
    assert_eq!(Flow::try_from(flow.clone()).unwrap_err().message, "demo.py:12: step `end` is wrong: it waits for signal `go` twice");
    let mut gang = definition(&["start gang train", "train > gather", "gather* > end", "end"]);
    gang.steps[1].gate = gate(serde_json::json!({"approval": {}}));
    assert_eq!(
        Flow::try_from(gang).unwrap_err().message,
        "demo.py:11: step `train` waits for a signal or an approval, and is the step of a gang"
    );
    let large = || gate(serde_json::json!({"signals": [{"name": "go", "timeout_seconds": 1.0, "default": {"value": "x".repeat(40_000)}}]}));
    (flow.steps[0].gate, flow.steps[2].gate) = (large(), large());
    assert_eq!(Flow::try_from(flow).unwrap_err().message, "flow Demo has signal defaults of 80004 bytes; at most 65536 are accepted");
}

#[test]
fn an_invalid_definition_cannot_be_deserialized_into_a_flow() {
    let json = serde_json::to_string(&definition(&["start > start"])).unwrap();
    assert!(serde_json::from_str::<Flow>(&json).is_err());
}
