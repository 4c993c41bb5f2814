//! `causey events follow`: shows what Causey announces, or acts on it with a command, once per event.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tokio::io::AsyncWriteExt as _;

use crate::arguments::Follow;
use crate::client::sse::Message;
use crate::client::stream::EventStream;
use crate::command::subscriber::Subscriber;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::live::print_text;
use crate::session::{self, Project, Session};
use crate::signals::Signals;

/// Runs the command.
///
/// # Errors
/// When the server cannot be reached, or the subscriber's memory cannot be used.
pub(crate) async fn run(arguments: &Follow) -> Result<Exit, Fault> {
    let mut signals = Signals::listen()?;
    let mut subscriber = match &arguments.subscriber {
        Some(name) => Some(Subscriber::open(&Project::open(&arguments.place.local, None)?.state, name)?),
        None => None,
    };
    let mut session = tokio::select! {
        session = session::connect(&arguments.place, None) => session?,
        exit = signals.next() => return Ok(exit),
    };
    let result = follow(arguments, &mut session, subscriber.as_mut(), &mut signals).await;
    match result {
        Ok(exit @ (Exit::Interrupted | Exit::Terminated)) => {
            session.kill().await;
            Ok(exit)
        }
        result => {
            session.close(&mut signals).await;
            result
        }
    }
}

async fn follow(
    arguments: &Follow,
    session: &mut Session,
    mut subscriber: Option<&mut Subscriber>,
    signals: &mut Signals,
) -> Result<Exit, Fault> {
    let Session { client, how } = session;
    let mut query: Vec<(&'static str, String)> = Vec::new();
    query.extend(arguments.kind.clone().map(|kind| ("type", kind)));
    query.extend(arguments.name.clone().map(|name| ("name", name)));
    let known = subscriber.as_deref().and_then(Subscriber::position).map(str::to_owned);
    let new = known.is_none();
    let position = known.or_else(|| arguments.from_start.then(|| "0".to_owned()));
    let mut stream = EventStream::new(client, &["events", "follow"], query, position).patient();
    let deadline = deadline(arguments.timeout)?;
    let late = if arguments.count.is_some() { Exit::TimedOut } else { Exit::Ok };
    let mut acted = 0;
    let since = tokio::select! {
        since = stream.connect() => since?,
        exit = signals.next() => return Ok(exit),
        () = at(deadline) => return Ok(late),
    };
    if let (Some(subscriber), true, false, Some(since)) = (subscriber.as_deref_mut(), new, arguments.from_start, since) {
        subscriber.begin(&since)?;
    }
    while arguments.count.is_none_or(|count| acted < count) {
        let message = tokio::select! {
            message = stream.next() => message?,
            notice = how.notice() => {
                eprintln!("  ! {}", notice?.text());
                continue;
            }
            exit = signals.next() => return Ok(exit),
            () = at(deadline) => return Ok(late),
        };
        let event: Value = serde_json::from_str(&message.data)
            .map_err(|error| Fault::new(Exit::Failed, fault::ANSWER, "the server sent an event that is not JSON").detail(error))?;
        let id = event["id"].as_str().unwrap_or_default();
        if subscriber.as_deref().is_some_and(|subscriber| subscriber.knows(id)) {
            continue;
        }
        // Not cut short by a signal: the command gets the terminal's Ctrl-C itself, and what it has done must be noted.
        let exit = act(arguments, &message, &event).await?;
        if exit != Exit::Ok {
            return Ok(exit);
        }
        if let Some(subscriber) = subscriber.as_deref_mut() {
            subscriber.note(message.id.as_deref(), id)?;
        }
        acted += 1;
    }
    Ok(Exit::Ok)
}

fn deadline(seconds: Option<f64>) -> Result<Option<tokio::time::Instant>, Fault> {
    let Some(seconds) = seconds else { return Ok(None) };
    let wait = Duration::try_from_secs_f64(seconds).ok().and_then(|wait| tokio::time::Instant::now().checked_add(wait));
    wait.map(Some).ok_or_else(|| Fault::new(Exit::Usage, fault::ARGUMENT, format!("--timeout {seconds} is no number of seconds")))
}

async fn at(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Shows the event or runs the command.
async fn act(arguments: &Follow, message: &Message, event: &Value) -> Result<Exit, Fault> {
    if let Some(command) = &arguments.exec {
        return execute(command, event, &message.data).await;
    }
    if arguments.json {
        print_text(&format!("{event}\n"));
    } else {
        print_text(&line(event));
    }
    Ok(Exit::Ok)
}

/// Runs a shell command with the event on its standard input.
async fn execute(command: &str, event: &Value, text: &str) -> Result<Exit, Fault> {
    let failed = |error: std::io::Error| Fault::new(Exit::Failed, fault::ARGUMENT, format!("cannot run {command:?}")).detail(error);
    let mut shell = tokio::process::Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::piped()).env_remove("CAUSEY_TOKEN");
    shell
        .env("CAUSEY_EVENT_ID", event["id"].as_str().unwrap_or_default())
        .env("CAUSEY_EVENT_TYPE", event["type"].as_str().unwrap_or_default());
    let mut child = shell.spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input may close it; how it ends is what counts.
        let _ = stdin.write_all(text.as_bytes()).await;
        let _ = stdin.write_all(b"\n").await;
    }
    let status = child.wait().await.map_err(failed)?;
    Ok(exit_of(status))
}

fn exit_of(status: std::process::ExitStatus) -> Exit {
    use std::os::unix::process::ExitStatusExt as _;
    let number = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    if number == 0 { Exit::Ok } else { Exit::Command(u8::try_from(number).unwrap_or(1)) }
}

fn line(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let data = &event["data"];
    let about = match (data["version"].as_u64(), data["state"].as_str()) {
        (_, Some(state)) => format!("{} {state}", data["name"].as_str().unwrap_or_default()),
        (Some(version), None) => format!("version {version}"),
        (None, None) => String::new(),
    };
    format!("{}  {}  {about}", word("type"), word("subject")).trim_end().to_owned() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn the_command_gets_the_event_and_its_failure_is_the_status() {
        let base = tempfile::tempdir().unwrap();
        let file = base.path().join("out");
        let event = json!({"id": "7", "type": "t", "subject": "m"});
        let command = format!("cat > '{0}'; echo \"$CAUSEY_EVENT_ID $CAUSEY_EVENT_TYPE\" >> '{0}'", file.display());
        assert_eq!(execute(&command, &event, &event.to_string()).await.unwrap(), Exit::Ok);
        assert_eq!(std::fs::read_to_string(file).unwrap(), format!("{event}\n7 t\n"));
        assert_eq!(execute("exit 7", &event, "{}").await.unwrap(), Exit::Command(7));
        assert_eq!(execute("kill -9 $$", &event, "{}").await.unwrap(), Exit::Command(137));
    }

    #[test]
    fn an_event_is_one_line() {
        let model = json!({"type": "dev.causey.model.published.v1", "subject": "demand", "data": {"name": "demand", "version": 3}});
        assert_eq!(line(&model), "dev.causey.model.published.v1  demand  version 3\n");
        let run = json!({"type": "dev.causey.run.finished.v1", "subject": "Hello", "data": {"name": "brisk-otter-41", "state": "failed", "version": 2}});
        assert_eq!(line(&run), "dev.causey.run.finished.v1  Hello  brisk-otter-41 failed\n");
    }
}
