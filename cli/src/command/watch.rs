//! Follows a run to its end on the screen. Ctrl-C cancels the run and goes on following; a second one leaves at once.

use std::time::Duration;

use serde_json::json;
use tokio::time::MissedTickBehavior;

use crate::client::Client;
use crate::client::answer::{Chunk, Chunks, RunView, State};
use crate::client::sse::Message;
use crate::client::stream::EventStream;
use crate::command::why;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::failure::Context;
use crate::screen::live::Screen;
use crate::session::Session;
use crate::signals::Signals;
use crate::state::random_hex;

/// Time between two drawings: ten a second.
const REFRESH: Duration = Duration::from_millis(100);

/// A run of which nothing has been heard for this long says what it waits for.
const STALLED: Duration = Duration::from_secs(5);

/// It says so again after this long.
const QUIET: Duration = Duration::from_secs(300);

/// Runs with more tasks than this are not compared with their stored output: it would be a large download for a screen.
const TASKS_COMPARED_MAX: u64 = 1_000;

/// How the watching ended.
#[derive(Debug)]
pub(crate) enum Watched {
    Ended(Exit),
    /// The person has left; the run may go on.
    Left(Exit),
}

/// Shows `run` until it ends.
///
/// # Errors
/// When the server is lost.
pub(crate) async fn watch(
    session: &mut Session,
    run: &str,
    screen: &mut Screen,
    signals: &mut Signals,
    context: Context<'_>,
) -> Result<Watched, Fault> {
    let Session { client, how } = session;
    let mut stream = EventStream::new(client, &["runs", run, "follow"], Vec::new(), None);
    let mut tick = tokio::time::interval(REFRESH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut asked = None;
    let mut stalled = Box::pin(tokio::time::sleep(STALLED));
    loop {
        tokio::select! {
            message = stream.next() => {
                stalled.as_mut().reset(tokio::time::Instant::now() + STALLED);
                if let Some(ended) = take(&message?, screen)? {
                    complete(client, run, &ended, screen).await;
                    screen.end(&ended, context);
                    return Ok(Watched::Ended(exit_of(ended.state, asked)));
                }
            }
            notice = how.notice() => {
                let notice = notice?;
                screen.notice(&notice.text(), &notice.json());
            }
            exit = signals.next() => {
                if asked.is_some() {
                    screen.leave();
                    return Ok(Watched::Left(exit));
                }
                asked = Some(exit);
                screen.say("  cancelling the run … (again to leave at once)");
                tokio::select! {
                    cancelled = cancel(client, run, "interrupted at the terminal") => cancelled.map(drop)?,
                    exit = signals.next() => {
                        screen.leave();
                        return Ok(Watched::Left(exit));
                    }
                }
            }
            () = &mut stalled => {
                for wait in why::of_idle_run(client, run).await {
                    let hint = wait.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
                    screen.say(&format!("  {} {}{hint}", wait.what(), wait.text));
                }
                // Once is enough until something has happened.
                stalled.as_mut().reset(tokio::time::Instant::now() + QUIET);
            }
            _ = tick.tick() => screen.refresh(),
        }
    }
}

/// Takes one message; gives the run once it has ended.
fn take(message: &Message, screen: &mut Screen) -> Result<Option<RunView>, Fault> {
    let unreadable = |error: serde_json::Error| {
        Fault::new(Exit::Failed, fault::ANSWER, format!("the server's event `{}` cannot be read", message.event)).detail(error)
    };
    match message.event.as_str() {
        "run" => screen.run(serde_json::from_str(&message.data).map_err(unreadable)?, &message.data),
        "output" => screen.chunk(&serde_json::from_str::<Chunk>(&message.data).map_err(unreadable)?),
        "end" => return serde_json::from_str(&message.data).map(Some).map_err(unreadable),
        // A newer server may tell more.
        _ => {}
    }
    Ok(None)
}

/// Shows what the live stream, which may lose output, has not brought.
async fn complete(client: &Client, run: &str, ended: &RunView, screen: &mut Screen) {
    if ended.tasks.ended() > TASKS_COMPARED_MAX || !screen.wants_stored_output() {
        return;
    }
    // Output that cannot be read now can be read later; the run itself has ended as it has.
    if let Ok(stored) = client.get::<Chunks>(&["runs", run, "logs"], &[]).await {
        screen.stored(&stored.chunks);
    }
}

/// Asks for a run's cancellation.
///
/// # Errors
/// When the server refuses or is lost.
pub(crate) async fn cancel(client: &Client, run: &str, reason: &str) -> Result<RunView, Fault> {
    client.post(&["runs", run, "cancel"], &json!({"request_id": random_hex(), "reason": reason})).await
}

/// The exit status of a run that has ended; `asked` is the signal that had it cancelled.
fn exit_of(state: State, asked: Option<Exit>) -> Exit {
    match (state, asked) {
        (State::Succeeded, _) => Exit::Ok,
        (State::Cancelled, Some(exit)) => exit,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_cancelled_by_a_signal_exits_like_the_signal() {
        assert_eq!(exit_of(State::Cancelled, Some(Exit::Interrupted)), Exit::Interrupted);
        assert_eq!(exit_of(State::Cancelled, None), Exit::Failed);
        assert_eq!(exit_of(State::Succeeded, Some(Exit::Interrupted)), Exit::Ok);
        assert_eq!(exit_of(State::Failed, None), Exit::Failed);
    }
}
