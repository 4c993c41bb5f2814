//! Commands: every effect the engine can ask for, as data. All are idempotent and follow from the committed state, so a restart
//! or takeover asks for them again with [`outstanding`].

use causey_protocol::flow::{Flow, PYTHON, StepIndex};
use causey_protocol::id::{Digest, Path, PoolName, RunId, TaskKey};
use causey_protocol::record::{FailureCause, Position, Record};
use causey_protocol::task::{Dispatch, DispatchedTask, InputRef, Inputs, SplitLevel};

use crate::chunk::{self, BlobUse};
use crate::gang;
use crate::join;
use crate::resume::{self, Sought};
use crate::retry::retries_max;
use crate::route;
use crate::run::{Run, TaskRef};
use crate::state::{Notification, State};
use crate::switch;

#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// Put a dispatch on its pool's queue, under its first task's key.
    Dispatch { pool: PoolName, key: TaskKey, dispatch: Box<Dispatch> },
    /// Take one dispatch off its queue: its attempt is closed.
    Withdraw { pool: PoolName, run: RunId, key: TaskKey },
    /// Store content-addressed bytes, then say `BlobStored`.
    StoreBlob { digest: Digest, bytes: Vec<u8> },
    /// Publish a notification.
    Announce { position: Position, notification: Notification },
    /// Take the attempts of a gang off the queue, and tell workers that hold members.
    Recall { pool: PoolName, run: RunId, keys: Vec<TaskKey> },
    /// Tell workers that a gang of this run has formed.
    TellGang { run: RunId },
    /// Tell workers of a pool that there is a word for them.
    CallWorkers { pool: PoolName },
    /// Take everything of a run off the queues and tell workers to stop it.
    Cancel { run: RunId },
    /// Look for results of other runs, then say `ResultsFound`.
    FindResults(Box<Sought>),
}

/// The commands that a committed record asks for, in the state after its whole turn.
#[must_use]
pub fn commands(state: &State, position: Position, record: &Record) -> Option<Command> {
    match record {
        Record::AttemptsOpened { run, step, tasks, attempt, .. } => {
            let run = state.run(*run)?;
            let (path, visit) = tasks.iter().next()?;
            dispatch_command(state, run, &TaskRef::new(*step, path, visit), *attempt, false)
        }
        // Of these the worker does not know that they are over.
        Record::AttemptFailed { run, step, path, visit, attempt, cause: FailureCause::Lost, pool, .. }
        | Record::AttemptFailed {
            run,
            step,
            path,
            visit,
            attempt,
            worker: None,
            cause: FailureCause::TimedOut { .. } | FailureCause::Released { .. },
            pool,
            ..
        } => {
            let run = state.run(*run)?;
            let flow = state.flow_of(run)?;
            let pool = pool.as_ref().or_else(|| route::fixed(&flow, *step))?.clone();
            let task = TaskRef::new(*step, path.clone(), *visit);
            // A message that the rest of its list still needs stays.
            let over = run.dispatch(&task, *attempt).is_none();
            over.then(|| Command::Withdraw { pool, run: run.id(), key: task.id(&flow).key(*attempt) })
        }
        Record::WorkersOrdered { pool, .. } => Some(Command::CallWorkers { pool: pool.clone() }),
        Record::GangFormed { run, .. } => Some(Command::TellGang { run: *run }),
        Record::GangDissolved { run, step, path, attempt, .. } => {
            let run = state.run(*run)?;
            let (flow, gang) = (state.flow_of(run)?, run.gangs.get(&(*step, path.clone()))?);
            let keys = gang::members(*step, path, gang.size).map(|task| task.id(&flow).key(*attempt)).collect();
            Some(Command::Recall { pool: gang.pool.clone(), run: run.id(), keys })
        }
        Record::InputsGathered { run, step, path, .. } => store_command(state, *run, &BlobUse::Join { step: *step, path: path.clone() }),
        Record::ChunkGathered { run, step, path, chunk, .. } => {
            store_command(state, *run, &BlobUse::Chunk { split: *step, path: path.clone(), chunk: *chunk })
        }
        Record::ResultsSought { run, step, tasks } => {
            let run = state.run(*run)?;
            let (path, visit) = tasks.iter().next()?;
            find_command(state, run, &TaskRef::new(*step, path, visit))
        }
        Record::Notified { .. } => {
            let notification = state.notifications.get(&position)?.clone();
            Some(Command::Announce { position, notification })
        }
        Record::RunFinished { run, state: ended, .. } => {
            let unfinished = *ended != causey_protocol::record::RunState::Succeeded;
            unfinished.then_some(Command::Cancel { run: *run })
        }
        _ => None,
    }
}

/// Every command that must be in force in this state, notifications in log order.
#[must_use]
pub fn outstanding(state: &State) -> Vec<Command> {
    let mut commands = Vec::new();
    for run in state.live_runs() {
        commands.extend(run.dispatches().filter_map(|(first, open)| dispatch_command(state, run, &first, open.attempt, true)));
        commands.extend(run.sought.keys().filter_map(|first| find_command(state, run, first)));
    }
    commands.extend(state.blobs_wanted().filter_map(|(run, used)| store_command(state, run, used)));
    let announce = |(position, notification): (&Position, &Notification)| Command::Announce {
        position: *position,
        notification: notification.clone(),
    };
    commands.extend(state.notifications.iter().map(announce));
    commands
}

fn store_command(state: &State, run: RunId, used: &BlobUse) -> Option<Command> {
    let run = state.run(run)?;
    let flow = state.flow_of(run)?;
    let bytes = match used {
        BlobUse::Chunk { split, path, chunk } => chunk::bytes(run, &flow, *split, path, *chunk)?,
        BlobUse::Join { step, path } => join_bytes(run, &flow, *step, path),
    };
    Some(Command::StoreBlob { digest: Digest::of(&bytes), bytes })
}

/// The blob that stands for a join's inputs.
fn join_bytes(run: &Run, flow: &Flow, step: StepIndex, path: &Path) -> Vec<u8> {
    chunk::list(run, flow, step, path).unwrap_or_else(|| join::manifest(&join::inputs(run, flow, step, path)))
}

fn find_command(state: &State, run: &Run, first: &TaskRef) -> Option<Command> {
    let flow = state.flow_of(run)?;
    Some(Command::FindResults(Box::new(resume::sought(state, run, &flow, first)?)))
}

fn dispatch_command(state: &State, run: &Run, first: &TaskRef, attempt: u32, again: bool) -> Option<Command> {
    let flow = state.flow_of(run)?;
    let open = run.dispatch(first, attempt)?;
    let key = first.id(&flow).key(attempt);
    let dispatch = dispatch(state, run, first, attempt, again)?;
    Some(Command::Dispatch { pool: open.pool.clone(), key, dispatch: Box::new(dispatch) })
}

/// The message for the open dispatch that this attempt at `first` leads.
#[must_use]
pub fn dispatch(state: &State, run: &Run, first: &TaskRef, attempt: u32, again: bool) -> Option<Dispatch> {
    let flow = state.flow_of(run)?;
    let open = run.dispatch(first, attempt)?;
    let (definition, step) = (flow.definition(), flow.step(first.step));
    let (language, file) = flow.code(first.step);
    let tasks = open.tasks.iter().map(|(path, visit)| {
        let inputs = inputs(run, &flow, &TaskRef::new(first.step, path.clone(), visit));
        DispatchedTask { path, visit, attempt: open.attempt, retry: open.retry, inputs }
    });
    Some(Dispatch {
        run: run.id(),
        run_name: run.start.name.clone(),
        flow: definition.name.clone(),
        language: language.to_owned(),
        package: definition.package,
        file: file.to_owned(),
        step: step.name.clone(),
        host: run.start.host.or(step.host).unwrap_or_default(),
        slots: slots(&flow, first.step),
        retries_max: retries_max(&flow, first),
        parameters: run.start.parameters.clone(),
        user: run.start.user.clone(),
        tags: run.start.tags.clone(),
        events: run.start.cause.events().to_vec(),
        splits: splits(run, &flow, first),
        tasks: tasks.collect(),
        again,
        timeout_seconds: step.timeout_seconds,
        grace_seconds: step.grace_seconds,
        scheduled_at: run.start.cause.instant(),
        gang: flow.is_gang(first.step),
        signals: run.signal_data(),
        children: run.ended_children(&flow),
        origin_run: run.start.cause.earlier().map(|earlier| earlier.run),
        content: flow.feeds_memo(first.step),
        needs: step.resources.as_ref().filter(|resources| !resources.is_plain()).map(|resources| Box::new(resources.clone())),
        transition: (definition.language != PYTHON || step.code.is_some()).then(|| step.next.clone()),
        typed: flow.is_mixed(),
        surroundings: step.surroundings.clone(),
    })
}

/// Slots that an attempt of the step occupies.
pub(crate) fn slots(flow: &Flow, step: StepIndex) -> u32 {
    let cpu = flow.step(step).resources.as_ref().map_or(1.0, |resources| resources.cpu).ceil().clamp(1.0, 1024.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=1024")]
    let slots = cpu as u32;
    slots
}

/// The enclosing foreach levels with their item counts; the path of level n is the first n indices.
fn splits(run: &Run, flow: &Flow, task: &TaskRef) -> Vec<SplitLevel> {
    let level = |(depth, split): (usize, StepIndex)| {
        let path = Path(task.path.0.get(..depth)?.to_vec());
        let foreach = run.foreach(split, &path)?;
        Some(SplitLevel { step: flow.step(split).name.clone(), count: foreach.count })
    };
    flow.foreach_levels(task.step).enumerate().filter_map(level).collect()
}

/// What a task receives: the objects of its siblings for a join, else the one of its parent.
fn inputs(run: &Run, flow: &Flow, task: &TaskRef) -> Inputs {
    let (step, path) = (task.step, &task.path);
    if flow.step(step).join {
        if let Some(list) = chunk::list(run, flow, step, path) {
            let count = join::expected(run, flow, step, path).unwrap_or_default();
            return Inputs::Chunks { digest: Digest::of(&list), count };
        }
        let inputs = join::inputs(run, flow, step, path);
        if inputs.len() <= causey_protocol::task::INLINE_INPUTS_MAX {
            return Inputs::Listed(inputs);
        }
        let digest = Digest::of(&join::manifest(&inputs));
        return Inputs::Manifest { digest, count: u32::try_from(inputs.len()).unwrap_or(u32::MAX) };
    }
    let input = switch::parent(run, flow, task).and_then(|task| {
        let object = run.object(flow, &task)?;
        Some(InputRef { step: flow.step(task.step).name.clone(), path: task.path, object })
    });
    Inputs::Listed(input.into_iter().collect())
}
