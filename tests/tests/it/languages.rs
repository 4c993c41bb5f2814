//! Flows in R, in TOML and in several languages, on a stack of their own.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use causey_tests::wait::until_true;
use causey_tests::{Output, Project, Role, Service, Stack, process, tools};
use serde_json::Value;

/// A copy of a folder of the repository, in the project.
fn copied(project: &Project, folder: &str) -> String {
    let target = project.file("flows").join(folder.replace('/', "-"));
    std::fs::create_dir(&target).unwrap();
    for entry in std::fs::read_dir(tools::workspace().join(folder)).unwrap().flatten() {
        if entry.path().is_file() {
            std::fs::copy(entry.path(), target.join(entry.file_name())).unwrap();
        }
    }
    target.display().to_string()
}

/// The only failure of a run that has failed.
async fn failure(project: &Project, flow: &str) -> (Value, Output) {
    let output = project.expect(1, &["run", flow]).await;
    let runs = project.ok(&["runs", "--json"]).await;
    let name = runs.json_lines()[0]["name"].as_str().unwrap().to_owned();
    let run = project.ok(&["show", &name, "--json"]).await.json();
    let failures = run["steps"].as_array().unwrap().iter().flat_map(|step| step["failures"].as_array().unwrap());
    (failures.last().unwrap_or_else(|| panic!("{run:#}")).clone(), output)
}

#[tokio::test]
async fn the_same_flow_in_python_r_and_shell_gives_the_same_result() {
    let project = Project::new();
    let folder = copied(&project, "examples/words");
    let mut said = Vec::new();
    for file in ["words.py", "words.toml", "words.R"] {
        if file.ends_with(".R") && !tools::has_r() {
            continue;
        }
        let output = project.ok(&["run", &format!("{folder}/{file}"), "--text", "a rose is a rose is a rose"]).await;
        let mut lines: Vec<String> = output.stdout.lines().filter_map(|line| Some(line.split_once('│')?.1.trim().to_owned())).collect();
        lines.sort();
        said.push(lines);
    }
    let expected = ["8 words, the most frequent one 3 times", "a 3", "is 2", "rose 3"];
    for lines in said {
        assert_eq!(lines, expected);
    }
    project.is_quiet().await;
}

#[tokio::test]
async fn values_go_from_one_language_to_the_next() {
    if !tools::has_r() {
        return;
    }
    let project = Project::new();
    let mixed = copied(&project, "examples/mixed");
    let output = project.ok(&["run", &format!("{mixed}/flow.toml"), "--sensors", "2"]).await;
    assert!(output.stdout.contains("ranking [{'sensor': 's1', 'slope': 2.0205"), "{output:#?}");
    if tools::python_has("pandas") {
        let folder = copied(&project, "tests/flows/languages");
        let output = project.ok(&["run", &format!("{folder}/table.toml")]).await;
        assert!(output.stdout.contains("all came back"), "{output:#?}");
    }
    project.is_quiet().await;
}

#[tokio::test]
async fn what_only_one_language_reads_is_named_with_its_step() {
    if !tools::has_r() {
        return;
    }
    let project = Project::new();
    let folder = copied(&project, "tests/flows/languages");
    let output = project.expect(1, &["run", &format!("{folder}/pickled.toml")]).await;
    output.says(&["artifact 'odd', which step 'start' left, is kept as pickle5, which only Python reads", "its type there is set"]);
    let output = project.expect(1, &["run", &format!("{folder}/rds.toml")]).await;
    let words = [
        "`model`, which step `start` left, is kept as rds, which only R reads",
        "'model', which step 'start' left, is kept as rds, which only R",
    ];
    assert!(words.iter().any(|words| output.stderr.contains(words)), "{output:#?}");
    output.says(&["its type there is lm"]);
}

#[tokio::test]
async fn a_command_that_does_not_do_well_is_named_with_a_hint() {
    let project = Project::new();
    let text = |run: &str| format!("[steps.only]\n{run}\n");
    std::fs::write(project.file("flows/plain"), "#!/bin/sh\n").unwrap();
    std::fs::write(project.file("flows/broken"), "#!/nowhere/sh\n").unwrap();
    std::fs::set_permissions(project.file("flows/broken"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let cases = [
        (
            "command = [\"no-such-program\"]",
            vec!["there is no such program in its package or on the worker's PATH", "install it where the workers run"],
        ),
        ("command = [\"./plain\"]", vec!["it is not executable", "chmod +x ./plain"]),
        ("command = [\"./broken\"]", vec!["the interpreter in its first line is not there"]),
        ("run = \"echo first; echo the reason >&2; exit 7\"", vec!["ended with exit status 7", "the reason"]),
        ("run = \"no-such-program\"", vec!["exit status 127, which sh says of a program that it did not find", "no-such-program"]),
        ("run = \"kill -SEGV $$\"", vec!["was killed by SIGSEGV"]),
        ("run = \"true\"\noutputs = [\"x.json\"]", vec!["did not leave its output x.json"]),
        ("run = 'echo oops > $CAUSEY_OUTPUTS/x.json'", vec!["the output x.json is no JSON"]),
        ("run = 'mkdir $CAUSEY_OUTPUTS/x'", vec!["the output x is no plain file"]),
        ("run = 'exec sleep 60'\ntimeout = 0.5\ngrace = 2", vec!["timed out after 0.5 seconds"]),
    ];
    for (run, words) in cases {
        let flow = project.flow("flow.toml", &text(run));
        let (failure, output) = failure(&project, &flow).await;
        let told = format!("{failure}{}", output.stderr);
        for word in words {
            assert!(told.contains(word), "{word:?} is not told of {run}: {failure:#}\n{output:#?}");
        }
    }
    project.is_quiet().await;
}

#[tokio::test]
async fn exit_codes_say_whether_a_step_is_tried_again() {
    let project = Project::new();
    let mark = project.file("mark").display().to_string();
    let step = |code: u32, more: &str| {
        format!(
            "[steps.only]\nrun = 'echo try >> {mark}; [ $(wc -l < {mark}) -ge 3 ] || exit {code}'\nretry = {{ times = 2, delay = 0.01{more} }}\n"
        )
    };
    let tries = || std::fs::read_to_string(&mark).unwrap().lines().count();
    project.ok(&["run", &project.flow("flow.toml", &step(75, ", on = [75]"))]).await;
    assert_eq!(tries(), 3);
    std::fs::remove_file(&mark).unwrap();
    project.expect(1, &["run", &project.flow("flow.toml", &step(3, ", on = [75]"))]).await;
    assert_eq!(tries(), 1);
    std::fs::remove_file(&mark).unwrap();
    project.expect(1, &["run", &project.flow("flow.toml", &format!("{}permanent = [3]\n", step(3, "")))]).await;
    assert_eq!(tries(), 1);
}

#[tokio::test]
async fn a_wrong_flow_file_is_told_with_its_line_before_anything_runs() {
    let project = Project::new();
    let flow = project.flow("flow.toml", "[steps.start]\nrun = \"true\"\nnext = \"ende\"\nretri = 3\n\n[steps.end]\nrun = \"true\"\n");
    let problems = project.expect(1, &["check", &flow, "--json"]).await.json()["problems"].clone();
    let told = |at: usize| (problems[at]["line"].as_u64().unwrap(), problems[at]["hint"].as_str().unwrap().to_owned());
    assert_eq!(told(0), (3, "did you mean `end`?".to_owned()), "{problems:#}");
    assert_eq!(told(1), (4, "did you mean `retry`?".to_owned()), "{problems:#}");
    project
        .expect(2, &["run", &flow])
        .await
        .says(&["flow.toml:3 step `start` goes on to `ende`, which is not a step", "did you mean `end`?"]);
    if tools::has_r() {
        let flow = project.flow("flow.R", "library(causey)\nflow(\"X\") |>\n  step(\"start\", function(self) {\n    self$x <- )\n  })\n");
        project.expect(2, &["run", &flow]).await.says(&["flow.R:4", "this is no R: unexpected ')'"]);
        let flow = project
            .flow("flow.R", "library(causey)\nflow(\"X\") |>\n  step(\"start\", function(self) 1) |>\n  join(\"end\", function(self) 1)\n");
        project.expect(2, &["run", &flow]).await.says(&["join 'end' takes 1 arguments", "write it as function(self, inputs)"]);
        let flow = project.flow("flow.R", "library(causey)\nstop(\"not today\")\n");
        project.expect(2, &["run", &flow]).await.says(&["not today", "flow.R:2"]);
    }
    project.is_quiet().await;
}

#[tokio::test]
async fn a_worker_without_r_says_how_to_come_to_it() {
    let project = Project::new();
    let flow = project.flow("flow.toml", "[steps.only]\nr = \"only.R\"\n");
    std::fs::write(project.file("flows/only.R"), "only <- function(self) 1\n").unwrap();
    let mut command = project.causey();
    command.env("CAUSEY_RSCRIPT", "/nowhere/Rscript").args(["run", &flow]);
    let mut run = Service::start(command.into_std(), &project.file("run"));
    until_true("the run says what it waits for", 30, || run.stderr().contains("no live worker offers language r;")).await;
    assert!(run.stderr().contains("r-base-core r-cran-jsonlite"), "{}", run.stderr());
    assert_eq!(run.stop(60).await.code(), Some(143));
    let flow = project.flow("flow.R", "library(causey)\n");
    let mut command = project.causey();
    command.env("CAUSEY_RSCRIPT", "/nowhere/Rscript").args(["check", &flow]);
    let output = causey_tests::project::finish(command, "check").await;
    assert_eq!(output.status, Some(2), "{output:#?}");
    output.says(&["no Rscript at /nowhere/Rscript", "CSY-6008"]);
}

#[tokio::test]
async fn cancelling_ends_a_command_with_all_it_started_after_its_clean_up() {
    let project = Project::new();
    // A private stack would stop as soon as the run has ended, and its worker with all it runs.
    let stack = Stack::start(&project).await;
    let (pids, cleaned) = (project.file("pids"), project.file("cleaned"));
    let flow = project.flow(
        "flow.toml",
        &format!(
            "[steps.only]\nrun = '''\ntrap 'echo yes > {cleaned}; exit 1' TERM\nsleep 60 &\necho $! > {pids}.new\necho $$ >> {pids}.new\nmv {pids}.new {pids}\nwait\n'''\n",
            cleaned = cleaned.display(),
            pids = pids.display()
        ),
    );
    let mut command = project.causey();
    command.args(["run", &flow]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    until_true("the command runs", 30, || pids.exists()).await;
    let started: Vec<u32> = std::fs::read_to_string(&pids).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    let runs = project.ok(&["runs", "--json"]).await;
    let name = runs.json_lines()[0]["name"].as_str().unwrap().to_owned();
    project.ok(&["cancel", &name]).await;
    until_true(&format!("all of {started:?} has ended"), 10, || started.iter().all(|pid| !process::is_alive(*pid))).await;
    assert!(Path::new(&cleaned).exists(), "the command could not clean up");
    assert_eq!(child.wait_with_output().await.unwrap().status.code(), Some(1));
    stack.stop().await;
    project.is_quiet().await;
}

#[tokio::test]
async fn a_command_ends_with_its_worker() {
    let project = Project::new();
    let stack = Stack::start(&project).await;
    let pids = project.file("pids");
    let script = format!("sleep 60 & echo $! > {0}.new; echo $$ >> {0}.new; mv {0}.new {0}; wait", pids.display());
    let flow = project.flow("flow.toml", &format!("[steps.only]\nrun = '{script}'\n"));
    let mut command = project.causey();
    command.args(["run", &flow]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let child = command.spawn().unwrap();
    until_true("the command runs", 30, || pids.exists()).await;
    let started: Vec<u32> = std::fs::read_to_string(&pids).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    stack.crash(Role::Worker).await;
    until_true(&format!("all of {started:?} has ended"), 10, || started.iter().all(|pid| !process::is_alive(*pid))).await;
    drop(child);
    stack.stop().await;
}

#[tokio::test]
async fn a_program_in_rust_is_a_step() {
    let project = Project::new();
    let folder = copied(&project, "examples/rust-step");
    let built = std::process::Command::new("rustc").args(["primes.rs", "-o", "primes"]).current_dir(&folder).status();
    assert!(built.expect("rustc can be run").success());
    let output = project.ok(&["run", &format!("{folder}/flow.toml")]).await;
    assert!(output.stdout.contains("total 1422"), "{output:#?}");
}

#[tokio::test]
async fn an_r_step_in_one_process_begins_anew_and_its_failure_shows_its_calls() {
    if !tools::has_r() {
        return;
    }
    let project = Project::new();
    let text = "library(causey)\n\
        helper <- function(x) {\n  stop(\"no luck with \", x)\n}\n\
        flow(\"Calls\") |>\n\
          step(\"start\", function(self) {\n    self$n <- 1:3\n  }) |>\n\
          foreach(\"draw\", over = \"n\", function(self) {\n    stopifnot(!exists(\"left_over\"))\n    assign(\"left_over\", 1, envir = environment())\n    self$r <- runif(1)\n  }) |>\n\
          join(\"all\", function(self, inputs) {\n    r <- sapply(inputs, function(each) each$r)\n    stopifnot(length(unique(r)) == 3)\n    helper(length(r))\n  })\n";
    let (failure, output) = failure(&project, &project.flow("calls.R", text)).await;
    output.says(&["calls.R:17", "no luck with 3"]);
    assert_eq!((failure["error"]["type"].as_str(), failure["error"]["line"].as_u64()), (Some("Error"), Some(17)), "{failure:#}");
    let flow = project.flow("calls.R", text);
    project.expect(1, &["run", &flow, "--host", "reuse"]).await.says(&["no luck with 3"]);
}
