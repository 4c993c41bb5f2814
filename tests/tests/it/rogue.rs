//! Steps that misbehave: each fails by name with a hint or succeeds, the pool stays healthy, and nothing of them is left.

use std::path::Path;

use causey_tests::api::send;
use causey_tests::wait::until_true;
use causey_tests::{Output, Project, Role, Stack, process, tools};
use reqwest::Method;

use crate::bad_input::small_runs;
use crate::flows::{GREEDY, ROGUE, SMALL};

/// A stack and the flow that does everything wrong.
struct Ward {
    project: Project,
    stack: Stack,
    flow: String,
}

impl Ward {
    async fn open() -> Self {
        let project = Project::new();
        let stack = Stack::start(&project).await;
        let flow = project.flow("rogue.py", ROGUE);
        Self { project, stack, flow }
    }

    async fn fails(&self, deed: &str, words: &[&str]) {
        self.project.expect(1, &["run", &self.flow, "--deed", deed, "--mark", &self.mark(deed)]).await.says(words);
    }

    async fn succeeds(&self, deed: &str) -> Output {
        self.project.ok(&["run", &self.flow, "--deed", deed, "--mark", &self.mark(deed)]).await
    }

    fn mark(&self, deed: &str) -> String {
        self.project.file(&format!("mark-{deed}")).display().to_string()
    }

    /// Both slots work, and nothing is left once the stack stops.
    async fn closes(self) {
        small_runs(&self.project).await;
        let tasks = self.project.state().join("worker/tasks");
        self.stack.stop().await;
        self.project.is_quiet().await;
        let left: Vec<_> = std::fs::read_dir(tasks).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

/// Waits until the process that a file names has gone.
async fn goes(mark: &Path) {
    let pid: u32 = std::fs::read_to_string(mark).unwrap().trim().parse().unwrap();
    until_true(&format!("the daemon {pid} has gone"), 20, || !process::is_alive(pid)).await;
}

#[tokio::test]
async fn a_daemon_ends_with_its_attempt_although_it_has_left_group_session_and_parent() {
    let ward = Ward::open().await;
    ward.succeeds("daemon").await;
    goes(Path::new(&ward.mark("daemon"))).await;
    ward.fails("daemon-and-die", &["CSY-2102", "ended by itself with exit status 4"]).await;
    goes(Path::new(&ward.mark("daemon-and-die"))).await;
    let host_modes = ["spawn", "reuse"];
    for mode in host_modes {
        let mark = ward.project.file(&format!("daemon-{mode}"));
        let told = mark.display().to_string();
        ward.project.ok(&["run", &ward.flow, "--host", mode, "--deed", "daemon", "--mark", &told]).await;
        if mode == "spawn" {
            goes(&mark).await;
        }
    }
    ward.closes().await;
}

#[tokio::test]
async fn a_daemon_of_a_command_or_of_r_ends_with_its_attempt() {
    let ward = Ward::open().await;
    let mark = ward.project.file("command");
    let script =
        format!("setsid sh -c 'echo $$ > {0}.part; mv {0}.part {0}; exec sleep 600' & while [ ! -e {0} ]; do :; done", mark.display());
    ward.project.ok(&["run", &ward.project.flow("flow.toml", &format!("[steps.only]\nrun = \"\"\"\n{script}\n\"\"\"\n"))]).await;
    goes(&mark).await;
    if tools::has_r() {
        let mark = ward.project.file("r");
        let script = script.replace("/command", "/r");
        let text = format!("library(causey)\nflow(\"Leaving\") |>\n  step(\"only\", function(self) {{\n    system({script:?})\n  }})\n");
        ward.project.ok(&["run", &ward.project.flow("leaving.R", &text)]).await;
        goes(&mark).await;
    }
    ward.closes().await;
}

#[tokio::test]
async fn a_step_that_ends_its_process_or_hears_nothing_fails_by_name() {
    let ward = Ward::open().await;
    ward.fails("exit-0", &["CSY-2102", "ended by itself with exit status 0", "os._exit"]).await;
    ward.fails("exit-3", &["CSY-2102", "ended by itself with exit status 3", "os._exit"]).await;
    ward.fails("segfault", &["CSY-2102", "was killed by SIGSEGV", "PYTHONFAULTHANDLER"]).await;
    ward.fails("deaf", &["CSY-2108", "step `hang` timed out after 1 seconds", "@timeout"]).await;
    ward.fails("unpicklable", &["artifact", "lock", "pickle"]).await;
    ward.fails("import", &["ModuleNotFoundError", "no_such_package"]).await;
    ward.fails("silent-and-raise", &["ValueError: nobody hears me"]).await;
    ward.succeeds("silent").await;
    ward.succeeds("handlers").await;
    ward.closes().await;
}

/// What a step prints beyond the bound is counted, and other steps go on meanwhile: the loud one ends only when another run has.
#[tokio::test]
async fn a_step_that_prints_without_end_does_not_hold_up_others() {
    let ward = Ward::open().await;
    let mut command = ward.project.causey();
    command.args(["run", &ward.flow, "--deed", "loud", "--mark", &ward.mark("loud")]);
    command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let mut loud = command.spawn().unwrap();
    let printed = || {
        let pids = process::started_in(&ward.project.state().join("worker/packages"));
        let written = |pid: u32| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("wchar: "))?;
            line.trim().parse::<u64>().ok()
        };
        pids.into_iter().filter_map(|(pid, _)| written(pid)).max().unwrap_or_default()
    };
    until_true("the loud step has printed 50 MB", 60, || printed() > 50_000_000).await;
    ward.project.ok(&["run", &ward.project.flow("small.py", SMALL)]).await;
    std::fs::write(ward.mark("loud"), "").unwrap();
    assert!(loud.wait().await.unwrap().success());
    let runs = ward.project.ok(&["runs", "--json"]).await.json_lines();
    let name = runs.iter().find(|run| run["flow"] == "Rogue").unwrap()["name"].as_str().unwrap().to_owned();
    let log = ward.project.ok(&["logs", &format!("{name}/start")]).await;
    let all = format!("{}{}", log.stdout, log.stderr);
    let kept = all.len();
    assert!(kept < 12_000_000, "{kept} bytes are kept");
    let counted = all.lines().rev().find(|line| line.contains("more bytes were printed and not kept"));
    let number: u64 =
        counted.expect("the rest is counted").split(|each: char| !each.is_ascii_digit()).find_map(|word| word.parse().ok()).unwrap();
    assert!(number > 30_000_000, "{counted:?}");
    ward.closes().await;
}

/// A tar archive of one entry.
fn archive(name: &[u8], kind: tar::EntryType, size: u64) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut bytes = header.as_bytes().to_vec();
    bytes.extend_from_slice(&[0; 1024]);
    bytes
}

/// Rows 32 and 33 of the fault model.
#[tokio::test]
async fn a_package_that_no_worker_would_unpack_is_refused_at_its_upload_by_the_name_of_the_entry() {
    let ward = Ward::open().await;
    for (name, kind, size, what) in [
        ("../../evil.py", tar::EntryType::Regular, 0, "outside of it"),
        ("/etc/evil.py", tar::EntryType::Regular, 0, "outside of it"),
        ("data/link", tar::EntryType::Symlink, 0, "a link"),
        ("null", tar::EntryType::Char, 0, "a device"),
        ("zeros.bin", tar::EntryType::Regular, 1 << 40, "too large"),
    ] {
        let package = archive(name.as_bytes(), kind, size);
        let path = format!("/v1/packages/{}", blake3::hash(&package).to_hex());
        let reply = send(ward.stack.api.call(Method::PUT, &path).body(package)).await;
        reply.refused(422, "CSY-1106", &[name, what, "leave it out of the flow's folder"]);
    }
    ward.closes().await;
}

/// Row 28 of the fault model.
#[tokio::test]
async fn row_28_a_step_that_takes_more_memory_than_it_booked_is_ended_by_that_name_and_the_worker_lives() {
    let ward = Ward::open().await;
    let flow = ward.project.flow("greedy.py", GREEDY);
    let worker = ward.stack.pid(Role::Worker);
    for deed in ["itself", "child"] {
        let output = ward.project.expect(1, &["run", &flow, "--deed", deed]).await;
        output.says(&["start failed  CSY-2109", "step `start` ran out of memory: it booked 200 MB and came to", "@resources(memory=…)"]);
    }
    let runs = ward.project.ok(&["runs", "--json"]).await.json_lines();
    let name = runs[0]["name"].as_str().unwrap();
    let tasks = ward.stack.api.get(&format!("/v1/runs/{name}/tasks?step=start")).await;
    let usage = &tasks["tasks"][0]["usage"];
    assert_eq!(usage["memory_limit"]["bytes"], 200 << 20, "{tasks}");
    assert!(usage["peak_memory_bytes"].as_u64().unwrap() > 200 << 20, "{tasks}");
    assert_eq!(ward.stack.pid(Role::Worker), worker);
    ward.closes().await;
}
