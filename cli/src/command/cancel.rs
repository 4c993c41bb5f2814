//! `causey cancel RUN`.

use serde_json::json;

use crate::arguments::Cancel;
use crate::command::watch;
use crate::exit::Exit;
use crate::fault::Fault;
use crate::screen::live::print_json;
use crate::session::with_server;

/// Runs the command.
///
/// # Errors
/// When there is no such run, or the server cannot be reached.
pub(crate) async fn run(arguments: &Cancel) -> Result<Exit, Fault> {
    with_server(&arguments.place, async |session| {
        let run = watch::cancel(&session.client, &arguments.run, &arguments.reason).await?;
        if arguments.json {
            print_json(&json!(run));
        } else {
            eprintln!("{} is {}", run.name, run.state.word());
        }
        Ok(Exit::Ok)
    })
    .await
}
