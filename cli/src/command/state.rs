//! `causey state`: verify log, archive, snapshots and projection, rebuild the projection, accept what a stream of inputs has lost.
//! Works on the streams and the store alone; no coordinator is asked.

use std::path::PathBuf;

use causey_coordinator::operator::{self, Error, Loss, Report};
use serde_json::json;

use crate::arguments::{AcceptLoss, StatePlace, StateRebuild, StateVerify};
use crate::exit::Exit;
use crate::fault::{self, Fault};
use crate::session::here;
use crate::stack::nats;
use crate::state::{StateFolder, locate};

/// What the options name, and what the project's state folder adds to them.
struct Found {
    place: operator::Place,
    /// Whether the server is the project's own.
    local: bool,
}

fn find(given: &StatePlace) -> Result<Found, Fault> {
    let unsafe_nats_version = given.unsafe_nats_version;
    if let (Some(nats_url), Some(store)) = (given.nats_url.clone(), given.store.clone()) {
        return Ok(Found {
            place: operator::Place { nats_url, store, projection: given.projection.clone(), unsafe_nats_version },
            local: false,
        });
    }
    if given.nats_url.is_some() || given.store.is_some() {
        return Err(Fault::new(Exit::Usage, fault::ARGUMENT, "--nats-url and --store belong together")
            .hint("give what the coordinator is started with; without both the local stack of this folder is meant"));
    }
    let state = StateFolder::open(&locate(given.state.as_deref(), None, &here()?))?;
    let nats_url = nats::noted_url(&state).ok_or_else(|| {
        Fault::new(Exit::NotFound, fault::STATE, format!("no local stack has run in {}", state.root().display()))
            .hint("give --nats-url and --store, or go to the project's folder")
    })?;
    let store = state.data_folder("store")?.display().to_string();
    let projection = given.projection.clone().unwrap_or(state.data_folder("projection")?);
    Ok(Found { place: operator::Place { nats_url, store, projection: Some(projection), unsafe_nats_version }, local: true })
}

/// An error of the work as this command tells it.
fn failed(error: &Error, local: bool) -> Fault {
    let exit = match error {
        Error::Unreachable | Error::Broker(_) => Exit::Unreachable,
        Error::Led { .. } | Error::Projection { .. } => Exit::Conflict,
        _ => Exit::Failed,
    };
    let text = error.to_string();
    let (what, hint) = text.split_once("\nhint: ").unwrap_or((&text, ""));
    let mut fault = Fault::new(exit, fault::STATE, what);
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        fault = fault.detail(cause);
        source = cause.source();
    }
    match (error, local) {
        (Error::Unreachable, true) => fault.hint("start the local stack: causey dev"),
        _ if hint.is_empty() => fault,
        _ => fault.hint(hint),
    }
}

/// `causey state verify`: exit status 1 when something is wrong.
///
/// # Errors
/// When server or store cannot be reached.
pub(crate) async fn verify(arguments: &StateVerify) -> Result<Exit, Fault> {
    let Found { place, local } = find(&arguments.place)?;
    let report = operator::verify(&place).await.map_err(|error| failed(&error, local))?;
    if arguments.json {
        anstream::println!("{}", json!(report));
    } else {
        anstream::print!("{}", words(&report));
    }
    Ok(if report.problems.is_empty() { Exit::Ok } else { Exit::Failed })
}

fn words(report: &Report) -> String {
    let Report { first, last, archived, read, snapshots, projection, runs, histories, state, problems } = report;
    let mut text = format!("log        turns {first} to {last}; chain followed over {archived} archived and {read} kept turns\n");
    let good = snapshots.iter().map(|snapshot| format!("{} {}", snapshot.sequence, if snapshot.good { "good" } else { "damaged" }));
    let good = good.collect::<Vec<_>>().join(", ");
    text += &format!("snapshots  {}\n", if good.is_empty() { "none" } else { &good });
    text += &projection.map_or_else(|| "projection none\n".to_owned(), |sequence| format!("projection at turn {sequence}\n"));
    text += &format!("runs       {runs}, {histories} with a stored history\n");
    text += &state.map_or_else(|| "state      cannot be made\n".to_owned(), |hash| format!("state      {hash}\n"));
    for problem in problems {
        text += &format!("✘ {problem}\n");
    }
    if problems.is_empty() {
        text += "✔ log, archive, snapshots and projection agree\n";
    } else {
        text += "  help  see docs/operations.md, \"What to do when\"\n";
    }
    text
}

/// `causey state rebuild`.
///
/// # Errors
/// When a coordinator uses the projection, or there is nothing to rebuild it from.
pub(crate) async fn rebuild(arguments: &StateRebuild) -> Result<Exit, Fault> {
    let Found { place, local } = find(&arguments.place)?;
    let folder = projection(&place)?;
    let (sequence, hash) = operator::rebuild(&place, &folder).await.map_err(|error| failed(&error, local))?;
    if arguments.json {
        anstream::println!("{}", json!({"sequence": sequence, "state": hash}));
    } else {
        anstream::println!("rebuilt {} at turn {sequence}: state {hash}", folder.display());
    }
    Ok(Exit::Ok)
}

fn projection(place: &operator::Place) -> Result<PathBuf, Fault> {
    place
        .projection
        .clone()
        .ok_or_else(|| Fault::new(Exit::Usage, fault::ARGUMENT, "the projection's folder is not given").hint("give --projection FOLDER"))
}

/// `causey state accept-loss`.
///
/// # Errors
/// When a coordinator leads, or when the log itself has lost its end.
pub(crate) async fn accept_loss(arguments: &AcceptLoss) -> Result<Exit, Fault> {
    let Found { place, local } = find(&arguments.place)?;
    let user = arguments.user.clone().unwrap_or_else(|| std::env::var("USER").unwrap_or_default());
    let losses = operator::accept_loss(&place, &user).await.map_err(|error| failed(&error, local))?;
    if arguments.json {
        anstream::println!("{}", json!({"accepted": losses}));
    } else if losses.is_empty() {
        anstream::println!("no stream of inputs has lost anything");
    }
    for Loss { stream, seen, found, another } in losses.iter().filter(|_| !arguments.json) {
        let how = if *another { "it is another stream now" } else { "it moved back" };
        anstream::println!(
            "{stream}: {how}, ends at sequence {found}, {seen} had been read: {} accepted inputs lost, besides those nobody had read",
            seen.saturating_sub(*found)
        );
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_coordinator::operator::Checked;

    #[test]
    fn a_report_names_every_problem() {
        let problems = vec!["snapshot 7: it is not there".to_owned()];
        let snapshots = vec![Checked { sequence: 9, good: true }, Checked { sequence: 7, good: false }];
        let report = Report { first: 5, last: 12, archived: 4, read: 8, snapshots, problems, ..Report::default() };
        let text = words(&report);
        for part in ["turns 5 to 12", "4 archived and 8 kept", "9 good, 7 damaged", "✘ snapshot 7: it is not there", "help"] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(words(&Report { problems: Vec::new(), ..report }).ends_with("agree\n"));
    }
}
