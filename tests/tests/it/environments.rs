//! Environments of packages, on real processes with real uv: resolved when a flow is sent, built once, used by many, and what goes wrong
//! is told before it costs an attempt.

use std::path::Path;

use causey_tests::Project;
use causey_tests::project::{Output, finish};
use causey_tests::tools;
use causey_tests::wheels::Wheels;
use tokio::process::Command;

use crate::flows::PACKAGED;

/// A project whose uv knows two versions of one package, and what needs the newer one.
fn project() -> (Project, Wheels) {
    let project = Project::new();
    let wheels = Wheels::new(project.path());
    wheels.add("greeter", "1.0", "WORD = 'one'\n", &[]);
    wheels.add("greeter", "2.0", "WORD = 'two'\n", &[]);
    wheels.add("polite", "1.0", "import greeter\nWORD = greeter.WORD + ' please'\n", &["greeter>=2"]);
    (project, wheels)
}

fn command(project: &Project, wheels: &Wheels, arguments: &[&str]) -> Command {
    let mut command = project.causey();
    command.env("UV_CONFIG_FILE", wheels.settings()).env("CAUSEY_UV", tools::uv().unwrap()).args(arguments);
    command.env("UV_CACHE_DIR", project.file("uv-cache"));
    command
}

async fn run(project: &Project, wheels: &Wheels, status: i32, arguments: &[&str]) -> Output {
    let output = finish(command(project, wheels, &[&["run"], arguments].concat()), &arguments.join(" ")).await;
    assert_eq!(output.status, Some(status), "{output:#?}{}", project.logs());
    output
}

/// The folders of environments that are there.
fn built(project: &Project) -> Vec<String> {
    let folders = std::fs::read_dir(project.state().join("worker/environments")).into_iter().flatten().flatten();
    let names = folders.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

fn with_packages(decorators: &str, body: &str) -> String {
    format!(
        "from causey import FlowSpec, pypi, pypi_base, retry, step\n\n\nclass Given(FlowSpec):\n    @retry(times=3)\n    {decorators}\n    @step\n    \
         def start(self):\n        {body}\n        self.next(self.end)\n\n    @step\n    def end(self):\n        pass\n\n\nif __name__ == \"__main__\":\n    Given()\n"
    )
}

#[tokio::test]
async fn each_step_has_the_packages_it_asks_for_and_the_next_run_finds_them_built() {
    if tools::uv().is_none() {
        return;
    }
    let (project, wheels) = project();
    let flow = project.flow("packaged.py", PACKAGED);
    let output = run(&project, &wheels, 0, &[&flow]).await;
    for line in ["base one", "own two please", "bare False", "of the worker False", "forked True"] {
        assert!(output.stdout.contains(line), "{line:?} is missing: {output:#?}{}", project.logs());
    }
    let first = built(&project);
    assert_eq!(first.len(), 2, "{first:?}");
    wheels.add("greeter", "3.0", "WORD = 'three'\n", &[]);
    let again = run(&project, &wheels, 0, &[&flow]).await;
    assert!(again.stdout.contains("own two please"), "a lock is kept: {again:#?}");
    assert_eq!(built(&project), first);
    let newer = run(&project, &wheels, 0, &[&flow, "--upgrade-environment"]).await;
    assert!(newer.stdout.contains("own three please"), "{newer:#?}");
    assert_eq!(built(&project).len(), 3);
}

#[tokio::test]
async fn a_block_in_the_flow_file_and_a_named_file_give_packages_to_all_steps() {
    if tools::uv().is_none() {
        return;
    }
    let (project, wheels) = project();
    let plain = with_packages("", "import greeter; print('greets', greeter.WORD)");
    let script = format!("# /// script\n# dependencies = [\"greeter<2\"]\n# ///\n{plain}");
    let output = run(&project, &wheels, 0, &[&project.flow("script.py", &script)]).await;
    assert!(output.stdout.contains("greets one"), "{output:#?}");
    let list = project.file("requirements.txt");
    std::fs::write(&list, "greeter==2.0\n").unwrap();
    let output = run(&project, &wheels, 0, &[&project.flow("plain.py", &plain), "--environment", list.to_str().unwrap()]).await;
    assert!(output.stdout.contains("greets two"), "{output:#?}");
    let digest = |name: &str| {
        let path = project.path().join("wheels").join(name);
        let mut command = std::process::Command::new(tools::python());
        command.args(["-c", "import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], 'rb').read()).hexdigest())"]).arg(path);
        String::from_utf8(command.output().unwrap().stdout).unwrap().trim().to_owned()
    };
    let lock = project.file("pylock.toml");
    let text = |hash: &str| {
        format!(
            "lock-version = \"1.0\"\n[[packages]]\nname = \"greeter\"\nversion = \"1.0\"\n[[packages.wheels]]\nurl = \"x\"\nhashes = {{sha256 = \"{hash}\"}}\n"
        )
    };
    std::fs::write(&lock, text(&digest("greeter-1.0-py3-none-any.whl"))).unwrap();
    let locked = [project.flow("plain.py", &plain), "--environment".into(), lock.display().to_string()];
    let locked: Vec<&str> = locked.iter().map(String::as_str).collect();
    assert!(run(&project, &wheels, 0, &locked).await.stdout.contains("greets one"));
    std::fs::write(&lock, text(&"0".repeat(64))).unwrap();
    run(&project, &wheels, 1, &locked).await.says(&["CSY-6010", "the environment of step `start` cannot be built", "Hash mismatch"]);
    std::fs::write(&lock, "lock-version = [\n").unwrap();
    run(&project, &wheels, 2, &locked).await.says(&["CSY-6011", "pylock.toml cannot be used"]);
}

#[tokio::test]
async fn packages_that_cannot_be_had_are_refused_before_anything_runs() {
    if tools::uv().is_none() {
        return;
    }
    let (project, wheels) = project();
    let unknown = project.flow("unknown.py", &with_packages("@pypi(packages={'no-such-package': '1'})", "pass"));
    run(&project, &wheels, 2, &[&unknown]).await.says(&["CSY-6011", "unknown.py asks for cannot be had", "no-such-package"]);
    let conflict = project.flow("conflict.py", &with_packages("@pypi(packages={'polite': '', 'greeter': '1.0'})", "pass"));
    run(&project, &wheels, 2, &[&conflict]).await.says(&["CSY-6011", "polite", "greeter"]);
    let mut command = project.causey();
    command.env("CAUSEY_UV", "/nowhere/uv").args(["run", &conflict]);
    finish(command, "run without uv").await.says(&["CSY-6012", "there is no uv", "pip install uv"]);
    let old = project.flow("old.py", &with_packages("@pypi(packages={'greeter': ''}, python='2.7')", "pass"));
    run(&project, &wheels, 2, &[&old]).await.says(&["old.py:6", "python='2.7' is too old"]);
    project.is_quiet().await;
}

#[tokio::test]
async fn what_a_worker_cannot_build_fails_the_run_at_once_and_a_missing_module_says_where_to_add_it() {
    if tools::uv().is_none() {
        return;
    }
    let (project, wheels) = project();
    let other = project.flow("other.py", &with_packages("@pypi(packages={'greeter': ''}, python='3.97')", "print('user code')"));
    let output = run(&project, &wheels, 1, &[&other]).await;
    output.says(&["CSY-6010", "the environment of step `start` cannot be built: it is for Python 3.97, and this worker has 3."]);
    assert!(!output.stdout.contains("user code"), "{output:#?}");
    let missing = with_packages("@pypi(packages={'greeter': ''})", "import polite").replace("    @retry(times=3)\n", "");
    let missing = project.flow("missing.py", &missing);
    run(&project, &wheels, 1, &[&missing]).await.says(&["No module named 'polite'", "@pypi(packages={'polite': ''})"]);
}

/// Failpoints of the worker in a build.
pub(crate) const BUILD: [&str; 2] = ["environment.made", "environment.built"];

/// Whatever is killed half-way, what has an environment's name is whole.
#[tokio::test]
async fn a_worker_that_dies_in_a_build_begins_it_anew() {
    if tools::uv().is_none() {
        return;
    }
    let (project, wheels) = project();
    let marks = project.file("failpoints");
    std::fs::create_dir(&marks).unwrap();
    BUILD.iter().for_each(|point| std::fs::write(marks.join(point), "").unwrap());
    let flow = project.flow("packaged.py", PACKAGED);
    let mut command = command(&project, &wheels, &["run", &flow]);
    command.env("CAUSEY_FAILPOINTS", &marks);
    let output = finish(command, "run with a worker that dies").await;
    assert_eq!(output.status, Some(0), "{output:#?}{}", project.logs());
    assert!(output.stdout.contains("own two please"), "{output:#?}");
    assert_eq!(std::fs::read_dir(&marks).unwrap().count(), 0, "it died at both");
    assert!(built(&project).iter().all(|name| Path::new(name).extension().is_none()), "{:?}", built(&project));
}
