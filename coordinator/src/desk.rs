//! Where workers ask: who they are, which of their attempts are still open, where a model lies. Core NATS, lossy by contract;
//! whatever goes missing is asked again. Only the leader answers: a standby's fold may lag, and would call an attempt closed that
//! has just been opened. A standby keeps its own list of workers from their presence, so that it knows whom to miss when it leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use causey_engine::{State, TaskRef};
use causey_protocol::codec::{self, MESSAGE_BYTES_MAX};
use causey_protocol::id::{ModelName, Path, PoolName, RequestId, RunId, StepName, TaskKey, WorkerName};
use causey_protocol::input::{Input, Request, RequestMessage};
use causey_protocol::live::{Ask, Offer, OpenAttempt, Told};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::resources::{SHAPES_MAX, Shape, ShapeCount, count_shapes};
use causey_protocol::subject;
use causey_protocol::task::Address;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::committed::{Committed, Role};
use crate::config::{POOL_SETTLED, WORKER_SILENCE_MAX};
use crate::outside::{Expect, Listener as _, Message, Outside, Unanswered, Word};

/// How often silence is looked for.
const SWEEP: Duration = Duration::from_secs(5);

/// How often to look for attempts that lie where they find no place.
const STRAYS_PERIOD: Duration = Duration::from_secs(1);

/// A worker as last heard of.
#[derive(Clone, Debug)]
pub struct Seen {
    pub offer: Offer,
    /// Attempts it said it holds.
    pub open: Arc<BTreeSet<OpenAttempt>>,
    /// When it was first heard of.
    since: Instant,
    at: Instant,
}

impl Seen {
    /// How long ago that was.
    #[must_use]
    pub fn silence(&self) -> Duration {
        self.at.elapsed()
    }
}

/// The workers that this coordinator knows: by their questions to it while it leads, by their presence while it stands by.
#[derive(Debug, Default)]
pub struct Workers {
    known: Mutex<BTreeMap<(PoolName, WorkerName), Seen>>,
    /// What they offer may be other than what was told of it.
    changed: AtomicBool,
}

impl Workers {
    /// A copy, in order of pool and name.
    #[must_use]
    pub fn list(&self) -> Vec<Seen> {
        self.lock().values().cloned().collect()
    }

    /// Attempts that living workers say they hold.
    pub(crate) fn held(&self) -> BTreeSet<OpenAttempt> {
        self.lock().values().flat_map(|seen| seen.open.iter().copied()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<(PoolName, WorkerName), Seen>> {
        self.known.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Notes a hello; returns whether an earlier life of the same worker is thereby known to be over.
    fn hello(&self, offer: &Offer, open: &[OpenAttempt]) -> bool {
        let (open, at) = (Arc::new(open.iter().copied().collect()), Instant::now());
        let key = (offer.pool.clone(), offer.worker.clone());
        let mut all = self.lock();
        let since = since(all.get(&key), offer, at);
        let before = all.insert(key, Seen { offer: offer.clone(), open, since, at });
        if before.as_ref().is_none_or(|before| before.offer != *offer) {
            self.changed.store(true, Ordering::Relaxed);
        }
        before.is_some_and(|before| before.offer.started != offer.started)
    }

    /// Notes a presence entry; attempts are known from a hello only.
    fn present(&self, offer: Offer) {
        let key = (offer.pool.clone(), offer.worker.clone());
        let mut all = self.lock();
        let open = all.get(&key).filter(|seen| seen.offer.started == offer.started).map_or_else(Arc::default, |seen| seen.open.clone());
        let at = Instant::now();
        let since = since(all.get(&key), &offer, at);
        all.insert(key, Seen { offer, open, since, at });
        self.changed.store(true, Ordering::Relaxed);
    }

    /// The slots of a pool's workers, once they have been the same for a while.
    fn settled(&self, pool: &PoolName) -> Option<Vec<u32>> {
        let all = self.lock();
        let mut of = all.values().filter(|seen| seen.offer.pool == *pool && !seen.offer.closed).peekable();
        of.peek()?;
        of.map(|seen| (seen.since.elapsed() > POOL_SETTLED).then_some(seen.offer.slots)).collect()
    }

    /// The slots of each pool.
    fn slots(&self) -> BTreeMap<PoolName, u32> {
        let mut slots = BTreeMap::new();
        for ((pool, _), seen) in self.lock().iter().filter(|(_, seen)| !seen.offer.closed) {
            let sum: &mut u32 = slots.entry(pool.clone()).or_default();
            *sum = sum.saturating_add(seen.offer.slots);
        }
        slots
    }

    /// How many of each pool are known, and what those that take tasks have. `None`: as when last asked.
    fn offers(&self) -> Option<BTreeMap<PoolName, (u32, Vec<Shape>)>> {
        if !self.changed.swap(false, Ordering::Relaxed) {
            return None;
        }
        let mut offers = BTreeMap::<PoolName, (u32, Vec<Shape>)>::new();
        for ((pool, _), seen) in self.lock().iter() {
            let (known, shapes) = offers.entry(pool.clone()).or_default();
            *known += 1;
            if !seen.offer.closed {
                shapes.push(seen.offer.shape());
            }
        }
        Some(offers)
    }

    /// What they offer is told once more.
    fn again(&self) {
        self.changed.store(true, Ordering::Relaxed);
    }

    /// Forgets and returns those silent for too long.
    fn silent(&self) -> Vec<(PoolName, WorkerName)> {
        let mut all = self.lock();
        let gone: Vec<_> = all.iter().filter(|(_, seen)| seen.at.elapsed() > WORKER_SILENCE_MAX).map(|(key, _)| key.clone()).collect();
        for key in &gone {
            all.remove(key);
            self.changed.store(true, Ordering::Relaxed);
        }
        gone
    }
}

/// Since when a worker is known, in its present life.
fn since(before: Option<&Seen>, offer: &Offer, now: Instant) -> Instant {
    before.filter(|before| before.offer.started == offer.started).map_or(now, |before| before.since)
}

/// Answers workers while this coordinator leads, and listens to them while it does not.
#[derive(Clone, Debug)]
pub(crate) struct Desk<O> {
    pub(crate) outside: O,
    pub(crate) committed: Arc<Committed>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) ack_wait: Duration,
    /// What the leader's loop shall decide about.
    pub(crate) inputs: mpsc::Sender<Input>,
}

impl<O: Outside> Desk<O> {
    /// Serves until `shutdown`.
    pub(crate) async fn serve(self, shutdown: CancellationToken) -> Result<(), Unanswered> {
        let mut role = self.committed.role();
        loop {
            let now = role.take();
            let changed = role.changed();
            let served = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                served = async { if now == Role::Leader { self.lead().await } else { self.stand_by().await } } => served,
                // The sender lives in `committed`, which we hold.
                _ = changed => Ok(()),
            };
            served?;
        }
    }

    /// Subscribed no sooner than there is an answer: a question nobody listens to is refused at once and asked again, one that is
    /// heard in vain costs a timeout.
    async fn lead(&self) -> Result<(), Unanswered> {
        let mut questions = self.outside.listen(subject::LIVE_WORKER_ALL).await?;
        let (mut pools, mut told) = (BTreeSet::new(), BTreeMap::new());
        let (mut sweep, mut strays) = (tokio::time::interval(SWEEP), tokio::time::interval(STRAYS_PERIOD));
        self.workers.again();
        let leading = Instant::now();
        loop {
            tokio::select! {
                biased;
                Some(message) = questions.next() => {
                    self.answer(&message, &mut pools).await;
                    self.tell_slots(&mut told, false);
                    self.tell_offers(leading.elapsed() > WORKER_SILENCE_MAX);
                }
                _ = strays.tick() => self.seek_places(),
                _ = sweep.tick() => {
                    self.tell_slots(&mut told, leading.elapsed() > WORKER_SILENCE_MAX);
                    for (pool, worker) in self.workers.silent() {
                        tracing::warn!(%pool, %worker, "worker silent; its attempts run again elsewhere");
                        self.lost(&pool, &worker).await;
                    }
                    self.workers.again();
                    // Consumers may have gone with the stream; whoever misses his says hello.
                    pools.clear();
                    self.tell_offers(leading.elapsed() > WORKER_SILENCE_MAX);
                    // Before that, not all workers have had the time to say hello.
                    if leading.elapsed() > POOL_SETTLED {
                        self.count_pools();
                    }
                }
            }
        }
    }

    /// Tells the leader of pools that have other slots than it knows: of more at once, of fewer only when every worker must have been heard.
    /// Of a pool without any worker the last number stays.
    fn tell_slots(&self, told: &mut BTreeMap<PoolName, u32>, all_heard: bool) {
        for (pool, slots) in self.workers.slots() {
            let known = told.get(&pool).copied().or_else(|| self.committed.read().pools.get(&pool).copied());
            if known.is_none_or(|known| known < slots || (all_heard && known != slots)) {
                // A full or closed channel: again with the next sweep, or by the next leader.
                if self.inputs.try_send(Input::PoolResized { pool: pool.clone(), slots }).is_ok() {
                    told.insert(pool, slots);
                }
            }
        }
    }

    /// Tells the leader what the workers of each pool have, where that is other than it knows: of more at once, of less only when as
    /// many workers have been heard as it knows, or every one must have been.
    fn tell_offers(&self, all_heard: bool) {
        let Some(mut offers) = self.workers.offers() else { return };
        let state = self.committed.read();
        for (pool, shapes) in &state.offers {
            // Nobody of it is left.
            if shapes.iter().any(|count| count.workers > 0) {
                offers.entry(pool.clone()).or_default();
            }
        }
        for (pool, (heard, shapes)) in offers {
            let mut counted = count_shapes(shapes);
            let there: u32 = state.live_shapes(&pool).map(|count| count.workers).sum();
            if !all_heard && heard < there {
                counted = at_least(counted, state.live_shapes(&pool));
            }
            let is_known = state.live_shapes(&pool).eq(&counted);
            if !is_known && self.inputs.try_send(Input::PoolOffered { pool, shapes: counted }).is_err() {
                // A full or closed channel: again with the next sweep, or by the next leader.
                self.workers.again();
            }
        }
    }

    /// Has attempts moved that lie in queues whose pools have no place for them.
    fn seek_places(&self) {
        if !self.committed.read().strays(self.outside.now()).is_empty() {
            let _ = self.inputs.try_send(Input::PlacesSought);
        }
    }

    /// The leader says who is lost; one that dies together with its workers leaves that to its successor.
    async fn stand_by(&self) -> Result<(), Unanswered> {
        let mut present = self.outside.listen(subject::PRESENCE_ALL).await?;
        let mut sweep = tokio::time::interval(SWEEP);
        loop {
            tokio::select! {
                biased;
                Some(message) = present.next() => {
                    // Entries that are taken back have no body.
                    if let Ok(offer) = codec::decode::<Offer>(&message.payload, MESSAGE_BYTES_MAX) {
                        self.workers.present(offer);
                    }
                }
                _ = sweep.tick() => drop(self.workers.silent()),
            }
        }
    }

    /// Tells of pools that are too small for a gang in their line. Repeated while that is so.
    fn count_pools(&self) {
        let pools = self.committed.read().pools_with_gangs();
        for pool in pools {
            let Some(slots) = self.workers.settled(&pool) else { continue };
            if !self.committed.read().gangs_too_large(&pool, &slots).is_empty() {
                // A full or closed channel: again with the next sweep, or by the next leader.
                let _ = self.inputs.try_send(Input::PoolCounted { pool, slots });
            }
        }
    }

    async fn answer(&self, message: &Word, pools: &mut BTreeSet<PoolName>) {
        let Some(reply) = message.reply.clone() else { return };
        let told = match (subject::parse_live_worker(&message.subject), codec::decode::<Ask>(&message.payload, MESSAGE_BYTES_MAX)) {
            (Some((pool, worker)), Ok(Ask::Hello { offer, open })) if offer.pool == pool && offer.worker == worker => {
                self.hello(&offer, open, pools).await
            }
            (Some(_), Ok(Ask::FindModel { model, version })) => find_model(&self.committed.read(), &model, version),
            (Some(_), Ok(Ask::Gang { run, step, path, attempt })) => {
                Told::Gang { members: formation(&self.committed.read(), run, &step, &path, attempt) }
            }
            (_, Ok(Ask::Hello { offer, .. })) => Told::Refused(Problem::new(
                Code::MALFORMED,
                format!("worker {}.{} spoke on another worker's subject", offer.pool, offer.worker),
            )),
            (_, Err(error)) => Told::Refused(Problem::new(Code::MALFORMED, error.to_string()).hint("upgrade the worker")),
            (None, Ok(_)) => Told::Refused(Problem::new(Code::MALFORMED, "the subject names no worker")),
        };
        if let Err(error) = self.outside.say(reply, codec::encode(&told).into()).await {
            tracing::debug!(%error, "answer to a worker not sent");
        }
    }

    async fn hello(&self, offer: &Offer, open: Vec<OpenAttempt>, pools: &mut BTreeSet<PoolName>) -> Told {
        if !pools.contains(&offer.pool) {
            match self.outside.ensure_queue(&offer.pool, self.ack_wait).await {
                Ok(()) => {
                    pools.insert(offer.pool.clone());
                }
                Err(error) => {
                    return Told::Refused(Problem::new(Code::BROKER, format!("the queue of pool {} cannot be made: {error}", offer.pool)));
                }
            }
        }
        if self.workers.hello(offer, &open) {
            self.lost(&offer.pool, &offer.worker).await;
        }
        let state = self.committed.read();
        let order = state.order_for(&offer.pool, &offer.worker, offer.started);
        Told::Welcome { epoch: state.epoch, closed: closed(&state, open), order }
    }

    /// Says in the inbox that a worker is gone, so that the engine decides about its attempts.
    async fn lost(&self, pool: &PoolName, worker: &WorkerName) {
        let now = self.outside.now().0;
        let hash = causey_protocol::id::hash_fields(
            "causey worker lost v1",
            &[pool.as_str().as_bytes(), worker.as_str().as_bytes(), &now.to_le_bytes()],
        );
        let Ok(id) = RequestId::new(TaskKey(hash).to_string()) else { return };
        let request = Request::WorkerLost { pool: pool.clone(), worker: worker.clone() };
        let subject = subject::request(request.kind());
        let payload = codec::encode(&RequestMessage { id, user: "causey".into(), request });
        let message = Message { subject, expect: Expect::Nothing, headers: Vec::new(), payload: payload.into() };
        if let Err(error) = self.outside.append(message).await {
            tracing::warn!(%error, %pool, %worker, "loss of a worker not recorded; its dispatches come back after their ack wait");
        }
    }
}

/// Workers that are known, and those that have not been heard yet.
fn at_least<'a>(counted: Vec<ShapeCount>, known: impl Iterator<Item = &'a ShapeCount>) -> Vec<ShapeCount> {
    let mut most: BTreeMap<Shape, u32> = counted.into_iter().map(|ShapeCount { shape, workers }| (shape, workers)).collect();
    for ShapeCount { shape, workers } in known {
        let there = most.entry(shape.clone()).or_default();
        *there = (*there).max(*workers);
    }
    let surplus = most.len().saturating_sub(SHAPES_MAX);
    most.into_iter().skip(surplus).map(|(shape, workers)| ShapeCount { shape, workers }).collect()
}

/// Those of a worker's attempts that the committed state no longer counts as open.
fn closed(state: &State, open: Vec<OpenAttempt>) -> Vec<OpenAttempt> {
    let mut keys: BTreeMap<RunId, BTreeSet<TaskKey>> = BTreeMap::new();
    open.into_iter()
        .filter(|attempt| {
            let keys = keys.entry(attempt.run).or_insert_with(|| open_keys(state, attempt.run));
            !keys.contains(&attempt.key)
        })
        .collect()
}

fn open_keys(state: &State, run: RunId) -> BTreeSet<TaskKey> {
    let Some(run) = state.run(run) else { return BTreeSet::new() };
    let Some(flow) = state.flow_of(run) else { return BTreeSet::new() };
    let open = run.unfinished().filter(|(_, task)| task.state.is_open());
    open.map(|(task, found)| task.id(&flow).key(found.attempt)).collect()
}

/// The addresses of the gang that this attempt is a member of, once it has formed.
fn formation(state: &State, run: RunId, step: &StepName, path: &Path, attempt: u32) -> Option<Vec<Address>> {
    let run = state.run(run)?;
    let step = state.flow_of(run)?.find(step)?;
    let (_, gang, _) = run.gang_of(&TaskRef::new(step, path.clone(), 0))?;
    gang.addresses().filter(|_| gang.attempt == attempt)
}

fn find_model(state: &State, model: &ModelName, version: Option<u32>) -> Told {
    let versions = state.models.get(model).map(Vec::as_slice).unwrap_or_default();
    let found = match version {
        Some(wanted) => versions.iter().find(|found| found.version == wanted),
        None => versions.last(),
    };
    match found {
        Some(found) => Told::Model {
            version: found.version,
            object: found.object,
            artifact: found.publication.artifact.clone(),
            format: found.publication.format.clone(),
            metrics: found.publication.metrics.clone(),
        },
        None => {
            let wanted = version.map_or_else(|| format!("model `{model}`"), |version| format!("version {version} of model `{model}`"));
            Told::Refused(Problem::new(Code::NOT_FOUND, format!("no {wanted} is published")).hint("see: causey models ls"))
        }
    }
}
