//! Who leads: a key with a time limit. It is for liveness only; what fences is the compare-and-set on every turn, so two leaders
//! at once are harmless.

use std::time::Duration;

use async_nats::jetstream::{Context, kv};
use bytes::Bytes;
use causey_protocol::subject;
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};

use crate::config::LEADERSHIP_RENEWAL;

/// Who holds the key, and how to tell on the same machine whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub name: String,
    boot: String,
    pid: u32,
    /// Start time of the process in clock ticks since boot; tells a re-used pid apart.
    ticks: u64,
}

impl Holder {
    #[must_use]
    pub fn this_process(name: &str) -> Self {
        let pid = std::process::id();
        Self { name: name.into(), boot: boot_id(), pid, ticks: start_ticks(pid).unwrap_or_default() }
    }

    /// Whether the holder is certainly dead: it ran on this machine since its last boot, and its process is gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot_id() && start_ticks(self.pid) != Some(self.ticks)
    }
}

fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|text| text.trim().to_owned()).unwrap_or_default()
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the second field may hold spaces and ends at the last parenthesis.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

/// The held key.
#[derive(Debug, Clone)]
pub struct Leadership {
    bucket: kv::Store,
    value: Bytes,
    revision: u64,
}

/// Why the leadership cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to reach the leadership bucket: {0}")]
    Bucket(String),
}

/// Waits until this process holds the key.
///
/// # Errors
/// When the bucket cannot be reached.
pub async fn acquire(context: &Context, holder: &Holder) -> Result<Leadership, Error> {
    let failed = |error: &dyn std::fmt::Display| Error::Bucket(error.to_string());
    let bucket = context.get_key_value(subject::LEADER_BUCKET).await.map_err(|error| failed(&error))?;
    let value = Bytes::from(serde_json::to_vec(holder).expect("a holder serializes"));
    let mut told = false;
    loop {
        if let Ok(revision) = bucket.create(subject::LEADER_KEY, value.clone()).await {
            return Ok(Leadership { bucket, value, revision });
        }
        let Some(entry) = bucket.entry(subject::LEADER_KEY).await.map_err(|error| failed(&error))? else { continue };
        let other: Option<Holder> = serde_json::from_slice(&entry.value).ok();
        if other.as_ref().is_some_and(Holder::is_dead)
            && let Ok(revision) = bucket.update(subject::LEADER_KEY, value.clone(), entry.revision).await
        {
            return Ok(Leadership { bucket, value, revision });
        }
        if !told {
            told = true;
            let name =
                other.map_or_else(|| "another coordinator".into(), |other| format!("coordinator `{}` (pid {})", other.name, other.pid));
            tracing::warn!("{name} leads on these streams; standing by until it stops");
        }
        wait_for_change(&bucket).await;
    }
}

/// Returns when the key changes, at the latest after one renewal: an expired key tells nobody.
async fn wait_for_change(bucket: &kv::Store) {
    let Ok(mut watch) = bucket.watch(subject::LEADER_KEY).await else { return tokio::time::sleep(LEADERSHIP_RENEWAL).await };
    let gone = async {
        while let Some(entry) = watch.next().await {
            if entry.is_ok_and(|entry| entry.operation != kv::Operation::Put) {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(LEADERSHIP_RENEWAL, gone).await;
}

impl Leadership {
    /// Renews the key. `false`: somebody else holds it; an unreachable server is no such answer.
    pub async fn renew(&mut self) -> bool {
        let update = self.bucket.update(subject::LEADER_KEY, self.value.clone(), self.revision);
        match tokio::time::timeout(Duration::from_secs(2), update).await {
            Ok(Ok(revision)) => {
                self.revision = revision;
                true
            }
            Ok(Err(error)) if error.kind() == kv::UpdateErrorKind::WrongLastRevision => self.recover().await,
            Ok(Err(_)) | Err(_) => true,
        }
    }

    /// After an outage the key may have expired unseen; it is ours again if nobody else has taken it.
    async fn recover(&mut self) -> bool {
        match self.bucket.entry(subject::LEADER_KEY).await {
            Ok(Some(entry)) if entry.operation == kv::Operation::Put => {
                self.revision = entry.revision;
                entry.value == self.value
            }
            Ok(_) => match self.bucket.create(subject::LEADER_KEY, self.value.clone()).await {
                Ok(revision) => {
                    self.revision = revision;
                    true
                }
                Err(_) => false,
            },
            Err(_) => true,
        }
    }

    /// Gives the key up, so that a standby takes over at once.
    pub async fn release(self) {
        let release = self.bucket.delete_expect_revision(subject::LEADER_KEY, Some(self.revision));
        if let Ok(Err(error)) = tokio::time::timeout(Duration::from_secs(1), release).await {
            tracing::debug!(%error, "leadership key not released; it expires by itself");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_living_process_is_not_dead_and_one_with_another_start_time_is() {
        let this = Holder::this_process("c");
        assert!(!this.is_dead());
        assert!(Holder { ticks: this.ticks + 1, ..this.clone() }.is_dead());
        assert!(!Holder { boot: "another machine".into(), ticks: 0, ..this }.is_dead());
    }
}
