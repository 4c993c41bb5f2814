//! `causey resume RUN [STEP] [FLOW.py]`: a new run that takes the results of an earlier one as far as they hold, and is followed to its end.
//! `python flow.py resume [STEP]` comes here too, with the file first.

use std::path::{Path, PathBuf};

use causey_protocol::policy::HostMode;
use serde_json::{Value, json};

use crate::arguments::Resume;
use crate::client::Client;
use crate::client::answer::Submitted;
use crate::command::given;
use crate::command::run::{Screens, follow, note_run};
use crate::command::show::settled;
use crate::describe;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::package::Packaged;
use crate::signals::Signals;
use crate::state::random_hex;
use crate::{lasting, session};

/// What the words of the command line name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// `None`: the flow's newest run.
    run: Option<String>,
    step: Option<String>,
    file: Option<PathBuf>,
}

/// Runs the command.
///
/// # Errors
/// When the flow is not valid, the run cannot be resumed, or the server cannot be reached.
pub(crate) async fn run(arguments: Resume) -> Result<Exit, Fault> {
    let wanted = wanted(&arguments.words, arguments.origin_run_id.as_deref())?;
    let mut signals = Signals::listen()?;
    let near = wanted.file.as_deref().and_then(Path::parent).map(Path::to_owned);
    let place = &arguments.place;
    let prepare = async {
        let code = match &wanted.file {
            Some(file) => Some(settled(file, &place.local, &arguments.packages).await?),
            None => None,
        };
        let connect = async {
            if arguments.keep_alive {
                lasting::connect(place, near.as_deref()).await
            } else {
                session::connect(place, near.as_deref()).await
            }
        };
        Ok::<_, Fault>((code, connect.await?))
    };
    let (code, session) = tokio::select! {
        prepared = prepare => prepared?,
        exit = signals.next() => return Ok(exit),
    };
    let submitted = tokio::select! {
        submitted = submit(&arguments, &wanted, &session.client, code) => submitted,
        fault = session.given_up() => Err(fault),
        exit = signals.next() => {
            session.kill().await;
            return Ok(exit);
        }
    };
    let file = wanted.file.as_ref().map(|file| format!(" {}", file.display())).unwrap_or_default();
    let submitted = submitted.and_then(|submitted| note_run(arguments.run_id_file.as_deref(), submitted));
    let again = submitted.as_ref().map(|submitted| format!("causey resume {}{file}", submitted.name)).unwrap_or_default();
    let screens = Screens { json: arguments.json, sources: near.as_deref(), again: &again };
    follow(session, submitted, signals, screens).await
}

/// Tells run, step and file apart: a file is there or ends with `.py`; the run comes before the step. With the file first the other word is
/// a step, as under Metaflow, unless it has a `-`, which no step of a Python flow can have.
fn wanted(words: &[String], origin: Option<&str>) -> Result<Wanted, Fault> {
    let is_file = |word: &&String| word.ends_with(".py") || Path::new(word.as_str()).is_file();
    let (files, names): (Vec<&String>, Vec<&String>) = words.iter().partition(is_file);
    let file_first = words.first().is_some_and(|word| is_file(&word));
    let usage = |what: &str| Err(Fault::new(Exit::Usage, fault::ARGUMENT, what).hint("causey resume RUN [STEP] [FLOW.py]"));
    let file = match files[..] {
        [] => None,
        [file] => Some(describe::flow_file(Path::new(file))?),
        _ => return usage("a run is resumed with one flow file"),
    };
    let named = |name: &&String| Some((*name).clone());
    let (run, step) = match (&names[..], origin) {
        ([], Some(run)) => (Some(run.to_owned()), None),
        ([step], Some(run)) => (Some(run.to_owned()), named(step)),
        ([step], None) if file_first && !step.contains('-') => (None, named(step)),
        ([], None) => (None, None),
        ([run], None) => (named(run), None),
        ([run, step], None) => (named(run), named(step)),
        _ => return usage("there is a word too many"),
    };
    Ok(Wanted { run, step, file })
}

async fn submit(arguments: &Resume, wanted: &Wanted, client: &Client, code: Option<Packaged>) -> Result<Submitted, Fault> {
    let mut body =
        json!({"request_id": random_hex(), "user": given::user(arguments.user.as_deref()), "tags": arguments.tags, "step": wanted.step});
    if let Some(host) = arguments.host {
        body["host"] = json!(HostMode::from(host));
    }
    if let Some(seconds) = arguments.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    let mut run = wanted.run.clone();
    if let Some(packaged) = code {
        if run.is_none() {
            run = newest(client, packaged.definition.name.as_str()).await?;
        }
        body["definition"] = json!(packaged.definition);
        packaged.send(client).await?;
    }
    let Some(run) = run else {
        return Err(Fault::new(Exit::NotFound, fault::ARGUMENT, "no run of this flow is known").hint("run it first: causey run FLOW.py"));
    };
    client.post(&["runs", &run, "resume"], &body).await
}

/// The newest run of a flow.
async fn newest(client: &Client, flow: &str) -> Result<Option<String>, Fault> {
    let found: Value = client.get(&["runs"], &[("flow", flow.to_owned()), ("limit", "1".to_owned())]).await?;
    Ok(found["runs"][0]["run"].as_str().map(str::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(line: &str, origin: Option<&str>) -> Option<(Option<String>, Option<String>, bool)> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let wanted = wanted(&words, origin).ok()?;
        Some((wanted.run, wanted.step, wanted.file.is_some()))
    }

    #[test]
    fn run_step_and_file_are_told_apart_in_either_form() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("flow.py");
        std::fs::write(&file, "").unwrap();
        let file = file.display();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(told("brisk-otter-41", None), Some((some("brisk-otter-41"), None, false)));
        assert_eq!(told("brisk-otter-41 train", None), Some((some("brisk-otter-41"), some("train"), false)));
        assert_eq!(told(&format!("brisk-otter-41 train {file}"), None), Some((some("brisk-otter-41"), some("train"), true)));
        assert_eq!(told(&format!("brisk-otter-41 {file}"), None), Some((some("brisk-otter-41"), None, true)));
        assert_eq!(told(&format!("{file}"), None), Some((None, None, true)));
        assert_eq!(told(&format!("{file} train"), None), Some((None, some("train"), true)));
        assert_eq!(told(&format!("{file} brisk-otter-41"), None), Some((some("brisk-otter-41"), None, true)));
        assert_eq!(told(&format!("{file} train"), Some("0199")), Some((some("0199"), some("train"), true)));
        assert_eq!(told("a b c", None), None);
    }
}
