//! `decide`: one input against the working state gives records, each applied as soon as it is decided, so that the rules
//! always look at what already holds. Total: any input in any state has an answer, if only `Ignored`.

use std::collections::BTreeMap;
use std::sync::Arc;

use causey_protocol::flow::{Flow, StepIndex, Transition};
use causey_protocol::id::{Digest, FlowName, Origin, Path, PoolName, RequestId, RunId, StepName, Timestamp, WorkerName};
use causey_protocol::input::{FlowChoice, Input, Request, RequestMessage};
use causey_protocol::parameter::{self, Values};
use causey_protocol::policy::{self, HostMode};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Cause, FailureCause, ItemSucceeded, ModelPublished, Record, RunStarted, RunState, TaskSet, Topic};
use causey_protocol::share::{Shares, Standing};
use causey_protocol::task::{ErrorInfo, Failure, FailureKind, GANG_MEMBERS_MAX, Outcome, Publication, ReportItem, Success};
use serde_json::json;

use crate::concurrency::Begun;
use crate::gate;
use crate::name::run_name;
use crate::resume::{SOUGHT_MAX, is_sought, origin_of};
use crate::route;
use crate::run::{Run, TaskRef, join_after};
use crate::state::State;
use crate::switch;

/// Decides about one input. The records have been applied to `state` when this returns; `state` must be in a turn
/// ([`State::open_turn`]), whose time is the input's.
pub fn decide(state: &mut State, input: Input) -> Vec<Record> {
    let mut decider = Decider { state, records: Vec::new() };
    let (is_timer, goes_on) = (matches!(input, Input::TimersDue), matches!(input, Input::Continue));
    match input {
        Input::Request(message) => decider.request(message),
        Input::Report { pool, worker, items } => decider.report(&pool, &worker, items),
        Input::Event { sequence, source, event } => decider.event(sequence, &source, &event),
        Input::Malformed { subject, sequence, because, original } => decider.malformed(subject, sequence, because, original),
        Input::TimersDue => decider.timers_due(),
        Input::BlobStored { digest } => decider.blob_stored(digest),
        Input::SnapshotStored(snapshot) => decider.emit(Record::SnapshotTaken(snapshot)),
        Input::HistoryStored { run, digest, bytes, keep } => decider.history_stored(run, digest, bytes, keep),
        Input::Pressure(storage) => decider.pressure(storage),
        Input::Due { flow, schedule, instant, missed, given } => decider.schedule_due(flow, schedule, instant, missed, given),
        Input::Missed { flow, schedule, until, missed } => decider.schedule_missed(flow, schedule, until, missed),
        Input::BackfillDue { backfill, instant, given } => decider.backfill_due(backfill, instant, given),
        Input::BackfillOver { backfill } => decider.backfill_over(backfill),
        Input::PoolCounted { pool, slots } => decider.pool_counted(&pool, &slots),
        Input::ResultsFound { run, step, tasks, found } => decider.results_found(run, step, &tasks, found),
        Input::PoolResized { pool, slots } => decider.pool_resized(&pool, slots),
        Input::PoolOffered { pool, shapes } => decider.pool_offered(&pool, shapes),
        Input::PlacesSought => decider.places_sought(),
        Input::SharesSet(shares) => decider.shares_set(shares),
        Input::Continue => decider.next_piece(),
    }
    // What was decided may have made way for a gang. What was ignored has not, and changes nothing.
    if is_timer || decider.records.iter().any(|record| !matches!(record, Record::Ignored { .. })) {
        decider.call_gangs();
    }
    decider.let_through();
    if goes_on && decider.records.is_empty() {
        decider.ignore("nothing is left to go on with");
    }
    decider.records
}

/// The working state and what has been decided about the present input.
pub(crate) struct Decider<'a> {
    pub(crate) state: &'a mut State,
    records: Vec<Record>,
}

/// A run about to start.
pub(crate) struct NewRun {
    pub(crate) origin: Origin,
    pub(crate) joined: Vec<Origin>,
    pub(crate) flow: Arc<Flow>,
    pub(crate) definition: Digest,
    pub(crate) version: Option<u32>,
    pub(crate) parameters: Values,
    pub(crate) cause: Cause,
    pub(crate) user: String,
    pub(crate) tags: Vec<String>,
    pub(crate) host: Option<HostMode>,
    /// `None`: what the flow says.
    pub(crate) timeout_seconds: Option<f64>,
    /// Whether it waits for a place among the runs of its flow.
    pub(crate) waits: bool,
    /// What is not said here is as the flow says.
    pub(crate) standing: Standing,
    /// Whether it takes no remembered results.
    pub(crate) fresh: bool,
}

/// What becomes of a request for a run.
enum Chosen {
    /// The answer that it has got before.
    Before(Answer),
    /// The flow, and its version if it is a deployed one.
    Flow(Arc<Flow>, Option<u32>),
}

impl NewRun {
    /// A run for which nothing is asked beyond what its flow says.
    pub(crate) fn of(flow: Arc<Flow>, version: Option<u32>, origin: Origin, parameters: Values, cause: Cause, user: String) -> Self {
        let definition = flow.digest();
        let (joined, tags, host, timeout_seconds, waits, standing) = (Vec::new(), Vec::new(), None, None, false, Standing::default());
        Self {
            origin,
            joined,
            flow,
            definition,
            version,
            parameters,
            cause,
            user,
            tags,
            host,
            timeout_seconds,
            waits,
            standing,
            fresh: false,
        }
    }
}

impl Decider<'_> {
    pub(crate) fn emit(&mut self, record: Record) {
        self.state.apply(&record);
        self.records.push(record);
    }

    pub(crate) fn records(&self) -> &[Record] {
        &self.records
    }

    pub(crate) fn ignore(&mut self, because: impl Into<String>) {
        self.emit(Record::Ignored { because: because.into() });
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.state.at
    }

    pub(crate) fn run_and_flow(&self, run: RunId) -> Option<(&Run, Arc<Flow>)> {
        let run = self.state.run(run)?;
        Some((run, self.state.flow_of(run)?))
    }

    fn request(&mut self, message: RequestMessage) {
        if self.state.requests.contains(&message.id) {
            return self.ignore(format!("request {} has been answered", message.id));
        }
        let RequestMessage { id, user, request } = message;
        let answer = match request {
            Request::Submit { flow, parameters, tags, host, timeout_seconds, standing, fresh } => {
                let started = self.chosen(flow, &id, timeout_seconds, standing).and_then(|chosen| match chosen {
                    Chosen::Before(answer) => Ok(answer),
                    Chosen::Flow(flow, version) => {
                        let parameters = parameter::resolve(&flow.definition().parameters, parameters)?;
                        let new = NewRun::of(flow, version, origin_of(&id), parameters, Cause::Request { id: id.clone() }, user);
                        self.start_asked(NewRun { tags, host, timeout_seconds, standing, fresh, ..new })
                    }
                });
                started.unwrap_or_else(Answer::Refused)
            }
            Request::Resume(wish) => self.resume(&id, user, *wish).unwrap_or_else(Answer::Refused),
            Request::Deploy { flow } => self.deploy(&Arc::new(*flow), user),
            Request::Cancel { run, because } => self.cancel(run, &because),
            Request::WorkerLost { pool, worker } => {
                self.worker_lost(&pool, &worker);
                Answer::Done
            }
            Request::PauseSchedules { flow } => self.pause_schedules(flow, user, true),
            Request::ResumeSchedules { flow } => self.pause_schedules(flow, user, false),
            Request::Backfill(plan) => self.backfill(&id, *plan, user).unwrap_or_else(Answer::Refused),
            Request::CancelBackfill { backfill, because } => self.cancel_backfill(backfill, &because),
            Request::Signal { run, name, data } => self.signal(run, name, data, user, id.clone()),
            Request::Approve { run, step, approved, because } => self.approve(run, &step, approved, user, because),
            Request::CloseLetter { letter, end } => self.close_letter(letter, end, user),
            Request::OrderWorkers { pool, worker, order } => self.order_workers(pool, worker, order, user),
        };
        self.emit(Record::RequestAnswered { id, answer });
    }

    /// The flow that a request wants run, unless it has been answered before.
    fn chosen(&self, flow: FlowChoice, id: &RequestId, timeout_seconds: Option<f64>, standing: Standing) -> Result<Chosen, Problem> {
        if let Some(what) = standing.fault() {
            return Err(Problem::new(Code::MALFORMED, what));
        }
        if let Some(answer) = self.asked_before(&origin_of(id), timeout_seconds)? {
            return Ok(Chosen::Before(answer));
        }
        Ok(match flow {
            FlowChoice::Given(flow) => Chosen::Flow(Arc::new(*flow), None),
            FlowChoice::Deployed(name) => {
                let (flow, version) = self.deployed(&name)?;
                Chosen::Flow(flow, version)
            }
        })
    }

    /// The answer of a request whose run has been started; a refusal where no run can be.
    pub(crate) fn asked_before(&self, origin: &Origin, timeout_seconds: Option<f64>) -> Result<Option<Answer>, Problem> {
        if let Some(what) = timeout_seconds.and_then(policy::timeout_fault) {
            return Err(Problem::new(Code::MALFORMED, what));
        }
        if let Some((_, run)) = self.state.origins.get(origin)
            && let Some(name) = self.state.name_of(*run)
        {
            return Ok(Some(Answer::RunStarted { run: *run, name: name.clone() }));
        }
        self.state.skipped_before(origin).or_else(|| self.state.refuses_runs()).map_or(Ok(None), Err)
    }

    /// Starts the run that a request asks for.
    pub(crate) fn start_asked(&mut self, new: NewRun) -> Result<Answer, Problem> {
        let run = match self.begin(new) {
            Begun::Started(run) => run,
            Begun::Skipped(problem) => return Err(problem),
        };
        let name = self.state.run(run).map(|run| run.start.name.clone());
        name.map(|name| Answer::RunStarted { run, name }).ok_or_else(|| Problem::new(Code::NOT_FOUND, "the run did not start"))
    }

    pub(crate) fn deployed(&self, name: &FlowName) -> Result<(Arc<Flow>, Option<u32>), Problem> {
        let deployment = self.state.deployments.get(name);
        let flow = deployment.and_then(|deployment| self.state.definitions.get(&deployment.definition));
        match (deployment, flow) {
            (Some(deployment), Some(flow)) => Ok((flow.clone(), Some(deployment.version))),
            _ => Err(Problem::new(Code::NOT_FOUND, format!("no flow `{name}` is deployed")).hint("deploy it first: causey deploy FLOW.py")),
        }
    }

    pub(crate) fn start_run(&mut self, new: NewRun) -> RunId {
        let run = RunId::derive(self.now(), &new.origin);
        let name = run_name(self.state, &new.origin);
        self.register(new.definition, &new.flow);
        let start = RunStarted {
            run,
            name,
            origin: new.origin,
            joined: new.joined,
            definition: new.definition,
            version: new.version,
            parameters: new.parameters,
            cause: new.cause,
            user: new.user,
            tags: new.tags,
            host: new.host,
            timeout_seconds: new.timeout_seconds.or(new.flow.definition().timeout_seconds),
            waits: new.waits,
            standing: new.standing.or(new.flow.definition().standing),
            fresh: new.fresh,
        };
        self.emit(Record::RunStarted(Box::new(start)));
        if new.waits {
            return run;
        }
        self.open(run, new.flow.start(), TaskSet::One { path: Default::default(), visit: 0 }, 0, 0);
        run
    }

    fn register(&mut self, digest: Digest, flow: &Arc<Flow>) {
        if !self.state.definitions.contains(&digest) {
            self.emit(Record::FlowRegistered { digest, flow: Box::new((**flow).clone()) });
        }
    }

    fn deploy(&mut self, flow: &Arc<Flow>, user: String) -> Answer {
        let (name, definition) = (flow.definition().name.clone(), flow.digest());
        let current = self.state.deployments.get(&name);
        if let Some(current) = current.filter(|current| current.definition == definition) {
            return Answer::Deployed { flow: name, version: current.version };
        }
        let version = current.map_or(1, |current| current.version + 1);
        self.register(definition, flow);
        self.emit(Record::FlowDeployed { flow: name.clone(), version, definition, user });
        self.admit(&name);
        Answer::Deployed { flow: name, version }
    }

    fn pool_resized(&mut self, pool: &PoolName, slots: u32) {
        if self.state.pools.get(pool) == Some(&slots) {
            return self.ignore(format!("pool {pool} is known to have {slots} slots"));
        }
        let before = self.state.window(pool);
        self.emit(Record::PoolResized { pool: pool.clone(), slots });
        if self.state.window(pool) > before {
            self.queue_foreaches(pool);
        }
    }

    fn shares_set(&mut self, shares: Box<Shares>) {
        if self.state.shares == *shares {
            return self.ignore("the shares of the tenants are known");
        }
        self.emit(Record::SharesChanged(shares));
    }

    fn cancel(&mut self, run: RunId, because: &str) -> Answer {
        match self.state.run(run).map(|run| run.state) {
            None if self.state.retired.contains(&run) => Answer::Cancelling { run },
            None => Answer::Refused(Problem::new(Code::NOT_FOUND, format!("no run {run}"))),
            Some(state) if state.is_terminal() => Answer::Cancelling { run },
            Some(_) => {
                let why = if because.is_empty() { "cancelled on request".into() } else { format!("cancelled on request: {because}") };
                self.finish(run, RunState::Cancelled, Some(Problem::new(Code::CANCELLED, why)));
                Answer::Cancelling { run }
            }
        }
    }

    /// Records a failed attempt and decides what follows.
    pub(crate) fn close(
        &mut self,
        run: RunId,
        task: &TaskRef,
        attempt: u32,
        worker: Option<WorkerName>,
        cause: &FailureCause,
        (started, ended): (Timestamp, Timestamp),
    ) {
        let pool = self.run_and_flow(run).and_then(|(found, flow)| route::said_pool(found, &flow, task));
        let TaskRef { step, path, visit } = task.clone();
        self.emit(Record::AttemptFailed { run, step, path, visit, attempt, worker, cause: cause.clone(), started, ended, pool });
        self.after_failure(run, task, cause);
    }

    /// Opens first or further attempts of one step as one dispatch, unless an earlier run may have results of the tasks.
    pub(crate) fn open(&mut self, run: RunId, step: StepIndex, tasks: TaskSet, attempt: u32, retry: u32) {
        if attempt > 0 || !self.seek(run, step, &tasks) {
            self.pass_gates(run, step, tasks, attempt, retry);
        }
    }

    /// Opens attempts that no earlier run has results of, unless first ones have to wait for something.
    pub(crate) fn pass_gates(&mut self, run: RunId, step: StepIndex, tasks: TaskSet, attempt: u32, retry: u32) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        if attempt > 0 || !gate::may_wait(found, &flow, step) || !self.gated(run, step, &tasks) {
            self.offer(run, step, tasks, attempt, retry);
        }
    }

    /// Opens first attempts at items of one foreach, `items` in order, unless an earlier run may have their results.
    pub(crate) fn open_items(&mut self, run: RunId, step: StepIndex, outer: &Path, items: &[u32]) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let first = items.first().map(|item| TaskRef::new(step, outer.child(*item), 0));
        if !first.is_some_and(|first| is_sought(found, &flow, &first)) {
            return self.offer_items(run, step, outer, items);
        }
        for tasks in sets(outer, items, SOUGHT_MAX as usize) {
            self.emit(Record::ResultsSought { run, step, tasks });
        }
    }

    /// Decides about a piece of a report: several items are packed ones.
    fn report(&mut self, pool: &PoolName, worker: &WorkerName, items: Vec<ReportItem>) {
        let singly = items.first().is_some_and(|item| self.goes_singly(item.run, &item.step));
        if items.len() > 1 && !singly && items.iter().all(|item| items[0].is_packed_with(item)) {
            return self.report_pack(pool, worker, items);
        }
        items.into_iter().for_each(|item| self.report_one(pool, worker, item));
    }

    /// Items that a switch sends on go different ways; members of a gang wait for each other.
    fn goes_singly(&self, run: RunId, step: &StepName) -> bool {
        let Some((_, flow)) = self.run_and_flow(run) else { return false };
        let Some(step) = flow.find(step) else { return false };
        matches!(flow.step(step).next, Transition::Switch { .. }) || flow.is_gang(step)
    }

    /// Attempts of one number at items of one foreach that all succeeded: what is accepted of them becomes one record.
    fn report_pack(&mut self, pool: &PoolName, worker: &WorkerName, items: Vec<ReportItem>) {
        let ReportItem { run, ref step, visit, attempt, ref path, .. } = items[0];
        let (many, outer) = (items.len(), path.split_last().map(|(outer, _)| outer).unwrap_or_default());
        let Some((found, flow)) = self.run_and_flow(run) else {
            return self.ignore(format!("{many} reports for unknown run {run}"));
        };
        let Some(step) = flow.find(step) else {
            return self.ignore(format!("{many} reports for unknown step {step} of run {run}"));
        };
        let (mut accepted, mut objections) = (BTreeMap::new(), Vec::new());
        for item in items {
            let (Outcome::Succeeded(success), Some(index)) = (item.outcome, item.path.0.last().copied()) else { continue };
            let task = TaskRef::new(step, item.path, visit);
            let open = found.open_attempt(&task, attempt).and_then(|open| found.dispatch_of(&task, open));
            if open.is_none_or(|dispatch| dispatch.pool != *pool) || accepted.contains_key(&index) {
                continue;
            }
            match objection(&flow, &task, &success) {
                None => drop(accepted.insert(index, success)),
                Some(error) => objections.push((task, success, error)),
            }
        }
        let refused = many - accepted.len() - objections.len();
        let items: Vec<u32> = accepted.keys().copied().collect();
        self.accept(run, TaskRef::new(step, outer.clone(), visit), attempt, worker, accepted);
        self.go_on_with_items(run, &flow, step, &outer, &items);
        for (task, success, error) in objections {
            self.refuse(run, &task, attempt, worker, &success, error);
        }
        if refused > 0 {
            let step = &flow.step(step).name;
            self.ignore(format!(
                "{refused} late reports: attempt {attempt} of tasks of {step} in run {run} is not open, or not with pool {pool}"
            ));
        }
    }

    fn report_one(&mut self, pool: &PoolName, worker: &WorkerName, item: ReportItem) {
        let (run, attempt) = (item.run, item.attempt);
        let Some((found, flow)) = self.run_and_flow(run) else {
            return self.ignore(format!("report for unknown run {run}"));
        };
        let Some(step) = flow.find(&item.step) else {
            return self.ignore(format!("report for unknown step {} of run {run}", item.step));
        };
        let task = TaskRef::new(step, item.path, item.visit);
        let Some(open) = found.open_attempt(&task, attempt) else {
            return self.ignore(format!("late report: attempt {attempt} of {} in run {run} is not open", task.id(&flow)));
        };
        if found.dispatch_of(&task, open).is_none_or(|dispatch| dispatch.pool != *pool) {
            return self.ignore(format!("report by a worker of pool {pool}, which was not offered {} in run {run}", task.id(&flow)));
        }
        match item.outcome {
            Outcome::Joined { address, at } => self.member_joined(run, &task, attempt, worker, address, at),
            Outcome::Started { .. } if found.gang_of(&task).is_some_and(|(_, gang, index)| !gang.is_run_by(index, worker)) => {
                self.ignore(format!("{} of run {run} is said to run before its gang has formed", task.id(&flow)));
            }
            Outcome::Started { at } => {
                let TaskRef { step, path, visit } = task;
                self.emit(Record::AttemptStarted { run, step, path, visit, attempt, worker: worker.clone(), at });
            }
            Outcome::Succeeded(success) => match self.objection(run, &flow, &task, &success) {
                None if found.gang_of(&task).is_some() => self.member_succeeded(run, &flow, &task, attempt, worker, success),
                None => self.succeeded(run, &flow, &task, attempt, worker, &success),
                Some(error) => self.refuse(run, &task, attempt, worker, &success, error),
            },
            Outcome::Failed(failure) => {
                let Failure { kind, error, digest, bytes, started, ended } = failure;
                let object = digest.map(|digest| (digest, bytes));
                let cause = match kind {
                    FailureKind::User => FailureCause::User { error, object },
                    FailureKind::Permanent => FailureCause::Permanent { error, object },
                    FailureKind::Infrastructure => FailureCause::Infrastructure { error },
                    FailureKind::TimedOut => FailureCause::TimedOut { error, object },
                };
                self.close(run, &task, attempt, Some(worker.clone()), &cause, (started, ended));
            }
            Outcome::Used { usage } => {
                let TaskRef { step, path, visit } = task;
                self.emit(Record::AttemptUsed { run, step, path, visit, attempt, usage });
            }
            Outcome::Status { values } => self.tell_status(run, &task, attempt, values),
            Outcome::Released { because } => {
                let now = self.now();
                self.close(run, &task, attempt, Some(worker.clone()), &FailureCause::Released { because }, (now, now));
            }
        }
    }

    /// Why a result cannot be accepted although its attempt is open; `None` when it can.
    fn objection(&self, run: RunId, flow: &Flow, task: &TaskRef, success: &Success) -> Option<ErrorInfo> {
        objection(flow, task, success).or_else(|| self.child_objection(self.state.run(run)?, flow, task, success))
    }

    /// A result that cannot be accepted although its attempt is open.
    fn refuse(&mut self, run: RunId, task: &TaskRef, attempt: u32, worker: &WorkerName, success: &Success, error: ErrorInfo) {
        if self.state.run(run).is_none_or(|run| run.open_attempt(task, attempt).is_none()) {
            return;
        }
        let cause = FailureCause::Permanent { error: Box::new(error), object: Some((success.digest, success.bytes)) };
        self.close(run, task, attempt, Some(worker.clone()), &cause, (success.started, success.ended));
    }

    /// Records results of items of one foreach; `near` names step, visit and the path of the foreach.
    fn accept(&mut self, run: RunId, near: TaskRef, attempt: u32, worker: &WorkerName, accepted: BTreeMap<u32, Success>) {
        let TaskRef { step, path: outer, visit } = near;
        if accepted.len() == 1 {
            for (item, success) in accepted {
                self.accept_one(run, &TaskRef::new(step, outer.child(item), visit), attempt, worker, &success);
            }
            return;
        }
        let Some(since) = accepted.values().map(|success| success.started.min(success.ended)).min() else { return };
        let results = accepted.iter().map(|(item, success)| (TaskRef::new(step, outer.child(*item), visit), success));
        let noted = self.memo_of(run, step, results);
        let item = |(item, success): (u32, Success)| {
            let behind = |at: Timestamp| at.micros_since(since);
            ItemSucceeded(item, success.digest, success.bytes, behind(success.started), behind(success.ended))
        };
        let items = accepted.into_iter().map(item).collect();
        let worker = worker.clone();
        self.emit(Record::AttemptsSucceeded { run, step, outer, visit, attempt, worker, since, items });
        self.note_results(run, step, noted);
    }

    fn accept_one(&mut self, run: RunId, task: &TaskRef, attempt: u32, worker: &WorkerName, success: &Success) {
        let (TaskRef { step, path, visit }, worker) = (task.clone(), worker.clone());
        let Success { digest, bytes, started, ended, .. } = *success;
        let noted = self.memo_of(run, task.step, std::iter::once((task.clone(), success)));
        self.emit(Record::AttemptSucceeded { run, step, path, visit, attempt, worker, digest, bytes, started, ended });
        self.note_results(run, step, noted);
    }

    pub(crate) fn succeeded(&mut self, run: RunId, flow: &Arc<Flow>, task: &TaskRef, attempt: u32, worker: &WorkerName, success: &Success) {
        self.accept_one(run, task, attempt, worker, success);
        for (ordinal, publication) in (0..).zip(&success.publications) {
            self.publish(run, flow, task, attempt, (success.digest, success.bytes), publication.clone(), ordinal);
        }
        if !success.children.is_empty() {
            self.start_children(run, flow, task, success.children.clone());
            if self.state.run(run).is_none_or(|run| run.state.is_terminal()) {
                return;
            }
        }
        self.go_on(run, flow, task, success);
    }

    /// What follows once a task has its result.
    pub(crate) fn go_on(&mut self, run: RunId, flow: &Arc<Flow>, task: &TaskRef, success: &Success) {
        let TaskRef { step, path, visit: _ } = task.clone();
        match &flow.step(step).next {
            Transition::End => self.finish(run, RunState::Succeeded, None),
            Transition::Foreach { .. } => self.open_foreach(run, step, &path, success.foreach.unwrap_or_default()),
            Transition::Gang { .. } => self.open_gang(run, step, &path, success.foreach.unwrap_or_default()),
            Transition::Branch { to } => {
                for target in to.iter().filter_map(|target| flow.find(target)) {
                    self.open(run, target, TaskSet::One { path: path.clone(), visit: 0 }, 0, 0);
                }
            }
            Transition::Switch { .. } => {
                if let Some(to) = success.next.first().and_then(|target| flow.find(target)) {
                    self.take_switch(run, task, to);
                }
            }
            Transition::Linear { to } => match (join_after(flow, step), path.split_last()) {
                (Some((join, split)), Some((outer, item))) if split.foreach => {
                    self.items_arrived(run, flow, (split.step, join), &outer, &[item])
                }
                (Some((join, _)), _) => self.try_join(run, join, &path),
                (None, _) => {
                    if let Some(target) = flow.find(to) {
                        self.open(run, target, TaskSet::One { path, visit: 0 }, 0, 0);
                    }
                }
            },
        }
    }

    /// What follows once several items of a foreach, in order, have done `step`. Only steps that go on to one other are packed.
    pub(crate) fn go_on_with_items(&mut self, run: RunId, flow: &Arc<Flow>, step: StepIndex, outer: &Path, items: &[u32]) {
        let Transition::Linear { to } = &flow.step(step).next else { return };
        match join_after(flow, step) {
            Some((join, split)) if split.foreach => self.items_arrived(run, flow, (split.step, join), outer, items),
            Some((join, _)) => items.iter().for_each(|item| self.try_join(run, join, &outer.child(*item))),
            None => {
                if let Some(target) = flow.find(to) {
                    self.open_items(run, target, outer, items);
                }
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "what identifies an attempt, and one publication of it")]
    fn publish(
        &mut self,
        run: RunId,
        flow: &Flow,
        task: &TaskRef,
        attempt: u32,
        (digest, bytes): (Digest, u64),
        publication: Publication,
        ordinal: u32,
    ) {
        let version = self.state.models.get(&publication.model).map_or(1, |versions| versions.last().map_or(1, |last| last.version + 1));
        let id = task.id(flow);
        let object = json!({"run": run, "key": id.key(attempt), "digest": digest, "bytes": bytes});
        let run_name = self.state.run(run).map(|run| run.start.name.to_string());
        let data = json!({
            "name": publication.model, "version": version, "format": publication.format, "run": run, "run_name": run_name,
            "flow": flow.definition().name, "step": id.step, "metrics": publication.metrics, "tags": publication.tags,
            "description": publication.description, "published": self.now(), "object": object, "artifact": publication.artifact,
        });
        let (name, topic) = (publication.model.to_string(), Topic::ModelPublished);
        let TaskRef { step, path, visit } = task.clone();
        let published = ModelPublished { version, run, step, path, visit, attempt, digest, bytes, publication };
        self.emit(Record::ModelPublished(Box::new(published)));
        self.emit(Record::Notified { id: id.notification_id(run, topic.as_str(), ordinal), topic, name, run, data });
    }

    /// Ends a run and tells about it.
    pub(crate) fn finish(&mut self, run: RunId, state: RunState, problem: Option<Problem>) {
        let Some((found, flow)) = self.run_and_flow(run) else { return };
        let topic = Topic::RunFinished;
        let id = TaskRef::new(flow.start(), Default::default(), 0).id(&flow).notification_id(run, topic.as_str(), 0);
        let name = flow.definition().name.to_string();
        let data = json!({
            "run": run, "name": found.start.name, "flow": name, "version": found.start.version, "state": state, "problem": problem,
            "parameters": found.start.parameters, "user": found.start.user, "created": found.created, "finished": self.now(),
        });
        let deployed = found.start.version.is_some();
        self.emit(Record::RunFinished { run, state, problem });
        self.emit(Record::Notified { id, topic, name, run, data });
        if deployed {
            self.admit(&flow.definition().name);
        }
        self.tell_parent(run);
    }
}

/// Items of one foreach, in order, as sets of at most `most` neighbours.
pub(crate) fn sets(outer: &Path, items: &[u32], most: usize) -> impl Iterator<Item = TaskSet> {
    items.chunk_by(|one, next| one + 1 == *next).flat_map(move |neighbours| neighbours.chunks(most)).filter_map(|neighbours| {
        match neighbours {
            [item] => Some(TaskSet::One { path: outer.child(*item), visit: 0 }),
            [from, .., last] => Some(TaskSet::Range { path: outer.clone(), from: *from, to: last + 1 }),
            [] => None,
        }
    })
}

/// Whether the steps a task named are those of its transition, in any order; of a switch one of them.
fn as_planned(transition: &Transition, went: &[StepName]) -> bool {
    let mut planned = transition.targets();
    if matches!(transition, Transition::Switch { .. }) {
        return went.len() == 1 && planned.contains(&&went[0]);
    }
    let mut went: Vec<&StepName> = went.iter().collect();
    if went != planned {
        went.sort();
        planned.sort();
    }
    went == planned
}

/// Why a result cannot be accepted although its attempt is open; `None` when it can.
pub(crate) fn objection(flow: &Flow, task: &TaskRef, success: &Success) -> Option<ErrorInfo> {
    let step = flow.step(task.step);
    let fault = |code: Code, message: String, hint: &str| {
        let (file, line) = (Some(flow.definition().file.clone()), (step.line > 0).then_some(step.line));
        Some(ErrorInfo { kind: code.to_string(), message, file, line, hint: Some(hint.into()), ..ErrorInfo::default() })
    };
    let named = |names: &[StepName]| names.iter().map(StepName::as_str).collect::<Vec<_>>().join(", ");
    let went = &success.next;
    if !as_planned(&step.next, went) {
        let planned: Vec<StepName> = step.next.targets().into_iter().cloned().collect();
        let message = format!("step `{}` went on to [{}], but the graph says [{}]", step.name, named(went), named(&planned));
        return fault(Code::TRANSITION, message, "the code on the worker is not the code whose graph was submitted");
    }
    if let Some(beyond) = switch::beyond_bound(flow, task, went) {
        return fault(Code::VISITS, beyond, "raise it with @recursion(visits_max=…), if the recursion shall end later");
    }
    if flow.is_gang(task.step) && task.path.0.last() != Some(&0) && !success.publications.is_empty() {
        let message = format!("{} publishes a model, but of a gang only member 0 may", task.id(flow));
        return fault(Code::PUBLICATION, message, "publish where current.parallel.node_index is 0, or in the join");
    }
    match (&step.next, success.foreach) {
        (Transition::Gang { .. }, Some(size)) if !(1..=GANG_MEMBERS_MAX).contains(&size) => {
            let message = format!("step `{}` asks for a gang of {size} members; 1 to {GANG_MEMBERS_MAX} are possible", step.name);
            fault(Code::TRANSITION, message, "set num_parallel accordingly")
        }
        (Transition::Gang { .. }, Some(_)) => None,
        (Transition::Gang { .. }, None) => {
            fault(Code::TRANSITION, format!("step `{}` did not say how many members its gang has", step.name), "upgrade the SDK")
        }
        (Transition::Foreach { variable, .. }, Some(0)) => {
            let message = format!("foreach over `{variable}`, which has no items");
            fault(Code::TRANSITION, message, "give it at least one item, or end the flow before")
        }
        (Transition::Foreach { .. }, Some(_))
        | (Transition::Linear { .. } | Transition::Branch { .. } | Transition::Switch { .. } | Transition::End, None) => None,
        (Transition::Foreach { variable, .. }, None) => {
            fault(Code::TRANSITION, format!("foreach over `{variable}` did not say how many items there are"), "upgrade the SDK")
        }
        (Transition::Linear { .. } | Transition::Branch { .. } | Transition::Switch { .. } | Transition::End, Some(_)) => {
            fault(Code::TRANSITION, format!("step `{}` reported a foreach that its graph does not have", step.name), "upgrade the SDK")
        }
    }
}
