//! Which deliveries and attempts this worker holds and how far they are. Pure bookkeeping: a delivery is a message of the queue
//! with one or more attempts; it is acknowledged once all of them are over.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use causey_protocol::live::OpenAttempt;
use causey_protocol::task::Dispatch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::attempt::Job;
use crate::capacity::Booking;

/// Why user code was stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Because {
    /// The attempt is not open any more.
    Closed,
    /// The queue may have given it to another worker.
    Lapsed,
    /// This worker stops.
    HandedBack,
}

/// How user code is stopped.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    /// Its process is killed at once.
    pub(crate) now: CancellationToken,
    /// It is asked to end and may clean up.
    pub(crate) gently: CancellationToken,
}

/// How far an attempt is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    Queued,
    /// Occupies slots.
    Running {
        stop: Stop,
        stopped: Option<Because>,
    },
    /// User code has ended; the result is being stored or reported.
    Ended,
}

#[derive(Debug)]
pub(crate) struct Attempt {
    pub(crate) job: Job,
    pub(crate) stage: Stage,
    /// What it has of the worker beside slots.
    pub(crate) booking: Option<Box<Booking>>,
    deliveries: Vec<u64>,
}

#[derive(Debug)]
struct Delivery {
    reply: String,
    received: Instant,
    /// Attempts that are not over.
    open: usize,
    /// The lease has lapsed: it is not kept alive, and not acknowledged by an attempt that was stopped.
    lapsed: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Held {
    attempts: BTreeMap<OpenAttempt, Attempt>,
    deliveries: BTreeMap<u64, Delivery>,
    queue: VecDeque<OpenAttempt>,
    next_delivery: u64,
}

impl Held {
    /// Takes a delivery in. An attempt that is held already, from an earlier delivery, is not run twice.
    pub(crate) fn deliver(&mut self, reply: String, received: Instant, jobs: Vec<Job>) {
        let id = self.next_delivery;
        self.next_delivery += 1;
        self.deliveries.insert(id, Delivery { reply, received, open: jobs.len(), lapsed: false });
        for job in jobs {
            let key = job.open_attempt();
            let queue = &mut self.queue;
            let attempt = self.attempts.entry(key).or_insert_with(|| {
                queue.push_back(key);
                Attempt { job, stage: Stage::Queued, booking: None, deliveries: vec![] }
            });
            attempt.deliveries.push(id);
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.attempts.is_empty()
    }

    pub(crate) fn queued(&self) -> u32 {
        u32::try_from(self.queue.len()).unwrap_or(u32::MAX)
    }

    /// The next attempt to run.
    pub(crate) fn front(&self) -> Option<&Job> {
        self.queue.front().and_then(|key| self.attempts.get(key)).map(|attempt| &attempt.job)
    }

    /// Takes the next attempt off the queue, which gets what is booked for it; it runs until it has ended or [`Stop`] stops it.
    pub(crate) fn start_front(&mut self, devices: Option<Arc<str>>, booking: Option<Box<Booking>>) -> Option<(Job, Stop)> {
        let key = self.queue.pop_front()?;
        let attempt = self.attempts.get_mut(&key)?;
        (attempt.job.devices, attempt.booking) = (devices, booking);
        let stop = Stop::default();
        attempt.stage = Stage::Running { stop: stop.clone(), stopped: None };
        Some((attempt.job.clone(), stop))
    }

    pub(crate) fn get_mut(&mut self, key: &OpenAttempt) -> Option<&mut Attempt> {
        self.attempts.get_mut(key)
    }

    /// Everything held, for the leader to say what is no longer open.
    pub(crate) fn open(&self) -> Vec<OpenAttempt> {
        self.attempts.keys().copied().collect()
    }

    pub(crate) fn has_run(&self, run: causey_protocol::id::RunId) -> bool {
        self.attempts.keys().any(|attempt| attempt.run == run)
    }

    /// Whether a member of a gang is among the attempts.
    pub(crate) fn has_member(&self) -> bool {
        self.attempts.values().any(|attempt| attempt.job.dispatch.gang)
    }

    /// Takes members of gangs that have not been started out of the queue. Returns their deliveries, for another worker to have.
    pub(crate) fn pass_on_members(&mut self) -> Vec<String> {
        self.pass_on(0, |dispatch| dispatch.gang)
    }

    /// Takes attempts with needs out of the queue, but the first of it. Returns their deliveries, for another worker to have. Lists stay:
    /// some of one may run.
    pub(crate) fn pass_on_surplus(&mut self) -> Vec<String> {
        self.pass_on(1, |dispatch| dispatch.needs.is_some() && dispatch.tasks.len() == 1)
    }

    /// Takes what has not been started out of the queue, and returns its deliveries. Lists stay.
    pub(crate) fn pass_on_waiting(&mut self) -> Vec<String> {
        self.pass_on(0, |dispatch| dispatch.tasks.len() == 1)
    }

    fn pass_on(&mut self, kept: usize, is_meant: impl Fn(&Dispatch) -> bool) -> Vec<String> {
        let is_meant = |key: &&OpenAttempt| self.attempts.get(key).is_some_and(|attempt| is_meant(&attempt.job.dispatch));
        let gone: Vec<OpenAttempt> = self.queue.iter().skip(kept).filter(is_meant).copied().collect();
        self.queue.retain(|queued| !gone.contains(queued));
        gone.iter().flat_map(|key| self.close(key)).collect()
    }

    /// Stops an attempt before its user code has ended. One that waits is taken out and returned; one that runs will say that it
    /// stopped.
    pub(crate) fn stop(&mut self, key: &OpenAttempt, because: Because) -> Option<Job> {
        let attempt = self.attempts.get_mut(key)?;
        match &mut attempt.stage {
            Stage::Ended => None,
            Stage::Running { stop, stopped } => {
                stopped.get_or_insert(because);
                match because {
                    Because::Closed => stop.gently.cancel(),
                    // It may run elsewhere by now, or this worker is in a hurry.
                    Because::Lapsed | Because::HandedBack => stop.now.cancel(),
                }
                None
            }
            Stage::Queued => {
                self.queue.retain(|queued| queued != key);
                Some(attempt.job.clone())
            }
        }
    }

    /// All attempts whose user code has not ended.
    pub(crate) fn unfinished(&self) -> Vec<OpenAttempt> {
        let unfinished = self.attempts.iter().filter(|(_, attempt)| !matches!(attempt.stage, Stage::Ended));
        unfinished.map(|(key, _)| *key).collect()
    }

    /// The attempt is over. Returns the deliveries that are over with it, to be acknowledged.
    pub(crate) fn close(&mut self, key: &OpenAttempt) -> Vec<String> {
        let Some(attempt) = self.attempts.remove(key) else { return vec![] };
        let mut over = vec![];
        for id in attempt.deliveries {
            if let Some(delivery) = self.deliveries.get_mut(&id) {
                delivery.open -= 1;
                if delivery.open == 0 {
                    over.extend(self.deliveries.remove(&id).map(|delivery| delivery.reply));
                }
            }
        }
        over
    }

    /// Forgets an attempt that runs elsewhere now; its deliveries are never acknowledged from here.
    pub(crate) fn forget(&mut self, key: &OpenAttempt) {
        if let Some(attempt) = self.attempts.remove(key) {
            for id in attempt.deliveries {
                self.deliveries.remove(&id);
            }
        }
    }

    /// The reply subjects of all deliveries to be kept alive.
    pub(crate) fn alive(&self) -> Vec<String> {
        self.deliveries.values().filter(|delivery| !delivery.lapsed).map(|delivery| delivery.reply.clone()).collect()
    }

    /// Marks the deliveries of which `has_lapsed` says so, and returns their unfinished attempts that no other delivery keeps.
    pub(crate) fn lapse(&mut self, has_lapsed: impl Fn(Instant) -> bool) -> Vec<OpenAttempt> {
        let mut any = false;
        for delivery in self.deliveries.values_mut().filter(|delivery| !delivery.lapsed) {
            delivery.lapsed = has_lapsed(delivery.received);
            any |= delivery.lapsed;
        }
        if !any {
            return vec![];
        }
        let deliveries = &self.deliveries;
        let lost = |attempt: &Attempt| attempt.deliveries.iter().all(|id| deliveries.get(id).is_none_or(|delivery| delivery.lapsed));
        let unfinished = self.attempts.iter().filter(|(_, attempt)| !matches!(attempt.stage, Stage::Ended));
        unfinished.filter(|(_, attempt)| lost(attempt)).map(|(key, _)| *key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::id::{Digest, Path};
    use causey_protocol::policy::HostMode;
    use causey_protocol::resources::Resources;
    use causey_protocol::task::{DispatchedTask, Inputs};
    use std::time::Duration;

    fn jobs(count: u32) -> Vec<Job> {
        let task = |index| DispatchedTask { path: Path(vec![index]), visit: 0, attempt: 0, retry: 0, inputs: Inputs::Listed(vec![]) };
        let dispatch = Arc::new(Dispatch {
            run: "0199aaaa-0000-7000-8000-000000000000".parse().unwrap(),
            run_name: "r".parse().unwrap(),
            flow: "F".parse().unwrap(),
            language: "python".into(),
            package: Digest::of(b""),
            file: "f.py".into(),
            step: "s".parse().unwrap(),
            host: HostMode::Reuse,
            slots: 1,
            retries_max: 0,
            parameters: Default::default(),
            user: String::new(),
            tags: vec![],
            events: vec![],
            splits: vec![],
            tasks: (0..count).map(task).collect(),
            again: false,
            timeout_seconds: None,
            grace_seconds: None,
            scheduled_at: None,
            gang: false,
            signals: BTreeMap::new(),
            children: Vec::new(),
            origin_run: None,
            content: false,
            needs: None,
            transition: None,
            typed: false,
            surroundings: None,
        });
        let job = |index: usize| {
            let key = dispatch.key(&dispatch.tasks[index]);
            Job { dispatch: dispatch.clone(), index, key, perhaps_done: false, redelivered: false, devices: None }
        };
        (0..count as usize).map(job).collect()
    }

    #[test]
    fn a_delivery_is_over_with_its_last_attempt() {
        let mut held = Held::default();
        let jobs = jobs(2);
        let keys: Vec<_> = jobs.iter().map(Job::open_attempt).collect();
        held.deliver("ack".into(), Instant::now(), jobs);
        assert!(held.close(&keys[0]).is_empty());
        assert_eq!(held.close(&keys[1]), ["ack"]);
        assert!(held.is_empty() && held.alive().is_empty());
    }

    #[test]
    fn an_attempt_delivered_twice_runs_once_and_ends_both_deliveries() {
        let mut held = Held::default();
        held.deliver("first".into(), Instant::now(), jobs(1));
        held.deliver("second".into(), Instant::now(), jobs(1));
        let (job, _) = held.start_front(None, None).unwrap();
        assert!(held.start_front(None, None).is_none());
        assert_eq!(held.close(&job.open_attempt()), ["first", "second"]);
    }

    /// Rows 4 and 16 of the fault model.
    #[test]
    fn only_attempts_without_a_living_delivery_lapse() {
        let mut held = Held::default();
        let (old, young) = (Instant::now(), Instant::now() + Duration::from_secs(10));
        held.deliver("old".into(), old, jobs(2));
        held.deliver("young".into(), young, jobs(1));
        let lost = held.lapse(|received| received < young);
        assert_eq!(lost, [jobs(2)[1].open_attempt()]);
        assert_eq!(held.alive(), ["young"]);
    }

    #[test]
    fn members_of_gangs_that_find_no_place_go_to_other_workers() {
        let mut held = Held::default();
        held.deliver("plain".into(), Instant::now(), jobs(1));
        let mut member = jobs(2).remove(1);
        member.dispatch = Arc::new(Dispatch { gang: true, ..(*member.dispatch).clone() });
        held.deliver("member".into(), Instant::now(), vec![member]);
        assert!(held.has_member());
        assert_eq!(held.pass_on_members(), ["member"]);
        assert!(!held.has_member() && held.pass_on_members().is_empty());
        assert_eq!((held.queued(), held.alive()), (1, vec!["plain".to_owned()]));
    }

    #[test]
    fn of_attempts_with_needs_only_the_first_is_held() {
        let mut held = Held::default();
        let needs = Some(Box::new(Resources { gpu: 1.0, ..Resources::default() }));
        for (index, job) in jobs(4).into_iter().enumerate() {
            let tasks = vec![job.task().clone()];
            let needs = needs.clone().filter(|_| index != 2);
            let dispatch = Arc::new(Dispatch { tasks, needs, ..(*job.dispatch).clone() });
            held.deliver(index.to_string(), Instant::now(), vec![Job { dispatch, index: 0, ..job }]);
        }
        assert_eq!(held.pass_on_surplus(), ["1", "3"]);
        assert_eq!((held.queued(), held.alive()), (2, vec!["0".to_owned(), "2".to_owned()]));
        held.deliver("list".into(), Instant::now(), jobs(4).split_off(1));
        assert!(held.pass_on_surplus().is_empty());
    }

    #[test]
    fn a_stopped_attempt_leaves_the_queue_or_is_told() {
        let mut held = Held::default();
        held.deliver("ack".into(), Instant::now(), jobs(2));
        let (first, stop) = held.start_front(None, None).unwrap();
        assert!(held.stop(&first.open_attempt(), Because::Closed).is_none());
        assert!(stop.gently.is_cancelled() && !stop.now.is_cancelled());
        assert!(held.stop(&first.open_attempt(), Because::HandedBack).is_none() && stop.now.is_cancelled());
        let second = jobs(2)[1].open_attempt();
        assert!(held.stop(&second, Because::Closed).is_some());
        assert_eq!(held.queued(), 0);
    }
}
