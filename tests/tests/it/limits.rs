//! Steps and runs that take too long, and what a step may still do when its run is cancelled.

use causey_tests::wait::until_true;
use causey_tests::{History, Project, Stack, process, until};
use serde_json::json;

use crate::flows::LIMITS;

/// Row 5 of the fault model.
#[tokio::test]
async fn a_step_that_takes_too_long_times_out_whether_it_hears_it_or_not() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("limits.py", LIMITS);
    let run = async |how: &str, exit: i32| project.expect(exit, &["run", &flow, "--how", how]).await;
    let asleep = run("asleep", 1).await;
    asleep.says(&["asleep failed", "CSY-2108", "TimeoutException: step 'asleep' timed out after 0.5 seconds", "time.sleep(600)"]);
    run("deaf", 1).await.says(&["CSY-2108", "step `deaf` timed out after 0.5 seconds", "was killed"]);
    let caught = run("caught", 0).await;
    assert!(caught.stdout.contains("problem: step 'caught' timed out after 0.5 seconds"), "{caught:#?}");
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_run_that_takes_too_long_ends_and_so_do_its_steps() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let flow = project.flow("limits.py", LIMITS);
    let mark = project.file("mark");
    project.expect(2, &["run", &flow, "--timeout", "0s"]).await.says(&["a timeout of 0 seconds"]);
    project.expect(2, &["run", &flow, "--timeout", "soon"]).await.says(&["--timeout"]);
    let arguments = ["run", &flow, "--timeout", "3s", "--how", "cleaning", "--mark", mark.to_str().unwrap()];
    project.expect(1, &arguments).await.says(&["CSY-2108", "the run timed out after 3 seconds"]);
    until_true("the step has cleaned up", 10, || std::fs::read_to_string(&mark).is_ok_and(|text| text == "cleaned up")).await;
    let history = History::read(&stack.nats().await).await;
    assert_eq!(history.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn a_cancelled_step_may_clean_up_and_a_deaf_one_is_killed_after_its_grace() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    project.ok(&["deploy", &project.flow("limits.py", LIMITS)]).await;
    for (name, cleans_up) in [("mark", true), ("deaf", false)] {
        let mark = project.file(name);
        let parameters = json!({"how": "cleaning", "mark": mark});
        let body = json!({"request_id": name, "flow": "Limits", "parameters": parameters, "user": "ann"});
        let run = stack.api.post("/v1/runs", &body).await.body["name"].as_str().unwrap().to_owned();
        let read = || std::fs::read_to_string(&mark).unwrap_or_default();
        let pid: u32 = until("the step runs", 30, async || read().strip_prefix("begun ")?.strip_suffix(' ')?.parse().ok()).await;
        project.ok(&["cancel", &run]).await;
        until_true("the host is gone", 10, || !process::is_alive(pid)).await;
        assert_eq!(read() == "cleaned up", cleans_up, "{}", read());
        assert_eq!(stack.api.ended(&run, 10).await["state"], "cancelled");
    }
}
