//! Starting and ending host processes: their environment, their group, and how an end reads in words.

use std::collections::BTreeMap;
use std::env;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use causey_protocol::flow::{EXECUTABLE, PYTHON, R};
use causey_protocol::problem::Code;
use causey_protocol::task::{ErrorInfo, MemoryKeeper, MemoryLimit, Usage};
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::process::{Child, Command};

use crate::confine::Confinement;
use crate::environment;
use crate::frame::Role;
use crate::orphans::Orphans;

/// What hosts may see of the worker's environment, beside what begins like one of [`INHERITED_PREFIXES`]. Everything else stays
/// here: the worker's holds credentials.
const INHERITED: [&str; 9] = ["PATH", "HOME", "USER", "LANG", "TZ", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES"];

/// What people mean by MB of memory.
pub(crate) const MEGABYTE: u64 = 1024 * 1024;

/// Languages, and where Python and R find their packages.
const INHERITED_PREFIXES: [&str; 3] = ["LC_", "PYTHON", "R_LIBS"];

/// Libraries that would start a thread per core in every host.
const THREAD_LIMITS: [&str; 4] = ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS"];

/// Where Python looks for modules.
const SEARCH_PATH: &str = "PYTHONPATH";

/// What a step is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Language {
    Python,
    R,
    /// Any program: what its host runs is a command.
    Executable,
}

impl Language {
    pub(crate) const ALL: [Self; 3] = [Self::Python, Self::R, Self::Executable];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Python => PYTHON,
            Self::R => R,
            Self::Executable => EXECUTABLE,
        }
    }

    pub(crate) fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|language| language.name() == name)
    }

    /// Whether a process that has loaded the code can make others by forking.
    pub(crate) fn has_template(self) -> bool {
        self == Self::Python
    }

    /// Whether one process can run many attempts. Every command is a process of its own anyway, and what it leaves behind ends
    /// with its host.
    pub(crate) fn is_reusable(self) -> bool {
        self != Self::Executable
    }
}

/// The code a host runs.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct FlowCode {
    pub(crate) language: Language,
    /// The unpacked package.
    pub(crate) folder: PathBuf,
    /// The flow file inside it.
    pub(crate) file: String,
    /// Variables that its processes begin with.
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) environment: Option<PackageFolder>,
}

/// An environment of packages that a step asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PackageFolder {
    pub(crate) folder: PathBuf,
    /// Where it finds the SDK, unless the worker was told.
    pub(crate) sdk: Option<PathBuf>,
}

/// How this worker starts an interpreter.
#[derive(Clone, Debug)]
pub(crate) struct Interpreter {
    pub(crate) program: PathBuf,
    /// The SDK: for Python the folder that is put in front of the search path, for R the package's sources.
    pub(crate) sdk: Option<PathBuf>,
}

/// How this worker starts hosts, by language.
#[derive(Clone, Debug)]
pub(crate) struct Interpreters {
    pub(crate) python: Interpreter,
    pub(crate) r: Interpreter,
    /// The program that runs commands as hosts: this one.
    pub(crate) causey: PathBuf,
    /// What holds for every host; for each it is completed by what it is.
    pub(crate) confinement: Confinement,
    pub(crate) orphans: Orphans,
}

/// How a host speaks with the worker.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Line<'a> {
    Socket(&'a Path),
    /// What it reads and what it writes.
    Pipes(&'a Path, &'a Path),
}

/// A host to be started.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Start<'a> {
    pub(crate) role: Role,
    pub(crate) id: &'a str,
    pub(crate) line: Line<'a>,
    /// Where its temporary files go, for languages that keep a folder of them for as long as they live: it may be killed.
    pub(crate) temporary: Option<&'a Path>,
}

impl Interpreters {
    /// The program that the hosts of a language are.
    pub(crate) fn program(&self, language: Language) -> &Path {
        match language {
            Language::Python => &self.python.program,
            Language::R => &self.r.program,
            Language::Executable => &self.causey,
        }
    }

    /// How to mend it when that program does not start.
    pub(crate) fn hint(language: Language) -> &'static str {
        match language {
            Language::Python => "see the worker's log; --python chooses the interpreter",
            Language::R => {
                "install R with its package jsonlite (Debian: apt-get install r-base-core r-cran-jsonlite) on the worker's machine; \
                 --rscript says where Rscript is"
            }
            Language::Executable => "see the worker's log",
        }
    }

    /// The command of a host, which confines itself before it becomes what it is.
    fn command(&self, code: &FlowCode, start: Start<'_>) -> Command {
        let mut confinement = self.confinement.clone();
        confinement.keeps_orphans = start.role == Role::Runner;
        if let Line::Pipes(read, write) = start.line {
            confinement.writable.extend([read.to_owned(), write.to_owned()]);
        }
        let confinement = serde_json::to_string(&confinement).expect("paths of this worker are UTF-8");
        let environment = code.environment.as_ref().map(|environment| environment::interpreter(&environment.folder));
        let program = environment.as_deref().unwrap_or_else(|| self.program(code.language));
        let mut command = Command::new(&self.causey);
        match code.language {
            Language::Python => {
                command.args(["confine", &confinement, "--"]).arg(program).args(["-m", "causey._host"]);
            }
            Language::R => {
                command.args(["confine", &confinement, "--"]).arg(program).args(["--no-save", "--no-restore", "--no-init-file"]);
                match &self.r.sdk {
                    Some(sdk) => command.arg(sdk.join("exec").join("causey.R")).arg("host"),
                    None => command.args(["-e", "causey:::host()"]),
                };
            }
            Language::Executable => {
                command.args(["host", "--confine", &confinement]);
            }
        }
        command
    }

    /// Starts a host in its own process group, its output on pipes. Must be called on a thread that lives as long as the worker:
    /// hosts ask the kernel to be killed when the thread that started them ends.
    ///
    /// # Errors
    /// When the program is not there or the system has no room for a process.
    pub(crate) fn start(&self, code: &FlowCode, start: Start<'_>) -> io::Result<Child> {
        let Start { role, id, line, temporary } = start;
        if !is_there(self.program(code.language)) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut command = self.command(code, start);
        command.current_dir(&code.folder).env_clear();
        for (name, value) in env::vars_os().filter(|(name, _)| is_inherited(name)) {
            command.env(name, value);
        }
        for name in THREAD_LIMITS {
            command.env(name, "1");
        }
        // Packages of the worker must not get in between.
        let outer_path = if code.environment.is_some() { None } else { env::var_os(SEARCH_PATH) };
        if let Some(PackageFolder { folder, .. }) = &code.environment {
            for name in [SEARCH_PATH, "PYTHONHOME", "PYTHONSTARTUP"] {
                command.env_remove(name);
            }
            command.env("VIRTUAL_ENV", folder).env("CAUSEY_ENVIRONMENT", folder.file_name().unwrap_or_default());
            command.env("PATH", search_path(&folder.join("bin"), env::var_os("PATH")));
        }
        command.envs(&code.variables);
        let own_sdk = code.environment.as_ref().and_then(|environment| environment.sdk.as_ref());
        if let (Language::Python, Some(sdk)) = (code.language, self.python.sdk.as_ref().or(own_sdk)) {
            let rest = code.variables.get(SEARCH_PATH).map(OsString::from).or(outer_path);
            command.env(SEARCH_PATH, search_path(sdk, rest));
        }
        if let Some(temporary) = temporary {
            command.env("TMPDIR", temporary);
        }
        match line {
            Line::Socket(socket) => command.env("CAUSEY_HOST_SOCKET", socket),
            Line::Pipes(read, write) => command.env("CAUSEY_HOST_READ", read).env("CAUSEY_HOST_WRITE", write),
        };
        command.env("CAUSEY_HOST_ID", id).env("CAUSEY_HOST_ROLE", role.as_str());
        command.env("CAUSEY_FLOW_FILE", code.folder.join(&code.file));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        self.orphans.adopt(id, || command.spawn())
    }
}

/// Whether a program is there: at its path, or, of a bare name, in a folder of PATH.
pub(crate) fn is_there(program: &Path) -> bool {
    let in_path = |path: OsString| env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if program.components().count() > 1 { program.is_file() } else { env::var_os("PATH").is_some_and(in_path) }
}

fn is_inherited(name: &OsString) -> bool {
    let is_known = |name: &str| INHERITED.contains(&name) || INHERITED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    name.to_str().is_some_and(is_known)
}

fn search_path(first: &Path, rest: Option<OsString>) -> OsString {
    let mut path = first.as_os_str().to_owned();
    if let Some(rest) = rest.filter(|rest| !rest.is_empty()) {
        path.push(":");
        path.push(rest);
    }
    path
}

/// Kills a host with all it started. A host that is no group of its own is killed alone.
pub(crate) fn kill_group(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    // Errors mean that it is gone already, which is what is wanted.
    if rustix::process::kill_process_group(pid, Signal::KILL).is_err() {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

/// Asks a host and all it started to end: user code may clean up.
pub(crate) fn ask_group_to_end(pid: i32) {
    let Some(pid) = Pid::from_raw(pid) else { return };
    if rustix::process::kill_process_group(pid, Signal::TERM).is_err() {
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}

/// Kills what a host that has ended left running in its group.
pub(crate) fn kill_rest_of_group(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// Whether a host or anything in its group is there still.
pub(crate) fn group_exists(pid: i32) -> bool {
    let Some(pid) = Pid::from_raw(pid) else { return false };
    let gone = Err(Errno::SRCH);
    rustix::process::test_kill_process_group(pid) != gone || rustix::process::test_kill_process(pid) != gone
}

/// What a live process has used so far.
pub(crate) fn usage(pid: i32) -> Option<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let cpu_millis = cpu_millis(&stat, rustix::param::clock_ticks_per_second());
    Some(Usage { peak_memory_bytes: peak_memory_bytes(pid)?, cpu_millis, memory_limit: None })
}

/// Processor time out of `/proc/PID/stat`: of the process, and of its children that it has waited for.
fn cpu_millis(stat: &str, ticks_per_second: u64) -> Option<u64> {
    // The name may hold blanks and parentheses; the first field behind it is the third.
    let (_, rest) = stat.rsplit_once(')')?;
    let times: Vec<u64> = rest.split_whitespace().skip(11).take(4).filter_map(|field| field.parse().ok()).collect();
    (times.len() == 4).then(|| times.iter().sum::<u64>() * 1_000 / ticks_per_second.max(1))
}

/// The most memory a live process has used, in bytes.
pub(crate) fn peak_memory_bytes(pid: i32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kilobytes * 1024)
}

/// Limits the size of the files that a process, and what it starts from now on, may write; `None`: as large as this one's.
pub(crate) fn limit_files(pid: i32, bytes: Option<u64>) {
    let own = rustix::process::getrlimit(Resource::Fsize);
    let smaller = bytes.map_or(own.current, |bytes| Some(own.current.map_or(bytes, |current| current.min(bytes))));
    // A process that is gone needs none.
    let limit = Rlimit { current: smaller, maximum: own.maximum };
    let _ = Pid::from_raw(pid).map(|pid| rustix::process::prlimit(Some(pid), Resource::Fsize, limit));
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) code: Option<i32>,
    /// Its name, such as `SIGSEGV`.
    pub(crate) signal: Option<String>,
}

impl From<ExitStatus> for End {
    fn from(status: ExitStatus) -> Self {
        use std::os::unix::process::ExitStatusExt as _;
        Self { code: status.code(), signal: status.signal().map(signal_name) }
    }
}

pub(crate) fn signal_name(number: i32) -> String {
    let name = match Signal::from_named_raw(number) {
        Some(Signal::ABORT) => "SIGABRT",
        Some(Signal::BUS) => "SIGBUS",
        Some(Signal::FPE) => "SIGFPE",
        Some(Signal::HUP) => "SIGHUP",
        Some(Signal::ILL) => "SIGILL",
        Some(Signal::INT) => "SIGINT",
        Some(Signal::KILL) => "SIGKILL",
        Some(Signal::PIPE) => "SIGPIPE",
        Some(Signal::SEGV) => "SIGSEGV",
        Some(Signal::TERM) => "SIGTERM",
        Some(Signal::XCPU) => "SIGXCPU",
        Some(Signal::XFSZ) => "SIGXFSZ",
        _ => return format!("signal {number}"),
    };
    name.to_owned()
}

/// The end of the process that ran `step`, for the person whose code it was. `tail` is the last it printed where no attempt
/// keeps its output.
pub(crate) fn death_in_words(step: &str, end: Option<&End>, peak_bytes: Option<u64>, tail: &str) -> ErrorInfo {
    let peak = peak_bytes.map_or(String::new(), |bytes| format!(", peak memory {} MiB", bytes / (1024 * 1024)));
    let (how, hint) = match end {
        Some(End { signal: Some(signal), .. }) if signal == "SIGKILL" => (
            format!("was killed by SIGKILL{peak} – perhaps out of memory"),
            Some("ask for more with @resources(memory=…), or keep less in memory"),
        ),
        Some(End { signal: Some(signal), .. }) if signal == "SIGXFSZ" => {
            (format!("was killed by {signal}{peak}: it wrote a file larger than it may be"), Some("ask for more with @resources(disk=…)"))
        }
        Some(End { signal: Some(signal), .. }) => (
            format!("was killed by {signal}{peak}"),
            Some("native code crashed; in Python, PYTHONFAULTHANDLER=1 in the worker's environment shows where, in the step's output"),
        ),
        Some(End { code: Some(code), .. }) => (
            format!("ended by itself with exit status {code}{peak}"),
            Some("look for os._exit, or for a library that ends its process; raise an exception, or return, instead"),
        ),
        _ => (format!("died in an unknown way{peak}"), None),
    };
    let signature = end.map_or_else(String::new, |end| format!("{:?}{:?}", end.code, end.signal));
    ErrorInfo {
        kind: Code::HOST_DIED.to_string(),
        message: format!("the process that ran step `{step}` {how}"),
        traceback: tail.to_owned(),
        step: Some(step.to_owned()),
        hash: Some(format!("{}-{}", Code::HOST_DIED, blake3::hash(signature.as_bytes()).to_hex().split_at(16).0)),
        hint: hint.map(str::to_owned),
        ..ErrorInfo::default()
    }
}

/// The end of an attempt that took more memory than it had booked.
pub(crate) fn out_of_memory_in_words(step: &str, limit: MemoryLimit, peak_bytes: u64) -> ErrorInfo {
    let megabytes = |bytes: u64| bytes.div_ceil(MEGABYTE);
    let keeper = match limit.by {
        MemoryKeeper::Cgroup => "the kernel",
        MemoryKeeper::Watchdog => "the worker",
    };
    ErrorInfo {
        kind: Code::OUT_OF_MEMORY.to_string(),
        message: format!(
            "step `{step}` ran out of memory: it booked {} MB and came to {} MB, and {keeper} ended it",
            megabytes(limit.bytes),
            megabytes(peak_bytes)
        ),
        step: Some(step.to_owned()),
        hash: Some(Code::OUT_OF_MEMORY.to_string()),
        hint: Some("ask for more with @resources(memory=…), or keep less in memory".into()),
        classes: vec!["MemoryError".into()],
        ..ErrorInfo::default()
    }
}

/// The end of an attempt that was killed at its time limit.
pub(crate) fn timeout_in_words(step: &str, limit: Duration, grace: Duration) -> ErrorInfo {
    ErrorInfo {
        kind: Code::TIMED_OUT.to_string(),
        message: format!(
            "step `{step}` timed out after {} seconds; its process had not ended {} seconds later and was killed",
            limit.as_secs_f64(),
            grace.as_secs_f64()
        ),
        step: Some(step.to_owned()),
        hash: Some(Code::TIMED_OUT.to_string()),
        hint: Some("give the step more time with @timeout(…), or see in its output where it hangs".into()),
        classes: vec!["TimeoutException".into()],
        ..ErrorInfo::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Row 28 of the fault model.
    #[test]
    fn a_death_reads_as_a_sentence() {
        let killed = End { code: None, signal: Some("SIGKILL".into()) };
        let error = death_in_words("train", Some(&killed), Some(3 << 30), "");
        assert_eq!(error.message, "the process that ran step `train` was killed by SIGKILL, peak memory 3072 MiB – perhaps out of memory");
        assert!(error.hint.is_some());
        let exited = End { code: Some(3), signal: None };
        assert_eq!(
            death_in_words("a", Some(&exited), None, "").message,
            "the process that ran step `a` ended by itself with exit status 3"
        );
    }

    /// Row 40 of the fault model.
    #[test]
    fn credentials_do_not_reach_hosts() {
        for name in ["AWS_SECRET_ACCESS_KEY", "CAUSEY_NATS_URL", "NATS_PASSWORD"] {
            assert!(!is_inherited(&name.into()), "{name}");
        }
        assert!(is_inherited(&"LC_ALL".into()) && is_inherited(&"PYTHONHASHSEED".into()));
    }

    #[test]
    fn peak_memory_of_a_live_process_is_known() {
        assert!(peak_memory_bytes(std::process::id().try_into().unwrap()).unwrap() > 100_000);
        assert_eq!(peak_memory_bytes(-1), None);
    }

    #[test]
    fn processor_time_is_read_behind_whatever_name_a_process_has() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 30 20 20 0 1 0 5 1000 10";
        assert_eq!(cpu_millis(stat, 100), Some(2_500));
        assert_eq!(cpu_millis("7 (short) S 1", 100), None);
        assert!(usage(std::process::id().try_into().unwrap()).unwrap().cpu_millis.is_some());
    }
}
