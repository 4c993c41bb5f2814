//! `causey`: the one binary people type. Results go to standard output, talk to standard error; the exit status is one of
//! [`exit::Exit`].

mod arguments;
mod client;
mod command;
mod describe;
mod environment;
mod exit;
mod fault;
mod flow_arguments;
mod gather;
mod lasting;
mod package;
mod python;
mod rscript;
mod screen;
mod sdk;
mod session;
mod signals;
mod stack;
mod state;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::arguments::{Causey, Command, Events, StateCommand};
use crate::exit::Exit;
use crate::fault::Fault;
use crate::flow_arguments::Known;
use crate::screen::paint::Paint;

/// Most of what the leader's loop does is making and forgetting small things.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match dispatch() {
        Ok(exit) => exit.into(),
        Err(fault) => {
            eprint!("{}", fault.render(Paint::stderr()));
            fault.exit.into()
        }
    }
}

/// A flow's parameters as typed.
type Parameters = Vec<(String, String)>;

fn dispatch() -> Result<Exit, Fault> {
    let (words, parameters) = words()?;
    let command = Causey::parse_from(words).command;
    match &command {
        Command::Guard(arguments) => return stack::guard::run(arguments),
        Command::Confine(arguments) => return command::service::confine(arguments),
        _ => {}
    }
    runtime(&command)?.block_on(async {
        match command {
            Command::Run(arguments) => {
                let json = arguments.json;
                command::run::run(arguments, parameters).await.inspect_err(|fault| {
                    if json {
                        screen::live::print_json(&fault.json());
                    }
                })
            }
            Command::Resume(arguments) => {
                let json = arguments.json;
                command::resume::run(arguments).await.inspect_err(|fault| {
                    if json {
                        screen::live::print_json(&fault.json());
                    }
                })
            }
            Command::Dev(arguments) => command::dev::run(&arguments).await,
            Command::Show(arguments) => command::show::run(&arguments).await,
            Command::Check(arguments) => command::check::run(&arguments).await,
            Command::Runs(arguments) => command::runs::run(&arguments).await,
            Command::Logs(arguments) => command::logs::run(&arguments).await,
            Command::Cancel(arguments) => command::cancel::run(&arguments).await,
            Command::Query(arguments) => command::query::run(&arguments).await,
            Command::Signal(arguments) => command::gates::signal(&arguments).await,
            Command::Approve(arguments) => command::gates::decide(&arguments, true).await,
            Command::Reject(arguments) => command::gates::decide(&arguments, false).await,
            Command::Why(arguments) => command::why::run(&arguments).await,
            Command::Pools(arguments) => command::pools::run(&arguments).await,
            Command::Drain(arguments) => command::pools::order(&arguments, "drain").await,
            Command::Cordon(arguments) => command::pools::order(&arguments, "cordon").await,
            Command::Uncordon(arguments) => command::pools::order(&arguments, "serve").await,
            Command::Deploy(arguments) => command::deploy::run(&arguments).await,
            Command::Schedules(arguments) => command::schedules::run(&arguments).await,
            Command::Backfill(arguments) => command::backfill::start(&arguments).await,
            Command::Backfills(arguments) => command::backfill::run(&arguments).await,
            Command::Events(Events::Publish(arguments)) => command::events::publish(&arguments).await,
            Command::Events(Events::Follow(arguments)) => command::follow::run(&arguments).await,
            Command::DeadLetters(command) => command::letters::run(&command).await,
            Command::Models(arguments) => command::models::run(&arguments).await,
            Command::State(StateCommand::Verify(arguments)) => command::state::verify(&arguments).await,
            Command::State(StateCommand::Rebuild(arguments)) => command::state::rebuild(&arguments).await,
            Command::State(StateCommand::AcceptLoss(arguments)) => command::state::accept_loss(&arguments).await,
            Command::Doctor(arguments) => command::doctor::run(&arguments).await,
            Command::Worker(arguments) => command::service::worker(arguments).await,
            Command::Coordinator(arguments) => command::service::coordinator(arguments).await,
            Command::Host(arguments) => command::service::host(&arguments).await,
            Command::Confine(arguments) => command::service::confine(&arguments),
            Command::Guard(arguments) => stack::guard::run(&arguments),
        }
    })
}

/// The words for clap, and the flow's parameters where the command is `run`. `resume` takes none.
fn words() -> Result<(Vec<OsString>, Parameters), Fault> {
    let words: Vec<OsString> = std::env::args_os().collect();
    let resumes = words.get(1).is_some_and(|command| command == "resume");
    if !resumes && words.get(1).is_none_or(|command| command != "run") {
        return Ok((words, Vec::new()));
    }
    let text = |word: &OsString| {
        let not_text = || Fault::new(Exit::Usage, fault::ARGUMENT, format!("{} is not UTF-8", word.display()));
        word.to_str().map(str::to_owned).ok_or_else(not_text)
    };
    let rest = words[2..].iter().map(text).collect::<Result<Vec<String>, Fault>>()?;
    if resumes {
        flow_arguments::refuse(&rest, &known("resume")).map_err(Fault::usage)?;
        return Ok((words, Vec::new()));
    }
    let split = flow_arguments::split(rest, &known("run")).map_err(Fault::usage)?;
    Ok((words[..2].iter().cloned().chain(split.ours.into_iter().map(Into::into)).collect(), split.parameters))
}

/// The options of a command, as clap knows them.
fn known(command: &str) -> Vec<Known> {
    let mut causey = Causey::command();
    causey.build();
    let options = causey.find_subcommand(command).into_iter().flat_map(clap::Command::get_arguments);
    let names = options.flat_map(|option| {
        let takes_value = option.get_action().takes_values();
        let long = option.get_long().map(|long| format!("--{long}"));
        let short = option.get_short().map(|short| format!("-{short}"));
        long.into_iter().chain(short).map(move |name| Known { name, takes_value })
    });
    names.collect()
}

/// Services have work for all cores; everything else waits, and a runtime of one thread starts faster.
fn runtime(command: &Command) -> Result<tokio::runtime::Runtime, Fault> {
    let mut builder = match command {
        Command::Worker(_) | Command::Coordinator(_) => tokio::runtime::Builder::new_multi_thread(),
        _ => tokio::runtime::Builder::new_current_thread(),
    };
    builder.enable_all().build().map_err(|error| Fault::new(Exit::Failed, fault::SERVICE, "cannot start the runtime").detail(error))
}
