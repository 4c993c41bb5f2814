//! `causey signal`, `causey approve` and `causey reject`: what a run waits for, given by a person.

use serde_json::{Value, json};

use crate::arguments::{Decision, Place, Signal};
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

/// Approves a step, or rejects it, which fails its run.
///
/// # Errors
/// When the server refuses: no such run or step, one that waits for no approval, or one that is for somebody else to decide about.
pub(crate) async fn decide(arguments: &Decision, approved: bool) -> Result<Exit, Fault> {
    let Decision { run, step, because, user, json: as_json, place } = arguments;
    let (user, because) = (given::user(user.as_deref()), because.as_deref().unwrap_or_default());
    let body = json!({"request_id": random_hex(), "user": user, "approved": approved, "because": because});
    let said = if approved { format!("goes on: {step} is approved") } else { format!("has failed: {step} is rejected") };
    send(place, &["runs", run, "approvals", step], body, *as_json, &said).await
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
