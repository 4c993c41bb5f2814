//! From the leadership key to the right to write: a fence behind the log's last turn. Whatever an older leader still tries to write
//! is refused from there on, whether or not it knows.

use bytes::Bytes;
use causey_protocol::codec;
use causey_protocol::id::Digest;
use causey_protocol::record::{Record, Turn};
use causey_protocol::subject;
use tokio_util::sync::CancellationToken;

use crate::clock::now;
use crate::coordinator::{Coordinator, Error};
use crate::log::{self, Tail};
use crate::streams;

/// Appends the fence of the next epoch, after folding what others wrote meanwhile.
///
/// # Errors
/// [`Error::KeyLost`] when the key goes before the fence stands; else what the broker or the log says.
pub(crate) async fn take_over(this: &mut Coordinator, lost: &CancellationToken) -> Result<(), Error> {
    while !fence(this).await? {
        // The old leader wrote one more turn, or still writes: the rest of the tail, and again. It stops at its next renewal.
        let end = streams::verify(&this.context, this.seen()).await?.log;
        if lost.is_cancelled() {
            return Err(Error::KeyLost);
        }
        let fold = &mut this.fold;
        log::replay(&this.context, fold.tail, end, |read| fold.apply(read.tail, &read.turn)).await?;
        streams::verify(&this.context, this.seen()).await?;
        this.check_store()?;
    }
    this.fold.announce();
    Ok(())
}

/// Tries to append the first turn of a new epoch; `false`: somebody else wrote since.
async fn fence(this: &mut Coordinator) -> Result<bool, Error> {
    let tail = this.fold.tail;
    let turn = first_turn(this);
    let payload = Bytes::from(codec::encode(&turn));
    let sequence = tail.sequence + 1;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(async_nats::header::NATS_EXPECTED_LAST_SEQUENCE, tail.sequence.to_string());
    let sent = async { this.context.publish_with_headers(subject::LOG_FENCE, headers, payload.clone()).await?.await }.await;
    if let Err(error) = sent {
        // Unknown or refused: what stands at this sequence decides.
        match log::message_at(&this.context, sequence).await {
            Ok(found) if found == payload => {}
            Ok(_) => return Ok(false),
            Err(_) => return Err(Error::Broker(error.to_string())),
        }
    }
    this.fold.apply(Tail { sequence, hash: Digest::of(&payload) }, &turn);
    Ok(true)
}

fn first_turn(this: &Coordinator) -> Turn {
    let tail = this.fold.tail;
    let state = this.fold.committed.read();
    let mut records = vec![Record::LeaderChanged { leader: this.holder.name.clone() }];
    if tail.sequence == 0 {
        records.insert(0, Record::LogOpened { store: this.store.id() });
    }
    Turn {
        epoch: state.epoch + 1,
        at: now().max(state.at),
        inbox: state.inbox,
        events: state.events,
        announced: state.announced,
        previous: tail.hash,
        records,
    }
}
