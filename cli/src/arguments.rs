//! The command line: every command, option and environment variable of `causey`.

use std::ffi::OsString;
use std::path::PathBuf;

use causey_protocol::policy::HostMode;
use clap::{Args, Parser, Subcommand, ValueEnum};

/// Event-driven flows for machine learning.
#[derive(Debug, Parser)]
#[command(name = "causey", version, disable_help_subcommand = true, propagate_version = true)]
#[command(
    after_help = "Exit status: 0 ok · 1 run failed · 2 usage · 3 not found · 4 conflict · 5 cannot reach server · 6 timeout · 130/143 signals"
)]
pub(crate) struct Causey {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a flow and follow it to its end
    Run(Run),
    /// Run again what is left of an earlier run, or a step and all behind it
    Resume(Resume),
    /// Start a local stack: nats-server, coordinator, worker
    Dev(Dev),
    /// Show the graph of a flow file, or one run
    Show(Show),
    /// Check a flow file without running it
    Check(Check),
    /// List runs, the newest first
    Runs(Runs),
    /// Print what the tasks of a run printed
    Logs(Logs),
    /// Cancel a run
    Cancel(Cancel),
    /// Print what a run tells about itself
    Query(Query),
    /// Send a signal that steps of a run wait for
    Signal(Signal),
    /// Approve a step that waits for it
    Approve(Decision),
    /// Reject a step that waits for approval: its run fails
    Reject(Decision),
    /// Say what a run, a task, a trigger or a pool waits for
    Why(Why),
    /// List the pools: what their workers offer and what is wanted of them
    Pools(Pools),
    /// Have workers finish what they run and end
    Drain(Order),
    /// Have workers take no more tasks until they are uncordoned
    Cordon(Order),
    /// Have cordoned workers take tasks again
    Uncordon(Order),
    /// Deploy a flow, so that its triggers start it
    Deploy(Deploy),
    /// List the schedules of deployed flows, pause and resume them
    Schedules(SchedulesOf),
    /// Run a deployed flow for every instant of a span of time
    Backfill(Backfill),
    /// List backfills and how far they have come, or cancel one
    Backfills(Backfills),
    /// Publish and follow events
    #[command(subcommand)]
    Events(Events),
    /// List published models
    #[command(subcommand)]
    Models(Models),
    /// See to what was given up on: tasks that take their workers with them, messages that cannot be read
    #[command(subcommand)]
    DeadLetters(DeadLetters),
    /// Verify and mend what runs are made of: log, archive, snapshots, projection
    #[command(subcommand)]
    State(StateCommand),
    /// Check that everything `causey` needs is there
    Doctor(Doctor),
    /// Run a worker
    Worker(Worker),
    /// Run a coordinator
    Coordinator(Coordinator),
    /// Run commands as a host of a worker
    #[command(hide = true)]
    Host(Host),
    /// Give up what hosts of a worker may not do, and become one
    #[command(hide = true)]
    Confine(Confine),
    /// Run a program and stop it when standard input closes
    #[command(hide = true)]
    Guard(Guard),
}

#[derive(Debug, Args)]
pub(crate) struct Host {
    /// What it may not do, as JSON
    #[arg(long)]
    pub(crate) confine: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Confine {
    /// What it may not do, as JSON
    pub(crate) confinement: String,

    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub(crate) words: Vec<OsString>,
}

/// Which server, or which local stack.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Server")]
pub(crate) struct Place {
    /// Use this server instead of a local stack
    #[arg(long, env = "CAUSEY_URL", value_name = "URL")]
    pub(crate) url: Option<String>,

    /// The server's token
    #[arg(long, env = "CAUSEY_TOKEN", value_name = "TOKEN", hide_env_values = true)]
    pub(crate) token: Option<String>,

    #[command(flatten)]
    pub(crate) local: Local,
}

/// What a local stack is made of.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Local stack")]
pub(crate) struct Local {
    /// The project's state folder (default: the nearest `.causey` upward, or a new one here)
    #[arg(long, env = "CAUSEY_STATE", value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,

    /// Python interpreter (default: the active or nearest virtual environment's, or python3)
    #[arg(long, env = "CAUSEY_PYTHON", value_name = "FILE")]
    pub(crate) python: Option<PathBuf>,

    /// nats-server program (default: beside the Python interpreter, or on PATH)
    #[arg(long, env = "CAUSEY_NATS_SERVER", value_name = "FILE")]
    pub(crate) nats_server: Option<PathBuf>,

    /// uv, which resolves and builds environments (default: beside the Python interpreter, or on PATH)
    #[arg(long, env = "CAUSEY_UV", value_name = "FILE")]
    pub(crate) uv: Option<PathBuf>,

    /// Tasks that run at once on the local worker (default: the number of cores)
    #[arg(long, env = "CAUSEY_SLOTS", value_name = "N")]
    pub(crate) slots: Option<u32>,
}

/// Packages of steps in Python.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Packages {
    /// Packages of the steps that ask for none themselves: a requirements.txt, pylock.toml or uv.lock
    #[arg(long, env = "CAUSEY_ENVIRONMENT_FILE", value_name = "FILE")]
    pub(crate) environment: Option<PathBuf>,

    /// Resolve the packages that steps ask for anew, rather than take the versions of last time
    #[arg(long = "upgrade-environment")]
    pub(crate) upgrade: bool,
}

/// Parameters of the flow follow its name: `causey run flow.py --alpha 0.5`.
#[derive(Debug, Args)]
#[command(override_usage = "causey run [OPTIONS] <FLOW> [--PARAMETER VALUE]...")]
pub(crate) struct Run {
    /// The flow file, or the name of a deployed flow
    pub(crate) flow: String,

    /// A parameter whose name is also an option of this command
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,

    /// Mark the run; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Run every step in this kind of process
    #[arg(long, value_name = "KIND")]
    pub(crate) host: Option<HostKind>,

    /// Longest time the run may take: 90s, 15m, 2h, 1d (default: what the flow says)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) timeout: Option<f64>,

    /// Tasks of runs with a higher priority are dispatched first: -100 to 100 (default: what the flow says, else 0)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-100..=100))]
    pub(crate) priority: Option<i8>,

    /// Most tasks of a run that are open at a time (default: what the flow says, else no limit)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_workers: Option<u32>,

    /// Run memoised steps too, instead of taking what earlier runs have of them
    #[arg(long)]
    pub(crate) no_memo: bool,

    /// Who asks (default: your login name)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// Write the run's id into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) run_id_file: Option<PathBuf>,

    /// Leave the local stack running afterwards
    #[arg(long)]
    pub(crate) keep_alive: bool,

    /// One JSON object per line on standard output
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) packages: Packages,

    #[command(flatten)]
    pub(crate) place: Place,
}

/// Without a step what has no result runs; with one, it and everything behind it. Accepted results of the other tasks are taken from the
/// earlier run. Its parameters stay.
#[derive(Debug, Args)]
#[command(override_usage = "causey resume [OPTIONS] <RUN> [STEP] [FLOW.py]")]
pub(crate) struct Resume {
    /// The earlier run by name or id; the step from which on everything runs again; the flow file as it is now (default: the code
    /// as it was). With the file first: FLOW.py [STEP], of the flow's newest run
    #[arg(required = true, num_args = 1..=3, value_name = "RUN")]
    pub(crate) words: Vec<String>,

    /// The earlier run, where the words do not name it
    #[arg(long, value_name = "RUN")]
    pub(crate) origin_run_id: Option<String>,

    /// Mark the run; may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,

    /// Run every step in this kind of process (default: as the earlier run)
    #[arg(long, value_name = "KIND")]
    pub(crate) host: Option<HostKind>,

    /// Longest time the run may take: 90s, 15m, 2h, 1d (default: as the earlier run)
    #[arg(long, value_name = "TIME", value_parser = seconds)]
    pub(crate) timeout: Option<f64>,

    /// Who asks (default: your login name)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,

    /// Write the run's id into this file
    #[arg(long, value_name = "FILE")]
    pub(crate) run_id_file: Option<PathBuf>,

    /// Leave the local stack running afterwards
    #[arg(long)]
    pub(crate) keep_alive: bool,

    /// One JSON object per line on standard output
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) packages: Packages,

    #[command(flatten)]
    pub(crate) place: Place,
}

/// A time limit in seconds.
fn seconds(text: &str) -> Result<f64, String> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" | "" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        "d" => 86_400.0,
        other => return Err(format!("`{other}` is no unit of time; use s, m, h or d")),
    };
    let number: f64 = digits.parse().map_err(|_| format!("{digits:?} is not a number; write 90s, 15m, 2h or 1d"))?;
    causey_protocol::policy::timeout_fault(number * unit).map_or(Ok(number * unit), Err)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum HostKind {
    /// A fresh child of a process that has already imported the flow
    Fork,
    /// One process for many tasks
    Reuse,
    /// A fresh interpreter
    Spawn,
}

impl From<HostKind> for HostMode {
    fn from(kind: HostKind) -> Self {
        match kind {
            HostKind::Fork => Self::Fork,
            HostKind::Reuse => Self::Reuse,
            HostKind::Spawn => Self::Spawn,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct Dev {
    /// Port of the HTTP API
    #[arg(long, default_value_t = 4780, conflicts_with = "random_ports")]
    pub(crate) port: u16,

    /// Take any free port; read it from the output of --json or from the file `url` in the state folder
    #[arg(long)]
    pub(crate) random_ports: bool,

    /// Keep all data in a temporary folder and forget it at the end
    #[arg(long)]
    pub(crate) ephemeral: bool,

    /// Stop the stack that runs on this state folder
    #[arg(long, conflicts_with_all = ["port", "random_ports", "ephemeral"])]
    pub(crate) stop: bool,

    /// One JSON object per line on standard output
    #[arg(long)]
    pub(crate) json: bool,

    #[command(flatten)]
    pub(crate) local: Local,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A flow file, or the name or id of a run
    pub(crate) target: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Check {
    /// The flow file
    pub(crate) flow: PathBuf,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) local: Local,
}

#[derive(Debug, Args)]
pub(crate) struct Runs {
    /// Only runs of this flow
    #[arg(long)]
    pub(crate) flow: Option<String>,
    /// Only runs in this state
    #[arg(long, value_parser = ["pending", "running", "succeeded", "failed", "cancelled", "aborted"])]
    pub(crate) status: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 20)]
    pub(crate) limit: u32,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// When escape sequences that steps have printed are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Colour {
    /// On a terminal
    Auto,
    Always,
    Never,
}

#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// RUN, RUN/STEP or RUN/STEP/TASK
    pub(crate) path: String,
    /// Go on with what is printed until the run, or the task, has ended
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Only this attempt
    #[arg(long)]
    pub(crate) attempt: Option<u32>,
    /// Only what was printed since then: how long ago (10m, 2h), or when (2026-11-24T12:00:00Z)
    #[arg(long, value_name = "WHEN")]
    pub(crate) since: Option<String>,
    /// Colours and other escape sequences as they were printed, or none
    #[arg(long, value_enum, default_value_t = Colour::Auto, value_name = "WHEN")]
    pub(crate) color: Colour,
    /// JSON Lines on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// Name or id of the run
    pub(crate) run: String,
    /// Why, for people to read
    #[arg(long, default_value = "cancelled from the command line")]
    pub(crate) reason: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Query {
    /// Name or id of the run
    pub(crate) run: String,
    /// Only the value of this name
    pub(crate) name: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Signal {
    /// Name or id of the run
    pub(crate) run: String,
    /// The signal that its steps wait for
    pub(crate) name: String,
    /// What the steps get: JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) data: Option<String>,
    /// Who sends it (default: your login name)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// What `approve` and `reject` take.
#[derive(Debug, Args)]
pub(crate) struct Decision {
    /// Name or id of the run
    pub(crate) run: String,
    /// The step that waits
    pub(crate) step: String,
    /// Why, for people to read
    #[arg(long, value_name = "TEXT")]
    pub(crate) because: Option<String>,
    /// Who decides (default: your login name)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
#[command(group(clap::ArgGroup::new("what").required(true)))]
pub(crate) struct Why {
    /// RUN, RUN/STEP or RUN/STEP/TASK
    #[arg(group = "what")]
    pub(crate) path: Option<String>,
    /// What starts this deployed flow, and why it has not
    #[arg(long, group = "what", value_name = "FLOW")]
    pub(crate) trigger: Option<String>,
    /// What there is of this pool, and what waits for it
    #[arg(long, group = "what", value_name = "POOL")]
    pub(crate) pool: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Deploy {
    /// The flow file
    pub(crate) flow: PathBuf,

    /// Tasks of runs with a higher priority are dispatched first: -100 to 100 (default: what the flow says, else 0)
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(i8).range(-100..=100))]
    pub(crate) priority: Option<i8>,

    /// Most tasks of a run that are open at a time (default: what the flow says, else no limit)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) max_workers: Option<u32>,

    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) packages: Packages,

    #[command(flatten)]
    pub(crate) place: Place,
}

/// Without a subcommand: lists all schedules.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct SchedulesOf {
    #[command(subcommand)]
    pub(crate) command: Option<Schedules>,
    #[command(flatten)]
    pub(crate) list: Listing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Schedules {
    /// List when schedules fire next, and what came of the last firing
    Ls(Listing),
    /// Let no schedule of a flow fire; firings meanwhile are never made up for
    Pause(ScheduledFlow),
    /// Let them fire again from now on
    Resume(ScheduledFlow),
}

#[derive(Debug, Args)]
pub(crate) struct Listing {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ScheduledFlow {
    /// Name of the deployed flow
    pub(crate) flow: String,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Backfill {
    /// Name of the deployed flow
    pub(crate) flow: String,
    /// The first instant: 2026-01-01, 2026-01-01T06:00 or 2026-01-01T06:00:00Z
    #[arg(long, value_name = "TIME")]
    pub(crate) from: String,
    /// The first instant that is not run any more
    #[arg(long, value_name = "TIME")]
    pub(crate) to: String,
    /// hour, day, week, month or a cron pattern (default: that of the flow's only schedule)
    #[arg(long, value_name = "HOW")]
    pub(crate) every: Option<String>,
    /// Time zone of the instants (default: that of the flow's only schedule, or UTC)
    #[arg(long, value_name = "ZONE")]
    pub(crate) timezone: Option<String>,
    /// Runs at once
    #[arg(long, default_value_t = 1, value_name = "N")]
    pub(crate) max_parallel: u32,
    /// The flow's parameter that gets the instant (default: as the flow's only schedule says)
    #[arg(long, value_name = "NAME")]
    pub(crate) parameter_name: Option<String>,
    /// How it is written: date, datetime, seconds or a pattern such as %Y-%m
    #[arg(long, default_value = "date", value_name = "FORM", requires = "parameter_name")]
    pub(crate) parameter_form: String,
    /// A parameter that is the same for every run
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE")]
    pub(crate) parameters: Vec<String>,
    /// Identity of the request: the same id again starts nothing (default: a new one)
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

/// Without a subcommand: lists all backfills.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Backfills {
    #[command(subcommand)]
    pub(crate) command: Option<BackfillsCommand>,
    #[command(flatten)]
    pub(crate) list: Listing,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BackfillsCommand {
    /// List backfills, the newest first
    Ls(Listing),
    /// Cancel a backfill: its runs end, and no further one starts
    Cancel(CancelBackfill),
}

#[derive(Debug, Args)]
pub(crate) struct CancelBackfill {
    /// Id of the backfill
    pub(crate) backfill: String,
    /// Why, for people to read
    #[arg(long, default_value = "cancelled from the command line")]
    pub(crate) reason: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Events {
    /// Publish an event
    Publish(Publish),
    /// Follow what Causey announces: published models, finished runs, dead letters
    Follow(Follow),
}

#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The event's type, which triggers name
    pub(crate) kind: String,
    /// The event's data: JSON, or @FILE, or @- for standard input
    #[arg(long, value_name = "JSON|@FILE")]
    pub(crate) data: Option<String>,
    /// Where it happened
    #[arg(long, default_value = "/causey/cli", value_name = "URI")]
    pub(crate) source: String,
    /// What it is about
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// Identity of the event within its source: the same id again is a duplicate (default: a new one)
    #[arg(long)]
    pub(crate) id: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Follow {
    /// Only events of this type, such as dev.causey.model.published.v1
    #[arg(long = "type", value_name = "TYPE")]
    pub(crate) kind: Option<String>,
    /// Only events about this model or flow
    #[arg(long)]
    pub(crate) name: Option<String>,
    /// Remember the position under this name, and go on from it next time
    #[arg(long, value_name = "NAME")]
    pub(crate) subscriber: Option<String>,
    /// Run this shell command for every event, with the event as JSON on its standard input
    #[arg(long, value_name = "COMMAND")]
    pub(crate) exec: Option<String>,
    /// Begin with the first event that is kept (a subscriber with a position goes on from that)
    #[arg(long)]
    pub(crate) from_start: bool,
    /// Stop after so many events
    #[arg(long, value_name = "N")]
    pub(crate) count: Option<u64>,
    /// Stop after so many seconds; exit status 6 if --count events have not come by then
    #[arg(long, value_name = "SECONDS")]
    pub(crate) timeout: Option<f64>,
    /// The whole event as JSON, one per line
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Models {
    /// List models with their newest version
    Ls(ModelsLs),
    /// Show one model, or one version of it
    Show(ModelsShow),
}

#[derive(Debug, Args)]
pub(crate) struct ModelsLs {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct ModelsShow {
    /// NAME, NAME@VERSION or NAME@latest
    pub(crate) model: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadLetters {
    /// List dead letters, the newest first
    Ls(LettersLs),
    /// Show one, with the original of a message
    Show(Letter),
    /// Put it on its way again
    Redrive(Letter),
    /// Forget it
    Discard(Letter),
}

#[derive(Debug, Args)]
pub(crate) struct Pools {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Order {
    /// POOL for all of its workers, or POOL/WORKER for one
    #[arg(value_name = "POOL[/WORKER]")]
    pub(crate) whom: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct LettersLs {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Args)]
pub(crate) struct Letter {
    /// The letter's id, such as 41.0
    pub(crate) letter: String,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Debug, Subcommand)]
pub(crate) enum StateCommand {
    /// Follow the log's chain and compare snapshots, archive and projection with it
    Verify(StateVerify),
    /// Write the projection anew
    Rebuild(StateRebuild),
    /// Go on although a stream of inputs has lost messages
    AcceptLoss(AcceptLoss),
}

/// The streams and the store; without them those of the local stack.
#[derive(Clone, Debug, Args)]
pub(crate) struct StatePlace {
    /// Address of the NATS server, as for the coordinator
    #[arg(long, env = "CAUSEY_NATS_URL", value_name = "URL", hide_env_values = true)]
    pub(crate) nats_url: Option<String>,
    /// Artifact store, as for the coordinator
    #[arg(long, env = "CAUSEY_STORE", value_name = "PLACE")]
    pub(crate) store: Option<String>,
    /// Folder of the projection, as for the coordinator
    #[arg(long, env = "CAUSEY_PROJECTION", value_name = "FOLDER")]
    pub(crate) projection: Option<PathBuf>,
    /// Accept a NATS server older than 2.15.1
    #[arg(long, env = "CAUSEY_UNSAFE_NATS_VERSION")]
    pub(crate) unsafe_nats_version: bool,
    /// The project's state folder (default: the nearest `.causey` upward)
    #[arg(long, env = "CAUSEY_STATE", value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct StateVerify {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: StatePlace,
}

#[derive(Debug, Args)]
pub(crate) struct StateRebuild {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: StatePlace,
}

#[derive(Debug, Args)]
pub(crate) struct AcceptLoss {
    /// Who accepts it (default: your login name)
    #[arg(long, value_name = "NAME")]
    pub(crate) user: Option<String>,
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: StatePlace,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    /// JSON on standard output
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    Human,
    Json,
}

/// Who keeps as many workers as are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Autoscale {
    Systemd,
    Kubernetes,
}

#[derive(Debug, Args)]
pub(crate) struct Worker {
    #[command(flatten)]
    pub(crate) config: causey_worker::config::Config,
    /// Print a unit for systemd, or a manifest for Kubernetes with KEDA, that runs workers with these options, and end
    #[arg(long, value_name = "FOR")]
    pub(crate) autoscale: Option<Autoscale>,
    /// Form of the log lines on standard error; RUST_LOG chooses what is logged
    #[arg(long, env = "CAUSEY_LOG_FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct Coordinator {
    #[command(flatten)]
    pub(crate) config: causey_coordinator::config::Config,
    /// Form of the log lines on standard error; RUST_LOG chooses what is logged
    #[arg(long, env = "CAUSEY_LOG_FORMAT", default_value = "human")]
    pub(crate) log_format: LogFormat,
}

#[derive(Debug, Args)]
pub(crate) struct Guard {
    /// Where to note the program's process id and start time
    #[arg(long)]
    pub(crate) pid_file: PathBuf,
    /// The program and its arguments
    #[arg(required = true, last = true)]
    pub(crate) program: Vec<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        super::Causey::command().debug_assert();
    }
}
