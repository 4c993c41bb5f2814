//! A run as it happens: its state whenever it changes, the output of its tasks, and its end. Output is passed on at once; states
//! are thinned out to a bearable number, but the last one is never late.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use causey_engine::{Run, StepSummary};
use causey_protocol::flow::Flow;
use causey_protocol::id::RunId;
use causey_protocol::record::RunState;
use futures_util::{Stream, stream};
use serde::Serialize;
use tokio::sync::mpsc;

use super::context::{Context, find_run, run_and_flow};
use super::extract::{Named, SEQUENCE};
use super::live;
use super::logs::ChunkView;
use super::refusal::Refusal;
use super::run_view::{self, RunView};
use crate::committed::Progress;
use crate::signal;

/// Shortest time between two states of a run.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// A state that took long to make, because the run has many tasks, is followed by a pause this many times as long: looking must
/// not keep the leader from writing.
const PAUSE_FACTOR: u32 = 20;

/// Pieces of output after which the state gets a look although more output waits.
const OUTPUT_IN_A_ROW_MAX: u32 = 64;

/// Silence after which a comment shows that the connection lives.
pub(super) const KEEP_ALIVE: Duration = Duration::from_secs(15);

pub(super) async fn follow(State(context): State<Context>, Named(run): Named<String>) -> Result<Response, Refusal> {
    let found = {
        let state = context.read();
        find_run(&state, &run).ok().filter(|run| state.runs.contains(run)).map(|run| (run, state.sequence))
    };
    let Some((run, sequence)) = found else {
        // It has ended long ago, and nothing more will be printed.
        let look = |sequence: u64, run: &Run, flow: &Arc<Flow>| (sequence, run_view::whole(run, flow));
        let (sequence, view) = context.with_run(&run, look).await?;
        let events = stream::iter([event("run", &view), event("end", &view)].map(Ok::<_, Infallible>));
        return Ok(([(SEQUENCE, sequence.to_string())], Sse::new(events)).into_response());
    };
    let events = stream(Follower::new(context, run));
    let events = Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(SEQUENCE, sequence.to_string())], events).into_response())
}

fn stream(follower: Follower) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold(follower, |mut follower| async move { follower.next().await.map(|event| (Ok(event), follower)) })
}

/// An event of the stream: `data` as one line of JSON.
fn event(name: &str, data: &impl Serialize) -> Event {
    Event::default().event(name).json_data(data).expect("answers have a JSON form")
}

/// What differs between two states of a run that look different; taken without looking at every task.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Look {
    state: RunState,
    steps: Vec<StepSummary>,
}

impl Look {
    fn at(run: &Run) -> Self {
        Self { state: run.state, steps: run.steps.clone() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Live,
    /// The run has ended and all output is in `output`.
    Ended,
    Closed,
}

/// One client's view of one run.
struct Follower {
    context: Context,
    run: RunId,
    output: mpsc::Receiver<Bytes>,
    progress: signal::Receiver<Progress>,
    phase: Phase,
    /// The state sent last.
    shown: Option<Look>,
    /// When the next state may be sent.
    next_state: Instant,
    /// Whether the committed state has changed since we last compared.
    stale: bool,
    /// Pieces of output sent since we last looked.
    in_a_row: u32,
}

/// What to do after looking at the committed state.
enum Found {
    Nothing,
    /// It changed, but the next state may not be sent yet.
    TooEarly,
    Changed(Box<RunView>),
    Ended,
}

impl Follower {
    /// Subscribes the output first: nothing printed after the first state is missed.
    fn new(context: Context, run: RunId) -> Self {
        let output = context.live.follow(run);
        let progress = context.api.committed.watch();
        Self { output, progress, phase: Phase::Live, shown: None, next_state: Instant::now(), stale: true, in_a_row: 0, run, context }
    }

    /// The next event; `None` closes the stream.
    async fn next(&mut self) -> Option<Event> {
        loop {
            let patient = self.in_a_row < OUTPUT_IN_A_ROW_MAX || self.phase == Phase::Ended;
            if self.shown.is_some()
                && patient
                && let Ok(message) = self.output.try_recv()
            {
                self.in_a_row += 1;
                match output_event(&message) {
                    Some(event) => return Some(event),
                    None => continue,
                }
            }
            match self.phase {
                Phase::Live => {}
                Phase::Ended => return self.end().await,
                Phase::Closed => return None,
            }
            self.in_a_row = 0;
            let wait = if self.stale { self.look() } else { Found::Nothing };
            match wait {
                Found::Changed(view) => return Some(event("run", &view)),
                Found::Ended => {
                    // Output travels by another connection than the report that ended the run.
                    live::settle(&self.context, self.run).await;
                    self.phase = Phase::Ended;
                    continue;
                }
                Found::Nothing | Found::TooEarly => {}
            }
            let pause = async {
                match wait {
                    Found::TooEarly => tokio::time::sleep_until(self.next_state.into()).await,
                    _ => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.context.api.shutdown.cancelled() => return None,
                message = self.output.recv() => {
                    if let Some(event) = message.as_deref().and_then(output_event) {
                        return Some(event);
                    }
                }
                changed = self.progress.changed() => {
                    self.stale = true;
                    changed.ok()?;
                }
                () = pause => {}
            }
        }
    }

    /// Compares the run with what was shown last. The first state is shown even of a run that has ended.
    fn look(&mut self) -> Found {
        self.progress.mark_seen();
        let began = Instant::now();
        let state = self.context.read();
        let Ok((run, flow)) = run_and_flow(&state, self.run) else { return Found::Ended };
        if run.state.is_terminal() && self.shown.is_some() {
            return Found::Ended;
        }
        let look = Look::at(run);
        if self.shown.as_ref() == Some(&look) {
            self.stale = false;
            return Found::Nothing;
        }
        if began < self.next_state {
            return Found::TooEarly;
        }
        let view = run_view::whole(run, &flow);
        // A run that has ended is looked at again at once, to say so.
        self.stale = run.state.is_terminal();
        self.shown = Some(look);
        drop(state);
        self.next_state = Instant::now() + INTERVAL_MIN.max(began.elapsed() * PAUSE_FACTOR);
        Found::Changed(Box::new(view))
    }

    async fn end(&mut self) -> Option<Event> {
        self.phase = Phase::Closed;
        let view = self.context.with_run(&self.run.to_string(), |_, run, flow| run_view::whole(run, flow)).await.ok()?;
        Some(event("end", &view))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.output.close();
        self.context.live.leave(self.run);
    }
}

fn output_event(message: impl AsRef<[u8]>) -> Option<Event> {
    let found = live::read(message.as_ref())?;
    Some(event("output", &ChunkView::from(found)))
}
