//! How a command comes to its server: a given one, the running stack of this project, or a private one that stops when its last client
//! is done. Everything slow is started at once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::arguments::{Local, Place};
use crate::client::Client;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::python::{self, Interpreter};
use crate::screen::paint::Paint;
use crate::sdk;
use crate::signals::Signals;
use crate::stack::lock::{self, Ownership, Use};
use crate::stack::plan::{Kind, Plan, Tools, private_api_port};
use crate::stack::{Notice, Stack};
use crate::state::{StateFolder, locate};

/// How long a stack that another process is starting or stopping may take.
pub(crate) const OTHERS: Duration = Duration::from_secs(60);

/// The working directory.
///
/// # Errors
/// When it has been removed.
pub(crate) fn here() -> Result<PathBuf, Fault> {
    std::env::current_dir().map_err(|error| Fault::new(Exit::Usage, fault::ARGUMENT, "the working directory cannot be read").detail(error))
}

/// What is needed to describe flows and to start a stack, as far as it has been found.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) state: StateFolder,
    pub(crate) near: PathBuf,
}

impl Project {
    /// Opens the state folder of the flow in `near`, or of the working directory.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub(crate) fn open(local: &Local, near: Option<&Path>) -> Result<Self, Fault> {
        let here = here()?;
        let state = StateFolder::open(&locate(local.state.as_deref(), near, &here))?;
        Ok(Self { state, near: near.map_or(here, Path::to_owned) })
    }

    /// The interpreter for the worker of a local stack. Without one only flows in Python are missing something, and say so.
    ///
    /// # Errors
    /// When one was told that is not there.
    pub(crate) fn python_if_any(&self, local: &Local) -> Result<Interpreter, Fault> {
        match self.python(local) {
            Err(_) if local.python.is_none() => Ok(Interpreter { path: "python3".into(), from: "PATH" }),
            found => found,
        }
    }

    /// The interpreter for flows of this project.
    ///
    /// # Errors
    /// When there is none.
    pub(crate) fn python(&self, local: &Local) -> Result<Interpreter, Fault> {
        let found = python::find(local.python.as_deref(), &self.near)?;
        Ok(python::without_launcher(found, &self.near, &self.state))
    }
}

/// A connection, and the stack behind it where this process owns one.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: Client,
    pub(crate) how: How,
}

/// Whose server it is.
#[derive(Debug)]
pub(crate) enum How {
    /// An address was given.
    Given,
    /// The project's stack, run by another process.
    Joined { _use: Use },
    /// This process's own stack. Boxed: it is much larger than the rest.
    Own(Box<Own>),
}

impl How {
    /// The next notice of the own stack; never comes for another one.
    ///
    /// # Errors
    /// When the own stack has given up.
    pub(crate) async fn notice(&mut self) -> Result<Notice, Fault> {
        match self {
            Self::Own(own) => own.stack.next().await,
            Self::Given | Self::Joined { .. } => std::future::pending().await,
        }
    }
}

/// A private stack and the right to run it.
#[derive(Debug)]
pub(crate) struct Own {
    stack: Stack,
    ownership: Ownership,
}

/// A private stack that has been started but may not answer yet, or another way to a server.
#[derive(Debug)]
pub(crate) enum Opening {
    Ready(Box<Session>),
    Starting(Box<Own>),
}

/// Begins to connect. A private stack's processes are started when this returns; its answer is waited for in [`Opening::ready`], so that
/// the caller can do something useful meanwhile.
///
/// # Errors
/// When there is no server and none can be started.
pub(crate) async fn open(place: &Place, near: Option<&Path>) -> Result<Opening, Fault> {
    if let Some(url) = &place.url {
        return given(url, place, near).map(|session| Opening::Ready(Box::new(session)));
    }
    let project = Project::open(&place.local, near)?;
    let begun = Instant::now();
    loop {
        match lock::own(&project.state)? {
            Ok(ownership) => return start(&project, &place.local, ownership),
            Err(held) => {
                if let Some(session) = joined(&project.state)? {
                    return Ok(Opening::Ready(Box::new(session)));
                }
                if begun.elapsed() > OTHERS {
                    let who = held.pid.map_or_else(String::new, |pid| format!(" (process {pid})"));
                    return Err(Fault::new(
                        Exit::TimedOut,
                        fault::HELD,
                        format!("another causey{who} holds {} but its stack does not answer", project.state.root().display()),
                    )
                    .hint("stop that process, or choose another folder with --state FOLDER"));
                }
                lock::look_again().await;
            }
        }
    }
}

/// Connects and waits until the server answers.
///
/// # Errors
/// When there is no server and none can be started.
pub(crate) async fn connect(place: &Place, near: Option<&Path>) -> Result<Session, Fault> {
    open(place, near).await?.ready().await
}

impl Opening {
    /// Waits until the server answers.
    ///
    /// # Errors
    /// When the stack does not start; what has been started is stopped.
    pub(crate) async fn ready(self) -> Result<Session, Fault> {
        match self {
            Self::Ready(session) => Ok(*session),
            Self::Starting(own) => {
                let client = match own.stack.url().await {
                    Ok(url) => Client::new(&url, &own.stack.plan().token),
                    Err(fault) => Err(fault),
                };
                match client {
                    Ok(client) => {
                        client.assume_reached();
                        Ok(Session { client, how: How::Own(own) })
                    }
                    Err(fault) => {
                        own.abandon().await;
                        Err(fault)
                    }
                }
            }
        }
    }

    /// Undoes the opening: there turned out to be nothing to do.
    pub(crate) async fn abandon(self) {
        if let Self::Starting(own) = self {
            own.abandon().await;
        }
    }
}

impl Own {
    async fn abandon(self) {
        self.stack.kill().cancel();
        self.stack.stop().await;
        drop(self.ownership);
    }
}

impl Session {
    /// In words, for the first line of a run.
    pub(crate) fn describe(&self) -> String {
        match &self.how {
            How::Given => "server".into(),
            How::Joined { .. } => "running stack".into(),
            How::Own(own) => format!("private stack (nats {})", own.stack.plan().nats.version),
        }
    }

    /// Returns when the own stack has given up; never for another one. Whoever waits for an answer waits for this too: a part that
    /// cannot start says why, an answer that never comes does not.
    pub(crate) fn given_up(&self) -> impl Future<Output = Fault> + use<> {
        let own = match &self.how {
            How::Own(own) => Some(own.stack.given_up()),
            How::Given | How::Joined { .. } => None,
        };
        async move {
            match own {
                Some(given_up) => given_up.await,
                None => std::future::pending().await,
            }
        }
    }

    pub(crate) fn is_own(&self) -> bool {
        matches!(self.how, How::Own(_))
    }

    /// Leaves the server; an own stack is stopped once nobody else uses it. Ctrl-C while waiting stops it at once.
    pub(crate) async fn close(self, signals: &mut Signals) {
        let How::Own(own) = self.how else { return };
        let state = own.stack.plan().state.clone();
        let told = || eprintln!("{}", Paint::stderr().dim("waiting for other causey commands that use this stack (Ctrl-C stops it)"));
        let closed = tokio::select! {
            closed = lock::close(&state, told) => closed.ok(),
            _ = signals.next() => None,
        };
        own.stack.stop().await;
        drop(own.ownership);
        drop(closed);
    }

    /// Leaves at once: an own stack is killed.
    pub(crate) async fn kill(self) {
        if let How::Own(own) = self.how {
            own.abandon().await;
        }
    }
}

/// A server whose address was given.
///
/// # Errors
/// When there is no token for it, or it is no address.
pub(crate) fn given(url: &str, place: &Place, near: Option<&Path>) -> Result<Session, Fault> {
    let token = match &place.token {
        Some(token) => token.clone(),
        None => {
            // The address of this project's own stack needs no token on the command line.
            let folder = locate(place.local.state.as_deref(), near, &here()?);
            std::fs::read_to_string(folder.join("token")).map(|text| text.trim().to_owned()).map_err(|_| {
                Fault::new(Exit::Usage, fault::ARGUMENT, format!("no token for {url}")).hint("give it with --token or CAUSEY_TOKEN")
            })?
        }
    };
    Ok(Session { client: Client::new(url, &token)?, how: How::Given })
}

/// The running stack of this folder, if it answers already and is not being stopped.
///
/// # Errors
/// When the state folder cannot be used.
pub(crate) fn joined(state: &StateFolder) -> Result<Option<Session>, Fault> {
    let Some(url) = state.url() else { return Ok(None) };
    let Some(using) = lock::join(state)? else { return Ok(None) };
    let client = Client::new(&url, &state.token()?)?;
    client.assume_reached();
    Ok(Some(Session { client, how: How::Joined { _use: using } }))
}

fn start(project: &Project, local: &Local, ownership: Ownership) -> Result<Opening, Fault> {
    // An address left behind by a killed owner would send other commands to nobody.
    project.state.forget_url();
    let python = project.python_if_any(local)?;
    let sdk = sdk::folder(&project.state)?;
    let tools = Tools { python: &python, sdk: &sdk, near: &project.near };
    let plan = Plan::new(Kind::Private, &project.state, local, tools, private_api_port(project.state.ports()))?;
    Ok(Opening::Starting(Box::new(Own { stack: Stack::start(plan), ownership })))
}

/// Runs `body` with a connection, and leaves the server afterwards. A signal ends it at once.
///
/// # Errors
/// What `body` or the connection fails with.
pub(crate) async fn with_server(place: &Place, body: impl AsyncFnOnce(&mut Session) -> Result<Exit, Fault>) -> Result<Exit, Fault> {
    let mut signals = Signals::listen()?;
    let mut session = tokio::select! {
        session = connect(place, None) => session?,
        exit = signals.next() => return Ok(exit),
    };
    let given_up = session.given_up();
    let result = tokio::select! {
        result = body(&mut session) => result,
        fault = given_up => Err(fault),
        exit = signals.next() => {
            session.kill().await;
            return Ok(exit);
        }
    };
    session.close(&mut signals).await;
    result
}
