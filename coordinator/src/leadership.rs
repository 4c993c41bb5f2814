//! Who leads: a key with a time limit. It is for liveness only; what fences is the compare-and-set on every turn, so two leaders
//! at once are harmless. A standby waits for the key to go; a leader keeps it fresh.

use std::time::Duration;

use bytes::Bytes;
use causey_artifacts::failpoint;
use causey_protocol::subject;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::net::unix::pipe::Receiver as Death;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::{LEADERSHIP_RENEWAL, LEADERSHIP_TTL};
use crate::outside::{Bucket, Entry, KeyError, Keys, Unanswered, Watch};

/// Longest wait for the answer to a renewal; a second one fits before the key expires.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Longest wait for the key to be given up; it expires by itself.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(1);

/// Said when nothing is stored any more. On a full disk a server answers questions, but not what is to be written, and goes on like that
/// after there is room again.
const SILENT: &str = "the NATS server does not answer what is to be stored, so nothing is decided; see its log: after `no space left on \
    device` make room on its disk and restart it";

/// Who holds the key, and how to tell on the same machine whether it still lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    pub name: String,
    /// Boot and pid namespace in which `pid` means something.
    boot: String,
    pid: u32,
    /// Start time of the process in clock ticks since boot; tells a re-used pid apart.
    ticks: u64,
}

impl Holder {
    #[must_use]
    pub fn this_process(name: &str) -> Self {
        let pid = std::process::id();
        Self { name: name.into(), boot: boot(), pid, ticks: start_ticks(pid).unwrap_or_default() }
    }

    /// A process that cannot be seen from any other; `number` tells those of one name apart.
    #[must_use]
    pub fn unseen(name: &str, number: u32) -> Self {
        Self { name: name.into(), boot: String::new(), pid: number, ticks: 0 }
    }

    /// Whether the holder is certainly dead: it ran where we run, and its process is gone.
    #[must_use]
    pub fn is_dead(&self) -> bool {
        self.is_near() && start_ticks(self.pid) != Some(self.ticks)
    }

    fn is_near(&self) -> bool {
        !self.boot.is_empty() && self.boot == boot()
    }

    /// Becomes readable when the holder's process ends; `None` for one that cannot be seen from here. A pidfd is no pipe, but of
    /// tokio's types that wait for a descriptor without unsafe code this one asks least of it: it is never read.
    fn death(&self) -> Option<Death> {
        let pid = Pid::from_raw(i32::try_from(self.pid).ok()?).filter(|_| self.is_near())?;
        Death::from_owned_fd_unchecked(pidfd_open(pid, PidfdFlags::NONBLOCK).ok()?).ok()
    }
}

/// Containers of one machine share its boot but not its process ids. Empty where the system does not say.
fn boot() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = std::fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    if boot.is_empty() || namespace.as_os_str().is_empty() {
        return String::new();
    }
    format!("{} {}", boot.trim(), namespace.display())
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)); the second field may hold spaces and ends at the last parenthesis. None for a zombie.
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Why the leadership cannot be had or kept.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("failed to reach the leadership bucket: {0}")]
    Bucket(#[from] Unanswered),
}

/// When a standby tries to take the key. The server tells of a key that is deleted or expires; should that get lost, the key is
/// tried once it must have expired.
#[derive(Clone, Copy, Debug)]
struct Vacancy {
    due: Instant,
}

impl Vacancy {
    /// The holder has given a sign of life.
    fn renewed(&mut self, now: Instant) {
        self.due = now + LEADERSHIP_TTL;
    }

    /// The key is gone, or its holder is.
    fn gone(&mut self, now: Instant) {
        self.due = now;
    }

    /// An attempt failed although the key seemed to be free.
    fn failed(&mut self, now: Instant) {
        self.due = now + LEADERSHIP_RENEWAL;
    }
}

/// The key as a standby sees it.
pub(crate) struct Seat<B: Bucket> {
    bucket: B,
    value: Bytes,
    other: Option<Holder>,
    watch: Option<B::Watch>,
    death: Option<Death>,
    vacancy: Vacancy,
    /// It was said that the server is silent.
    silent: bool,
}

impl<B: Bucket> Seat<B> {
    /// # Errors
    /// When the bucket cannot be reached.
    pub(crate) async fn open(keys: &impl Keys<Bucket = B>, holder: &Holder) -> Result<Self, Error> {
        let bucket = keys.bucket().await?;
        let value = Bytes::from(serde_json::to_vec(holder).expect("a holder serializes"));
        Ok(Self { bucket, value, other: None, watch: None, death: None, vacancy: Vacancy { due: Instant::now() }, silent: false })
    }

    /// Subscribes to the key, from its present value on.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn watch(&mut self) -> Result<(), Error> {
        self.watch = Some(self.bucket.watch(subject::LEADER_KEY).await?);
        Ok(())
    }

    /// Name of who holds the key.
    pub(crate) fn leader(&self) -> Option<String> {
        self.other.as_ref().map(|other| other.name.clone())
    }

    /// When to attempt next.
    pub(crate) fn due(&self) -> Instant {
        self.vacancy.due
    }

    /// Returns when something about the key or its holder has changed. Safe to drop at its await.
    ///
    /// # Errors
    /// When the subscription has failed.
    pub(crate) async fn changed(&mut self) -> Result<(), Error> {
        let seen = tokio::select! {
            biased;
            entry = next(&mut self.watch) => Some(entry?),
            () = ended(self.death.as_ref()) => None,
        };
        let now = Instant::now();
        match seen {
            Some(Entry { value: Some(value), .. }) => self.held(&value, now),
            Some(Entry { value: None, .. }) => {
                (self.other, self.death) = (None, None);
                self.vacancy.gone(now);
            }
            None => {
                self.death = None;
                self.vacancy.gone(now);
            }
        }
        Ok(())
    }

    /// Somebody holds the key.
    fn held(&mut self, value: &[u8], now: Instant) {
        let Ok(holder) = serde_json::from_slice::<Holder>(value) else { return self.vacancy.renewed(now) };
        if self.other.as_ref() != Some(&holder) && value != self.value {
            tracing::warn!("coordinator `{}` (pid {}) leads on these streams; standing by until it stops", holder.name, holder.pid);
            // Opened before it is asked whether the process lives, so that its end cannot fall in between.
            self.death = holder.death();
        }
        if holder.is_dead() {
            self.vacancy.gone(now);
        } else {
            self.vacancy.renewed(now);
        }
        self.other = Some(holder);
    }

    /// Tries to take the key: when there is none, when its holder is dead, or when it is still ours.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(crate) async fn attempt(&mut self) -> Result<Option<Keeper<B>>, Error> {
        match self.bucket.create(subject::LEADER_KEY, self.value.clone()).await {
            Ok(revision) => return Ok(Some(self.taken(revision))),
            Err(error) => self.note(&error),
        }
        let entry = self.bucket.entry(subject::LEADER_KEY).await?;
        let now = Instant::now();
        let Some(Entry { value: Some(value), revision, .. }) = entry else {
            self.vacancy.failed(now);
            return Ok(None);
        };
        let dead = serde_json::from_slice::<Holder>(&value).is_ok_and(|holder| holder.is_dead());
        let free = dead || value == self.value;
        if free {
            match self.bucket.update(subject::LEADER_KEY, self.value.clone(), revision).await {
                Ok(revision) => return Ok(Some(self.taken(revision))),
                Err(error) => self.note(&error),
            }
        }
        self.held(&value, now);
        if free {
            self.vacancy.failed(now);
        }
        Ok(None)
    }

    /// Says once that the server is silent.
    fn note(&mut self, error: &KeyError) {
        if matches!(error, KeyError::Unanswered(_)) && !std::mem::replace(&mut self.silent, true) {
            tracing::warn!("{SILENT}");
        }
    }

    fn taken(&mut self, revision: u64) -> Keeper<B> {
        self.silent = false;
        failpoint::here("key.taken");
        Keeper::start(Leadership { bucket: self.bucket.clone(), value: self.value.clone(), revision })
    }
}

async fn next(watch: &mut Option<impl Watch>) -> Result<Entry, Unanswered> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

async fn ended(process: Option<&Death>) {
    match process {
        Some(process) => drop(process.readable().await),
        None => std::future::pending().await,
    }
}

/// Keeps the key fresh in the background until it is dropped.
#[derive(Debug)]
pub(crate) struct Keeper<B> {
    lost: CancellationToken,
    stop: DropGuard,
    renewing: JoinHandle<Leadership<B>>,
}

impl<B: Bucket> Keeper<B> {
    fn start(leadership: Leadership<B>) -> Self {
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let renewing = tokio::spawn(keep(leadership, lost.clone(), stop.clone()));
        Self { lost, stop: stop.drop_guard(), renewing }
    }

    /// Cancelled when somebody else holds the key, or when it cannot be said that we do.
    pub(crate) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Gives the key up, so that a standby takes over at once.
    pub(crate) async fn release(self) {
        drop(self.stop);
        if let Ok(leadership) = self.renewing.await {
            leadership.release().await;
        }
    }
}

async fn keep<B: Bucket>(mut leadership: Leadership<B>, lost: CancellationToken, stop: CancellationToken) -> Leadership<B> {
    let mut tick = tokio::time::interval(LEADERSHIP_RENEWAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut renewed = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return leadership,
            _ = tick.tick() => {}
        }
        let asked = Instant::now();
        match leadership.renew().await {
            Renewal::Held => renewed = asked,
            Renewal::Unknown if renewed.elapsed() < LEADERSHIP_TTL => {}
            Renewal::Unknown | Renewal::Taken => {
                lost.cancel();
                return leadership;
            }
        }
    }
}

/// What came of a renewal.
enum Renewal {
    Held,
    Taken,
    /// The server did not answer.
    Unknown,
}

/// The held key.
#[derive(Debug)]
struct Leadership<B> {
    bucket: B,
    value: Bytes,
    revision: u64,
}

impl<B: Bucket> Leadership<B> {
    async fn renew(&mut self) -> Renewal {
        let update = self.bucket.update(subject::LEADER_KEY, self.value.clone(), self.revision);
        match tokio::time::timeout(RENEWAL_TIMEOUT, update).await {
            Ok(Ok(revision)) => {
                self.revision = revision;
                Renewal::Held
            }
            Ok(Err(KeyError::WrongRevision)) => self.recover().await,
            Ok(Err(KeyError::Unanswered(_))) | Err(_) => Renewal::Unknown,
        }
    }

    /// The key may have expired unseen, or an unanswered renewal arrived; it is ours if nobody else has taken it.
    async fn recover(&mut self) -> Renewal {
        match self.bucket.entry(subject::LEADER_KEY).await {
            Ok(Some(Entry { value: Some(value), revision, .. })) => {
                self.revision = revision;
                if value == self.value { Renewal::Held } else { Renewal::Taken }
            }
            Ok(_) => match self.bucket.create(subject::LEADER_KEY, self.value.clone()).await {
                Ok(revision) => {
                    self.revision = revision;
                    Renewal::Held
                }
                Err(_) => Renewal::Taken,
            },
            Err(_) => Renewal::Unknown,
        }
    }

    async fn release(self) {
        let release = self.bucket.delete(subject::LEADER_KEY, Some(self.revision));
        if let Ok(Err(error)) = tokio::time::timeout(RELEASE_TIMEOUT, release).await {
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

    #[test]
    fn a_process_that_nobody_has_reaped_is_dead() {
        let mut child = std::process::Command::new("true").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let ended = || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap().contains(") Z ");
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        while !ended() {
            assert!(std::time::Instant::now() < deadline, "the child lives on");
            std::thread::yield_now();
        }
        assert_eq!(start_ticks(child.id()), None);
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn the_end_of_a_process_on_this_machine_is_seen_at_once() {
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let holder = Holder { pid: child.id(), ticks: start_ticks(child.id()).unwrap(), ..Holder::this_process("c") };
        let death = holder.death();
        child.kill().unwrap();
        tokio::time::timeout(Duration::from_secs(10), ended(death.as_ref())).await.expect("the end is seen");
        assert!(holder.is_dead());
        child.wait().unwrap();
    }

    #[test]
    fn the_key_is_tried_when_it_is_gone_or_must_have_expired() {
        let now = Instant::now();
        let mut vacancy = Vacancy { due: now };
        vacancy.renewed(now);
        assert_eq!(vacancy.due, now + LEADERSHIP_TTL);
        vacancy.gone(now + LEADERSHIP_RENEWAL);
        assert_eq!(vacancy.due, now + LEADERSHIP_RENEWAL);
        vacancy.failed(now);
        assert_eq!(vacancy.due, now + LEADERSHIP_RENEWAL);
    }
}
