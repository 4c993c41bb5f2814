//! `causey show`: the graph of a flow file, or one run with its steps and failures.

use std::path::Path;

use serde_json::{Value, json};

use crate::arguments::{Local, Packages, Show};
use crate::client::answer::{Resumed, RunView};
use crate::describe::{self, DescribeError, describe};
use crate::environment;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::package::{Packaged, package};
use crate::screen::failure::{self, Context};
use crate::screen::format::{moment, now};
use crate::screen::live::{print_json, print_text};
use crate::screen::paint::Paint;
use crate::screen::{graph, tree, waits};
use crate::session::{Project, with_server};

/// Runs the command.
///
/// # Errors
/// When the flow is not valid, or there is no such run.
pub(crate) async fn run(arguments: &Show) -> Result<Exit, Fault> {
    let path = Path::new(&arguments.target);
    if path.is_file() || describe::is_flow_file(path) {
        let flow = packaged(path, &arguments.place.local).await?.definition;
        if arguments.json {
            print_json(&json!(flow));
        } else {
            print_text(&(graph::lines(&flow, Paint::stdout()).join("\n") + "\n"));
        }
        return Ok(Exit::Ok);
    }
    with_server(&arguments.place, async |session| {
        let raw: Value = session.client.get(&["runs", &arguments.target], &[]).await?;
        if arguments.json {
            print_json(&raw);
        } else {
            let run: RunView = serde_json::from_value(raw)
                .map_err(|error| Fault::new(Exit::Failed, crate::fault::ANSWER, "the server's run cannot be read").detail(error))?;
            print_text(&text(&run, Paint::stdout()));
        }
        Ok(Exit::Ok)
    })
    .await
}

/// The flow in a file, described and packed.
///
/// # Errors
/// When there is no such file or it is not a valid flow.
pub(crate) async fn packaged(path: &Path, local: &Local) -> Result<Packaged, Fault> {
    package(described(path, local).await??)
}

/// Packs the flow in a file and resolves what its steps ask for.
///
/// # Errors
/// As [`packaged`], and when packages cannot be had.
pub(crate) async fn settled(path: &Path, local: &Local, packages: &Packages) -> Result<Packaged, Fault> {
    let mut made = packaged(path, local).await?;
    let file = describe::flow_file(path)?;
    environment::settle(&mut made, &Project::open(local, file.parent())?, local, packages, &file).await?;
    Ok(made)
}

/// Describes the flow in a file; what is wrong with it is a value.
///
/// # Errors
/// When there is no such file or no folder to work in.
pub(crate) async fn described(path: &Path, local: &Local) -> Result<Result<describe::Described, DescribeError>, Fault> {
    let file = describe::flow_file(path)?;
    let project = Project::open(local, file.parent())?;
    Ok(describe(&project, local, &file).await)
}

fn text(run: &RunView, paint: Paint) -> String {
    let mut lines = vec![tree::heading(run, paint)];
    let since = run.created.map(|created| format!("  created {}", moment(created))).unwrap_or_default();
    let user = if run.user.is_empty() { String::new() } else { format!(" by {}", run.user) };
    let tags = if run.tags.is_empty() { String::new() } else { format!(" · tags {}", run.tags.join(", ")) };
    lines.push(paint.dim(&format!("{since}{user}{tags} · {}", run.run)));
    if let Some(parameters) = run.parameters.as_object().filter(|parameters| !parameters.is_empty()) {
        let values: Vec<String> = parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        lines.push(format!("  {}", values.join(" ")));
    }
    if run.cause["kind"] == "resume" {
        let resumed: Resumed = serde_json::from_value(run.cause.clone()).unwrap_or_default();
        lines.extend(resumed.lines());
    }
    lines.push(String::new());
    lines.extend(tree::rows(run, now(), paint));
    lines.extend(waits::notes(run));
    let problems = failure::blocks(run, Context { sources: None, again: None, paint });
    if !problems.is_empty() {
        lines.push(String::new());
    }
    lines.extend(problems);
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resumed_run_says_what_it_resumes_and_why_steps_run_again() {
        let mut run = tree::tests::run();
        run.cause = json!({"kind": "resume", "id": "r1", "run": "0199", "name": "calm-elk-7", "step": "join",
            "again": {"join": "it was asked for", "end": "`join` before it runs again"}});
        let text = text(&run, Paint::plain());
        let expected = "  resumes calm-elk-7 from `join` on\n  `end` runs again: `join` before it runs again\n  `join` runs again: it was asked for\n\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn a_run_is_shown_with_its_parameters_and_steps() {
        let mut run = tree::tests::run();
        run.parameters = json!({"alpha": 0.5});
        (run.run, run.user) = ("0199".into(), "ann".into());
        let text = text(&run, Paint::plain());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..4], ["HelloFlow  brisk-otter-41   4 steps", " by ann · 0199", "  alpha=0.5", ""]);
        assert!(lines[5].starts_with("  ◐ work"));
    }
}
