//! The only place that builds or parses NATS subjects, and that names streams and buckets. A test holds every pair of builder
//! and parser together.

use crate::id::{PoolName, RunId, SourceName, TaskKey, WorkerName};
use crate::record::Topic;

pub const INBOX_STREAM: &str = "CAUSEY_IN";
pub const EVENT_STREAM: &str = "CAUSEY_EVENT";
pub const LOG_STREAM: &str = "CAUSEY_LOG";
pub const TASK_STREAM: &str = "CAUSEY_TASK";
pub const NOTIFY_STREAM: &str = "CAUSEY_NOTIFY";
pub const LEADER_BUCKET: &str = "causey_leader";
pub const PRESENCE_BUCKET: &str = "causey_presence";

/// The key of the leadership in its bucket.
pub const LEADER_KEY: &str = "leader";

/// Presence entries of workers as they are put.
pub const PRESENCE_ALL: &str = "$KV.causey_presence.*.*";

/// What coordinators can read: one key each, beside the leadership's.
pub const COORDINATOR_KEYS: &str = "coordinator.*";

/// Header of a notification: its record's place in the log.
pub const SEQUENCE_HEADER: &str = "Causey-Sequence";

pub const INBOX_ALL: &str = "causey.in.>";
pub const EVENT_ALL: &str = "causey.event.>";
pub const LOG_ALL: &str = "causey.log.>";
/// Turns.
pub const LOG_TURN: &str = "causey.log";
/// The first message of each epoch; a turn like the others.
pub const LOG_FENCE: &str = "causey.log.fence";
pub const TASK_ALL: &str = "causey.task.>";
pub const NOTIFY_ALL: &str = "causey.notify.>";
pub const CANCEL_ALL: &str = "causey.cancel.*";
pub const GANG_ALL: &str = "causey.gang.*";
pub const FOLLOW_ALL: &str = "causey.follow.*";
pub const LIVE_WORKER_ALL: &str = "causey.live.worker.*.*";

#[must_use]
pub fn request(kind: &str) -> String {
    format!("causey.in.request.{kind}")
}

#[must_use]
pub fn report(pool: &PoolName, worker: &WorkerName) -> String {
    format!("causey.in.report.{pool}.{worker}")
}

#[must_use]
pub fn event(source: &SourceName) -> String {
    format!("causey.event.{source}")
}

#[must_use]
pub fn task(pool: &PoolName, run: RunId, key: &TaskKey) -> String {
    format!("causey.task.{pool}.{run}.{key}")
}

/// Parses a task's subject.
#[must_use]
pub fn parse_task(subject: &str) -> Option<(PoolName, RunId, TaskKey)> {
    let mut tokens = subject.strip_prefix("causey.task.")?.split('.');
    let parsed = (PoolName::new(tokens.next()?).ok()?, tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
    tokens.next().is_none().then_some(parsed)
}

/// All tasks of a pool: the filter of its consumer, which is named as the pool.
#[must_use]
pub fn pool_tasks(pool: &PoolName) -> String {
    format!("causey.task.{pool}.>")
}

/// All tasks of a run, in every pool.
#[must_use]
pub fn run_tasks(run: RunId) -> String {
    format!("causey.task.*.{run}.>")
}

#[must_use]
pub fn notify(topic: Topic, name: &str) -> String {
    format!("causey.notify.{}.{}", topic.as_str(), token(name))
}

#[must_use]
pub fn cancel(run: RunId) -> String {
    format!("causey.cancel.{run}")
}

/// Something about a gang of this run has changed: workers that hold members ask what. Lossy.
#[must_use]
pub fn gang(run: RunId) -> String {
    format!("causey.gang.{run}")
}

/// Output of a run's tasks while it is produced; lossy.
#[must_use]
pub fn live_output(run: RunId) -> String {
    format!("causey.live.{run}")
}

/// Somebody begins to follow a run: workers send again what its running tasks have printed lately. Lossy.
#[must_use]
pub fn follow(run: RunId) -> String {
    format!("causey.follow.{run}")
}

/// There is something to tell the workers of this pool: they ask what. Lossy.
#[must_use]
pub fn call(pool: &PoolName) -> String {
    format!("causey.call.{pool}")
}

/// A worker asks the leader.
#[must_use]
pub fn live_worker(pool: &PoolName, worker: &WorkerName) -> String {
    format!("causey.live.worker.{pool}.{worker}")
}

#[must_use]
pub fn presence_key(pool: &PoolName, worker: &WorkerName) -> String {
    format!("{pool}.{worker}")
}

/// Where a coordinator announces itself; `id` is letters and digits and tells processes apart.
#[must_use]
pub fn coordinator_key(id: &str) -> String {
    format!("coordinator.{id}")
}

/// One subject token for any text: names as they are, anything else as a hash.
#[must_use]
pub fn token(text: &str) -> String {
    if crate::id::is_name(text) { text.to_owned() } else { format!("h-{}", &blake3::hash(text.as_bytes()).to_hex()[..32]) }
}

/// What an inbox subject says about its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum InboxSubject {
    Request { kind: String },
    Report { pool: PoolName, worker: WorkerName },
}

/// Parses an inbox subject; `None` for anything else.
#[must_use]
pub fn parse_inbox(subject: &str) -> Option<InboxSubject> {
    let mut tokens = subject.strip_prefix("causey.in.")?.split('.');
    let parsed = match tokens.next()? {
        "request" => InboxSubject::Request { kind: tokens.next()?.to_owned() },
        "report" => InboxSubject::Report { pool: PoolName::new(tokens.next()?).ok()?, worker: WorkerName::new(tokens.next()?).ok()? },
        _ => return None,
    };
    tokens.next().is_none().then_some(parsed)
}

/// Parses an event subject.
#[must_use]
pub fn parse_event(subject: &str) -> Option<SourceName> {
    SourceName::new(subject.strip_prefix("causey.event.")?).ok()
}

/// Parses the subject of a worker's question to the leader.
#[must_use]
pub fn parse_live_worker(subject: &str) -> Option<(PoolName, WorkerName)> {
    let (pool, worker) = subject.strip_prefix("causey.live.worker.")?.split_once('.')?;
    Some((PoolName::new(pool).ok()?, WorkerName::new(worker).ok()?))
}

/// Parses the subject of a change to gangs.
#[must_use]
pub fn parse_gang(subject: &str) -> Option<RunId> {
    subject.strip_prefix("causey.gang.")?.parse().ok()
}

/// Parses the subject of somebody who follows a run.
#[must_use]
pub fn parse_follow(subject: &str) -> Option<RunId> {
    subject.strip_prefix("causey.follow.")?.parse().ok()
}

/// Parses a cancel subject.
#[must_use]
pub fn parse_cancel(subject: &str) -> Option<RunId> {
    subject.strip_prefix("causey.cancel.")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_parses_back() {
        let (pool, worker) = (PoolName::new("gpu").unwrap(), WorkerName::new("w-1").unwrap());
        assert_eq!(parse_inbox(&report(&pool, &worker)), Some(InboxSubject::Report { pool: pool.clone(), worker: worker.clone() }));
        assert_eq!(parse_inbox(&request("submit")), Some(InboxSubject::Request { kind: "submit".into() }));
        assert_eq!(parse_live_worker(&live_worker(&pool, &worker)), Some((pool.clone(), worker)));
        assert_eq!(parse_event(&event(&SourceName::new("api").unwrap())).unwrap().as_str(), "api");
        let (run, key) = (RunId(uuid::Uuid::from_u128(7)), TaskKey([1; 16]));
        assert_eq!(parse_task(&task(&pool, run, &key)), Some((pool.clone(), run, key)));
        assert_eq!(parse_task("causey.task.gpu"), None);
        assert_eq!((parse_gang(&gang(run)), parse_cancel(&cancel(run)), parse_gang(&cancel(run))), (Some(run), Some(run), None));
        assert_eq!((parse_follow(&follow(run)), parse_follow(&gang(run))), (Some(run), None));
        assert_eq!(parse_inbox("causey.in.report.gpu.w.1"), None);
        assert_eq!(parse_inbox("causey.in.report.gpu"), None);
    }

    #[test]
    fn text_that_is_no_name_enters_a_subject_as_a_hash() {
        assert_eq!(token("title-demand"), "title-demand");
        assert!(token("a.b >").starts_with("h-"));
    }
}
