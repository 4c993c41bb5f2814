//! `causey coordinator` and `causey worker`: the services themselves, with logging, signals and the watch over their owner.

use std::io::IsTerminal as _;
use std::time::Duration;

use causey_worker::confine::{ConfineError, Confinement, become_host};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::arguments::{Confine, Coordinator, Host, LogFormat, Worker};
use crate::command::autoscale;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::live::print_text;
use crate::signals::Signals;

/// How long a service may take to stop once its owner is gone. Nobody waits for it then, and its ports and folders are wanted.
const ORPHANED: Duration = Duration::from_secs(10);

/// Runs a coordinator.
///
/// # Errors
/// When it cannot start or go on.
pub(crate) async fn coordinator(arguments: Coordinator) -> Result<Exit, Fault> {
    log(arguments.log_format);
    let shutdown = CancellationToken::new();
    if arguments.config.owned {
        watch_owner(shutdown.clone());
    }
    serve("coordinator", causey_coordinator::run(arguments.config, shutdown.clone()), shutdown).await
}

/// Runs a worker.
///
/// # Errors
/// When it cannot start or go on.
pub(crate) async fn worker(arguments: Worker) -> Result<Exit, Fault> {
    if let Some(kind) = arguments.autoscale {
        print_text(&autoscale::text(&arguments.config, kind));
        return Ok(Exit::Ok);
    }
    log(arguments.log_format);
    let shutdown = CancellationToken::new();
    if arguments.config.owned {
        watch_owner(shutdown.clone());
    }
    serve("worker", causey_worker::run(arguments.config, shutdown.clone()), shutdown).await
}

/// Runs commands for the worker that started this process.
///
/// # Errors
/// When no worker did, or the line to it breaks.
pub(crate) async fn host(arguments: &Host) -> Result<Exit, Fault> {
    if let Some(confinement) = &arguments.confine {
        Confinement::read(confinement).and_then(|confinement| confinement.apply()).map_err(|error| unconfined(&error))?;
    }
    let served = causey_worker::executable::host::serve().await;
    served.map(|()| Exit::Ok).map_err(|error| Fault::new(Exit::Failed, fault::SERVICE, "the host of commands stops").detail(error))
}

/// Becomes the host of a worker.
///
/// # Errors
/// When the kernel refuses, or there is no such program.
pub(crate) fn confine(arguments: &Confine) -> Result<Exit, Fault> {
    match become_host(&arguments.confinement, &arguments.words) {
        Err(error) => Err(unconfined(&error)),
        Ok(never) => match never {},
    }
}

fn unconfined(error: &ConfineError) -> Fault {
    let fault = Fault::new(Exit::Failed, fault::SERVICE, error.to_string());
    std::error::Error::source(error).into_iter().fold(fault, |fault, cause| fault.detail(cause))
}

/// Runs a service to its end. The first signal asks it to stop, and a service that did is a success; the second one ends the process.
async fn serve(name: &str, service: impl Future<Output = anyhow::Result<()>>, shutdown: CancellationToken) -> Result<Exit, Fault> {
    let mut signals = Signals::listen()?;
    let mut service = std::pin::pin!(service);
    let ended = tokio::select! {
        ended = &mut service => ended,
        _ = signals.next() => {
            shutdown.cancel();
            tokio::select! {
                ended = &mut service => ended,
                exit = signals.next() => return Ok(exit),
            }
        }
    };
    ended.map(|()| Exit::Ok).map_err(|error| {
        // Errors of the services carry their hint on a line of its own.
        let mut parts = error.chain().map(|cause| {
            let text = cause.to_string();
            let (what, hint) = text.split_once("\nhint: ").map_or((text.as_str(), None), |(what, hint)| (what, Some(hint.to_owned())));
            (what.to_owned(), hint)
        });
        let (what, hint) = parts.next().unwrap_or_default();
        let fault = Fault::new(Exit::Failed, fault::SERVICE, format!("the {name} cannot go on: {what}"));
        let hinted = |fault: Fault, hint: Option<String>| match hint {
            Some(hint) => fault.hint(hint),
            None => fault,
        };
        parts.fold(hinted(fault, hint), |fault, (cause, hint)| hinted(fault.detail(cause), hint))
    })
}

/// Stops the service when standard input is closed: the kernel does that when the owner is gone, however it went.
fn watch_owner(shutdown: CancellationToken) {
    std::thread::spawn(move || {
        // Nobody writes to this pipe; an error means as much as its end.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        shutdown.cancel();
        std::thread::sleep(ORPHANED);
        std::process::exit(i32::from(Exit::Failed.status()));
    });
}

fn log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal());
    match format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_service_that_cannot_go_on_says_why() {
        let failing = async { Err(anyhow::anyhow!("connection refused").context("failed to reach NATS")) };
        let fault = serve("worker", failing, CancellationToken::new()).await.unwrap_err();
        assert_eq!(fault.message, "the worker cannot go on: failed to reach NATS");
        assert_eq!(fault.details, ["connection refused"]);
    }
}
