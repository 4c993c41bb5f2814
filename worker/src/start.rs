//! The start of a worker process: take the folder, open the store, connect; then it lives ([`crate::life`]).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use causey_artifacts::{Store, wall};
use causey_protocol::live::Offer;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::attempt::Tools;
use crate::cache::Cache;
use crate::config::Config;
use crate::confine::{self, Confinement, Sandbox};
use crate::depot::Depot;
use crate::environment::Environments;
use crate::gang::Gangs;
use crate::gpu::Gpus;
use crate::hosts::Hosts;
use crate::leader::Leader;
use crate::life::{self, FAREWELL_TIME_MAX, Setup};
use crate::limits::Limits;
use crate::live::Live;
use crate::orphans::{self, Orphans};
use crate::package::Packages;
use crate::place::Places;
use crate::process::{Interpreter, Interpreters, Language};
use crate::secret::Secrets;
use crate::space::Space;
use crate::{leftover, nats, process};

/// Where any process may write as far as the system lets it: temporary files, devices, and what the kernel shows as files.
const SHARED_FOLDERS: [&str; 4] = ["/tmp", "/var/tmp", "/dev", "/proc"];

pub(crate) async fn run(config: Config, shutdown: CancellationToken) -> anyhow::Result<()> {
    let folder = std::path::absolute(&config.folder)?;
    // Held until the end: nobody else may empty these folders.
    let _lock = leftover::take_folder(&folder)?;
    leftover::reap(&folder.join("hosts"))?;
    orphans::end_marked(&folder);
    leftover::make_empty(&folder.join("tasks"))?;
    let cache = Cache::open(folder.join("cache"));
    let store = Store::open(&config.store, !config.unsafe_durability).await?;
    let disks = std::iter::once(folder.clone()).chain(store.root().map(Path::to_owned)).collect();
    let depot = Depot::open(store, &folder.join("store"), cache.clone()).await?;

    let (event_sender, events) = mpsc::unbounded_channel();
    let owner_gone = if config.owned { watch_owner()? } else { CancellationToken::new() };
    let name = format!("causey-worker {}.{}", config.pool, config.name);
    let connecting = nats::connect(&config.nats_url, name, event_sender.clone()).await;
    let nats = connecting.with_context(|| format!("cannot connect to {}", nats::shown(&config.nats_url)))?;
    let gpus = Gpus::open();
    let offer = offer(&config, &folder, &gpus)?;
    let space = Space::new(disks, config.free_bytes_min);
    let interpreters = interpreters(&config, &folder)?;
    let environments = config.environments.clone().map_or_else(|| Ok(folder.join("environments")), std::path::absolute)?;
    let bench = Arc::new(Tools {
        depot,
        environments: Environments::new(environments, config.uv.clone(), interpreters.python.program.clone()),
        packages: Packages::new(folder.join("packages"), cache),
        hosts: Hosts::open(interpreters, &folder.join("hosts"), &folder.join("tasks"), offer.slots)?,
        live: Live::open(nats.clone()),
        gangs: Gangs::default(),
        places: Places::new(&config)?,
        space,
        limits: Limits::new(!config.no_memory_limit),
        leader: Leader::new(nats.clone(), &config.pool, &config.name),
        gpus,
        secrets: Secrets {
            allowed: config.secrets.clone(),
            commands: config.secret_command.iter().cloned().collect(),
            hidden: config.unreadable.clone(),
        },
    });
    let stopping = CancellationToken::new();
    tokio::spawn({
        let (owner_gone, stopping) = (owner_gone.clone(), stopping.clone());
        async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = owner_gone.cancelled() => {}
            }
            stopping.cancel();
        }
    });

    let hurry = async {
        tokio::select! {
            () = next_signal() => {}
            () = owner_gone.cancelled() => {}
        }
    };
    let setup = Setup {
        outside: nats.clone(),
        bench,
        offer,
        ack_wait: Duration::from_secs(config.ack_wait_seconds.max(1).into()),
        events,
        event_sender,
        server: nats::shown(&config.nats_url),
        limits: life::Limits { tasks: config.max_tasks, idle: config.exit_when_idle.map(Duration::from_secs) },
    };
    life::live(setup, &stopping, hurry).await?;
    // Hosts that are ending may still remove theirs; what stays is removed at the next start.
    let _ = leftover::make_empty(&folder.join("tasks"));
    // What was published must leave before the process does.
    let _ = tokio::time::timeout(FAREWELL_TIME_MAX, nats.flush()).await;
    Ok(())
}

/// A second signal makes the drain short.
async fn next_signal() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Cancels the returned token when standard input ends: its owner holds the other end.
fn watch_owner() -> anyhow::Result<CancellationToken> {
    let gone = CancellationToken::new();
    let token = gone.clone();
    std::thread::Builder::new().name("causey-owner".into()).spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        token.cancel();
    })?;
    Ok(gone)
}

fn offer(config: &Config, folder: &Path, gpus: &Gpus) -> anyhow::Result<Offer> {
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(u32::MAX));
    Ok(Offer {
        pool: config.pool.clone(),
        worker: config.name.clone(),
        slots: config.slots.unwrap_or_else(|| said_cores(config.equipment.cpu).unwrap_or(cores)).max(1),
        memory_mb: config.equipment.memory_mb(),
        languages: languages(config),
        version: env!("CARGO_PKG_VERSION").into(),
        started: wall::now(),
        equipment: config.equipment.equipment(folder, gpus)?,
        closed: false,
    })
}

/// Whole cores of those that were said to be offered.
fn said_cores(cpu: Option<f64>) -> Option<u32> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the argument is between 0 and 1024")]
    let cores = cpu?.floor() as u32;
    Some(cores)
}

fn interpreters(config: &Config, folder: &Path) -> anyhow::Result<Interpreters> {
    let causey = config.command_host.clone().map_or_else(std::env::current_exe, Ok).context("cannot find this program's own file")?;
    Ok(Interpreters {
        python: interpreter(&config.python, config.sdk.as_deref())?,
        r: interpreter(&config.rscript, config.r_sdk.as_deref())?,
        causey: std::path::absolute(causey)?,
        confinement: confinement(config, folder)?,
        orphans: Orphans::open().context("cannot look after what steps leave behind")?,
    })
}

/// What holds for all hosts. Folders are made absolute: hosts start in another one.
fn confinement(config: &Config, folder: &Path) -> anyhow::Result<Confinement> {
    if config.sandbox == Sandbox::Files {
        confine::check_files()?;
    }
    let absolute = |paths: &[PathBuf]| paths.iter().map(std::path::absolute).collect::<Result<Vec<_>, _>>();
    let mut writable = absolute(&config.writable)?;
    writable.extend([folder.join("tasks"), std::env::temp_dir()]);
    writable.extend(SHARED_FOLDERS.map(PathBuf::from));
    Ok(Confinement { keeps_orphans: false, sandbox: config.sandbox, writable, unreadable: absolute(&config.unreadable)? })
}

/// Paths are made absolute: hosts start in another folder. A bare name is looked up in PATH.
fn interpreter(program: &Path, sdk: Option<&Path>) -> anyhow::Result<Interpreter> {
    let is_path = program.components().count() > 1;
    let program = if is_path { std::path::absolute(program)? } else { program.to_owned() };
    Ok(Interpreter { program, sdk: sdk.map(std::path::absolute).transpose()? })
}

/// R only where it is installed.
fn languages(config: &Config) -> Vec<String> {
    let has_r = process::is_there(&config.rscript);
    Language::ALL.into_iter().filter(|language| *language != Language::R || has_r).map(|language| language.name().to_owned()).collect()
}
