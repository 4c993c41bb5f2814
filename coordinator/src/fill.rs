//! How full the streams are: which one comes nearest to its cap, and what that means for what is accepted.

use causey_protocol::upkeep::{Storage, StorageLevel};
use futures_util::future::try_join_all;

use crate::outside::{Streams, Unanswered};
use crate::streams;

/// From here on new runs and events are refused, in percent of a stream's cap.
pub(crate) const SCARCE_PERCENT: u8 = 80;

/// From here on no attempt is opened either.
pub(crate) const CRITICAL_PERCENT: u8 = 90;

/// A level is left once the fill is this much below where it begins, so that it does not flicker.
const RETREAT_PERCENT: u8 = 5;

/// The fill of the fullest stream, with the level that follows from the one before.
///
/// # Errors
/// When the server does not answer.
pub(crate) async fn measure(outside: &impl Streams, before: StorageLevel) -> Result<Storage, streams::Error> {
    let look = |Unanswered(reason): Unanswered| streams::Error::Look { stream: streams::STREAMS[0], reason };
    let (used, cap) = outside.room().await.map_err(look)?;
    let fills = streams::STREAMS.map(|stream| async move {
        let look = outside.look(stream).await.map_err(|why| streams::unseen(stream, why))?;
        Ok::<_, streams::Error>((stream, percent(look.bytes, look.bytes_max)))
    });
    let mut fullest = ("the account's storage", percent(used, cap));
    for fill in try_join_all(fills).await? {
        if fill.1 > fullest.1 {
            fullest = fill;
        }
    }
    let (stream, percent) = fullest;
    Ok(Storage { level: level(before, percent), stream: stream.into(), percent })
}

/// 0 for what has no cap.
fn percent(used: u64, cap: u64) -> u8 {
    used.saturating_mul(100).checked_div(cap).map_or(0, |percent| u8::try_from(percent).unwrap_or(u8::MAX))
}

fn level(before: StorageLevel, percent: u8) -> StorageLevel {
    let reached = |threshold: u8, level: StorageLevel| percent >= threshold - if before >= level { RETREAT_PERCENT } else { 0 };
    if reached(CRITICAL_PERCENT, StorageLevel::Critical) {
        StorageLevel::Critical
    } else if reached(SCARCE_PERCENT, StorageLevel::Scarce) {
        StorageLevel::Scarce
    } else {
        StorageLevel::Ample
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use StorageLevel::{Ample, Critical, Scarce};

    #[test]
    fn a_level_is_entered_at_its_threshold_and_left_a_little_below() {
        let cases = [(Ample, 79, Ample), (Ample, 80, Scarce), (Ample, 95, Critical), (Scarce, 89, Scarce), (Scarce, 76, Scarce)];
        let more = [(Scarce, 74, Ample), (Critical, 86, Critical), (Critical, 84, Scarce), (Critical, 10, Ample)];
        for (before, percent, expected) in cases.into_iter().chain(more) {
            assert_eq!(level(before, percent), expected, "{before:?} at {percent} %");
        }
    }

    #[test]
    fn what_has_no_cap_is_never_full() {
        assert_eq!((percent(1_000, 0), percent(81, 100), percent(500, 100)), (0, 81, 255));
    }
}
