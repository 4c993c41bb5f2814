//! Streams and buckets: created only when all are missing and nobody knows of an earlier log, verified at every start and
//! reconnect. A stream that is merely missing is never created silently: that would be an empty history.

use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::jetstream::stream::{Config, DiscardPolicy, RetentionPolicy, StorageType};
use async_nats::jetstream::{Context, kv};
use causey_artifacts::failpoint;
use causey_protocol::backoff::Delays;
use causey_protocol::codec::{DISPATCH_BYTES_MAX, MESSAGE_BYTES_MAX, TURN_BYTES_MAX};
use causey_protocol::subject;
use futures_util::future::{join_all, try_join_all};

use crate::config::LEADERSHIP_TTL;
use crate::jetstream::{self, JetStream};
use crate::outside::{Streams, Unseen};

/// Why the streams cannot be trusted or used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to look at stream {stream}: {reason}")]
    Look { stream: &'static str, reason: String },
    #[error(
        "failed to create stream {stream}: {reason}\nhint: the server reserves the caps of all streams: give it more disk (max_file_store) or memory (max_memory_store), or the coordinator a smaller --stream-bytes-max; as many servers as --replicas must run"
    )]
    Create { stream: String, reason: String },
    #[error(
        "streams {missing} are missing on the NATS server, but {present} exist\nhint: a stream was deleted; restore the server's JetStream folder, or start a new installation with empty folders"
    )]
    SomeMissing { missing: String, present: String },
    #[error(
        "the NATS server has no Causey streams, but {witness} knows a log\nhint: the server's JetStream folder is empty or another one; restore it, or remove {witness} to start anew (this forgets all runs)"
    )]
    LogVanished { witness: String },
    #[error("stream {stream} is missing on the NATS server\nhint: it was deleted; restore the server's JetStream folder from a backup")]
    Gone { stream: &'static str },
    #[error(
        "stream {stream} moved back: it ends at sequence {found}, but {seen} has been read\nhint: accepted messages are gone; restore the JetStream folder of the NATS server from a backup, or, for CAUSEY_IN and CAUSEY_EVENT, accept what was lost: causey state accept-loss"
    )]
    MovedBack { stream: &'static str, found: u64, seen: u64 },
    #[error(
        "stream {stream} is another one than before: it was created at {found} µs since the Unix epoch, the one that was read at {seen} µs\nhint: the stream was deleted and made again; restore the JetStream folder of the NATS server from a backup, or, for CAUSEY_IN and CAUSEY_EVENT, accept what was lost: causey state accept-loss"
    )]
    Recreated { stream: &'static str, found: u64, seen: u64 },
}

pub(crate) const STREAMS: [&str; 5] =
    [subject::INBOX_STREAM, subject::EVENT_STREAM, subject::LOG_STREAM, subject::TASK_STREAM, subject::NOTIFY_STREAM];

/// Those that hold what nothing else can give back. The task queue is not among them: it follows from the log.
const KEPT: [&str; 4] = [subject::INBOX_STREAM, subject::EVENT_STREAM, subject::LOG_STREAM, subject::NOTIFY_STREAM];

/// Cap of a task queue in memory: the windows of pools keep far below it.
const TASK_MEMORY_BYTES_MAX: i64 = 128 * 1024 * 1024;

/// How long events are kept.
const EVENTS_KEPT: Duration = Duration::from_secs(90 * 24 * 3_600);

/// How long notifications are kept.
const NOTIFICATIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

/// How long a worker's presence outlives its last sign.
const PRESENCE_TTL: Duration = Duration::from_secs(15);

/// How long the mark of an expired entry stays; the server takes no less.
const EXPIRY_MARKER_TTL: Duration = Duration::from_secs(1);

/// What streams are made with; those that exist keep what they have.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Cap of each stream in bytes; -1 for none.
    pub bytes_max: i64,
    /// Servers that keep a copy.
    pub replicas: u8,
}

/// A stream that refuses when it has reached its cap, instead of dropping what is old.
fn config(name: &str, subjects: &[&str], limits: Limits) -> Config {
    Config {
        name: name.into(),
        subjects: subjects.iter().map(|&subject| subject.into()).collect(),
        storage: StorageType::File,
        discard: DiscardPolicy::New,
        max_bytes: limits.bytes_max,
        num_replicas: limits.replicas.into(),
        max_message_size: i32::try_from(MESSAGE_BYTES_MAX + 8 * 1024).unwrap_or(i32::MAX),
        // Correctness never uses the server's duplicate window; the shortest costs the least memory.
        duplicate_window: Duration::from_millis(100),
        ..Config::default()
    }
}

fn configs(limits: Limits) -> Vec<Config> {
    let config = |name: &str, subjects: &[&str]| config(name, subjects, limits);
    vec![
        config(subject::INBOX_STREAM, &[subject::INBOX_ALL]),
        Config { max_age: EVENTS_KEPT, ..config(subject::EVENT_STREAM, &[subject::EVENT_ALL]) },
        Config {
            max_message_size: i32::try_from(TURN_BYTES_MAX).unwrap_or(i32::MAX),
            deny_delete: true,
            ..config(subject::LOG_STREAM, &[subject::LOG_TURN, subject::LOG_ALL])
        },
        Config { max_age: NOTIFICATIONS_KEPT, ..config(subject::NOTIFY_STREAM, &[subject::NOTIFY_ALL]) },
    ]
}

/// The queues of all pools. One server keeps them in memory: a task is then neither written nor synced, and after a restart of the server
/// the leader makes the stream anew and offers the tasks again. Sequences begin at `now`, in microseconds: an ack names a sequence, and one
/// that was meant for the stream before must hit nothing in this one. A cluster would bring the stream back under its old sequences after all
/// its servers were down, so there it is kept in files.
pub(crate) fn tasks(limits: Limits, now: u64) -> Config {
    let config = Config {
        max_message_size: i32::try_from(DISPATCH_BYTES_MAX + 8 * 1024).unwrap_or(i32::MAX),
        retention: RetentionPolicy::WorkQueue,
        max_messages_per_subject: 1,
        discard_new_per_subject: true,
        ..config(subject::TASK_STREAM, &[subject::TASK_ALL], limits)
    };
    if limits.replicas > 1 {
        return config;
    }
    Config {
        storage: StorageType::Memory,
        first_sequence: Some(now),
        max_bytes: if limits.bytes_max < 0 { limits.bytes_max } else { limits.bytes_max.min(TASK_MEMORY_BYTES_MAX) },
        ..config
    }
}

fn buckets(replicas: u8) -> [kv::Config; 2] {
    // With markers the server tells of an entry that has expired.
    let bucket = |name: &str, max_age| kv::Config {
        bucket: name.into(),
        max_age,
        history: 1,
        num_replicas: replicas.into(),
        limit_markers: Some(EXPIRY_MARKER_TTL),
        ..kv::Config::default()
    };
    [bucket(subject::LEADER_BUCKET, LEADERSHIP_TTL), bucket(subject::PRESENCE_BUCKET, PRESENCE_TTL)]
}

/// Does what [`ensure`] does once the servers answer: those of a cluster that have no leader yet will elect one.
///
/// # Errors
/// As [`ensure`], but for [`Error::Look`], which is waited out.
pub(crate) async fn ensure_patiently(nats: &JetStream, limits: Limits, witness: Option<String>) -> Result<(), Error> {
    let mut delays = Delays::new(Duration::from_millis(100), Duration::from_secs(2));
    loop {
        match ensure(nats, limits, witness.clone()).await {
            Err(error @ Error::Look { .. }) => {
                tracing::warn!(%error, "waiting for the NATS servers: a cluster answers once most of its servers run");
                tokio::time::sleep(delays.next_delay()).await;
            }
            done => return done,
        }
    }
}

/// Makes sure that all streams but the task queue exist, which every leader makes where it is missing; creates what is missing when none
/// holds a message and no `witness` knows an earlier log.
///
/// # Errors
/// [`Error`] when some are missing, when a log has vanished, or when the server refuses or does not answer.
pub async fn ensure(nats: &JetStream, limits: Limits, witness: Option<String>) -> Result<(), Error> {
    let context = &nats.context;
    let looks = KEPT.map(|name| async move {
        match nats.look(name).await {
            Ok(look) => Ok(Some(look.last)),
            Err(Unseen::Gone) => Ok(None),
            Err(error) => Err(unseen(name, error)),
        }
    });
    let tails: Vec<Option<u64>> = join_all(looks).await.into_iter().collect::<Result<_, _>>()?;
    let named = |wanted: bool| {
        let named = KEPT.iter().zip(&tails).filter(|(_, tail)| tail.is_some() == wanted);
        named.map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
    };
    if tails.iter().all(Option::is_some) {
        return ensure_buckets(context, limits.replicas).await;
    }
    // Empty streams that nobody knows a log of are what a first start left that was cut short: it is finished here.
    let unfinished = witness.is_none() && tails.iter().flatten().all(|tail| *tail == 0);
    if tails.iter().any(Option::is_some) && !unfinished {
        return Err(Error::SomeMissing { missing: named(false), present: named(true) });
    }
    if let Some(witness) = witness {
        return Err(Error::LogVanished { witness });
    }
    let create = configs(limits).into_iter().map(|config| async move {
        let stream = config.name.clone();
        context.create_stream(config).await.map_err(|error| Error::Create { stream, reason: error.to_string() })?;
        failpoint::here("stream.created");
        Ok(())
    });
    let (streams, buckets) = futures_util::join!(try_join_all(create), ensure_buckets(context, limits.replicas));
    streams?;
    buckets
}

/// Buckets hold nothing that must last, so a missing one is simply made. One that another version made serves as it is.
async fn ensure_buckets(context: &Context, replicas: u8) -> Result<(), Error> {
    let names = [subject::LEADER_BUCKET, subject::PRESENCE_BUCKET];
    let create = buckets(replicas).into_iter().zip(names).map(|(config, name)| async move {
        let Err(error) = context.create_key_value(config).await else {
            failpoint::here("bucket.created");
            return Ok(());
        };
        match context.get_stream(format!("KV_{name}")).await.map_err(|error| jetstream::unseen(&error)) {
            Ok(_) => Ok(()),
            Err(Unseen::Gone) => Err(Error::Create { stream: name.into(), reason: error.to_string() }),
            Err(Unseen::Unanswered(why)) => Err(Error::Look { stream: name, reason: why.to_string() }),
        }
    });
    try_join_all(create).await.map(drop)
}

/// The last sequences of the streams that are read by position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tails {
    pub inbox: u64,
    pub events: u64,
    pub log: u64,
    pub notify: u64,
}

/// Why a stream cannot be looked at, with its name.
pub(crate) fn unseen(stream: &'static str, why: Unseen) -> Error {
    match why {
        Unseen::Gone => Error::Gone { stream },
        Unseen::Unanswered(why) => Error::Look { stream, reason: why.to_string() },
    }
}

/// What the streams are at present.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    pub tails: Tails,
    /// When the streams that are read by position were created, in microseconds since the Unix epoch.
    pub created: BTreeMap<String, u64>,
}

/// Reads tails and identities.
///
/// # Errors
/// [`Error::Look`] when the server does not answer.
pub async fn look(streams: &impl Streams) -> Result<Looked, Error> {
    let look = |stream: &'static str| async move { streams.look(stream).await.map_err(|why| unseen(stream, why)) };
    let (inbox, events, log, notify) = futures_util::try_join!(
        look(subject::INBOX_STREAM),
        look(subject::EVENT_STREAM),
        look(subject::LOG_STREAM),
        look(subject::NOTIFY_STREAM),
    )?;
    let created = [(subject::INBOX_STREAM, inbox), (subject::EVENT_STREAM, events), (subject::LOG_STREAM, log)];
    let created = created.map(|(stream, look)| (stream.to_owned(), look.created)).into();
    Ok(Looked { tails: Tails { inbox: inbox.last, events: events.last, log: log.last, notify: notify.last }, created })
}

/// Checks the log alone, like [`verify`], and gives the tails of all.
///
/// # Errors
/// As [`verify`].
pub async fn verify_log(streams: &impl Streams, seen: u64, known: &BTreeMap<String, u64>) -> Result<Tails, Error> {
    let known = known.iter().filter(|(stream, _)| *stream == subject::LOG_STREAM).map(|(stream, created)| (stream.clone(), *created));
    let seen = Tails { log: seen, inbox: 0, events: 0, notify: 0 };
    Ok(verify(streams, seen, &known.collect()).await?.tails)
}

/// Checks that no stream ends before what has been `seen` of it, and that each is the one that was `known` (I11).
///
/// # Errors
/// [`Error::MovedBack`] or [`Error::Recreated`] naming the stream, what was expected and what was found; [`Error::Look`] when the
/// server does not answer.
pub async fn verify(streams: &impl Streams, seen: Tails, known: &BTreeMap<String, u64>) -> Result<Looked, Error> {
    let looked = look(streams).await?;
    let Tails { inbox, events, log, notify } = looked.tails;
    let ends = [
        (subject::LOG_STREAM, log, seen.log),
        (subject::INBOX_STREAM, inbox, seen.inbox),
        (subject::EVENT_STREAM, events, seen.events),
        (subject::NOTIFY_STREAM, notify, seen.notify),
    ];
    for (stream, found, seen) in ends {
        if found < seen {
            return Err(Error::MovedBack { stream, found, seen });
        }
    }
    for (stream, _, _) in ends {
        if let (Some(seen), Some(found)) = (known.get(stream), looked.created.get(stream))
            && seen != found
        {
            return Err(Error::Recreated { stream, found: *found, seen: *seen });
        }
    }
    Ok(looked)
}
