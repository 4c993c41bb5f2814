//! `causey run`: describes the flow and starts what it needs side by side, sends code and request, follows the run.

use std::path::{Path, PathBuf};

use causey_protocol::policy::HostMode;
use serde_json::{Value, json};

use crate::arguments::Run;
use crate::client::Client;
use crate::client::answer::{Resumed, Submitted};
use crate::command::given;
use crate::command::watch::{Watched, watch};
use crate::describe::{self, describe};
use crate::environment;
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::flow_arguments::resolve;
use crate::lasting;
use crate::package::{Packaged, package};
use crate::screen::failure::Context;
use crate::screen::live::{Screen, print_json};
use crate::screen::paint::Paint;
use crate::session::{self, Project, Session};
use crate::signals::Signals;
use crate::state::random_hex;

/// Runs the command.
///
/// # Errors
/// When the flow is not valid, or the server cannot be reached or refuses.
pub(crate) async fn run(mut arguments: Run, mut parameters: Vec<(String, String)>) -> Result<Exit, Fault> {
    for pair in std::mem::take(&mut arguments.parameters) {
        let (name, value) =
            pair.split_once('=').ok_or_else(|| Fault::new(Exit::Usage, fault::ARGUMENT, format!("--param {pair} is not NAME=VALUE")))?;
        parameters.push((name.to_owned(), value.to_owned()));
    }
    let mut signals = Signals::listen()?;
    let file = flow_file(&arguments.flow)?;
    let near = file.as_deref().and_then(Path::parent).map(Path::to_owned);
    let (session, request) = tokio::select! {
        prepared = prepare(&arguments, file.as_deref(), near.as_deref(), &parameters) => prepared?,
        // What has been started stops by itself as soon as this process is gone.
        exit = signals.next() => return Ok(exit),
    };
    let submitted = tokio::select! {
        submitted = submit(&arguments, &session.client, request) => submitted,
        fault = session.given_up() => Err(fault),
        exit = signals.next() => {
            session.kill().await;
            return Ok(exit);
        }
    };
    let submitted = submitted.and_then(|submitted| note_run(arguments.run_id_file.as_deref(), submitted));
    let again = match (&submitted, &file) {
        (Ok(submitted), Some(_)) => format!("causey resume {} {}", submitted.name, arguments.flow),
        _ => format!("causey run {}", arguments.flow),
    };
    follow(session, submitted, signals, Screens { json: arguments.json, sources: near.as_deref(), again: &again }).await
}

/// What is shown of a run, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Screens<'a> {
    pub(crate) json: bool,
    /// The folder of the flow file.
    pub(crate) sources: Option<&'a Path>,
    /// What to type once a step that failed is mended.
    pub(crate) again: &'a str,
}

/// Follows a run that was asked for to its end, and leaves the server afterwards.
pub(crate) async fn follow(
    mut session: Session,
    submitted: Result<Submitted, Fault>,
    mut signals: Signals,
    screens: Screens<'_>,
) -> Result<Exit, Fault> {
    let mut screen = Screen::new(screens.json);
    let context = Context { sources: screens.sources, again: Some(screens.again), paint: Paint::stderr() };
    let watched = match submitted {
        Ok(submitted) => {
            if screens.json {
                let mut event =
                    json!({"event": "submitted", "schema": 1, "run": submitted.run, "name": submitted.name, "url": session.client.base()});
                if let Some(resumed) = &submitted.resumed {
                    event["resumed"] = json!(resumed);
                }
                print_json(&event);
            }
            screen.say(&format!("causey {} · {} · {}", env!("CARGO_PKG_VERSION"), session.describe(), session.client.base()));
            submitted.resumed.iter().flat_map(Resumed::lines).for_each(|line| screen.say(&line));
            watch(&mut session, &submitted.name, &mut screen, &mut signals, context).await
        }
        Err(fault) => Err(fault),
    };
    match watched {
        Ok(Watched::Ended(exit)) => {
            session.close(&mut signals).await;
            Ok(exit)
        }
        Ok(Watched::Left(exit)) => {
            session.kill().await;
            Ok(exit)
        }
        Err(fault) => {
            session.kill().await;
            Err(fault)
        }
    }
}

/// The flow file, or `None` for the name of a deployed flow.
fn flow_file(flow: &str) -> Result<Option<PathBuf>, Fault> {
    let path = Path::new(flow);
    if path.exists() || !causey_protocol::id::is_name(flow) { describe::flow_file(path).map(Some) } else { Ok(None) }
}

/// What is sent.
#[derive(Debug)]
enum Request {
    File(Box<Packaged>, Value),
    Deployed(Value),
}

/// Starts the stack and the description of the flow at once, and waits for both.
async fn prepare(
    arguments: &Run,
    file: Option<&Path>,
    near: Option<&Path>,
    parameters: &[(String, String)],
) -> Result<(Session, Request), Fault> {
    let Some(file) = file else {
        let given: serde_json::Map<String, Value> =
            parameters.iter().map(|(name, text)| (name.clone(), Value::from(text.clone()))).collect();
        let session = connect(arguments, None).await?;
        return Ok((session, Request::Deployed(Value::Object(given))));
    };
    let local = &arguments.place.local;
    let project = Project::open(local, near)?;
    let described = async {
        let mut packaged = package(describe(&project, local, file).await?)?;
        environment::settle(&mut packaged, &project, local, &arguments.packages, file).await?;
        let values = resolve(&packaged.definition.parameters, parameters).map_err(Fault::usage)?;
        Ok::<_, Fault>(Request::File(Box::new(packaged), json!(values)))
    };
    if arguments.keep_alive {
        // A stack that stays is started only for a flow that can run.
        let request = described.await?;
        return Ok((connect(arguments, near).await?, request));
    }
    let opening = session::open(&arguments.place, near).await?;
    match described.await {
        Ok(request) => Ok((opening.ready().await?, request)),
        Err(fault) => {
            opening.abandon().await;
            Err(fault)
        }
    }
}

async fn connect(arguments: &Run, near: Option<&Path>) -> Result<Session, Fault> {
    if arguments.keep_alive { lasting::connect(&arguments.place, near).await } else { session::connect(&arguments.place, near).await }
}

/// Sends the code, then the request. The id makes a repeated request the same run.
async fn submit(arguments: &Run, client: &Client, request: Request) -> Result<Submitted, Fault> {
    let mut body = json!({"request_id": random_hex(), "user": given::user(arguments.user.as_deref()), "tags": arguments.tags});
    if let Some(host) = arguments.host {
        body["host"] = json!(HostMode::from(host));
    }
    if let Some(seconds) = arguments.timeout {
        body["timeout_seconds"] = json!(seconds);
    }
    if let Some(priority) = arguments.priority {
        body["priority"] = json!(priority);
    }
    if let Some(most) = arguments.max_workers {
        body["max_parallel"] = json!(most);
    }
    if arguments.no_memo {
        body["memo"] = json!(false);
    }
    match request {
        Request::File(packaged, parameters) => {
            body["definition"] = json!(packaged.definition);
            body["parameters"] = parameters;
            packaged.send(client).await?;
        }
        Request::Deployed(parameters) => {
            body["flow"] = json!(arguments.flow);
            body["parameters"] = parameters;
        }
    }
    client.post(&["runs"], &body).await
}

/// Writes the id of a run that was started into the file that was asked for.
///
/// # Errors
/// When it cannot be written; the run goes on.
pub(crate) fn note_run(file: Option<&Path>, submitted: Submitted) -> Result<Submitted, Fault> {
    let Some(file) = file else { return Ok(submitted) };
    let written = std::fs::write(file, &submitted.run);
    written
        .map(|()| submitted)
        .map_err(|error| Fault::new(Exit::Failed, fault::FILE, format!("cannot write the run's id to {}", file.display())).detail(error))
}
