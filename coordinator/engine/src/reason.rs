//! Why something waits, or why it ended: data, and the same in words. To add a reason, add a variant and its arms in
//! [`Reason::words`] and, if the same may hold for several tasks of a step, in [`Reason::absorb`]; whoever knows it gives it.

use causey_protocol::id::{FlowName, PoolName, SignalName, StepName, Timestamp, WorkerName};
use causey_protocol::problem::Problem;
use serde::Serialize;

use crate::hold::HoldReason;

/// What something waits for. The engine tells what follows from the state; variants that say so come from the coordinator.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "because", rename_all = "snake_case")]
pub enum Reason {
    /// It waits for nothing: it is over.
    Ended { state: &'static str, at: Option<Timestamp>, problem: Option<Problem> },
    /// Offered to a pool; no worker has said that it runs.
    Queued { pool: PoolName, since: Timestamp, attempt: u32 },
    /// Offered to a pool in which there is no worker. By the coordinator.
    NoWorker { pool: PoolName, since: Timestamp, pools: Vec<PoolSeen> },
    /// Offered to a pool whose workers are at work; `ahead` dispatches were offered to it before. By the coordinator.
    Busy { pool: PoolName, since: Timestamp, workers: u32, slots: u32, taken: u32, ahead: u32 },
    /// A worker has taken it and has not said that it runs. By the coordinator.
    Taken { pool: PoolName, since: Timestamp, worker: WorkerName },
    /// A worker runs it. `silent_seconds` is there once the worker has missed a sign of life, and `gone` if it is not known. Both by
    /// the coordinator.
    Running {
        pool: PoolName,
        worker: WorkerName,
        since: Timestamp,
        attempt: u32,
        /// When the engine gives the attempt up.
        until: Option<Timestamp>,
        silent_seconds: Option<u64>,
        gone: bool,
    },
    /// For the delay before its next attempt.
    Retry { at: Timestamp, attempt: u32, error: Option<String> },
    /// For room in the streams.
    Storage { problem: Problem },
    /// A run for a place: its flow lets only so many be under way. `ahead` others wait before it.
    Place { flow: FlowName, ahead: u32, active: Vec<String> },
    /// Tasks for something outside of the flow's graph: signals, an approval by one of these (by anybody if empty), the end of runs.
    Gate { since: Timestamp, signals: Vec<SignalName>, approval: Option<Vec<String>>, children: Vec<String>, until: Option<Timestamp> },
    /// The members of a gang for their turn, or for each other: `here` of `size` are there.
    Gang {
        pool: PoolName,
        size: u32,
        here: u32,
        gathering: bool,
        since: Option<Timestamp>,
        until: Option<Timestamp>,
        dissolved: Option<String>,
    },
    /// A join for its siblings; some of those missing, and some of those that have failed and are tried again.
    Siblings { arrived: u32, expected: u32, missing: Vec<String>, failing: Vec<String> },
    /// Nothing: it has taken a result that another run made.
    Reused { run: String, at: Option<Timestamp> },
    /// For a look at what the run that this one resumes has of their results.
    Results { run: String },
    /// For a look whether the remembered results of a memoised step are still stored.
    Remembered,
    /// For results or inputs to be in the artifact store.
    Store { blobs: u32 },
    /// For a place among what is open in its pool, its run or for its user.
    Room { room: HoldReason },
    /// For a worker that has what they need: `missing` is what none has, `together` says that each of it is there, but on no one worker.
    Nowhere { missing: Vec<String>, together: bool, pools: Vec<String>, start: String },
    /// Items of a foreach for earlier ones: only so many are open at once.
    Window { opened: u32, count: u32 },
    /// For steps before it.
    Steps { steps: Vec<StepName> },
    /// A trigger for an event of this type.
    Event { trigger: u16, event: String },
    /// A trigger that has got some of its events for the others.
    Events { trigger: u16, missing: Vec<String>, held: Vec<HeldEvent> },
    /// A schedule for its next instant, or to be resumed by whoever paused it.
    Schedule { cron: String, timezone: Option<String>, last: Option<Timestamp>, paused_by: Option<String>, paused: Option<Timestamp> },
    /// Nothing: the flow has no trigger.
    NoTrigger,
    /// An event of the last ten minutes did not start the flow.
    Declined { source: String, id: String, at: Timestamp, why: String },
    /// What there is of a pool. By the coordinator.
    Pool { pool: PoolName, workers: u32, slots: u32, taken: u32, queued: u32, oldest: Option<Timestamp> },
    /// Nothing is decided while a coordinator could not read it. By the coordinator.
    Reader { reader: String },
    /// Nothing is decided while no coordinator leads. By the coordinator.
    NoLeader,
}

/// A pool as the coordinator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolSeen {
    pub pool: PoolName,
    pub workers: u32,
    pub slots: u32,
}

/// An event that waits for others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HeldEvent {
    pub event: String,
    pub source: String,
    pub id: String,
    pub since: Timestamp,
}

/// Names shown of many.
pub(crate) const NAMES_MAX: usize = 5;

impl Reason {
    /// Takes `other`, which holds for further tasks of the same step, into this one if it is of the same kind; `false`: it is not.
    pub fn absorb(&mut self, other: &Self) -> bool {
        let earlier = |since: &mut Timestamp, other: &Timestamp| *since = (*since).min(*other);
        match (self, other) {
            (Self::Queued { pool, since, .. }, Self::Queued { pool: also, since: other, .. }) if pool == also => earlier(since, other),
            (Self::NoWorker { pool, since, .. }, Self::NoWorker { pool: also, since: other, .. }) if pool == also => earlier(since, other),
            (Self::Busy { pool, since, .. }, Self::Busy { pool: also, since: other, .. }) if pool == also => earlier(since, other),
            (Self::Taken { worker, since, .. }, Self::Taken { worker: also, since: other, .. })
            | (Self::Running { worker, since, .. }, Self::Running { worker: also, since: other, .. })
                if worker == also =>
            {
                earlier(since, other);
            }
            (Self::Retry { at, .. }, Self::Retry { at: other, .. }) => earlier(at, other),
            (Self::Storage { .. }, Self::Storage { .. }) => {}
            (Self::Room { room }, Self::Room { room: other }) if room == other => {}
            (Self::Nowhere { missing, .. }, Self::Nowhere { missing: other, .. }) if missing == other => {}
            (
                Self::Gate { since, signals, approval, children, .. },
                Self::Gate { since: other, signals: named, approval: by, children: runs, .. },
            ) if signals == named && approval == by && children == runs => earlier(since, other),
            (Self::Results { .. }, Self::Results { .. }) | (Self::Remembered, Self::Remembered) => {}
            (Self::Store { blobs }, Self::Store { blobs: more }) => *blobs += more,
            (
                Self::Siblings { arrived, expected, missing, failing },
                Self::Siblings { arrived: others, expected: of, missing: absent, failing: bad },
            ) => {
                *arrived += others;
                *expected += of;
                missing.extend(absent.iter().take(NAMES_MAX - missing.len().min(NAMES_MAX)).cloned());
                failing.extend(bad.iter().take(NAMES_MAX - failing.len().min(NAMES_MAX)).cloned());
            }
            (Self::Window { opened, count }, Self::Window { opened: others, count: of }) => {
                *opened += others;
                *count += of;
            }
            _ => return false,
        }
        true
    }

    /// The reason as a sentence goes on after what waits: "waits for …", without a full stop.
    #[must_use]
    pub fn words(&self, now: Timestamp) -> String {
        let ago = |since: &Timestamp| span(now.micros_since(*since));
        match self {
            Self::Ended { state, at, problem } => {
                let when = at.map(|at| format!(" {} ago", ago(&at))).unwrap_or_default();
                let why = problem.as_ref().map(|problem| format!(": {problem}")).unwrap_or_default();
                format!("{state}{when}{why}")
            }
            Self::Queued { pool, since, .. } => format!("queued in pool `{pool}` for {}", ago(since)),
            Self::NoWorker { pool, since, pools } => {
                let seen = |seen: &PoolSeen| format!("`{}` ({}, {})", seen.pool, many(seen.workers, "worker"), many(seen.slots, "slot"));
                let there = match pools.as_slice() {
                    [] => "no pool has one".into(),
                    pools => format!("there are {}", pools.iter().map(seen).collect::<Vec<_>>().join(", ")),
                };
                format!("queued for {}, but pool `{pool}` has no worker; {there}", ago(since))
            }
            Self::Busy { pool, since, workers, slots, taken, ahead } => format!(
                "queued in pool `{pool}` for {}: its {} with {} hold {}, and {} ahead of it",
                ago(since),
                many(*workers, "worker"),
                many(*slots, "slot"),
                many(*taken, "task"),
                if *ahead == 1 { "one is".into() } else { format!("{ahead} are") }
            ),
            Self::Taken { pool, since, worker } => {
                format!("offered to pool `{pool}` {} ago and taken by worker {worker}, where it has not begun", ago(since))
            }
            Self::Running { pool, worker, since, silent_seconds, gone, .. } => {
                let sign = match (gone, silent_seconds) {
                    (true, _) => ", of which there is no sign; it runs again elsewhere once that is certain".into(),
                    (false, Some(seconds)) => format!(", which has been silent for {seconds} s"),
                    (false, None) => String::new(),
                };
                format!("running on worker {worker} in pool `{pool}` for {}{sign}", ago(since))
            }
            Self::Retry { at, attempt, error } => {
                let error = error.as_ref().map(|error| format!(", after {error}")).unwrap_or_default();
                format!("tried again in {} (attempt {}){error}", span(at.micros_since(now)), attempt + 1)
            }
            Self::Storage { problem } => format!("not started: {problem}"),
            Self::Place { flow, ahead, active } => {
                let before = if *ahead == 0 { String::new() } else { format!(", behind {}", many(*ahead, "other")) };
                format!("waits until flow {flow} lets one more run begin{before}; under way: {}", active.join(", "))
            }
            Self::Schedule { cron, timezone, last, paused_by, paused } => {
                let zone = timezone.as_deref().unwrap_or("UTC");
                match (paused_by, paused, last) {
                    (Some(user), Some(since), _) => format!("schedule `{cron}` ({zone}) was paused by {user} {} ago", ago(since)),
                    (_, _, Some(last)) => format!("waits for schedule `{cron}` ({zone}), which fired {} ago", ago(last)),
                    (_, _, None) => format!("waits for schedule `{cron}` ({zone}), which has not fired yet"),
                }
            }
            Self::Gate { since, signals, approval, children, until } => {
                let mut what: Vec<String> = signals.iter().map(|name| format!("signal `{name}`")).collect();
                what.extend(approval.as_ref().map(|by| match by.as_slice() {
                    [] => "an approval".into(),
                    by => format!("an approval by {}", by.join(" or ")),
                }));
                what.extend(children.iter().map(|run| format!("the end of run {run}")));
                let until = until.map(|until| format!(", for {} more", span(until.micros_since(now)))).unwrap_or_default();
                format!("has waited {} for {}{until}", ago(since), what.join(", "))
            }
            Self::Gang { pool, size, here, gathering, since, until, dissolved } => {
                let before = dissolved.as_ref().map(|why| format!("; the last time: {why}")).unwrap_or_default();
                let left = until.map(|until| format!(", for {} more", span(until.micros_since(now)))).unwrap_or_default();
                match (gathering, since) {
                    (true, _) => format!("a gang of {size} gathers in pool `{pool}`: {here} are there{left}{before}"),
                    (false, Some(since)) if *since > now => {
                        format!("a gang of {size} gathers again in pool `{pool}` in {}{before}", span(since.micros_since(now)))
                    }
                    (false, _) => format!("a gang of {size} waits until pool `{pool}` has gathered those before it{before}"),
                }
            }
            Self::Siblings { arrived, expected, missing, failing } => {
                let list = |what: &str, names: &[String]| match names {
                    [] => String::new(),
                    names => format!("; {what} {}", names.join(", ")),
                };
                format!(
                    "waits for {} of {expected} inputs{}{}",
                    expected - arrived.min(expected),
                    list("missing:", missing),
                    list("failed and tried again:", failing)
                )
            }
            Self::Reused { run, at } => {
                let when = at.map(|at| format!(" {} ago", ago(&at))).unwrap_or_default();
                format!("succeeded{when}: it took the result that run {run} had made")
            }
            Self::Remembered => "waits for a look at the results that are remembered of its step".into(),
            Self::Results { run } => format!("waits for a look at what run {run} has of its results"),
            Self::Store { blobs } => format!("waits for {} to be stored in the artifact store", many(*blobs, "list of results")),
            Self::Room { room } => room.to_string(),
            Self::Nowhere { missing, together, pools, .. } => {
                let there = match pools.as_slice() {
                    [] => "no pool has a live worker".to_owned(),
                    pools => format!("there are {}", pools.join("; ")),
                };
                let how = if *together { " together" } else { "" };
                format!("no live worker offers {}{how}; {there}", missing.join(" and "))
            }
            Self::Window { opened, count } => {
                format!("{} of {count} items have been opened; the others wait for those", opened)
            }
            Self::Steps { steps } => {
                let names: Vec<&str> = steps.iter().map(StepName::as_str).collect();
                format!("not begun: waits for step {}", names.join(", "))
            }
            Self::Event { event, .. } => format!("waits for an event of type `{event}`"),
            Self::Events { missing, held, .. } => {
                let held: Vec<String> = held.iter().map(|held| format!("`{}` {} ago", held.event, ago(&held.since))).collect();
                let missing: Vec<String> = missing.iter().map(|event| format!("`{event}`")).collect();
                format!("waits for {}; has got {}", missing.join(", "), held.join(", "))
            }
            Self::NoTrigger => "nothing starts it by itself: it has no trigger".into(),
            Self::Declined { source, id, at, why } => format!("event {id} of {source}, {} ago, started nothing: {why}", ago(at)),
            Self::Pool { workers, slots, taken, queued, oldest, .. } => {
                let oldest = oldest.as_ref().map(|since| format!(", the oldest for {}", ago(since))).unwrap_or_default();
                let workers = match workers {
                    0 => "no worker".into(),
                    workers => format!("{} with {}, which hold {}", many(*workers, "worker"), many(*slots, "slot"), many(*taken, "task")),
                };
                format!("{workers}; {} queued{oldest}", many(*queued, "dispatch"))
            }
            Self::Reader { reader } => format!("coordinator `{reader}` could not read what would be decided; upgrade or stop it"),
            Self::NoLeader => "no coordinator leads at present, so nothing is decided".into(),
        }
    }

    /// What to do about it, if there is something.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoWorker { pool, .. } => Some(format!("start one: causey worker --pool {pool}")),
            Self::Nowhere { start, .. } => Some(format!("start one: {start}")),
            Self::Gate { signals, .. } if !signals.is_empty() => Some(format!("send it: causey signal RUN {}", signals[0])),
            Self::Gate { approval: Some(_), .. } => Some("decide: causey approve RUN STEP, or causey reject RUN STEP".into()),
            Self::Ended { problem: Some(problem), .. } | Self::Storage { problem } => problem.hint.clone(),
            _ => None,
        }
    }
}

fn many(count: u32, what: &str) -> String {
    let plural = match (count, what.strip_suffix("ch"), what.split_once(' ')) {
        (1, ..) => what.to_owned(),
        (_, Some(_), _) => format!("{what}es"),
        (_, None, Some((head, rest))) => format!("{head}s {rest}"),
        (_, None, None) => format!("{what}s"),
    };
    format!("{count} {plural}")
}

/// A length of time as people say it.
fn span(micros: u64) -> String {
    let seconds = micros / 1_000_000;
    match seconds {
        0..10 => format!("{}.{} s", seconds, micros % 1_000_000 / 100_000),
        10..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}
