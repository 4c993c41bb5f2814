//! Following the log: a standby folds every turn as it is written, performs nothing, and takes the leadership once the key is free.
//! It trusts the log no more than a leader does: after every (re)connect the streams are checked before anything is read (I11).

use std::time::Duration;

use causey_protocol::backoff::Delays;
use causey_protocol::subject;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::committed::Role;
use crate::config::TURNS_READ_AHEAD;
use crate::coordinator::{Coordinator, Error};
use crate::inbox;
use crate::leadership::{Keeper, Seat};
use crate::outside::{Outside, Raw, Unanswered};
use crate::{log, recover};

/// Follows the log until this coordinator holds the leadership key; `None` at shutdown. Trouble with the broker is waited out.
///
/// # Errors
/// A final [`Error`]: the log is broken, a stream moved back, or the store is another one.
pub(crate) async fn follow<O: Outside>(this: &mut Coordinator<O>) -> Result<Option<Keeper<O::Bucket>>, Error> {
    let shutdown = this.shutdown.clone();
    let mut delays = Delays::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        // Cutting it loses nothing: a turn is folded without an await, and a key taken in vain expires or is found to be ours.
        let Some(elected) = shutdown.run_until_cancelled(until_elected(this)).await else { return Ok(None) };
        match elected {
            Ok(keeper) => return Ok(Some(keeper)),
            Err(error) => match trimmed(this, error).await {
                error if error.is_final() => return Err(error),
                error => tracing::warn!(%error, "the log cannot be followed; trying again"),
            },
        }
        if shutdown.run_until_cancelled(tokio::time::sleep(delays.next_delay())).await.is_none() {
            return Ok(None);
        }
    }
}

async fn until_elected<O: Outside>(this: &mut Coordinator<O>) -> Result<Keeper<O::Bucket>, Error> {
    // What is asked while the connection is down waits for nothing but a timeout.
    this.link.is_up().await?;
    let end = check(this).await?;
    let mut seat = Seat::open(&this.outside, &this.holder).await?;
    let mut current = this.fold.tail.sequence >= end;
    if current {
        this.verify().await?;
        serve(this)?;
        // Before anything is subscribed: whoever starts alone leads at once.
        if let Some(keeper) = attempt(this, &mut seat).await? {
            return Ok(keeper);
        }
        seat.watch().await?;
    }
    let mut turns = read_turns(this);
    let mut patience = Instant::now() + log::NEXT_TIMEOUT;
    loop {
        let due = current.then(|| seat.due());
        let silent = (!current).then_some(patience);
        tokio::select! {
            biased;
            turn = turns.recv() => {
                fold(this, turn)?;
                patience = Instant::now() + log::NEXT_TIMEOUT;
                if !current && this.fold.tail.sequence >= end {
                    // The watermarks have moved past what was known when the streams were checked.
                    this.verify().await?;
                    current = true;
                    serve(this)?;
                    seat.watch().await?;
                }
            }
            () = sleep_until(silent) => {
                // A turn that the server counts and cannot read is never delivered; asked for by its sequence it is missing.
                log::message_at(&this.outside, this.fold.tail.sequence + 1).await?;
                patience = Instant::now() + log::NEXT_TIMEOUT;
            }
            () = sleep_until(this.fold.due) => this.fold.follow(),
            seen = seat.changed(), if current => {
                seen?;
                this.fold.committed.set_role(Role::Standby { leader: seat.leader() });
            }
            () = sleep_until(due) => {
                if let Some(keeper) = attempt(this, &mut seat).await? {
                    return Ok(keeper);
                }
            }
            () = this.link.interrupted() => return Err(Error::Disconnected),
        }
    }
}

/// Finds where to go on from, and checks that no stream moved back and that the log still holds what was folded last; gives the log's end (I11).
async fn check(this: &mut Coordinator<impl Outside>) -> Result<u64, Error> {
    let base = recover::base(&this.outside, &this.store, this.fold.tail).await?;
    if let Some(state) = base.instead {
        tracing::info!(sequence = base.tail.sequence, "the fold begins anew from a snapshot, the archive or the log");
        this.fold.begin(state, base.tail);
    }
    let end = this.verify_log().await?.log;
    // Where that turn is trimmed, the next one names it.
    if this.fold.tail.sequence >= base.first {
        log::check(&this.outside, this.fold.tail).await?;
    }
    Ok(end)
}

/// The fold has reached the end that the log had when it was looked at: from here on this coordinator answers readers.
fn serve(this: &mut Coordinator<impl Outside>) -> Result<(), Error> {
    this.check_store()?;
    this.fold.announce();
    let starting = this.fold.committed.role().get() == Role::Starting;
    if starting {
        this.fold.committed.set_role(Role::Standby { leader: None });
    }
    Ok(())
}

/// What is missing is no damage where the leader has trimmed the log while this coordinator read it: a snapshot goes further.
pub(crate) async fn trimmed(this: &Coordinator<impl Outside>, error: Error) -> Error {
    let (Error::Log(missing) | Error::Recover(recover::Error::Log(missing))) = &error else { return error };
    let (log::Error::Gap { expected: sequence, .. } | log::Error::Missing { sequence }) = missing else { return error };
    match recover::extent(&this.outside).await {
        Ok(extent) if extent.first > *sequence => Error::Trimmed,
        _ => error,
    }
}

fn read_turns(this: &Coordinator<impl Outside>) -> mpsc::Receiver<Raw> {
    let (sender, turns) = mpsc::channel(TURNS_READ_AHEAD);
    tokio::spawn(inbox::read(this.outside.clone(), subject::LOG_STREAM, this.fold.tail.sequence, sender));
    turns
}

fn fold(this: &mut Coordinator<impl Outside>, turn: Option<Raw>) -> Result<(), Error> {
    let Raw { sequence, payload, .. } = turn.ok_or_else(|| Unanswered("the reader of the log ended".into()))?;
    let read = log::follow(this.fold.tail, sequence, &payload)?;
    this.fold.apply(read.tail, &read.turn);
    this.fold.announce();
    Ok(())
}

async fn attempt<O: Outside>(this: &mut Coordinator<O>, seat: &mut Seat<O::Bucket>) -> Result<Option<Keeper<O::Bucket>>, Error> {
    let keeper = seat.attempt().await?;
    if keeper.is_none() {
        this.fold.committed.set_role(Role::Standby { leader: seat.leader() });
    }
    Ok(keeper)
}

pub(crate) async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}
