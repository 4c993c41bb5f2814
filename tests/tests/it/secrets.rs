//! Variables and secrets of steps: a step has them, nothing else does, and whatever it tells of a secret is masked.

use std::path::Path;

use causey_tests::project::{Output, finish};
use causey_tests::{Project, Stack};

use crate::flows::{LACKING, SECRETIVE};

const TOKEN: &str = "tok-5f2b91c07d";
const KEY: &str = "key-88aa30e1";

/// Runs the flow with a worker that knows the secrets.
async fn run(project: &Project, more: &[&str]) -> Output {
    let mut command = project.causey();
    let vault = project.file("vault.sh");
    std::fs::write(&vault, format!("#!/bin/sh\ntest \"$1\" = db && echo {KEY}\n")).unwrap();
    command.env("TOKEN", TOKEN).env("CAUSEY_SECRET_COMMANDS", format!("vault=sh {}", vault.display()));
    command.args(["run", &project.flow("secretive.py", SECRETIVE)]).args(more);
    finish(command, "run secretive.py").await
}

/// The files that have one of the secrets.
fn leaks(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            leaks(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            let has = |secret: &str| bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
            if has(TOKEN) || has(KEY) {
                found.push(path.display().to_string());
            }
        }
    }
}

/// Row 40 of the fault model.
#[tokio::test]
async fn a_secret_reaches_its_step_and_is_masked_wherever_the_step_tells_it() {
    let project = Project::new();
    let output = run(&project, &[]).await;
    assert_eq!(output.status, Some(0), "{output:#?}{}", project.logs());
    for line in ["at import green now green", &format!("token *** of {}", TOKEN.len()), "child ***", "later True False False"] {
        assert!(output.stdout.contains(line), "{line:?} is missing: {output:#?}");
    }
    let failed = run(&project, &["--fail", "true"]).await;
    assert_eq!(failed.status, Some(1), "{failed:#?}");
    failed.says(&["ValueError: cannot log in as ***"]);
    let stack = Stack::start(&project).await;
    let runs = stack.api.get("/v1/runs").await;
    let name = runs["runs"][0]["name"].as_str().unwrap();
    let logs = project.ok(&["logs", &format!("{name}/start/0")]).await;
    assert!(logs.stdout.contains("ValueError: cannot log in as ***") && logs.stdout.contains("\n***\n"), "{logs:#?}");
    let shown = stack.api.get(&format!("/v1/runs/{name}/status")).await.to_string();
    assert!(shown.contains("with ***"), "{shown}");
    for text in [&output.stdout, &output.stderr, &failed.stdout, &failed.stderr, &logs.stdout, &shown] {
        assert!(!text.contains(TOKEN) && !text.contains(KEY), "{text}");
    }
    stack.stop().await;
    let mut found = Vec::new();
    leaks(&project.state(), &mut found);
    assert_eq!(found, Vec::<String>::new());
}

#[tokio::test]
async fn a_secret_that_is_not_there_fails_the_run_before_user_code_runs_and_costs_no_retry() {
    let project = Project::new();
    let output = project.expect(1, &["run", &project.flow("lacking.py", LACKING)]).await;
    output.says(&[
        "CSY-6101",
        "secret env:NO_SUCH_SECRET of step `start` is not in the environment of the worker",
        "set the variable where the worker is started",
    ]);
    assert!(!output.stdout.contains("user code runs") && !output.stderr.contains("attempt 1"), "{output:#?}");
}
