//! One suite for each boundary to NATS, over the simulated server and real ones, so that the simulation cannot drift from what is
//! simulated: streams, keys, words, and the queue as a worker sees it. The store has its suite beside it (`worker/artifacts`).

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use causey_coordinator::config::LEADERSHIP_TTL;
use causey_coordinator::jetstream::JetStream;
use causey_coordinator::outside::{
    AppendError, Bucket as _, Entry, Expect, KeyError, Keys, Line as _, Listener as _, Machine, Message, Outside, Purge, Queues,
    Reader as _, Streams, Unseen, Watch as _, Words,
};
use causey_coordinator::publisher::Answer;
use causey_coordinator::streams::Limits;
use causey_coordinator::{broker, streams};
use causey_protocol::subject::{INBOX_STREAM, LEADER_KEY, LIVE_WORKER_ALL, LOG_STREAM, LOG_TURN, TASK_STREAM};
use causey_tests::simulation::quiet;
use causey_tests::{Cluster, Nats, Project};
use causey_worker::outside::{Listener as _, Outside as Connection};
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Longest wait for anything.
const PATIENCE: Duration = Duration::from_secs(30);

const ACK_WAIT: Duration = Duration::from_secs(1);

const LIMITS: Limits = Limits { bytes_max: 64 * 1024 * 1024, replicas: 1 };

fn message(subject: &str, expect: Expect, payload: &'static str) -> Message {
    Message { subject: subject.into(), expect, headers: vec![("Causey-Sequence", "7.0".into())], payload: payload.into() }
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what).await.expect("in time")
}

/// A log: compare-and-set on its end, read by position, trimmed as a prefix.
async fn a_log(streams: &impl Streams) {
    assert_eq!(streams.look(LOG_STREAM).await.unwrap().last, 0);
    assert_eq!(streams.append(message(LOG_TURN, Expect::End(0), "a")).await, Ok(1));
    assert_eq!(streams.append(message(LOG_TURN, Expect::End(0), "x")).await, Err(AppendError::WrongLast));
    assert_eq!(streams.append(message("causey.log.fence", Expect::End(1), "b")).await, Ok(2));
    let first = streams.message(LOG_STREAM, 1).await.unwrap().unwrap();
    assert_eq!((first.sequence, first.subject.as_str(), &first.payload[..]), (1, LOG_TURN, b"a".as_slice()));
    assert_eq!(first.headers.get("causey-sequence").map(String::as_str), Some("7.0"));
    assert_eq!(streams.message(LOG_STREAM, 9).await.unwrap(), None);
    let mut reader = streams.read(LOG_STREAM, 1).await.unwrap();
    assert_eq!(soon(reader.next()).await.unwrap().payload, "b");
    a_race(streams).await;
    for (sequence, subject) in [(3, LOG_TURN), (4, LOG_TURN)] {
        let raw = soon(reader.next()).await.unwrap();
        assert_eq!((raw.sequence, raw.subject.as_str()), (sequence, subject));
    }
    assert_eq!(streams.purge(LOG_STREAM, Purge::To(2)).await, Ok(2));
    let look = streams.look(LOG_STREAM).await.unwrap();
    assert_eq!((look.first, look.last), (3, 4));
    assert_eq!(streams.message(LOG_STREAM, 1).await.unwrap(), None);
    assert_eq!(streams.append(message(LOG_TURN, Expect::End(3), "x")).await, Err(AppendError::WrongLast));
    assert_eq!(streams.append(message(LOG_TURN, Expect::End(4), "e")).await, Ok(5));
}

/// Of writers that expect the same end one gets it; the same message again is refused.
async fn a_race(streams: &impl Streams) {
    let mut line = streams.line().await.unwrap();
    for end in 2..4 {
        let racers = 0..5;
        for token in racers.clone() {
            line.send(token, &message(LOG_TURN, Expect::End(end), "c")).await;
        }
        let mut stored = 0;
        for _ in racers {
            match soon(line.answer()).await {
                (_, Answer::Stored { sequence }) => {
                    assert_eq!(sequence, end + 1);
                    stored += 1;
                }
                (_, Answer::WrongLast) => {}
                // A cluster refuses so while another one is under way.
                (_, Answer::Refused { .. }) => {}
            }
        }
        assert_eq!(stored, 1, "of those that expect {end}");
    }
}

/// Inputs: every message has its place, duplicates too.
async fn inputs(streams: &impl Streams) {
    for (place, payload) in [(1, "a"), (2, "a"), (3, "b")] {
        assert_eq!(streams.append(message("causey.in.request.submit", Expect::Nothing, payload)).await, Ok(place));
    }
    let mut reader = streams.read(INBOX_STREAM, 0).await.unwrap();
    for (place, payload) in [(1, "a"), (2, "a"), (3, "b")] {
        let raw = soon(reader.next()).await.unwrap();
        assert_eq!((raw.sequence, &raw.payload[..]), (place, payload.as_bytes()));
    }
    assert!(timeout(Duration::from_millis(50), reader.next()).await.is_err());
    assert_eq!(streams.append(message("causey.in.request.submit", Expect::Nothing, "c")).await, Ok(4));
    assert_eq!(soon(reader.next()).await.unwrap().payload, "c");
}

/// Keys with a time limit.
async fn keys(keys: &impl Keys) {
    let bucket = keys.bucket().await.unwrap();
    let mut watch = bucket.watch(LEADER_KEY).await.unwrap();
    let value = |text: &'static str| Bytes::from_static(text.as_bytes());
    let first = bucket.create(LEADER_KEY, value("one")).await.unwrap();
    assert_eq!(bucket.create(LEADER_KEY, value("two")).await, Err(KeyError::WrongRevision));
    assert_eq!(
        bucket.entry(LEADER_KEY).await.unwrap().unwrap(),
        Entry { key: LEADER_KEY.into(), value: Some(value("one")), revision: first }
    );
    let second = bucket.update(LEADER_KEY, value("two"), first).await.unwrap();
    assert_eq!(bucket.update(LEADER_KEY, value("three"), first).await, Err(KeyError::WrongRevision));
    for expected in [Some("one"), Some("two")] {
        assert_eq!(soon(watch.next()).await.unwrap().value, expected.map(value));
    }
    bucket.delete(LEADER_KEY, Some(second)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().value, None);
    assert_eq!(bucket.entry(LEADER_KEY).await.unwrap().and_then(|entry| entry.value), None);
    let third = bucket.create(LEADER_KEY, value("four")).await.unwrap();
    assert!(third > second);
    assert_eq!(soon(watch.next()).await.unwrap().value, Some(value("four")));
    // Nobody renews it: it goes by itself, and whoever watches is told.
    assert_eq!(timeout(LEADERSHIP_TTL + PATIENCE, watch.next()).await.expect("it expires").unwrap().value, None);
    bucket.create(LEADER_KEY, value("five")).await.unwrap();
    let mut late = bucket.watch(LEADER_KEY).await.unwrap();
    assert_eq!(soon(late.next()).await.unwrap().value, Some(value("five")));
}

/// Core NATS: who listens hears.
async fn words(words: &impl Words) {
    let mut listener = words.listen(LIVE_WORKER_ALL).await.unwrap();
    words.say("causey.live.worker.pool.name".into(), Bytes::from_static(b"hello")).await.unwrap();
    words.say("causey.live.elsewhere".into(), Bytes::from_static(b"nothing")).await.unwrap();
    words.say("causey.live.worker.pool.name".into(), Bytes::from_static(b"again")).await.unwrap();
    let mut heard = vec![soon(listener.next()).await.unwrap().payload, soon(listener.next()).await.unwrap().payload];
    heard.sort();
    assert_eq!(heard, ["again", "hello"]);
}

/// A queue: one message per subject, delivered again when it is not kept alive, removed by whoever acknowledges any of its deliveries.
async fn a_queue(leader: &(impl Streams + Queues), worker: &impl Connection) {
    const SUBJECT: &str = "causey.task.pool.run.key";
    let inbox = worker.inbox();
    let mut arrivals = worker.listen(&inbox).await.unwrap();
    let pull = Bytes::from_static(br#"{"batch":3,"expires":30000000000}"#);
    let next = "$JS.API.CONSUMER.MSG.NEXT.CAUSEY_TASK.pool";
    worker.say(next, Some(&inbox), pull.clone()).await.unwrap();
    assert_eq!(soon(arrivals.next()).await.unwrap().status, Some(503), "nobody has made the consumer");
    leader.ensure_tasks(LIMITS).await.unwrap();
    leader.ensure_queue(&"pool".parse().unwrap(), ACK_WAIT).await.unwrap();
    worker.say(next, Some(&inbox), pull).await.unwrap();
    leader.append(message(SUBJECT, Expect::NoneOnSubject, "task")).await.unwrap();
    assert_eq!(leader.append(message(SUBJECT, Expect::NoneOnSubject, "task")).await, Err(AppendError::WrongLast));
    let first = soon(arrivals.next()).await.unwrap();
    assert_eq!((first.subject.as_str(), &first.payload[..]), (SUBJECT, b"task".as_slice()));
    let count = |reply: &str| reply.split('.').nth(4).map(str::to_owned);
    assert_eq!(count(first.reply.as_deref().unwrap()).as_deref(), Some("1"));
    let second = soon(arrivals.next()).await.unwrap();
    assert_eq!(count(second.reply.as_deref().unwrap()).as_deref(), Some("2"), "it comes again after its ack wait");
    assert!(leader.subjects(TASK_STREAM).await.unwrap().contains(SUBJECT));
    // An ack goes to the message, not to the delivery: the first one's ends what the second one has.
    worker.ask(first.reply.as_deref().unwrap(), Bytes::from_static(b"+ACK"), PATIENCE).await.unwrap();
    assert!(leader.subjects(TASK_STREAM).await.unwrap().is_empty());
    leader.append(message(SUBJECT, Expect::NoneOnSubject, "task")).await.expect("the subject is free again");
    assert_eq!(leader.purge(TASK_STREAM, Purge::Subject("causey.task.*.run.>".into())).await, Ok(1));
    assert!(leader.subjects(TASK_STREAM).await.unwrap().is_empty());
}

/// Everything, on a server that has been used for nothing yet.
async fn everything(coordinator: &impl Outside, worker: &impl Connection) {
    a_log(coordinator).await;
    inputs(coordinator).await;
    words(coordinator).await;
    keys(coordinator).await;
    a_queue(coordinator, worker).await;
}

async fn connected(url: &str, replicas: u8) -> JetStream {
    let nats = broker::connect(url, "conformance", false).await.unwrap();
    streams::ensure(&nats, Limits { replicas, ..LIMITS }, None).await.unwrap();
    nats
}

#[tokio::test(start_paused = true)]
async fn the_simulated_server_behaves_as_the_real_one() {
    let node = quiet();
    node.link().made().wait_for(|made| *made > 0).await.unwrap();
    everything(&node, &node).await;
}

#[tokio::test]
async fn the_real_server_behaves_as_the_simulated_one() {
    static WORKERS: AtomicU64 = AtomicU64::new(0);
    let project = Project::new();
    let nats = Nats::start(&project.file("jetstream")).await;
    let coordinator = connected(&nats.url(), 1).await;
    let (sender, mut events) = mpsc::unbounded_channel();
    let name = format!("conformance {}", WORKERS.fetch_add(1, Ordering::Relaxed));
    let worker = causey_worker::nats::connect(&nats.url(), name, sender).await.unwrap();
    soon(events.recv()).await.expect("it connects");
    everything(&coordinator, &worker).await;
}

/// A single server has the task queue in memory. After a restart it is made anew, and what a worker still does with a delivery of the one
/// before, whose sequence names nothing now, is answered and touches no other task.
#[tokio::test]
async fn what_was_meant_for_the_task_queue_before_a_restart_hits_nothing_in_the_new_one() {
    const OLD: &str = "causey.task.pool.run.old";
    const NEW: &str = "causey.task.pool.run.new";
    let project = Project::new();
    let nats = Nats::start(&project.file("jetstream")).await;
    let leader = connected(&nats.url(), 1).await;
    let pool = "pool".parse().unwrap();
    leader.ensure_tasks(LIMITS).await.unwrap();
    leader.ensure_queue(&pool, ACK_WAIT).await.unwrap();
    let old = leader.append(message(OLD, Expect::NoneOnSubject, "task")).await.unwrap();
    let reply = format!("$JS.ACK.CAUSEY_TASK.pool.1.{old}.1.1700000000000000000.0");
    drop(leader);
    let nats = nats.again().await;
    let leader = connected(&nats.url(), 1).await;
    assert_eq!(leader.look(TASK_STREAM).await, Err(Unseen::Gone));
    leader.ensure_tasks(LIMITS).await.unwrap();
    leader.ensure_tasks(LIMITS).await.expect("once made it stays");
    leader.ensure_queue(&pool, ACK_WAIT).await.unwrap();
    let new = leader.append(message(NEW, Expect::NoneOnSubject, "task")).await.unwrap();
    assert!(new > old, "no sequence comes again: {old}, then {new}");
    let client = nats.client().await;
    for word in ["+WPI", "+ACK"] {
        timeout(PATIENCE, client.request(reply.clone(), word.into())).await.expect("in time").expect("it is answered");
    }
    assert_eq!(leader.subjects(TASK_STREAM).await.unwrap(), [NEW.to_owned()].into());
}

/// Rows 7 and 11 of the fault model: the fence holds where a message has three copies.
#[tokio::test]
async fn a_cluster_of_three_keeps_a_log_as_one_server_does() {
    let project = Project::new();
    let cluster = Cluster::start(&project.file("cluster")).await;
    let nats = connected(&cluster.url(0), 3).await;
    a_log(&nats).await;
}
