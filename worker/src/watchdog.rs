//! Memory of attempts against what they booked, where no control group does that: all processes of an attempt are added up a few times
//! a second. Of pages that several of them share each counts its part, so a forked child is not charged for what its template
//! has imported.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::family::{self, Member};

/// How often an attempt with booked memory is looked at.
pub(crate) const LOOK_PERIOD: Duration = Duration::from_millis(250);

/// How long one look at all processes serves all attempts.
const SEEN_FOR: Duration = Duration::from_millis(200);

/// The processes of this machine, as seen a moment ago.
static SEEN: Mutex<Option<(Instant, Arc<Vec<Member>>)>> = Mutex::new(None);

fn everybody() -> Arc<Vec<Member>> {
    let mut seen = SEEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((at, everybody)) = &*seen
        && at.elapsed() < SEEN_FOR
    {
        return everybody.clone();
    }
    let everybody = Arc::new(family::everybody());
    *seen = Some((Instant::now(), everybody.clone()));
    everybody
}

/// Memory that a process and its descendants hold, in bytes: exact only when it is about to be more than `limit`, where it counts, because
/// that costs more.
pub(crate) fn held_bytes(pid: i32, limit: u64) -> u64 {
    let everybody = everybody();
    let all = family::descent(pid, &everybody);
    let resident = all.iter().map(|member| member.resident_bytes()).sum();
    if resident <= limit {
        return resident;
    }
    all.iter().map(|member| family::proportional_bytes(member.pid).unwrap_or_else(|| member.resident_bytes())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_exactly_only_where_it_counts() {
        let own = i32::try_from(std::process::id()).unwrap();
        let rough = held_bytes(own, u64::MAX);
        assert!(rough > 100_000 && held_bytes(own, 1) <= rough.max(1) * 2);
        assert_eq!(held_bytes(-1, 1), 0);
    }
}
