//! `causey dev`: the local stack in the foreground. Ctrl-C drains and stops it, a second one kills it.

use rustix::process::Signal;
use serde_json::json;

use crate::arguments::Dev;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::screen::live::print_json;
use crate::screen::paint::Paint;
use crate::sdk;
use crate::session::Project;
use crate::signals::Signals;
use crate::stack::lock::{self, Held};
use crate::stack::plan::{Kind, Plan, Tools, claim_port};
use crate::stack::process::signal;
use crate::stack::{Notice, Stack};
use crate::state::StateFolder;

/// Runs the command.
///
/// # Errors
/// When a stack runs here already, or this one does not start.
pub(crate) async fn run(arguments: &Dev) -> Result<Exit, Fault> {
    let project = Project::open(&arguments.local, None)?;
    if arguments.stop {
        return stop(&project.state).await;
    }
    let mut signals = Signals::listen()?;
    let ownership = lock::own(&project.state)?.map_err(|held| running(&project.state, &held))?;
    project.state.forget_url();
    if !arguments.random_ports {
        claim_port(arguments.port)?;
    }
    let temporary = if arguments.ephemeral {
        let made = tempfile::Builder::new().prefix("causey-").tempdir();
        Some(made.map_err(|error| Fault::state("create a folder in", &std::env::temp_dir(), &error))?)
    } else {
        None
    };
    let state = temporary.as_ref().map_or_else(|| project.state.clone(), |folder| project.state.with_data(folder.path()));
    let python = project.python_if_any(&arguments.local)?;
    let sdk = sdk::folder(&project.state)?;
    let tools = Tools { python: &python, sdk: &sdk, near: &project.near };
    let plan = Plan::new(Kind::Dev, &state, &arguments.local, tools, if arguments.random_ports { 0 } else { arguments.port })?;
    let mut stack = Stack::start(plan);
    let result = serve(arguments, &mut stack, &mut signals).await;
    if result.is_ok() {
        say(arguments, "stopping; again to kill", &json!({"event": "stopping"}));
    }
    let kill = stack.kill();
    if result.is_err() {
        kill.cancel();
    }
    let mut stopping = std::pin::pin!(stack.stop());
    let killed = tokio::select! {
        () = &mut stopping => None,
        exit = signals.next() => {
            kill.cancel();
            stopping.await;
            Some(exit)
        }
    };
    drop(ownership);
    result.map(|exit| killed.unwrap_or(exit))
}

/// Runs until a signal or the stack's failure. A signal is the way to end it, so stopping in order is a success.
async fn serve(arguments: &Dev, stack: &mut Stack, signals: &mut Signals) -> Result<Exit, Fault> {
    let url = {
        let mut starting = std::pin::pin!(stack.url());
        tokio::select! {
            url = &mut starting => url?,
            _ = signals.next() => return Ok(Exit::Ok),
        }
    };
    header(arguments, stack, &url);
    loop {
        tokio::select! {
            notice = stack.next() => tell(arguments, &notice?),
            _ = signals.next() => return Ok(Exit::Ok),
        }
    }
}

fn header(arguments: &Dev, stack: &Stack, url: &str) {
    let plan = stack.plan();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let slots = plan.slots.map_or(cores, |slots| usize::try_from(slots).unwrap_or(usize::MAX));
    let text = format!(
        "causey {} · dev stack (nats {}, 1 worker × {slots} slots) · {url}\n{}",
        env!("CARGO_PKG_VERSION"),
        plan.nats.version,
        Paint::stderr().dim(&format!(
            "  data in {} · survives kill -9, not a power cut · Ctrl-C stops",
            if arguments.ephemeral { "a temporary folder".into() } else { plan.state.data().display().to_string() }
        ))
    );
    let event = json!({"event": "listening", "schema": 1, "url": url, "nats": format!("nats://127.0.0.1:{}", plan.settings.port),
        "nats_version": plan.nats.version, "state": plan.state.root(), "data": plan.state.data(), "slots": slots, "pid": std::process::id()});
    say(arguments, &text, &event);
}

fn tell(arguments: &Dev, notice: &Notice) {
    say(arguments, &format!("  {} {}", Paint::stderr().yellow("!"), notice.text()), &notice.json());
}

fn say(arguments: &Dev, text: &str, event: &serde_json::Value) {
    if arguments.json {
        print_json(event);
    } else {
        eprintln!("{text}");
    }
}

fn running(state: &StateFolder, held: &Held) -> Fault {
    let who = held.pid.map_or_else(String::new, |pid| format!(" by process {pid}"));
    let at = state.url().map_or_else(String::new, |url| format!(" at {url}"));
    Fault::new(Exit::Conflict, fault::HELD, format!("a stack is running already in {}{who}{at}", state.root().display()))
        .hint("use it as it is, stop it with causey dev --stop, or choose another folder with --state FOLDER")
}

/// Asks the owner of this folder's stack to stop, and waits until it has.
async fn stop(state: &StateFolder) -> Result<Exit, Fault> {
    let mut asked = false;
    loop {
        match lock::own(state)? {
            Ok(_) if asked => {
                eprintln!("stopped");
                return Ok(Exit::Ok);
            }
            Ok(_) => return Err(Fault::new(Exit::NotFound, fault::HELD, format!("no stack is running in {}", state.root().display()))),
            Err(Held { pid: Some(pid) }) if !asked => {
                signal(pid, Signal::TERM);
                asked = true;
            }
            Err(_) => lock::look_again().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_stack_is_refused_with_the_address_of_the_first() {
        let base = tempfile::tempdir().unwrap();
        let state = StateFolder::open(base.path()).unwrap();
        state.note_url("http://127.0.0.1:4780").unwrap();
        let fault = running(&state, &Held { pid: Some(42) });
        assert_eq!(fault.exit, Exit::Conflict);
        assert!(fault.message.ends_with("by process 42 at http://127.0.0.1:4780"));
    }
}
