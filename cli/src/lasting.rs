//! A local stack that outlives the command that needed it: `causey dev` in the background, for `causey run --keep-alive`.

use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use crate::arguments::{Local, Place};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::session::{OTHERS, Project, Session, given, joined};
use crate::stack::child::last_lines;
use crate::stack::lock;

/// Joins the project's stack, starting one that outlives this process (`causey dev` in the background) where none is up.
///
/// # Errors
/// When it cannot be started.
pub(crate) async fn connect(place: &Place, near: Option<&Path>) -> Result<Session, Fault> {
    if let Some(url) = &place.url {
        return given(url, place, near);
    }
    let project = Project::open(&place.local, near)?;
    let mut child = match lock::own(&project.state)? {
        Ok(ownership) => {
            project.state.forget_url();
            drop(ownership);
            Some(start_background(&project, &place.local)?)
        }
        Err(_) => None,
    };
    let begun = Instant::now();
    loop {
        if let Some(session) = joined(&project.state)? {
            return Ok(session);
        }
        let failed = child.as_mut().and_then(|child| child.try_wait().ok().flatten()).is_some();
        if failed || begun.elapsed() > OTHERS {
            let log = project.state.file("logs").join("dev.log");
            let mut fault = Fault::new(Exit::Unreachable, fault::STACK, "the stack in the background does not start");
            fault.details = last_lines(&log, 8);
            return Err(fault.hint(format!("see {}", log.display())));
        }
        lock::look_again().await;
    }
}

fn start_background(project: &Project, local: &Local) -> Result<Child, Fault> {
    let unusable = |error: std::io::Error| Fault::new(Exit::Failed, fault::STACK, "cannot start a stack in the background").detail(error);
    let log = project.state.folder("logs")?.join("dev.log");
    let log = std::fs::File::create(&log).map_err(|error| Fault::state("write", &log, &error))?;
    let mut command = Command::new(std::env::current_exe().map_err(unusable)?);
    command.args(["dev", "--random-ports", "--json", "--state"]).arg(project.state.root());
    // A told interpreter is passed on; without any the stack still runs flows in other languages.
    command.arg("--python").arg(project.python_if_any(local)?.path);
    if let Some(nats) = &local.nats_server {
        command.arg("--nats-server").arg(nats);
    }
    if let Some(slots) = local.slots {
        command.args(["--slots", &slots.to_string()]);
    }
    // A process group of its own: Ctrl-C at this terminal is not meant for it.
    command.current_dir(&project.near).stdin(Stdio::null()).stdout(log.try_clone().map_err(unusable)?).stderr(log).process_group(0);
    command.spawn().map_err(unusable)
}
