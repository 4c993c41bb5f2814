//! What steps may not do: gain privileges, look into the worker, leave core dumps; with `--sandbox files`, write where they like.

use causey_tests::project::finish;
use causey_tests::{Output, Project};

use crate::flows::CONFINED;

/// Runs the flow on a stack of its own; `None` where the kernel lacks what keeps processes and files apart.
async fn told(project: &Project, sandbox: Option<&str>, arguments: &[&str]) -> Option<Output> {
    let mut command = project.causey();
    command.args(["run", &project.flow("confined.py", CONFINED)]).args(arguments);
    command.env("AWS_SECRET_ACCESS_KEY", "not for steps");
    if let Some(sandbox) = sandbox {
        command.env("CAUSEY_SANDBOX", sandbox);
    }
    let output = finish(command, "run confined.py").await;
    if output.stdout.contains("landlock 0") || output.stderr.contains("no Landlock") {
        eprintln!("skipped: this kernel has no Landlock");
        return None;
    }
    assert_eq!(output.status, Some(0), "{output:#?}{}", project.logs());
    Some(output)
}

fn says(output: &Output, words: &[&str]) {
    for word in words {
        assert!(output.stdout.contains(word), "{word:?} is not said: {output:#?}");
    }
}

#[tokio::test]
async fn a_step_sees_no_credentials_and_nothing_of_the_worker() {
    let project = Project::new();
    let Some(output) = told(&project, None, &[]).await else { return };
    says(&output, &["new privileges given up 1", "core 0", "credentials []", "temporary file allowed", "signal to its own allowed"]);
    says(&output, &["environment of the worker PermissionError", "signal to the worker PermissionError"]);
    let outside = project.file("outside").display().to_string();
    let output = told(&project, Some("off"), &["--outside", &outside]).await.unwrap();
    says(
        &output,
        &["new privileges given up 1", "environment of the worker allowed", "signal to the worker allowed", "file outside allowed"],
    );
}

/// A folder of this test that is none of those for temporary files, which stay open; the checkout itself may lie in one.
fn outside_of_temporary_folders() -> Option<tempfile::TempDir> {
    let open = [std::env::temp_dir(), "/tmp".into(), "/var/tmp".into(), "/dev".into()];
    let places = [Some(env!("CARGO_TARGET_TMPDIR").into()), std::env::home_dir()];
    let kept = places.into_iter().flatten().filter(|place| !open.iter().any(|open| place.starts_with(open)));
    let made = kept.filter_map(|place| tempfile::Builder::new().prefix("causey-test-").tempdir_in(place).ok()).next();
    if made.is_none() {
        eprintln!("skipped: checkout and home both lie in folders for temporary files");
    }
    made
}

#[tokio::test]
async fn with_files_kept_from_it_a_step_writes_only_where_it_may_and_does_not_see_the_keys_of_the_stack() {
    let project = Project::new();
    let Some(folder) = outside_of_temporary_folders() else { return };
    let outside = folder.path().join("file").display().to_string();
    let token = project.state().join("token").display().to_string();
    let arguments = ["--outside", &outside, "--secret", &token];
    let Some(output) = told(&project, Some("files"), &arguments).await else { return };
    says(
        &output,
        &["temporary file allowed", "file outside PermissionError", "secret PermissionError", "signal to the worker PermissionError"],
    );
    assert!(!folder.path().join("file").exists());
    let mut command = project.causey();
    command.args(["run", &project.flow("confined.py", CONFINED)]).args(arguments);
    command.env("CAUSEY_SANDBOX", "files").env("CAUSEY_WRITABLE", folder.path());
    let output = finish(command, "run").await;
    assert!(output.stdout.contains("file outside allowed"), "{output:#?}");
}
