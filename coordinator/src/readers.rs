//! Coordinators of two versions side by side: each announces up to which generation it reads records, and a leader writes none that
//! a living coordinator could not read. Announcements live as long as the leadership key does and are renewed as often.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use causey_protocol::backoff::Delays;
use causey_protocol::record::GENERATION;
use causey_protocol::subject;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{LEADERSHIP_RENEWAL, LEADERSHIP_TTL};
use crate::outside::{Bucket as _, Entry, Outside, Unanswered, Watch as _};
use crate::signal;

/// What every version reads: written as long as nothing is known of the others.
const FIRST_GENERATION: u32 = 1;

/// A coordinator's announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reader {
    name: String,
    /// Highest generation of records it reads.
    reads: u32,
}

/// What a leader may write, and for whose sake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Writes {
    pub generation: u32,
    /// Name of the coordinator that reads least.
    pub reader: Option<String>,
}

/// The announcements of all living coordinators, ours among them.
#[derive(Debug, Default)]
struct Readers(BTreeMap<String, (Reader, Instant)>);

impl Readers {
    fn heard(&mut self, key: &str, reader: Reader, now: Instant) {
        self.0.insert(key.to_owned(), (reader, now));
    }

    fn gone(&mut self, key: &str) {
        self.0.remove(key);
    }

    /// The server tells of most that vanish; whoever is silent for as long as an announcement lives counts as gone in any case.
    fn expire(&mut self, now: Instant) {
        self.0.retain(|_, (_, at)| now.duration_since(*at) <= LEADERSHIP_TTL);
    }

    /// What may be written by whoever announces under `own`. Before it has seen its own announcement it may not have seen others'.
    fn writes(&self, own: &str) -> Writes {
        let known = if self.0.contains_key(own) { GENERATION } else { FIRST_GENERATION };
        let least = self.0.values().map(|(reader, _)| reader).min_by_key(|reader| reader.reads);
        match least {
            Some(reader) if reader.reads < known => Writes { generation: reader.reads, reader: Some(reader.name.clone()) },
            _ => Writes { generation: known, reader: None },
        }
    }
}

/// What may be written now, and a signal of its changes.
#[derive(Clone, Debug)]
pub struct Writable(signal::Receiver<Writes>);

impl Writable {
    #[must_use]
    pub fn now(&self) -> Writes {
        self.0.get()
    }

    /// Returns at the next change. Safe to drop at its await.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            // Nobody announces any more: the process ends.
            std::future::pending().await
        }
    }
}

/// Announces what this process reads and listens to the others until shutdown.
#[derive(Debug)]
pub(crate) struct Announcer<O> {
    outside: O,
    key: String,
    value: Bytes,
    readers: Readers,
    writes: signal::Sender<Writes>,
}

impl<O> Announcer<O> {
    /// `id` tells this process apart from any other that has the same `name`.
    pub(crate) fn new(outside: O, id: &str, name: &str) -> (Self, Writable) {
        let key = subject::coordinator_key(id);
        let value = serde_json::to_vec(&Reader { name: name.into(), reads: GENERATION }).expect("a reader serializes");
        let readers = Readers::default();
        let writes = signal::Sender::new(readers.writes(&key));
        let writable = Writable(writes.subscribe());
        (Self { outside, key, value: value.into(), readers, writes }, writable)
    }
}

impl<O: Outside> Announcer<O> {
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(1));
        loop {
            let Some(listened) = shutdown.run_until_cancelled(self.listen()).await else { break };
            if let Err(error) = listened {
                tracing::debug!(%error, "announcements of coordinators cannot be read; trying again");
            }
            self.tell();
            if shutdown.run_until_cancelled(tokio::time::sleep(delays.next_delay())).await.is_none() {
                break;
            }
        }
        // The others need not wait until it expires.
        let take_back = async { self.outside.bucket().await.ok()?.delete(&self.key, None).await.ok() };
        let _ = tokio::time::timeout(LEADERSHIP_RENEWAL, take_back).await;
    }

    async fn listen(&mut self) -> Result<(), Unanswered> {
        let bucket = self.outside.bucket().await?;
        let mut others = bucket.watch(subject::COORDINATOR_KEYS).await?;
        let mut tick = tokio::time::interval(LEADERSHIP_RENEWAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                entry = others.next() => self.take(&entry?),
                _ = tick.tick() => {
                    bucket.put(&self.key, self.value.clone()).await?;
                }
            }
            self.tell();
        }
    }

    fn take(&mut self, entry: &Entry) {
        match entry.value.as_ref().and_then(|value| serde_json::from_slice::<Reader>(value).ok()) {
            Some(reader) => self.readers.heard(&entry.key, reader, Instant::now()),
            None => self.readers.gone(&entry.key),
        }
    }

    fn tell(&mut self) {
        self.readers.expire(Instant::now());
        let writes = self.readers.writes(&self.key);
        self.writes.send_if_modified(|current| {
            let changed = *current != writes;
            *current = writes;
            changed
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader(name: &str, reads: u32) -> Reader {
        Reader { name: name.into(), reads }
    }

    #[test]
    fn a_leader_writes_what_the_oldest_living_coordinator_reads() {
        let now = Instant::now();
        let mut readers = Readers::default();
        assert_eq!(readers.writes("own"), Writes { generation: FIRST_GENERATION, reader: None });
        readers.heard("own", reader("new", GENERATION), now);
        assert_eq!(readers.writes("own"), Writes { generation: GENERATION, reader: None });
        readers.heard("other", reader("old", GENERATION - 1), now);
        assert_eq!(readers.writes("own"), Writes { generation: GENERATION - 1, reader: Some("old".into()) });
        readers.gone("other");
        assert_eq!(readers.writes("own").generation, GENERATION);
    }

    #[test]
    fn whoever_falls_silent_is_no_longer_waited_for() {
        let now = Instant::now();
        let mut readers = Readers::default();
        readers.heard("other", reader("old", 0), now);
        readers.heard("own", reader("new", GENERATION), now + LEADERSHIP_TTL);
        readers.expire(now + LEADERSHIP_TTL);
        assert_eq!(readers.writes("own").generation, 0);
        readers.expire(now + LEADERSHIP_TTL + Duration::from_millis(1));
        assert_eq!(readers.writes("own").generation, GENERATION);
    }
}
