//! One attempt from its dispatch to its report: look for a stored result, get the code, check the inputs, run the step in a
//! host, store what it left. It can be cut anywhere before user code has ended; cutting it kills the host.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use causey_artifacts::wall::now;
use causey_artifacts::{ObjectLink, TaskNote, failpoint};
use causey_protocol::artifact::ObjectRef;
use causey_protocol::codec;
use causey_protocol::id::{Digest, ModelName, TaskKey, Timestamp};
use causey_protocol::live::{Ask, LiveOutput, OpenAttempt, Told};
use causey_protocol::policy::{GRACE_SECONDS_DEFAULT, HostMode};
use causey_protocol::problem::Code;
use causey_protocol::task::{
    Address, Dispatch, DispatchedTask, ErrorInfo, Failure, FailureKind, INLINE_INPUTS_MAX, InputRef, Inputs, Outcome, ReportItem, Usage,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bench::Bench;
use crate::depot::Depot;
use crate::environment::{EnvironmentError, Environments};
use crate::frame::{self, FromHost, Input, Run, ToHost, Trigger};
use crate::gang::Gangs;
use crate::gpu::Gpus;
use crate::host::{HostError, Runner};
use crate::hosts::Hosts;
use crate::inputs::{self, Table};
use crate::leader::Leader;
use crate::limits::{Held, Limits};
use crate::live::{Live, Speaker};
use crate::nats::Nats;
use crate::output::{LiveChunk, Output};
use crate::package::Packages;
use crate::place::Places;
use crate::process::{self, FlowCode, Interpreters, Language, PackageFolder};
use crate::report::{Confirm, Reports};
use crate::result::{self, Ended, Ending};
use crate::secret::{Revealed, SecretError, Secrets};
use crate::space::Space;
use crate::status::Telling;
use crate::watchdog;

/// An attempt older than this is reported as started; younger ones show in live output only.
const STARTED_AFTER: Duration = Duration::from_secs(1);

/// Lines of standard error shown of a step that failed without a traceback.
const LAST_WORDS_LINES: usize = 20;

/// Longer than any time limit.
const NEVER: Duration = Duration::from_secs(10 * 365 * 86_400);

/// Largest list of inputs, in bytes: a million of them.
const INPUTS_BYTES_MAX: usize = 256 * 1024 * 1024;

/// Inputs of a wide join whose references the step may still fetch: those touched last.
const LINKS_KEPT_MAX: usize = 4_096;

/// The variable that says which GPUs a process may use.
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";

/// What all attempts use.
#[derive(Debug)]
pub(crate) struct Tools {
    pub(crate) depot: Depot,
    pub(crate) packages: Packages,
    pub(crate) environments: Environments,
    pub(crate) hosts: Hosts,
    pub(crate) live: Live,
    pub(crate) leader: Leader<Nats>,
    pub(crate) gangs: Gangs,
    pub(crate) places: Places,
    pub(crate) gpus: Gpus,
    pub(crate) space: Space,
    pub(crate) limits: Limits,
    pub(crate) secrets: Secrets,
}

/// One task of a dispatch.
#[derive(Clone, Debug)]
pub struct Job {
    pub dispatch: Arc<Dispatch>,
    pub index: usize,
    pub key: TaskKey,
    /// An earlier delivery may have run it.
    pub perhaps_done: bool,
    /// The queue has delivered it before: its worker may have vanished.
    pub redelivered: bool,
    /// The GPUs it may use, as `CUDA_VISIBLE_DEVICES` names them; `None`: nobody says which.
    pub devices: Option<Arc<str>>,
}

impl Job {
    /// # Panics
    /// Never: the index is one of the dispatch's.
    #[must_use]
    pub fn task(&self) -> &DispatchedTask {
        &self.dispatch.tasks[self.index]
    }

    pub(crate) fn open_attempt(&self) -> OpenAttempt {
        OpenAttempt { run: self.dispatch.run, key: self.key }
    }

    /// Its report.
    #[must_use]
    pub fn report(&self, outcome: Outcome) -> ReportItem {
        let DispatchedTask { path, visit, attempt, .. } = self.task();
        let (run, step) = (self.dispatch.run, self.dispatch.step.clone());
        ReportItem { run, step, path: path.clone(), visit: *visit, attempt: *attempt, outcome }
    }

    /// What its object says about it.
    #[must_use]
    pub fn note(&self) -> TaskNote {
        let Dispatch { run, run_name, flow, step, .. } = &*self.dispatch;
        let DispatchedTask { path, visit, attempt, .. } = self.task();
        let (run_name, flow, step, path) = (run_name.clone(), flow.clone(), step.clone(), path.clone());
        TaskNote { run: *run, run_name, flow, step, path, visit: *visit, attempt: *attempt }
    }

    /// Its place in its gang, if it is a member of one.
    pub(crate) fn index_in_gang(&self) -> u32 {
        self.task().path.0.last().copied().unwrap_or_default()
    }

    /// The kind of process it runs in: what was asked for, as far as its language has it.
    fn mode(&self) -> HostMode {
        let reusable = Language::find(&self.dispatch.language).is_none_or(Language::is_reusable);
        if reusable { self.dispatch.host } else { HostMode::Spawn }
    }

    /// Time between the request to end and the kill.
    fn grace(&self) -> Duration {
        seconds_of(self.dispatch.grace_seconds.unwrap_or(GRACE_SECONDS_DEFAULT))
    }
}

/// A time limit out of a message; one that makes no sense is no limit.
fn seconds_of(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).map_or(NEVER, |duration| duration.min(NEVER))
}

/// What user code left when it ended.
#[derive(Debug)]
pub(crate) struct Ran {
    ended: Ended,
    output: Output,
    started: Timestamp,
    at: Timestamp,
    /// The process, kept until its files are stored.
    runner: Option<Runner>,
}

impl Bench for Tools {
    type Ran = Box<Ran>;
    type Used = Used;

    /// Unpacks the dispatch's package and gets a template under way.
    async fn prepare(&self, dispatch: &Dispatch) {
        if let Some(language) = Language::find(&dispatch.language)
            && let Ok(folder) = self.packages.unpacked(&dispatch.package, &self.depot).await
            && let Ok(environment) = environment(self, dispatch, language).await
        {
            self.hosts.prepare(&flow_code(dispatch, language, folder, environment), dispatch.host);
        }
    }

    async fn known(&self, job: &Job) -> Option<Outcome> {
        match self.depot.stored_result(job.dispatch.run, &job.key).await {
            Ok(object) => object.map(|object| result::stored_outcome(&object, job.dispatch.content)),
            Err(error) => Some(nothing_ran(result::infrastructure(&job.dispatch.step, &error), now(), now())),
        }
    }

    /// A runner that is dropped is killed.
    async fn run(&self, job: &Job, reports: &Reports, end: &CancellationToken) -> Option<Box<Ran>> {
        match run_step(self, job, reports, end).await {
            Ok(ran) => ran.map(Box::new),
            Err((kind, error)) => {
                let at = now();
                let ended = Ended::Broken { kind, error: Box::new(error) };
                Some(Box::new(Ran { ended, output: Output::default(), started: at, at, runner: None }))
            }
        }
    }

    async fn store(&self, job: &Job, ran: Box<Ran>) -> (Outcome, Option<Used>) {
        let Ran { ended, output, started, at, runner } = *ran;
        if let Ended::Broken { kind: FailureKind::Infrastructure, error } = ended {
            return (nothing_ran(*error, started, at), None);
        }
        let reuse = job.mode() == HostMode::Reuse && !matches!(ended, Ended::Broken { .. });
        let runner = match runner {
            // The next attempt may have the process at once if nothing of this one is in its folder.
            Some(runner) if reuse && !ended.uses_files() => {
                runner.finish(true);
                None
            }
            other => other,
        };
        let task_folder = runner.as_ref().map(Runner::task_folder);
        let (task, key, content) = (job.note(), job.key, job.dispatch.content);
        let ending = Ending { task, key, task_folder, output, started, ended: at, content };
        let outcome = self.space.excuse(result::conclude(&self.depot, &ending, ended).await);
        (outcome, runner.map(|runner| Used { runner, reuse }))
    }

    fn lacks_space(&self) -> bool {
        self.space.is_short()
    }

    fn finish(&self, used: Used) {
        used.runner.finish(used.reuse);
    }

    fn free_gpu_memory(&self) -> BTreeMap<String, u64> {
        self.gpus.free_mb()
    }

    fn gang_changed(&self) {
        self.gangs.tell();
    }

    fn gathering(&self) -> Vec<OpenAttempt> {
        self.gangs.waiting()
    }
}

/// Store or disk are in trouble, or nothing has run: there is no output to keep.
fn nothing_ran(error: ErrorInfo, started: Timestamp, ended: Timestamp) -> Outcome {
    let (kind, error) = (FailureKind::Infrastructure, Box::new(error.clipped()));
    Outcome::Failed(Failure { kind, error, digest: None, bytes: 0, started, ended })
}

/// A process whose attempt is over. It is kept until the report is on its way: its end takes the processor for milliseconds.
#[derive(Debug)]
pub(crate) struct Used {
    runner: Runner,
    reuse: bool,
}

pub(crate) type Fault = (FailureKind, ErrorInfo);

async fn run_step(tools: &Tools, job: &Job, reports: &Reports, end: &CancellationToken) -> Result<Option<Ran>, Fault> {
    let ready = async {
        let secrets = secrets(tools, job).await?;
        let (runner, inputs) = ready_runner(tools, job, reports).await?;
        let gang = if job.dispatch.gang { gather(tools, job, reports).await? } else { Vec::new() };
        Ok::<_, Fault>((runner, inputs, gang, secrets))
    };
    let (mut runner, inputs, gang, secrets) = tokio::select! {
        biased;
        // No user code runs yet.
        () = end.cancelled() => return Ok(None),
        ready = ready => ready?,
    };
    let links = links(&inputs.listed).into_iter().chain(left_by_children(&job.dispatch)).collect();
    let mut running = Running {
        tools,
        job,
        reports,
        inputs: &inputs,
        table: None,
        output: Output::masked(secrets.mask.clone()),
        speaker: tools.live.attempt(job.dispatch.run, job.key),
        links,
        gang,
        secrets,
        status: Telling::default(),
        used: None,
        held: job.dispatch.needs.as_ref().map(|needs| tools.limits.hold(&runner, needs, job.mode())),
        started: now(),
    };
    if job.mode() == HostMode::Reuse {
        runner.pipes.discard();
    }
    let Some(ended) = running.drive(&mut runner, end).await else { return Ok(None) };
    let (output, started, ended) = (running.output, running.started, running.secrets.mask.ended(ended));
    Ok(Some(Ran { ended, output, started, at: now(), runner: Some(runner) }))
}

/// The secrets of the step, looked up anew for each attempt.
async fn secrets(tools: &Tools, job: &Job) -> Result<Revealed, Fault> {
    match &job.dispatch.surroundings {
        Some(surroundings) if !surroundings.secrets.is_empty() => {
            tools.secrets.reveal(job.dispatch.step.as_str(), &surroundings.secrets).await.map_err(SecretError::into_fault)
        }
        _ => Ok(Revealed::default()),
    }
}

/// The addresses of the attempt's gang, once all its members are there.
async fn gather(tools: &Tools, job: &Job, reports: &Reports) -> Result<Vec<Address>, Fault> {
    let member = tools.gangs.member(job);
    // The socket keeps other members on this host off the port; user code opens one of its own there.
    let placed = tools.places.place().await;
    let (address, _socket) = placed.map_err(|error| (FailureKind::Infrastructure, result::infrastructure(&job.dispatch.step, &error)))?;
    Ok(member.gather(&tools.leader, reports, address, now()).await)
}

/// A process for the attempt, and its inputs.
async fn ready_runner(tools: &Tools, job: &Job, reports: &Reports) -> Result<(Runner, Given), Fault> {
    let code = code(tools, job).await?;
    let inputs = inputs(tools, job).await?;
    // A member of a gang says where it runs when it joins.
    if job.redelivered && !job.dispatch.gang {
        // Before the host starts: should this attempt take the worker down, it must be known that it was running (poison).
        reports.started(job, now()).await;
        failpoint::here("start.reported");
    }
    let runner = tools.hosts.runner(&code, job.mode()).await.map_err(|error| host_fault(job, error))?;
    Ok((runner, inputs))
}

fn flow_code(dispatch: &Dispatch, language: Language, folder: PathBuf, environment: Option<PackageFolder>) -> FlowCode {
    let variables = dispatch.surroundings.as_ref().map(|surroundings| surroundings.variables.clone()).unwrap_or_default();
    FlowCode { language, folder, file: dispatch.file.clone(), variables, environment }
}

/// The packages of a step in Python, built if need be.
async fn environment(tools: &Tools, dispatch: &Dispatch, language: Language) -> Result<Option<PackageFolder>, EnvironmentError> {
    let wanted = dispatch.surroundings.as_ref().and_then(|surroundings| surroundings.environment.as_ref());
    let Some(wanted) = wanted.filter(|_| language == Language::Python) else { return Ok(None) };
    let folder = tools.environments.built(wanted, &tools.depot).await?;
    let sdk = if tools.hosts.has_python_sdk() { None } else { Some(tools.environments.own_sdk().await?) };
    Ok(Some(PackageFolder { folder, sdk }))
}

async fn code(tools: &Tools, job: &Job) -> Result<FlowCode, Fault> {
    let Dispatch { language, package, step, .. } = &*job.dispatch;
    let Some(known) = Language::find(language) else {
        let names = Language::ALL.map(Language::name).join(", ");
        let message = format!("this worker runs {names}, and step `{step}` is written in {language:?}");
        let hint = Some("send the step to another pool with @resources(pool=…)".into());
        return Err((FailureKind::Permanent, ErrorInfo { kind: Code::LOAD_FAILED.to_string(), message, hint, ..ErrorInfo::default() }));
    };
    match tools.packages.unpacked(package, &tools.depot).await {
        Ok(folder) => {
            let environment = environment(tools, &job.dispatch, known).await.map_err(|error| error.into_fault(step))?;
            Ok(flow_code(&job.dispatch, known, folder, environment))
        }
        Err(error) => {
            let kind = if error.is_permanent() { FailureKind::Permanent } else { FailureKind::Infrastructure };
            Err((kind, result::infrastructure(step, &error)))
        }
    }
}

/// The task's inputs: a list, each of them and all they refer to verified, or the digest of a list of chunks.
#[derive(Debug, Default)]
struct Given {
    listed: Vec<InputRef>,
    chunks: Option<Digest>,
}

async fn inputs(tools: &Tools, job: &Job) -> Result<Given, Fault> {
    let step = &job.dispatch.step;
    let fault = |error: &dyn std::error::Error| (FailureKind::Infrastructure, result::infrastructure(step, error));
    let listed: Vec<InputRef> = match &job.task().inputs {
        Inputs::Listed(inputs) => inputs.clone(),
        Inputs::Manifest { digest, .. } => {
            let bytes = tools.depot.blob(digest).await.map_err(|error| fault(&error))?;
            codec::decode(&bytes, INPUTS_BYTES_MAX).map_err(|error| fault(&error))?
        }
        Inputs::Chunks { digest, .. } => return Ok(Given { chunks: Some(*digest), ..Given::default() }),
    };
    tools.depot.verify(listed.iter().map(link).chain(left_by_children(&job.dispatch))).await.map_err(|error| fault(&error))?;
    Ok(Given { listed, chunks: None })
}

/// What the runs that earlier tasks started left.
fn left_by_children(dispatch: &Dispatch) -> impl Iterator<Item = ObjectLink> {
    dispatch.children.iter().filter_map(|child| child.object.as_ref()).map(object_link)
}

fn link(input: &InputRef) -> ObjectLink {
    object_link(&input.object)
}

fn object_link(object: &ObjectRef) -> ObjectLink {
    ObjectLink { run: object.run, key: object.key, digest: object.digest }
}

fn links(inputs: &[InputRef]) -> Vec<ObjectLink> {
    inputs.iter().map(link).collect()
}

fn host_fault(job: &Job, error: HostError) -> Fault {
    let step = job.dispatch.step.as_str();
    match error {
        HostError::Load(error) => (FailureKind::Permanent, *error),
        HostError::Died { end, tail } => {
            let mut error = process::death_in_words(step, end.as_ref(), None, &tail);
            error.message = format!("{}, while it was starting", error.message);
            (FailureKind::User, error)
        }
        HostError::Missing { message, hint } => {
            let (kind, hint) = (Code::LOAD_FAILED.to_string(), Some(hint.to_owned()));
            let message = format!("no process for step `{step}`: {message}");
            (FailureKind::Permanent, ErrorInfo { kind, message, hint, step: Some(step.to_owned()), ..ErrorInfo::default() })
        }
        HostError::System(message) => {
            let hint = Language::find(&job.dispatch.language).map(|language| Interpreters::hint(language).to_owned());
            let kind = Code::LOAD_FAILED.to_string();
            let message = format!("no process for step `{step}`: {message}");
            (FailureKind::Infrastructure, ErrorInfo { kind, message, hint, step: Some(step.to_owned()), ..ErrorInfo::default() })
        }
    }
}

/// An attempt whose user code runs.
struct Running<'a> {
    tools: &'a Tools,
    job: &'a Job,
    reports: &'a Reports,
    inputs: &'a Given,
    /// The inputs of a wide join.
    table: Option<Table>,
    output: Output,
    speaker: Speaker,
    /// Objects that the step may fetch: its inputs, of a wide join those touched last, and models it found.
    links: Vec<ObjectLink>,
    /// The addresses of all members, of a gang.
    gang: Vec<Address>,
    secrets: Revealed,
    status: Telling,
    /// What its process has used; looked at once a second, so of short attempts nothing is known.
    used: Option<Usage>,
    /// What keeps it to what it booked.
    held: Option<Held>,
    started: Timestamp,
}

impl Running<'_> {
    /// Sends the attempt to the runner and listens until it ends. `None` when it ended because it was asked to.
    async fn drive(&mut self, runner: &mut Runner, end: &CancellationToken) -> Option<Ended> {
        let folder = runner.task_folder().to_string_lossy().into_owned();
        let infrastructure = |error: &dyn std::error::Error| {
            let error = result::infrastructure(&self.job.dispatch.step, error);
            Ended::Broken { kind: FailureKind::Infrastructure, error: Box::new(error) }
        };
        let inputs_file = match self.write_inputs_file(runner.task_folder()) {
            Ok(file) => file,
            Err(error) => return Some(infrastructure(&error)),
        };
        if let Some(list) = &self.inputs.chunks {
            match Table::write(&self.tools.depot, list, inputs::place_beside(runner.task_folder())).await {
                Ok(table) => self.table = Some(table),
                Err(error) => return Some(infrastructure(&error)),
            }
        }
        let run = ToHost::Run(Box::new(self.run_line(&folder, inputs_file.clone())));
        if runner.connection.send(&run).await.is_err() {
            return Some(self.died(runner).await);
        }
        // While user code runs there is time for it.
        self.tools.depot.prepare(self.job.dispatch.run, &self.job.key);
        let ended = self.listen(runner, end).await;
        // In order before the result, which closes the attempt.
        self.status.tell_last(self.reports, self.job);
        self.tell_usage(runner);
        if let Some(file) = inputs_file {
            // A file that stays goes with the folder it is in at the next start.
            let _ = std::fs::remove_file(file);
        }
        self.show(|output, at| output.drain(&mut runner.pipes, at));
        ended.map(|ended| self.with_last_words(ended))
    }

    /// A host that has no call stack to show leaves the traceback empty: what its step said last stands there instead.
    fn with_last_words(&self, mut ended: Ended) -> Ended {
        if let Ended::Failed(failed) = &mut ended
            && failed.error.traceback.is_empty()
        {
            failed.error.traceback = self.output.last_lines(LAST_WORDS_LINES);
        }
        ended
    }

    /// Says what the attempt used, if it was looked at: a last time before its process ends.
    fn tell_usage(&mut self, runner: &Runner) {
        let Some(before) = self.used else { return };
        let mut usage = process::usage(runner.pid).unwrap_or(before);
        usage.peak_memory_bytes = usage.peak_memory_bytes.max(before.peak_memory_bytes);
        usage.memory_limit = self.held.as_ref().and_then(Held::memory);
        if self.job.mode() == HostMode::Reuse {
            usage.cpu_millis = None;
        }
        self.reports.send(self.job.report(Outcome::Used { usage }), Confirm::Nobody);
    }

    async fn listen(&mut self, runner: &mut Runner, end: &CancellationToken) -> Option<Ended> {
        let begun = Instant::now();
        let limit = self.job.dispatch.timeout_seconds.map(seconds_of);
        // The host raises in user code at the limit; this is for code that does not hear it.
        let kill = begun + limit.map_or(NEVER, |limit| limit + self.job.grace());
        let mut seconds = tokio::time::interval_at(begun + STARTED_AFTER, STARTED_AFTER);
        let mut looks = tokio::time::interval_at(begun + STARTED_AFTER, watchdog::LOOK_PERIOD);
        let is_watched = self.held.as_ref().is_some_and(Held::is_watched);
        let mut told = self.job.redelivered && !self.job.dispatch.gang;
        loop {
            tokio::select! {
                biased;
                line = runner.connection.receive() => match line {
                    Ok(Some(FromHost::Finished(finished))) if finished.key == self.job.key => return Some(Ended::Finished(finished)),
                    Ok(Some(FromHost::Failed(failed))) if failed.key == self.job.key => return Some(Ended::Failed(failed)),
                    Ok(Some(FromHost::Fetch { path })) => self.fetch(runner, &path).await,
                    Ok(Some(FromHost::Inputs { from, count })) => self.ready_inputs(runner, from, count).await,
                    Ok(Some(FromHost::Model { name, version })) => self.find_model(runner, &name, version).await,
                    Ok(Some(FromHost::Status { name, mut value })) => {
                        self.secrets.mask.value(&mut value);
                        self.status.note(name, value);
                    }
                    Ok(Some(other)) => return Some(self.misunderstood(runner, &format!("{other:?}"))),
                    Ok(None) => return Some(self.died(runner).await),
                    Err(error) => return Some(self.misunderstood(runner, &error.to_string())),
                },
                () = end.cancelled() => {
                    self.wind_down(runner).await;
                    return None;
                }
                () = tokio::time::sleep_until(kill), if limit.is_some() => {
                    process::kill_group(runner.pid);
                    let step = self.job.dispatch.step.as_str();
                    let error = process::timeout_in_words(step, limit.unwrap_or_default(), self.job.grace());
                    return Some(Ended::Broken { kind: FailureKind::TimedOut, error: Box::new(error) });
                }
                () = runner.pipes.readable() => self.show(|output, at| output.take(&mut runner.pipes, at)),
                _ = looks.tick(), if is_watched => {
                    if let Some(held) = &self.held
                        && let Some(excess) = held.excess().await
                    {
                        process::kill_group(runner.pid);
                        return Some(self.out_of_memory(excess));
                    }
                }
                _ = seconds.tick() => {
                    if !told {
                        told = true;
                        self.reports.send(self.job.report(Outcome::Started { at: self.started }), Confirm::Nobody);
                    }
                    self.status.tell(self.reports, self.job);
                    self.used = process::usage(runner.pid).or(self.used);
                }
            }
        }
    }

    /// Asks the host to end and serves it while it cleans up, for its grace at most. Dropping the runner then kills what is left.
    async fn wind_down(&mut self, runner: &mut Runner) {
        process::ask_group_to_end(runner.pid);
        let enough = Instant::now() + self.job.grace();
        loop {
            tokio::select! {
                biased;
                line = runner.connection.receive() => match line {
                    Ok(Some(FromHost::Fetch { path })) => self.fetch(runner, &path).await,
                    Ok(Some(FromHost::Inputs { from, count })) => self.ready_inputs(runner, from, count).await,
                    Ok(Some(FromHost::Model { name, version })) => self.find_model(runner, &name, version).await,
                    Ok(Some(FromHost::Status { .. })) => {}
                    Ok(_) | Err(_) => break,
                },
                () = runner.pipes.readable() => self.show(|output, at| output.take(&mut runner.pipes, at)),
                () = tokio::time::sleep_until(enough) => break,
            }
        }
        self.show(|output, at| output.drain(&mut runner.pipes, at));
    }

    fn run_line<'l>(&'l self, folder: &'l str, inputs_file: Option<String>) -> Run<'l> {
        let Dispatch {
            run,
            run_name,
            flow,
            step,
            retries_max,
            parameters,
            user,
            tags,
            events,
            splits,
            timeout_seconds,
            scheduled_at,
            signals,
            children,
            origin_run,
            transition,
            typed,
            ..
        } = &*self.job.dispatch;
        let task = self.job.task();
        Run {
            key: self.job.key,
            run: *run,
            run_name,
            flow,
            step,
            path: &task.path,
            visit: task.visit,
            attempt: task.attempt,
            retry: task.retry,
            retries_max: *retries_max,
            idempotency_key: self.job.dispatch.idempotency_key(task),
            user,
            tags,
            parameters,
            trigger: (!events.is_empty()).then_some(Trigger { events }),
            store: self.tools.depot.root(),
            folder,
            inputs: (inputs_file.is_none() && self.table.is_none()).then(|| self.input_list()),
            inputs_file,
            inputs_table: self.table.as_ref().map(Table::line),
            splits,
            timeout_seconds: *timeout_seconds,
            scheduled_at: *scheduled_at,
            gang: self.job.dispatch.gang.then(|| frame::Gang { index: self.job.index_in_gang(), members: &self.gang }),
            signals,
            children,
            origin_run: *origin_run,
            environment: self.environment(),
            transition: transition.as_ref(),
            typed: *typed,
        }
    }

    /// Its variables beside those of its process: others of the same flow have other values.
    fn environment(&self) -> BTreeMap<&str, &str> {
        let secrets = self.secrets.variables.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        secrets.chain(self.job.devices.as_deref().map(|devices| (VISIBLE_DEVICES, devices))).collect()
    }

    fn input_list(&self) -> Vec<Input<'_>> {
        let listed = self.inputs.listed.iter().map(|InputRef { step, path, object }| {
            let ObjectRef { run, key, digest, .. } = *object;
            Input { step, path, run, key, digest }
        });
        listed.collect()
    }

    /// Many inputs go by a file beside the task folder, which must be empty.
    fn write_inputs_file(&self, task_folder: &Path) -> Result<Option<String>, std::io::Error> {
        if self.inputs.listed.len() <= INLINE_INPUTS_MAX {
            return Ok(None);
        }
        let file = task_folder.with_extension("inputs.json");
        std::fs::write(&file, serde_json::to_vec(&self.input_list())?)?;
        Ok(Some(file.to_string_lossy().into_owned()))
    }

    async fn fetch(&mut self, runner: &mut Runner, path: &str) {
        let fetched = match self.tools.depot.expected_digest(path, &self.links) {
            Some(digest) => self.tools.depot.fetch(path, &digest).await.map_err(|error| error.to_string()),
            None => Err(format!("{path} is neither an input of this task nor something its inputs refer to")),
        };
        let answer = match fetched {
            Ok(()) => ToHost::Fetched { path },
            Err(message) => ToHost::FetchFailed { path, message },
        };
        // A host that is gone is noticed by its closed connection.
        let _ = runner.connection.send(&answer).await;
    }

    /// The host is about to touch these inputs of a wide join.
    async fn ready_inputs(&mut self, runner: &mut Runner, from: u32, count: u32) {
        let ready = match &self.table {
            Some(table) => table.ready(&self.tools.depot, from, count).await.map_err(|error| causes(&error)),
            None => Err("this task has no table of inputs".into()),
        };
        let answer = match ready {
            Ok(links) => {
                self.links.extend(links);
                let surplus = self.links.len().saturating_sub(LINKS_KEPT_MAX);
                self.links.drain(..surplus);
                ToHost::InputsReady { from, count }
            }
            Err(message) => ToHost::InputsFailed { from, message },
        };
        let _ = runner.connection.send(&answer).await;
    }

    async fn find_model(&mut self, runner: &mut Runner, name: &str, version: Option<u32>) {
        let answer = match self.ask_for_model(name, version).await {
            Ok((name, Told::Model { version, object, artifact, format, metrics })) => {
                let object = ObjectLink { run: object.run, key: object.key, digest: object.digest };
                self.links.push(object);
                let found = ToHost::ModelFound { name: &name, version, object, artifact: &artifact, format: &format, metrics: &metrics };
                let _ = runner.connection.send(&found).await;
                return;
            }
            Ok((_, Told::Refused(problem))) => problem.message,
            Ok((_, Told::Welcome { .. } | Told::Gang { .. })) => "the coordinator answered something else".into(),
            Err(message) => message,
        };
        let _ = runner.connection.send(&ToHost::ModelFailed { name, message: answer }).await;
    }

    async fn ask_for_model(&self, name: &str, version: Option<u32>) -> Result<(ModelName, Told), String> {
        let model = ModelName::new(name).map_err(|error| error.to_string())?;
        let told = self.tools.leader.ask(&Ask::FindModel { model: model.clone(), version }).await;
        Ok((model, told.map_err(|error| error.to_string())?))
    }

    fn show(&mut self, take: impl FnOnce(&mut Output, Timestamp) -> Vec<LiveChunk>) {
        let chunks = take(&mut self.output, now());
        for LiveChunk { at, stream, text, position } in chunks {
            let task = self.job.task();
            let output = LiveOutput {
                step: self.job.dispatch.step.clone(),
                task: task.path.task_name(task.visit),
                attempt: task.attempt,
                at,
                stream,
                text,
                position,
            };
            self.speaker.show(&output);
        }
    }

    /// The connection closed without a result.
    async fn died(&mut self, runner: &mut Runner) -> Ended {
        self.show(|output, at| output.drain(&mut runner.pipes, at));
        let end = runner.how_it_ended().await;
        if let Some(peak) = self.held.as_ref().and_then(Held::killed_at) {
            return self.out_of_memory(peak);
        }
        let peak = self.used.map(|used| used.peak_memory_bytes);
        let error = process::death_in_words(self.job.dispatch.step.as_str(), end.as_ref(), peak, "");
        Ended::Broken { kind: FailureKind::User, error: Box::new(error) }
    }

    fn out_of_memory(&mut self, peak_bytes: u64) -> Ended {
        let limit = self.held.as_ref().and_then(Held::memory);
        let limit = limit.expect("only an attempt with a limit goes beyond it");
        let used = self.used.get_or_insert(Usage { peak_memory_bytes: 0, cpu_millis: None, memory_limit: None });
        used.peak_memory_bytes = used.peak_memory_bytes.max(peak_bytes);
        let error = process::out_of_memory_in_words(self.job.dispatch.step.as_str(), limit, peak_bytes);
        Ended::Broken { kind: FailureKind::User, error: Box::new(error) }
    }

    fn misunderstood(&self, runner: &Runner, what: &str) -> Ended {
        process::kill_group(runner.pid);
        let step = &self.job.dispatch.step;
        let what: String = what.chars().take(300).collect();
        let message = format!("the host of step `{step}` said what the host protocol does not allow: {what}");
        let error = ErrorInfo { kind: Code::HOST_DIED.to_string(), message, step: Some(step.to_string()), ..ErrorInfo::default() };
        Ended::Broken { kind: FailureKind::User, error: Box::new(error) }
    }
}

/// An error with its causes, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
