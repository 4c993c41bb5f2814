//! A world for engine tests: a coordinator that commits every turn at once and keeps its log, and workers that do what the test
//! says. Every step checks the invariants, and every world can be replayed from its log.

use std::collections::BTreeMap;
use std::ops::Bound;

use causey_engine::{Command, State, commands, decide, outstanding, violations};
use causey_engine::{History, Known, Run, Sought, Source, TaskRef, TaskState, resumption};
use causey_protocol::artifact::ObjectRef;
use causey_protocol::chunk::{CHUNK_BYTES_MAX, CHUNK_ITEMS, Chunk};
use causey_protocol::codec;
use causey_protocol::event::CloudEvent;
use causey_protocol::flow::{Case, Definition, Flow, Step, Transition, Trigger};
use causey_protocol::gate::ChildStart;
use causey_protocol::id::{
    ContentId, Digest, FlowName, Path, PoolName, RequestId, RunId, StepName, TaskId, TaskKey, Timestamp, WorkerName, hash_fields,
};
use causey_protocol::input::{FlowChoice, Found, FoundResult, Input, Request, RequestMessage, Resume};
use causey_protocol::parameter::{Parameter, Values};
use causey_protocol::problem::Problem;
use causey_protocol::record::{Answer, Position, Record, RunState, TaskSet, Turn};
use causey_protocol::share::Standing;
use causey_protocol::task::{
    Address, Dispatch, DispatchedTask, ErrorInfo, Failure, FailureKind, Inputs, Outcome, Publication, Report, ReportItem, Success,
};

/// Builds a definition from lines such as `start > a b`, `fan each work`, `choose ? a b`, `join* > end`, `end`; `*` marks a join.
pub(crate) fn definition(name: &str, lines: &[&str]) -> Definition {
    let step = |line: &&str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let named = |word: &str| StepName::new(word.trim_end_matches('*')).unwrap();
        let next = match words[1..] {
            [] => Transition::End,
            [">", to] => Transition::Linear { to: named(to) },
            ["each", to] => Transition::Foreach { to: named(to), variable: "items".into() },
            ["gang", to] => Transition::Gang { to: named(to) },
            ["?", ref to @ ..] => {
                let case = |(value, to): (usize, &&str)| Case { value: value.into(), to: named(to) };
                Transition::Switch { condition: "kind".into(), cases: to.iter().enumerate().map(case).collect() }
            }
            [">", ref to @ ..] => Transition::Branch { to: to.iter().map(|word| named(word)).collect() },
            _ => panic!("{line}"),
        };
        let join = words[0].ends_with('*');
        let (name, doc) = (named(words[0]), String::new());
        Step {
            name,
            line: 0,
            doc,
            join,
            next,
            retry: None,
            catch: None,
            resources: None,
            host: None,
            visits_max: None,
            timeout_seconds: None,
            grace_seconds: None,
            gather_seconds: None,
            gate: None,
            memo: None,
            code: None,
            surroundings: None,
        }
    };
    Definition {
        format: 1,
        name: FlowName::new(name).unwrap(),
        language: "python".into(),
        file: "flow.py".into(),
        package: Digest::of(b"package"),
        doc: String::new(),
        steps: lines.iter().map(step).collect(),
        parameters: Vec::<Parameter>::new(),
        triggers: Vec::<Trigger>::new(),
        timeout_seconds: None,
        schedules: Vec::new(),
        concurrency: None,
        standing: Standing::default(),
    }
}

/// How a task went on, how many items or members it opened, and what it left.
type Left = (Vec<StepName>, Option<u32>, ContentId);

/// One coordinator and whatever it has put on the queue.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) state: State,
    pub(crate) committed: State,
    pub(crate) turns: Vec<Turn>,
    pub(crate) queue: Vec<Dispatch>,
    pub(crate) announced: Vec<Position>,
    /// Blobs that were asked for and not told as stored.
    pub(crate) blobs: Vec<Digest>,
    /// Everything that was ever asked to be stored.
    pub(crate) store: BTreeMap<Digest, Vec<u8>>,
    pub(crate) cancelled: Vec<RunId>,
    /// Runs of which a gang has formed.
    pub(crate) told: Vec<RunId>,
    /// Pools whose workers were told that there is a word for them.
    pub(crate) called: Vec<PoolName>,
    /// Looks into earlier runs that were asked for and not answered.
    pub(crate) sought: Vec<Sought>,
    /// How tasks went on and what they left, by their objects.
    pub(crate) objects: BTreeMap<(RunId, TaskKey), Left>,
    /// What tasks leave now: another text, other contents.
    pub(crate) values: String,
    /// Histories that were stored.
    pub(crate) histories: BTreeMap<RunId, History>,
    pub(crate) now: u64,
    requests: u32,
}

pub(crate) const POOL: &str = "default";

/// A turn takes nothing more once it has so many records.
const TURN_RECORDS_MAX: usize = 800;

impl World {
    pub(crate) fn new() -> Self {
        Self { now: 1_700_000_000_000_000, ..Self::default() }
    }

    /// Decides one input in a turn of its own, commits and performs it.
    pub(crate) fn input(&mut self, input: Input) -> Vec<Record> {
        self.turn(vec![input])
    }

    /// Decides several inputs in one turn.
    pub(crate) fn turn(&mut self, inputs: Vec<Input>) -> Vec<Record> {
        self.now += 1_000;
        inputs.iter().for_each(|input| self.note_objects(input));
        self.state.open_turn(Timestamp(self.now));
        let events = inputs.iter().filter_map(|input| if let Input::Event { sequence, .. } = input { Some(*sequence) } else { None });
        let covered = (self.state.inbox + 1, self.state.events.max(events.max().unwrap_or_default()));
        let (mut committed, mut records) = (Vec::new(), Vec::new());
        for input in inputs {
            records.extend(decide(&mut self.state, input));
            while self.state.has_work() {
                if records.len() >= TURN_RECORDS_MAX {
                    committed.extend(self.commit(std::mem::take(&mut records), covered));
                    self.state.open_turn(Timestamp(self.now));
                }
                records.extend(decide(&mut self.state, Input::Continue));
            }
        }
        committed.extend(self.commit(records, covered));
        committed
    }

    /// One input whose turn is committed before what is left of it goes on.
    pub(crate) fn begin(&mut self, input: Input) -> Vec<Record> {
        self.now += 1_000;
        self.state.open_turn(Timestamp(self.now));
        let covered = (self.state.inbox + 1, self.state.events);
        let records = decide(&mut self.state, input);
        self.commit(records, covered)
    }

    /// Goes on with what is left of accepted inputs.
    pub(crate) fn go_on(&mut self) {
        while self.state.has_work() {
            self.begin(Input::Continue);
        }
    }

    /// The first turn of another leader: what it writes without an input, and the watermarks from which it reads on.
    pub(crate) fn take_over(&mut self, records: Vec<Record>, covered: (u64, u64)) {
        self.now += 1_000;
        self.state.open_turn(Timestamp(self.now));
        self.state.epoch += 1;
        records.iter().for_each(|record| self.state.apply(record));
        self.commit(records, covered);
    }

    fn commit(&mut self, records: Vec<Record>, (inbox, events): (u64, u64)) -> Vec<Record> {
        let announced = self.announced.last().copied().unwrap_or_default();
        self.state.cover(inbox, events, announced);
        let turn = Turn { epoch: self.state.epoch, at: self.state.at, inbox, events, announced, previous: self.tail(), records };
        let sequence = self.turns.len() as u64 + 1;
        self.committed.apply_turn(sequence, &turn);
        // Hashing walks the whole state: for the wide ones every thousandth turn has to do.
        if self.state.runs.values().all(|run| run.tasks(Bound::Unbounded).count() < 100) || sequence.is_multiple_of(1_000) {
            assert_eq!(self.committed.hash(), self.state.hash(), "the committed fold is not the working state");
        }
        assert_eq!(violations(&self.state), Vec::<String>::new());
        let asked: Vec<Command> = (0..)
            .zip(&turn.records)
            .filter_map(|(index, record)| commands(&self.committed, Position { sequence, index }, record))
            .collect();
        let records = turn.records.clone();
        self.turns.push(turn);
        for command in asked {
            self.perform(command);
        }
        records
    }

    /// BLAKE3 of the log's last message.
    pub(crate) fn tail(&self) -> Digest {
        self.turns.last().map_or(Digest([0; 32]), |turn| Digest::of(&codec::encode(turn)))
    }

    pub(crate) fn perform(&mut self, command: Command) {
        match command {
            Command::Dispatch { dispatch, .. } => {
                let (first, run, step) = (&dispatch.tasks[0], dispatch.run, &dispatch.step);
                let is_same =
                    |queued: &DispatchedTask| (&queued.path, queued.visit, queued.attempt) == (&first.path, first.visit, first.attempt);
                if !self.queue.iter().any(|queued| queued.run == run && queued.step == *step && is_same(&queued.tasks[0])) {
                    self.queue.push(*dispatch);
                }
            }
            Command::Withdraw { run, key, .. } => self.queue.retain(|queued| (queued.run, first_key(queued)) != (run, key)),
            Command::Recall { run, keys, .. } => {
                self.queue.retain(|queued| queued.run != run || !keys.contains(&first_key(queued)));
            }
            Command::TellGang { run } => self.told.push(run),
            Command::CallWorkers { pool } => self.called.push(pool),
            Command::StoreBlob { digest, bytes } => {
                assert_eq!(digest, Digest::of(&bytes));
                self.store.insert(digest, bytes);
                self.blobs.push(digest);
            }
            Command::FindResults(sought) => {
                if !self.sought.contains(&sought) {
                    self.sought.push(*sought);
                }
            }
            Command::Announce { position, .. } => self.announced.push(position),
            Command::Cancel { run } => {
                self.queue.retain(|queued| queued.run != run);
                self.cancelled.push(run);
            }
        }
    }

    /// The state as a new leader would find it: the log folded from the beginning.
    pub(crate) fn replayed(&self) -> State {
        let mut state = State::default();
        for (sequence, turn) in (1..).zip(&self.turns) {
            state.apply_turn(sequence, turn);
        }
        state
    }

    /// kill -9 of the leader: the queue survives, the working state does not; everything outstanding is performed again.
    pub(crate) fn restart(&mut self) {
        self.state = self.replayed();
        self.committed = self.state.clone();
        for command in outstanding(&self.committed) {
            if let Command::Announce { position, .. } = &command
                && self.announced.last() >= Some(position)
            {
                continue;
            }
            self.perform(command);
        }
    }

    pub(crate) fn request(&mut self, request: Request) -> Answer {
        self.request_of("ann", request)
    }

    pub(crate) fn request_of(&mut self, user: &str, request: Request) -> Answer {
        self.requests += 1;
        let id = RequestId::new(format!("r{}", self.requests)).unwrap();
        self.input(Input::Request(RequestMessage { id: id.clone(), user: user.into(), request }));
        self.state.requests.get(&id).unwrap().1.clone()
    }

    pub(crate) fn submit(&mut self, definition: Definition, parameters: Values) -> Answer {
        let flow = FlowChoice::Given(Box::new(Flow::try_from(definition).unwrap()));
        self.request(Request::Submit {
            flow,
            parameters,
            tags: Vec::new(),
            host: None,
            timeout_seconds: None,
            standing: Standing::default(),
            fresh: false,
        })
    }

    pub(crate) fn run(&mut self, lines: &[&str]) -> RunId {
        match self.submit(definition("Demo", lines), Values::new()) {
            Answer::RunStarted { run, .. } => run,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn deploy(&mut self, definition: Definition) -> Answer {
        self.request(Request::Deploy { flow: Box::new(Flow::try_from(definition).unwrap()) })
    }

    pub(crate) fn event(&mut self, sequence: u64, id: &str, kind: &str, data: &serde_json::Value) -> Vec<Record> {
        let structured = serde_json::json!({"specversion": "1.0", "id": id, "source": "/s", "type": kind, "data": data});
        let event = CloudEvent::from_structured(structured).unwrap();
        self.input(Input::Event { sequence, source: "api".parse().unwrap(), event })
    }

    /// Takes the queued task named like `work/3` off the queue.
    pub(crate) fn take(&mut self, name: &str) -> (Dispatch, DispatchedTask) {
        let found = self.queue.iter().enumerate().find_map(|(place, dispatch)| {
            dispatch.tasks.iter().find(|task| dispatch.task_id(task).to_string() == name).map(|task| (place, task.clone()))
        });
        let (place, task) = found.unwrap_or_else(|| panic!("{name} is not queued: {:?}", self.queued()));
        let dispatch = self.queue[place].clone();
        self.queue[place].tasks.retain(|queued| *queued != task);
        self.queue.retain(|dispatch| !dispatch.tasks.is_empty());
        (dispatch, task)
    }

    pub(crate) fn queued(&self) -> Vec<String> {
        self.queue.iter().flat_map(|dispatch| dispatch.tasks.iter().map(|task| dispatch.task_id(task).to_string())).collect()
    }

    /// A worker runs the queued task of a switch to its end, which chooses the step `to`.
    pub(crate) fn choose(&mut self, name: &str, to: &str) -> Vec<Record> {
        let (dispatch, task) = self.take(name);
        let mut item = self.success(&dispatch, &task, None, Vec::new());
        if let Outcome::Succeeded(success) = &mut item.outcome {
            success.next = vec![to.parse().unwrap()];
        }
        self.report(item)
    }

    /// A worker runs the queued task to its end.
    pub(crate) fn succeed(&mut self, name: &str, foreach: Option<u32>) -> Vec<Record> {
        let (dispatch, task) = self.take(name);
        let item = self.success(&dispatch, &task, foreach, Vec::new());
        self.report(item)
    }

    /// A worker runs the queued task to its end; it wants runs started.
    pub(crate) fn start_children(&mut self, name: &str, children: Vec<ChildStart>) -> Vec<Record> {
        let (dispatch, task) = self.take(name);
        let mut item = self.success(&dispatch, &task, None, Vec::new());
        if let Outcome::Succeeded(success) = &mut item.outcome {
            success.children = children;
        }
        self.report(item)
    }

    pub(crate) fn publish(&mut self, name: &str, model: &str) -> Vec<Record> {
        let (dispatch, task) = self.take(name);
        let publication = Publication {
            model: model.parse().unwrap(),
            artifact: format!("_model_{model}"),
            format: "json".into(),
            metrics: serde_json::Map::new(),
            tags: Default::default(),
            description: String::new(),
            allow_pickle: false,
        };
        let item = self.success(&dispatch, &task, None, vec![publication]);
        self.report(item)
    }

    pub(crate) fn fail(&mut self, name: &str, kind: FailureKind) -> Vec<Record> {
        let (dispatch, task) = self.take(name);
        let error = ErrorInfo { kind: "ValueError".into(), message: "bad".into(), ..ErrorInfo::default() };
        let (started, ended) = (Timestamp(self.now), Timestamp(self.now + 1));
        let outcome = Outcome::Failed(Failure { kind, error: Box::new(error), digest: None, bytes: 0, started, ended });
        self.report(item(&dispatch, &task, outcome))
    }

    pub(crate) fn started(&mut self, name: &str, worker: &str) -> (Dispatch, DispatchedTask) {
        let (dispatch, task) = self.take(name);
        let outcome = Outcome::Started { at: Timestamp(self.now) };
        let item = item(&dispatch, &task, outcome);
        self.input(Input::Report { pool: pool(POOL), worker: WorkerName::new(worker).unwrap(), items: vec![item] });
        (dispatch, task)
    }

    /// A worker says that the queued member is there; it is reached under the port 4000 and its index.
    pub(crate) fn join(&mut self, name: &str, worker: &str) -> (Dispatch, DispatchedTask) {
        let (dispatch, task) = self.take(name);
        let joined = self.joined(&dispatch, &task);
        self.input(Input::Report { pool: pool(POOL), worker: WorkerName::new(worker).unwrap(), items: vec![joined] });
        (dispatch, task)
    }

    pub(crate) fn joined(&self, dispatch: &Dispatch, task: &DispatchedTask) -> ReportItem {
        let index = u16::try_from(*task.path.0.last().unwrap()).unwrap();
        let address = Address { ip: [127, 0, 0, 1].into(), port: 4_000 + index };
        item(dispatch, task, Outcome::Joined { address, at: Timestamp(self.now) })
    }

    /// All queued members of a step join, as many as there are, each on a worker of its own.
    pub(crate) fn form(&mut self, step: &str) -> Vec<(Dispatch, DispatchedTask)> {
        let names: Vec<String> = self.queued().into_iter().filter(|name| name.starts_with(&format!("{step}/"))).collect();
        (1..).zip(&names).map(|(number, name)| self.join(name, &format!("w{number}"))).collect()
    }

    /// Members of a gang end well, each by a report of its own.
    pub(crate) fn end_well(&mut self, members: Vec<(Dispatch, DispatchedTask)>) {
        for (dispatch, task) in members {
            let success = self.success(&dispatch, &task, None, Vec::new());
            self.report(success);
        }
    }

    pub(crate) fn report(&mut self, item: ReportItem) -> Vec<Record> {
        self.input(Input::Report { pool: pool(POOL), worker: WorkerName::new("w").unwrap(), items: vec![item] })
    }

    /// A worker's report as the shell gives it to the engine.
    pub(crate) fn report_message(&mut self, items: Vec<ReportItem>) -> Vec<Record> {
        self.turn(inputs(items))
    }

    /// Stores what was asked for and says so, until nothing is asked for any more.
    pub(crate) fn store_blobs(&mut self) {
        while !self.blobs.is_empty() {
            let digest = self.blobs.remove(0);
            self.input(Input::BlobStored { digest });
        }
    }

    fn note_objects(&mut self, input: &Input) {
        let Input::Report { items, .. } = input else { return };
        for item in items {
            if let Outcome::Succeeded(success) = &item.outcome {
                let id = TaskId { step: item.step.clone(), path: item.path.clone(), visit: item.visit };
                let content = self.content(&id);
                self.objects.insert((item.run, id.key(item.attempt)), (success.next.clone(), success.foreach, content));
            }
        }
    }

    fn content(&self, task: &TaskId) -> ContentId {
        ContentId(hash_fields("content of a test", &[task.to_string().as_bytes(), self.values.as_bytes()]))
    }

    /// Stores the history of a finished run; the state keeps `keep` finished runs whole.
    pub(crate) fn store_history(&mut self, run: RunId, keep: u32) -> Vec<Record> {
        let history = self.committed.history(run).unwrap();
        let bytes = history.encode();
        self.histories.insert(run, history);
        self.input(Input::HistoryStored { run, digest: Digest::of(&bytes), bytes: bytes.len() as u64, keep })
    }

    /// Answers what is sought, until nothing is any more.
    pub(crate) fn find_all(&mut self) {
        while !self.sought.is_empty() {
            self.find(0);
        }
    }

    /// Answers one of the questions.
    pub(crate) fn find(&mut self, place: usize) -> Vec<Record> {
        let sought = self.sought.remove(place);
        let found = self.look(&sought);
        let Sought { run, step, tasks, .. } = sought;
        self.input(Input::ResultsFound { run, step, tasks, found })
    }

    /// What there is of what is sought, as the shell finds it.
    fn look(&self, sought: &Sought) -> Found {
        let earlier = match &sought.source {
            Source::Run(earlier) => *earlier,
            Source::Memo(known) => {
                let result = |known: &Known| {
                    let Known { place, attempt, object } = *known;
                    let (next, foreach, content) = self.objects.get(&(object.run, object.key))?.clone();
                    let ObjectRef { run: owner, digest, bytes, .. } = object;
                    Some(FoundResult { place, owner, attempt, digest, bytes, next, foreach, content: Some(content) })
                };
                return Found::Results(known.iter().filter_map(result).collect());
            }
        };
        let whole = self.state.runs.get(&earlier).map(|run| (run.clone(), self.state.flow_of(run).unwrap()));
        let (run, flow) = whole.unwrap_or_else(|| {
            let history = &self.histories[&earlier];
            (history.run.clone(), history.flow.clone())
        });
        if let (TaskSet::Range { path, from, to }, Some(split)) = (&sought.tasks, &sought.chunk_of)
            && let Some(foreach) = run.foreach(flow.find(split).unwrap(), path)
            && let Some(chunk) = foreach.chunks.get(&(from / CHUNK_ITEMS)).filter(|chunk| chunk.stored)
            && from % CHUNK_ITEMS == 0
            && (*to == foreach.count || to - from == CHUNK_ITEMS)
        {
            let digest = chunk.digest.unwrap();
            return Found::Chunk { digest, tasks: self.counts(digest) };
        }
        let stored = self.stored(&run);
        let step = flow.find(&sought.name);
        let result = |(place, (path, visit)): (u32, (Path, u32))| {
            let id = TaskId { step: sought.name.clone(), path: path.clone(), visit };
            let task = TaskRef::new(step?, path, visit);
            let known = run.task(&task).filter(|known| known.state == TaskState::Succeeded);
            let known = known.and_then(|known| Some((known.attempt, run.object(&flow, &task)?)));
            let (attempt, object) = known.or_else(|| stored.get(&id).copied())?;
            let (next, foreach, content) = self.objects[&(object.run, object.key)].clone();
            let ObjectRef { run: owner, digest, bytes, .. } = object;
            Some(FoundResult { place, owner, attempt, digest, bytes, next, foreach, content: Some(content) })
        };
        Found::Results((0..).zip(sought.tasks.iter()).filter_map(result).collect())
    }

    fn chunk(&self, digest: Digest) -> Chunk {
        codec::decode(&self.store[&digest], CHUNK_BYTES_MAX).unwrap()
    }

    fn counts(&self, digest: Digest) -> BTreeMap<StepName, u32> {
        let chunk = self.chunk(digest);
        let mut counts: BTreeMap<StepName, u32> =
            chunk.steps.iter().map(|step| (step.step.clone(), u32::try_from(step.tasks.len()).unwrap())).collect();
        for inner in chunk.nested.iter().flat_map(|nested| &nested.chunks) {
            for (step, count) in self.counts(*inner) {
                *counts.entry(step).or_default() += count;
            }
        }
        counts
    }

    /// Every task in a stored chunk of a run, with its attempt and object.
    fn stored(&self, run: &Run) -> BTreeMap<TaskId, (u32, ObjectRef)> {
        let stored = run.foreaches.values().flat_map(|foreach| foreach.chunks.values()).filter(|chunk| chunk.stored);
        let mut chunks: Vec<Digest> = stored.filter_map(|chunk| chunk.digest).collect();
        let mut found = BTreeMap::new();
        while let Some(digest) = chunks.pop() {
            let chunk = self.chunk(digest);
            chunks.extend(chunk.nested.iter().flat_map(|nested| &nested.chunks));
            for step in &chunk.steps {
                found.extend(chunk.tasks(&step.step).map(|task| (task.id, (task.attempt, task.object))));
            }
        }
        found
    }

    /// Asks for a run that resumes `earlier`, with the flow as it was or as `mended`.
    pub(crate) fn resume(&mut self, earlier: RunId, step: Option<&str>, mended: Option<Definition>) -> Result<RunId, Problem> {
        let history = self.histories.get(&earlier).cloned();
        let (run, before) = match self.state.runs.get(&earlier) {
            Some(run) => (run.clone(), self.state.flow_of(run).unwrap()),
            None => history.map(|history| (history.run, history.flow)).unwrap(),
        };
        let flow = mended.map_or_else(|| (*before).clone(), |definition| Flow::try_from(definition).unwrap());
        let taken = resumption(&run, &before, &flow, step.map(|step| step.parse().unwrap()).as_ref())?;
        let (parameters, tags) = (run.start.parameters.clone(), Vec::new());
        let (host, standing) = (run.start.host, run.start.standing.beyond(before.definition().standing));
        let wish = Resume { earlier: taken, flow, version: None, parameters, tags, host, timeout_seconds: None, standing };
        match self.request(Request::Resume(Box::new(wish))) {
            Answer::RunStarted { run, .. } => Ok(run),
            Answer::Refused(problem) => Err(problem),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn success(
        &self,
        dispatch: &Dispatch,
        task: &DispatchedTask,
        foreach: Option<u32>,
        publications: Vec<Publication>,
    ) -> ReportItem {
        let run = self.state.run(dispatch.run).unwrap();
        let flow = self.state.flow_of(run).unwrap();
        let step = flow.step(flow.find(&dispatch.step).unwrap());
        let success = Success {
            digest: Digest::of(dispatch.task_id(task).to_string().as_bytes()),
            bytes: 10,
            next: Self::next(&step.next, task),
            foreach,
            publications,
            children: Vec::new(),
            started: Timestamp(self.now),
            ended: Timestamp(self.now + 1),
            content: dispatch.content.then(|| self.content(&dispatch.task_id(task))),
        };
        item(dispatch, task, Outcome::Succeeded(success))
    }

    /// What a task names as its next steps; a switch takes the case of its number of visits, so that recursion ends.
    fn next(transition: &Transition, task: &DispatchedTask) -> Vec<StepName> {
        let targets: Vec<StepName> = transition.targets().into_iter().cloned().collect();
        match transition {
            Transition::Switch { .. } => vec![targets[(task.visit as usize).min(targets.len() - 1)].clone()],
            _ => targets,
        }
    }

    pub(crate) fn run_state(&self, run: RunId) -> RunState {
        self.state.run(run).unwrap().state
    }

    pub(crate) fn problem(&self, run: RunId) -> String {
        self.state.run(run).unwrap().problem.as_ref().map(|problem| problem.message.clone()).unwrap_or_default()
    }

    /// Lets the next timer come due.
    pub(crate) fn pass_time(&mut self) {
        self.now = self.state.next_timer().expect("a timer is armed").0;
        self.input(Input::TimersDue);
    }
}

pub(crate) fn pool(name: &str) -> PoolName {
    PoolName::new(name).unwrap()
}

/// The inputs that a report of the worker `w` comes to.
pub(crate) fn inputs(items: Vec<ReportItem>) -> Vec<Input> {
    let (pool, worker) = (pool(POOL), WorkerName::new("w").unwrap());
    let report = Report { pool: pool.clone(), worker: worker.clone(), items };
    report.pieces().map(|items| Input::Report { pool: pool.clone(), worker: worker.clone(), items }).collect()
}

pub(crate) fn item(dispatch: &Dispatch, task: &DispatchedTask, outcome: Outcome) -> ReportItem {
    let (run, step) = (dispatch.run, dispatch.step.clone());
    ReportItem { run, step, path: task.path.clone(), visit: task.visit, attempt: task.attempt, outcome }
}

pub(crate) fn first_key(dispatch: &Dispatch) -> causey_protocol::id::TaskKey {
    dispatch.key(&dispatch.tasks[0])
}

pub(crate) fn input_count(inputs: &Inputs) -> usize {
    match inputs {
        Inputs::Listed(inputs) => inputs.len(),
        Inputs::Manifest { count, .. } | Inputs::Chunks { count, .. } => *count as usize,
    }
}
