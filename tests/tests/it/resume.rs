//! Resumed runs on real processes: what was accepted before is taken as it is, and the rest runs with the code as it is now.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use causey_protocol::id::RunId;
use causey_protocol::record::Record;
use causey_tests::project::finish;
use causey_tests::stack::Role;
use causey_tests::{Coordinator, History, Nats, Project, Stack, tools, until};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::durability::eager;
use crate::flows::{MENDED, SMALL, WIDE};
use crate::main_road::{Artifacts, artifacts};

/// The flow, broken there or nowhere.
fn broken(place: &str) -> String {
    MENDED.replace("BROKEN = \"item\"", &format!("BROKEN = \"{place}\"")).replace("from metaflow", "from causey")
}

pub(crate) async fn tasks(stack: &Stack, run: &str) -> BTreeMap<String, Value> {
    let page = stack.api.get(&format!("/v1/runs/{run}/tasks?limit=1000")).await;
    let named = |task: &Value| (format!("{}/{}", task["step"].as_str().unwrap(), task["task"].as_str().unwrap()), task.clone());
    page["tasks"].as_array().unwrap().iter().map(named).collect()
}

/// Tasks of a run of which an attempt was opened.
pub(crate) fn attempted(history: &History, of: &str) -> BTreeSet<String> {
    let (state, of) = (history.state(), of.parse::<RunId>().unwrap());
    let run = state.run(of).unwrap();
    let flow = state.flow_of(run).unwrap();
    let mut found = BTreeSet::new();
    for (_, record) in history.records() {
        if let Record::AttemptsOpened { run, step, tasks, .. } = record
            && *run == of
        {
            found.extend(tasks.iter().map(|(path, visit)| format!("{}/{}", flow.step(*step).name, path.task_name(visit))));
        }
    }
    found
}

#[tokio::test]
async fn a_mended_run_takes_the_results_there_are_and_runs_the_rest() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("mended.py", &broken("item"));
    let failed = project.expect(1, &["run", &flow, "--factor", "7", "--priority", "9", "--json"]).await;
    let earlier = failed.json_lines()[0]["run"].as_str().unwrap().to_owned();
    let before = tasks(&stack, &earlier).await;
    std::fs::write(&flow, broken("")).unwrap();
    let resumed = project.ok(&["resume", &earlier, &flow, "--json"]).await;
    let submitted = &resumed.json_lines()[0];
    let run = submitted["run"].as_str().unwrap();
    assert_eq!(submitted["resumed"]["reused"], json!(["start", "work", "gather", "end"]));
    assert_eq!(stack.api.get(&format!("/v1/runs/{run}")).await["priority"], 9);

    let after = tasks(&stack, run).await;
    let reused: BTreeSet<String> = after.iter().filter(|(_, task)| !task["reused"].is_null()).map(|(name, _)| name.clone()).collect();
    let had = before.iter().filter(|(_, task)| task["state"] == "succeeded").map(|(name, _)| name.clone()).collect();
    assert_eq!(reused, had, "what was accepted is taken, and nothing else");
    assert!(reused.contains("start/0") && !reused.contains("work/2"));
    for name in &reused {
        assert_eq!((&after[name]["object"], &after[name]["reused"]), (&before[name]["object"], &json!(earlier)), "{name}");
    }
    let end = artifacts(&stack.store(), run, Path::new(&flow)).await["end/0"].clone();
    assert_eq!((&end["total"], &end["resumes"], &end["all_made"][2]), (&json!(42), &json!(true), &json!("")));

    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    let attempted = attempted(&history, run);
    assert!(attempted.is_disjoint(&reused), "{attempted:?}");
    assert_eq!(attempted.len() + reused.len(), 6);
    let shown = project.ok(&["show", run]).await;
    assert!(shown.stdout.contains("from where it has no results on") && shown.stdout.contains("1/1   "), "{shown:#?}");
}

/// As under Metaflow 2.19: `mended.expected.json` was printed by `oracle.py --mended`.
#[tokio::test]
async fn a_resumed_run_has_the_artifacts_that_metaflow_gives_it() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("mended.py", &broken("join"));
    project.expect(1, &["run", &flow]).await;
    std::fs::write(&flow, broken("")).unwrap();
    let mut command = project.causey();
    let noted = project.file("run-id");
    let words = ["resume", &flow, "gather", "--run-id-file", noted.to_str().unwrap()];
    command.args(words);
    let output = finish(command, &words.join(" ")).await;
    assert_eq!(output.status, Some(0), "{output:#?}");
    output.says(&["from `gather` on", "`end` runs again: `gather` before it runs again"]);

    let run = std::fs::read_to_string(&noted).unwrap();
    let runs = stack.api.get("/v1/runs").await;
    let earlier = runs["runs"][1]["run"].as_str().unwrap();
    let taken = tasks(&stack, &run).await.into_iter().filter(|(_, task)| !task["reused"].is_null());
    let taken: BTreeSet<String> = taken.map(|(name, _)| name).collect();
    let mut found: Artifacts = artifacts(&stack.store(), earlier, Path::new(&flow)).await;
    found.retain(|name, _| taken.contains(name));
    found.extend(artifacts(&stack.store(), &run, Path::new(&flow)).await);
    let expected = tools::workspace().join("tests/flows/mended.expected.json");
    let expected: Artifacts = serde_json::from_slice(&std::fs::read(expected).unwrap()).unwrap();
    assert_eq!(found, expected);
}

#[tokio::test]
async fn the_expected_artifacts_of_a_resumed_run_are_those_of_the_real_metaflow() {
    if !tools::python_has("metaflow") {
        return;
    }
    let project = Project::new();
    let text = |place: &str| broken(place).replace("from causey", "from metaflow");
    let (flow, mended) = (project.flow("mended.py", &text("join")), project.flow("again.py", &text("")));
    let mut command = Command::new(tools::python());
    command.arg(tools::sdk().join("tests/oracle.py")).args([&flow, "--mended", &mended]);
    command.current_dir(project.path()).env_remove("PYTHONPATH");
    let output = finish(command, "oracle.py --mended").await;
    assert_eq!(output.status, Some(0), "{output:#?}");
    let expected = std::fs::read(tools::workspace().join("tests/flows/mended.expected.json")).unwrap();
    let real: Artifacts = serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:#?}"));
    assert_eq!(real, serde_json::from_slice::<Artifacts>(&expected).unwrap());
}

#[tokio::test]
async fn a_wide_foreach_is_resumed_by_chunks_while_the_leader_is_killed() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let text = WIDE.replace(
        "        if self.input == 640:\n",
        "        if self.input == 1500:\n            raise ValueError('broken')\n        if self.input == 640:\n",
    );
    let flow = project.flow("wide.py", &text);
    project.expect(1, &["run", &flow, "--host", "reuse"]).await;
    let runs = stack.api.get("/v1/runs").await;
    let earlier = runs["runs"][0]["run"].as_str().unwrap().to_owned();
    std::fs::write(&flow, WIDE).unwrap();
    let mut command = project.causey();
    command.args(["resume", &earlier, &flow, "--json"]);
    let (output, ()) = tokio::join!(finish(command, "resume"), async {
        let started =
            async || stack.api.try_get("/v1/runs").await.filter(|runs| runs["runs"].as_array().is_some_and(|runs| runs.len() > 1));
        until("the resumed run", 20, started).await;
        stack.crash(Role::Coordinator).await;
    });
    assert_eq!(output.status, Some(0), "{output:#?}");
    let run = output.json_lines()[0]["run"].as_str().unwrap().to_owned();
    let total: u64 = (0..2_100).map(|number| number * number).sum();
    assert!(output.stdout.contains(&format!("total={total} last=(2100, {}, 2099)", 2_099 * 2_099)), "{output:#?}");
    let view = stack.api.get(&format!("/v1/runs/{run}")).await;
    assert!(view["steps"][1]["reused"].as_u64().unwrap() >= 1_000, "{view}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
    assert_eq!(history.store_violations(&stack.store()).unwrap(), Vec::<String>::new());
    assert!(history.records().any(|(_, record)| matches!(record, Record::ChunkReused { .. })));
}

#[tokio::test]
async fn a_run_that_has_left_the_state_is_resumed_from_its_history() {
    let project = Project::new();
    let nats = Nats::start(project.path()).await;
    let place = eager(project.path());
    let (_coordinator, api) = Coordinator::leading(&nats, project.path(), &place).await;
    let _worker = causey_tests::service::worker(&nats.url(), project.path(), &place.store, "w1");
    let token = api.token.clone();
    let at = |command: &mut Command| {
        command.env("CAUSEY_URL", &api.url).env("CAUSEY_TOKEN", &token);
    };
    let flow = project.flow("mended.py", &broken("join"));
    let mut command = project.causey();
    at(command.args(["run", &flow, "--json"]));
    let output = finish(command, "run").await;
    assert_eq!(output.status, Some(1), "{output:#?}");
    let earlier = output.json_lines()[0]["run"].as_str().unwrap().to_owned();
    let mut command = project.causey();
    at(command.args(["run", &project.flow("small.py", SMALL)]));
    assert_eq!(finish(command, "run").await.status, Some(0));
    let client = nats.client().await;
    until("the run has left the state", 30, async || {
        let history = History::read(&client).await;
        history.records().any(|(_, record)| matches!(record, Record::RunRetired { .. })).then_some(())
    })
    .await;
    std::fs::write(&flow, broken("")).unwrap();
    let mut command = project.causey();
    at(command.args(["resume", &earlier, &flow, "--json"]));
    let output = finish(command, "resume").await;
    assert_eq!(output.status, Some(0), "{output:#?}");
    let run = output.json_lines()[0]["run"].as_str().unwrap().to_owned();
    let view = api.get(&format!("/v1/runs/{run}")).await;
    let reused: Vec<&Value> = view["steps"].as_array().unwrap().iter().map(|step| &step["reused"]).collect();
    assert_eq!(reused, [1, 3, 0, 0]);
    assert_eq!((&view["cause"]["kind"], &view["cause"]["run"]), (&json!("resume"), &json!(earlier)));
}

#[tokio::test]
async fn an_object_that_is_gone_fails_the_resumed_run_by_name() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("mended.py", &broken("join"));
    let output = project.expect(1, &["run", &flow, "--json"]).await;
    let earlier = output.json_lines()[0]["run"].as_str().unwrap().to_owned();
    let object = tasks(&stack, &earlier).await["work/1"]["object"]["key"].as_str().unwrap().to_owned();
    std::fs::remove_file(stack.store().join("runs").join(&earlier).join(&object)).unwrap();
    let output = project.expect(1, &["resume", &earlier]).await;
    output.says(&["cannot be reused", &format!("object runs/{earlier}/{object} is missing or damaged"), "causey resume"]);
}

#[tokio::test]
async fn what_cannot_be_resumed_is_refused_with_advice() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("small.py", SMALL);
    let output = project.ok(&["run", &flow, "--json"]).await;
    let run = output.json_lines()[0]["name"].as_str().unwrap().to_owned();
    project.expect(4, &["resume", &run]).await.says(&["has succeeded", &format!("causey resume {run} STEP")]);
    project.expect(3, &["resume", "brisk-nobody-0"]).await.says(&["no run `brisk-nobody-0`", "causey runs"]);
    project.expect(3, &["resume", &run, "middle"]).await.says(&["no step `middle`", "it has: start, end"]);
    project.expect(2, &["resume", &run, "end", "--alpha", "1"]).await.says(&["`--alpha` is no option", "causey run FLOW"]);
    let other = project.flow("mended.py", &broken(""));
    project.expect(4, &["resume", &run, "end", &other]).await.says(&["one of flow Small, and not of flow Mended"]);
    project.expect(3, &["resume", &other]).await.says(&["no run of this flow is known"]);
    let body = json!({"step": "end", "parameters": {"alpha": 1}});
    let reply = stack.api.post(&format!("/v1/runs/{run}/resume"), &body).await;
    reply.refused(409, "CSY-1008", &["cannot be changed", "causey run FLOW"]);
    let reply = stack.api.post(&format!("/v1/runs/{run}/resume"), &json!({"request_id": "again-1", "step": "end"})).await;
    assert_eq!(reply.status.as_u16(), 201, "{reply:?}");
    let twice = stack.api.post(&format!("/v1/runs/{run}/resume"), &json!({"request_id": "again-1", "step": "end"})).await;
    assert_eq!((twice.status.as_u16(), &twice.body["run"]), (200, &reply.body["run"]));
}
