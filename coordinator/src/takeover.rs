//! From the leadership key to the right to write: a fence behind the log's last turn. Whatever an older leader still tries to write
//! is refused from there on, whether or not it knows.

use std::collections::BTreeMap;

use causey_artifacts::failpoint;
use causey_protocol::record::{Record, Turn};
use causey_protocol::subject;
use tokio_util::sync::CancellationToken;

use crate::coordinator::{Coordinator, Error};
use crate::outside::Outside;
use crate::{log, streams};

/// Appends the fence of the next epoch, after folding what others wrote meanwhile.
///
/// # Errors
/// [`Error::KeyLost`] when the key goes before the fence stands; else what the broker or the log says.
pub(crate) async fn take_over(this: &mut Coordinator<impl Outside>, lost: &CancellationToken) -> Result<(), Error> {
    while !fence(this).await? {
        // The old leader wrote one more turn, or still writes: the rest of the tail, and again. It stops at its next renewal.
        let end = this.verify_log().await?.log;
        if lost.is_cancelled() {
            return Err(Error::KeyLost);
        }
        let fold = &mut this.fold;
        log::replay(&this.outside, fold.tail, end, |read| fold.apply(read.tail, &read.turn)).await?;
        this.verify().await?;
        this.check_store()?;
    }
    this.fold.announce();
    Ok(())
}

/// Tries to append the first turn of a new epoch; `false`: somebody else wrote since.
async fn fence(this: &mut Coordinator<impl Outside>) -> Result<bool, Error> {
    // Once: that they stay the same is checked against it from then on.
    let unknown = this.fold.committed.read().streams.is_empty();
    let created = if unknown { Some(streams::look(&this.outside).await?.created) } else { None };
    let turn = first_turn(this, created);
    failpoint::here("fence.decided");
    match log::append(&this.outside, subject::LOG_FENCE, this.fold.tail, &turn).await {
        Ok(tail) => {
            failpoint::here("fence.written");
            this.fold.apply(tail, &turn);
            Ok(true)
        }
        Err(log::Error::Taken { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn first_turn(this: &Coordinator<impl Outside>, created: Option<BTreeMap<String, u64>>) -> Turn {
    let tail = this.fold.tail;
    let state = this.fold.committed.read();
    let mut records = vec![Record::LeaderChanged { leader: this.holder.name.clone() }];
    if tail.sequence == 0 {
        records.insert(0, Record::LogOpened { store: this.store.id() });
    }
    records.extend(created.map(|created| Record::StreamsSeen { created }));
    Turn {
        epoch: state.epoch + 1,
        at: this.outside.now().max(state.at),
        inbox: state.inbox,
        events: state.events,
        announced: state.announced,
        previous: tail.hash,
        records,
    }
}
