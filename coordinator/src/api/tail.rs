//! What tasks print while they print it, then what is stored of them, without gap or doubling: `causey logs -f`. Driven by messages and
//! by turns of the log; a client that was cut off resumes behind the id of the last event it has handled.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use causey_engine::Run;
use causey_protocol::flow::Flow;
use causey_protocol::id::{RunId, StepName};
use causey_protocol::subject;
use futures_util::{Stream, stream};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

use super::context::Context;
use super::extract::{Asked, Named, SEQUENCE};
use super::follow::KEEP_ALIVE;
use super::live;
use super::logs::{ATTEMPTS_MAX, ChunkView, Ended, Wanted, chunks_of, ended_attempts};
use super::merge::{Attempt, Merge, Piece};
use super::refusal::Refusal;
use super::run_view::{self, RunView};
use crate::committed::Progress;
use crate::signal;

/// How long what running tasks have printed before may take to come.
const PATIENCE: Duration = Duration::from_millis(300);

/// Shortest time between two looks at the run, and how many times as long as a look the pause after it is.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
const PAUSE_FACTOR: u32 = 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Followed {
    step: Option<StepName>,
    task: Option<String>,
    attempt: Option<u32>,
    since: Option<u64>,
    after: Option<String>,
    /// Only what attempts that have ended by now have printed.
    #[serde(default)]
    ended: bool,
}

pub(super) async fn follow(
    State(context): State<Context>,
    Named(run): Named<String>,
    Asked(followed): Asked<Followed>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let Followed { step, task, attempt, since, after, ended } = followed;
    let resumed = headers.get("last-event-id").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let mut merge = Merge::default();
    if let Some((attempt, position)) = resumed.or(after).as_deref().map(parse_place).transpose()? {
        merge.resume(attempt, position);
    }
    let (sequence, run) = context.with_run(&run, |sequence, run, _| (sequence, run.id())).await?;
    let mut tail = Tail {
        // Subscribed before anything is looked at: what ends or is printed from now on is noticed.
        output: context.live.follow(run),
        progress: context.api.committed.watch(),
        wanted: Wanted { step, task, attempt, since },
        merge,
        queue: VecDeque::new(),
        ready: VecDeque::new(),
        patient_until: Some(Instant::now() + PATIENCE),
        next_look: Instant::now(),
        phase: Phase::Live,
        looked: false,
        stale: true,
        truncated: false,
        ended,
        run,
        context,
    };
    // A step or task that does not exist is refused.
    tail.look().await?;
    if ended {
        tail.phase = Phase::Over;
    }
    if tail.phase == Phase::Live {
        // Lossy: without it there is a gap at the beginning, which is named.
        let _ = tail.context.api.client.publish(subject::follow(run), Bytes::new()).await;
    }
    let events = Sse::new(events(tail)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(SEQUENCE, sequence.to_string())], events).into_response())
}

fn events(tail: Tail) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(tail, |mut tail| async move { tail.next().await.map(|event| (Ok(event), tail)) })
}

fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).expect("answers have a JSON form")
}

/// Where a client is: the attempt it has seen last, and how far. `train/0/1:4096`.
fn place(piece: &ChunkView) -> String {
    format!("{}/{}/{}:{}", piece.step, piece.task, piece.attempt, piece.position + piece.text.len() as u64)
}

fn parse_place(text: &str) -> Result<(Attempt, u64), Refusal> {
    let parsed = || {
        let (attempt, position) = text.rsplit_once(':')?;
        let [step, task, attempt] = attempt.split('/').collect::<Vec<_>>().try_into().ok()?;
        Some(((step.parse().ok()?, task.to_owned(), attempt.parse().ok()?), position.parse().ok()?))
    };
    let hint = "send the id of the last event that was handled";
    parsed().ok_or_else(|| Refusal::malformed(format!("{text:?} is no place in a log; they look like train/0/0:4096")).hint(hint))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    /// Nothing more will be printed; what is stored is on its way out.
    Over,
    Closed,
}

/// One client's view of what a run prints.
struct Tail {
    context: Context,
    run: RunId,
    wanted: Wanted,
    output: mpsc::Receiver<Bytes>,
    progress: signal::Receiver<Progress>,
    merge: Merge,
    /// Attempts that have ended and whose stored output is to be read.
    queue: VecDeque<Ended>,
    ready: VecDeque<Event>,
    /// Until then pieces behind something missing are held back.
    patient_until: Option<Instant>,
    next_look: Instant,
    phase: Phase,
    looked: bool,
    /// Whether the committed state has changed since we last looked.
    stale: bool,
    /// Whether there are more attempts than are looked at.
    truncated: bool,
    /// Whether only what has ended is wanted.
    ended: bool,
}

impl Tail {
    /// The next event; `None` closes the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            if let Some(ended) = self.queue.pop_front() {
                let attempt = attempt_of(&ended);
                let stored = chunks_of(&self.context.api.store, self.run, ended).await;
                let pieces = self.merge.stored(&attempt, stored);
                self.give(pieces);
                continue;
            }
            match self.phase {
                Phase::Live => {}
                Phase::Over => {
                    self.close().await;
                    continue;
                }
                Phase::Closed => return None,
            }
            if self.stale && self.next_look <= Instant::now() {
                if self.look().await.is_err() {
                    return None;
                }
                continue;
            }
            let look = async {
                match self.stale {
                    true => tokio::time::sleep_until(self.next_look.into()).await,
                    false => std::future::pending().await,
                }
            };
            let impatience = async {
                match self.patient_until {
                    Some(until) => tokio::time::sleep_until(until.into()).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.context.api.shutdown.cancelled() => return None,
                message = self.output.recv() => {
                    if let Some(message) = message {
                        self.take(&message);
                    }
                }
                () = impatience => {
                    self.patient_until = None;
                    let pieces = self.merge.give_up();
                    self.give(pieces);
                }
                changed = self.progress.changed() => {
                    self.stale = true;
                    changed.ok()?;
                }
                () = look => {}
            }
        }
    }

    fn take(&mut self, message: &[u8]) {
        let Some(piece) = live::read(message).map(ChunkView::from) else { return };
        if self.wanted.takes(&piece) {
            let pieces = self.merge.live(piece, self.patient_until.is_some());
            self.give(pieces);
        }
    }

    fn give(&mut self, pieces: Vec<Piece>) {
        let since = self.wanted.since.unwrap_or_default();
        for piece in pieces {
            self.ready.extend(match piece {
                Piece::Output(piece) if piece.micros < since => None,
                Piece::Output(piece) => Some(event("output", &piece).id(place(&piece))),
                Piece::Gap(gap) => Some(event("gap", &gap)),
            });
        }
    }

    /// Finds attempts that have ended, and whether anything can still be printed.
    async fn look(&mut self) -> Result<(), Refusal> {
        self.progress.mark_seen();
        let began = Instant::now();
        let (wanted, first) = (&self.wanted, !self.looked);
        let look = |_: u64, run: &Run, flow: &std::sync::Arc<Flow>| {
            let over = wanted.is_over(run, flow)?;
            // Chunks are looked into at the beginning and at the end: what they hold was printed long ago or is about to be shown.
            let stored = (first || over).then(|| Ok::<_, Refusal>((flow.clone(), wanted.chunks(run, flow)?))).transpose()?;
            Ok::<_, Refusal>((over, ended_attempts(run, flow, wanted)?, stored))
        };
        let (over, mut attempts, stored) = self.context.with_run(&self.run.to_string(), look).await??;
        if let Some((flow, chunks)) = stored {
            attempts.extend(self.wanted.stored_attempts(&self.context.api.store, self.run, &flow, chunks).await?);
        }
        let mut attempts = self.wanted.in_order(attempts);
        self.truncated |= attempts.len() > ATTEMPTS_MAX;
        attempts.truncate(ATTEMPTS_MAX);
        for ended in attempts {
            if self.merge.end(attempt_of(&ended)) {
                self.queue.push_back(ended);
            }
        }
        if over {
            self.phase = Phase::Over;
        }
        (self.stale, self.looked) = (false, true);
        self.next_look = Instant::now() + INTERVAL_MIN.max(began.elapsed() * PAUSE_FACTOR);
        Ok(())
    }

    /// Everything stored has been given. What attempts have printed that left nothing is still to come, or has come.
    async fn close(&mut self) {
        if !self.ended {
            live::settle(&self.context, self.run).await;
        }
        while !self.ended
            && let Ok(message) = self.output.try_recv()
        {
            self.take(&message);
        }
        let pieces = self.merge.give_up();
        self.give(pieces);
        if self.truncated {
            self.ready.push_back(event("truncated", &json!({"attempts": ATTEMPTS_MAX})));
        }
        let look = |_: u64, run: &Run, flow: &std::sync::Arc<Flow>| run_view::whole(run, flow);
        let view: Option<RunView> = self.context.with_run(&self.run.to_string(), look).await.ok();
        self.ready.push_back(event("end", &view));
        self.phase = Phase::Closed;
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.output.close();
        self.context.live.leave(self.run);
    }
}

fn attempt_of(ended: &Ended) -> Attempt {
    (ended.task.step.clone(), ended.task.path.task_name(ended.task.visit), ended.attempt)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_an_event_says_where_to_resume() {
        let (attempt, position) = parse_place("train/3.1~2/1:4096").unwrap();
        assert_eq!((attempt.0.as_str(), attempt.1.as_str(), attempt.2, position), ("train", "3.1~2", 1, 4096));
        for wrong in ["", "12.0", "train/0:7", "train/0/x:7", "a/b/c/1:2"] {
            assert!(parse_place(wrong).is_err(), "{wrong}");
        }
    }
}
