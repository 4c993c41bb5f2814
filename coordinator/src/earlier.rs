//! Looks for results of other runs: for resumed runs in those that they resume, which are in the committed state or in their histories,
//! with stored chunks of either; for memoised steps whether what is remembered is still stored. What it finds reaches the engine as an input; looking twice does no harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::{ReadError, Store, StoreError, read_object};
use causey_engine::{Known, Run, Sought, Source, TaskRef, TaskState};
use causey_protocol::artifact::ObjectRef;
use causey_protocol::backoff::Delays;
use causey_protocol::flow::Flow;
use causey_protocol::id::{ContentId, Digest, RunId, StepName};
use causey_protocol::input::{Found, FoundResult, Input};
use causey_protocol::record::TaskSet;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use tokio::sync::{Semaphore, mpsc};

use crate::committed::Committed;
use crate::histories::{self, Histories};
use crate::outside::Aside;
use crate::stored::{self, Search};

/// Questions answered at the same time.
const LOOKING_MAX: usize = 8;

/// Objects of one question looked at at the same time.
const OBJECTS_AT_ONCE: usize = 32;

/// Why nothing can be said about what is sought.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("failed to look into the artifact store")]
    Store(#[from] StoreError),
    #[error("failed to read the history of run {run}")]
    History {
        run: RunId,
        #[source]
        source: histories::Error,
    },
    #[error("run {0} is neither in the state nor in the artifact store")]
    NoRun(RunId),
    #[error("failed to read the results of a foreach")]
    Chunk(#[from] stored::Error),
    #[error("object {path} is missing or damaged")]
    Object {
        path: String,
        #[source]
        source: Option<ReadError>,
    },
}

impl Error {
    /// Whether looking again may help.
    fn is_transient(&self) -> bool {
        match self {
            Self::Store(error)
            | Self::History { source: histories::Error::Store(error), .. }
            | Self::Chunk(stored::Error::Store(error))
            | Self::Object { source: Some(ReadError::Store(error)), .. } => error.is_transient(),
            Self::History { .. } | Self::NoRun(_) | Self::Chunk(_) | Self::Object { .. } => false,
        }
    }

    /// The error with its sources, in one line.
    fn text(&self) -> String {
        let sources = std::iter::successors(std::error::Error::source(self), |error| error.source());
        sources.fold(self.to_string(), |text, source| format!("{text}: {source}"))
    }
}

/// A result before its object has been looked at.
#[derive(Debug)]
struct Candidate {
    place: u32,
    attempt: u32,
    object: ObjectRef,
    foreach: Option<u32>,
    content: Option<ContentId>,
}

#[derive(Clone, Debug)]
pub(crate) struct Finder<T>(Arc<Inner<T>>);

#[derive(Debug)]
struct Inner<T> {
    thread: T,
    committed: Arc<Committed>,
    store: Arc<Store>,
    histories: Histories,
    notice: mpsc::Sender<Input>,
    looking: Semaphore,
}

impl<T: Aside + Send + Sync + 'static> Finder<T> {
    pub(crate) fn new(thread: T, committed: Arc<Committed>, store: Arc<Store>, notice: mpsc::Sender<Input>) -> Self {
        let (histories, looking) = (Histories::default(), Semaphore::new(LOOKING_MAX));
        Self(Arc::new(Inner { thread, committed, store, histories, notice, looking }))
    }

    /// Looks, and says what it found. What keeps the store from answering is waited out; what will never be there is told.
    pub(crate) fn find(&self, sought: Sought) {
        let this = self.0.clone();
        tokio::spawn(async move {
            let _looking = this.looking.acquire().await;
            let mut delays = Delays::new(Duration::from_millis(50), Duration::from_secs(30));
            let found = loop {
                match this.look(&sought).await {
                    Ok(found) => break found,
                    Err(error) if error.is_transient() => {
                        tracing::warn!(error = error.text(), run = %sought.run, source = ?sought.source, "results cannot be looked for; trying again");
                        tokio::time::sleep(delays.next_delay()).await;
                    }
                    Err(error) => break Found::Broken { because: error.text() },
                }
            };
            let Sought { run, step, tasks, .. } = sought;
            // A closed channel means that this process no longer leads; the next leader looks again.
            let _ = this.notice.send(Input::ResultsFound { run, step, tasks, found }).await;
        });
    }
}

impl<T: Aside + Sync> Inner<T> {
    async fn look(&self, sought: &Sought) -> Result<Found, Error> {
        let earlier = match &sought.source {
            Source::Run(earlier) => *earlier,
            Source::Memo(known) => return self.remembered(sought, known).await,
        };
        let (run, flow) = self.earlier(earlier).await?;
        if let Some(digest) = whole_chunk(&run, &flow, sought) {
            let tasks = self.count(digest).await?;
            return Ok(Found::Chunk { digest, tasks });
        }
        let candidates = self.candidates(&run, &flow, sought).await?;
        let looks = stream::iter(candidates).map(|candidate| self.result(sought, candidate));
        Ok(Found::Results(looks.buffered(OBJECTS_AT_ONCE).try_collect().await?))
    }

    /// Of what is remembered, what can be had: a task whose result is gone is run.
    async fn remembered(&self, sought: &Sought, known: &[Known]) -> Result<Found, Error> {
        let look = |Known { place, attempt, object }: &Known| {
            let candidate = Candidate { place: *place, attempt: *attempt, object: *object, foreach: None, content: None };
            async move {
                match self.result(sought, candidate).await {
                    Ok(result) => Ok(Some(result)),
                    Err(error) if error.is_transient() => Err(error),
                    Err(error) => {
                        tracing::warn!(error = error.text(), run = %sought.run, step = %sought.name, "a remembered result is gone; its task runs");
                        Ok(None)
                    }
                }
            }
        };
        let looks = stream::iter(known.iter().map(look)).buffered(OBJECTS_AT_ONCE);
        let found: Vec<Option<FoundResult>> = looks.try_collect().await?;
        Ok(Found::Results(found.into_iter().flatten().collect()))
    }

    async fn earlier(&self, id: RunId) -> Result<(Arc<Run>, Arc<Flow>), Error> {
        let whole = {
            let state = self.committed.read();
            state.runs.get(&id).and_then(|run| Some((run.clone(), state.flow_of(run)?)))
        };
        if let Some(whole) = whole {
            return Ok(whole);
        }
        let history = self.histories.read(&self.thread, &self.store, id).await.map_err(|source| Error::History { run: id, source })?;
        let history = history.ok_or(Error::NoRun(id))?;
        Ok((history.run.clone(), history.flow.clone()))
    }

    /// The sought tasks that have a result, in order.
    async fn candidates(&self, run: &Run, flow: &Flow, sought: &Sought) -> Result<Vec<Candidate>, Error> {
        let Some(step) = flow.find(&sought.name) else { return Ok(Vec::new()) };
        let mut found = BTreeMap::new();
        for (place, (path, visit)) in (0..).zip(sought.tasks.iter()) {
            let task = TaskRef::new(step, path, visit);
            let known = run.task(&task).filter(|known| known.state == TaskState::Succeeded);
            if let (Some(known), Some(object)) = (known, run.object(flow, &task)) {
                let foreach = run.foreach(step, &task.path).map(|foreach| foreach.count);
                let content = known.content.as_deref().copied();
                found.insert(place, Candidate { place, attempt: known.attempt, object, foreach, content });
            }
        }
        let (start, end) = match &sought.tasks {
            TaskSet::One { path, .. } => (path.clone(), None),
            TaskSet::Range { path, from, to } => (path.child(*from), Some(path.child(*to))),
        };
        let search = Search { within: Some((&start, end.as_ref())), ..Search::of(&self.store, flow, step) };
        for chunk in stored::chunks_of(run, flow, step).into_iter().filter(|chunk| search.wants(chunk)) {
            let mut tasks = Vec::new();
            search.read(chunk.digest, &mut tasks, usize::MAX).await?;
            for task in tasks {
                let place = match &sought.tasks {
                    TaskSet::One { visit, .. } if *visit == task.id.visit => 0,
                    TaskSet::Range { from, .. } if task.id.visit == 0 => task.id.path.0.last().map_or(0, |item| item - from),
                    _ => continue,
                };
                found.insert(place, Candidate { place, attempt: task.attempt, object: task.object, foreach: None, content: None });
            }
        }
        Ok(found.into_values().collect())
    }

    /// The result as the engine takes it: its object is there, and says how the task went on.
    async fn result(&self, sought: &Sought, candidate: Candidate) -> Result<FoundResult, Error> {
        let Candidate { place, attempt, object, mut foreach, mut content } = candidate;
        let ObjectRef { run: owner, digest, bytes, .. } = object;
        let mut next = Vec::new();
        if (sought.goes_on && foreach.is_none()) || (sought.content && content.is_none()) {
            let path = object.path();
            let read = read_object(&self.store, &object).await.map_err(|source| Error::Object { path, source: Some(source) })?;
            content = read.manifest.content();
            (next, foreach) = (read.manifest.next, read.manifest.foreach);
        } else if self.store.head(&object.path()).await? != Some(bytes) {
            return Err(Error::Object { path: object.path(), source: None });
        }
        Ok(FoundResult { place, owner, attempt, digest, bytes, next, foreach, content })
    }

    /// How many tasks of each step a chunk and those inside it hold.
    async fn count(&self, digest: Digest) -> Result<BTreeMap<StepName, u32>, Error> {
        let mut counts: BTreeMap<StepName, u32> = BTreeMap::new();
        let mut chunks = vec![digest];
        while let Some(digest) = chunks.pop() {
            let chunk = stored::chunk(&self.store, digest).await?;
            for step in &chunk.steps {
                *counts.entry(step.step.clone()).or_default() += u32::try_from(step.tasks.len()).unwrap_or(u32::MAX);
            }
            chunks.extend(chunk.nested.iter().flat_map(|nested| &nested.chunks));
        }
        Ok(counts)
    }
}

/// The stored chunk of the earlier run that holds just what is sought, where one may stand for it.
fn whole_chunk(run: &Run, flow: &Flow, sought: &Sought) -> Option<Digest> {
    let (TaskSet::Range { path, from, to }, Some(split)) = (&sought.tasks, &sought.chunk_of) else { return None };
    let foreach = run.foreach(flow.find(split)?, path)?;
    let size = foreach.chunk?.max(1);
    let number = from / size;
    let items = (number.saturating_mul(size), number.saturating_add(1).saturating_mul(size).min(foreach.count));
    foreach.chunks.get(&number).filter(|chunk| chunk.stored && items == (*from, *to))?.digest
}
