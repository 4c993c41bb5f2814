//! `causey signal`, `causey approve` and `causey reject`: what a run waits for, given by a person.

use serde_json::{Value, json};

use crate::arguments::{Approve, Place, Reject, Signal};
use crate::client::answer::RunView;
use crate::command::given;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::live::print_json;
use crate::session::with_server;
use crate::state::random_hex;

/// Sends a signal.
///
/// # Errors
/// When the data is not JSON, or the server refuses: no such run, a signal that no step waits for, or one that came before.
pub(crate) async fn signal(arguments: &Signal) -> Result<Exit, Fault> {
    let data = arguments.data.as_deref().map(|data| given::json(data, "--data")).transpose()?.unwrap_or(Value::Null);
    let body = json!({"request_id": random_hex(), "user": given::user(arguments.user.as_deref()), "data": data});
    let path = ["runs", &arguments.run, "signals", &arguments.name];
    let said = format!("has received signal {}", arguments.name);
    send(&arguments.place, &path, body, arguments.json, &said).await
}

/// Approves a step.
///
/// # Errors
/// When the server refuses: no such run or step, one that waits for no approval, or one that is for somebody else to decide about.
pub(crate) async fn approve(arguments: &Approve) -> Result<Exit, Fault> {
    let Approve { run, step, because, user, json, place } = arguments;
    decide(place, run, step, (true, because.as_deref(), user.as_deref()), *json).await
}

/// Rejects a step: its run fails.
///
/// # Errors
/// As [`approve`].
pub(crate) async fn reject(arguments: &Reject) -> Result<Exit, Fault> {
    let Reject { run, step, because, user, json, place } = arguments;
    decide(place, run, step, (false, because.as_deref(), user.as_deref()), *json).await
}

async fn decide(
    place: &Place,
    run: &str,
    step: &str,
    (approved, because, user): (bool, Option<&str>, Option<&str>),
    as_json: bool,
) -> Result<Exit, Fault> {
    let body = json!({"request_id": random_hex(), "user": given::user(user), "approved": approved, "because": because.unwrap_or_default()});
    let said = if approved { format!("goes on: {step} is approved") } else { format!("has failed: {step} is rejected") };
    send(place, &["runs", run, "approvals", step], body, as_json, &said).await
}

async fn send(place: &Place, path: &[&str], body: Value, as_json: bool, said: &str) -> Result<Exit, Fault> {
    with_server(place, async |session| {
        let run: Value = session.client.post(path, &body).await?;
        if as_json {
            print_json(&run);
        } else {
            let name = serde_json::from_value::<RunView>(run).map(|run| run.name).unwrap_or_default();
            eprintln!("{name} {said}");
        }
        Ok(Exit::Ok)
    })
    .await
}
