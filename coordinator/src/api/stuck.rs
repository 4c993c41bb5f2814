//! What a run waits for in which nothing has happened for a while, in one line for lists. Looked at for few runs: it costs as much as what
//! the run has open.

use causey_engine::{PoolSeen, Question, Reason, Run, State, TaskState};
use causey_protocol::id::{PoolName, Timestamp};

/// A run in which nothing has begun or ended for so long is said to wait.
const QUIET_MICROS: u64 = 60 * 1_000_000;

/// Runs of one answer that are looked at.
pub(super) const LOOKED_AT_MAX: usize = 100;

/// What the run waits for; `None` while one of its tasks runs, or something has happened lately. `pools` are those that have workers.
pub(super) fn stuck(state: &State, run: &Run, pools: &[PoolSeen], now: Timestamp) -> Option<String> {
    let is_running = run.steps.iter().any(|step| step.counts[TaskState::Running as usize] > 0);
    let last = run.steps.iter().filter_map(|step| step.last_ended).max().max(run.admitted).unwrap_or(run.created);
    // Runs that have not begun say so by themselves.
    if run.state.is_terminal() || run.waits.is_some() || is_running || now.micros_since(last) < QUIET_MICROS {
        return None;
    }
    let waits = causey_engine::why(state, &Question::Run(run.id()));
    // Others of them wait for these.
    let is_cause = |reason: &Reason| !matches!(reason, Reason::Siblings { .. } | Reason::Window { .. } | Reason::Steps { .. });
    let wait = waits.iter().find(|wait| is_cause(&wait.reason)).or_else(|| waits.first())?;
    let words = match &wait.reason {
        Reason::Queued { pool, since, .. } if !has_workers(pools, pool) => {
            Reason::NoWorker { pool: pool.clone(), since: *since, pools: pools.to_vec() }.words(now)
        }
        reason => reason.words(now),
    };
    Some(wait.step.as_ref().map_or_else(|| words.clone(), |step| format!("{step}: {words}")))
}

fn has_workers(pools: &[PoolSeen], pool: &PoolName) -> bool {
    pools.iter().any(|seen| seen.pool == *pool && seen.workers > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::scene;

    #[test]
    fn a_run_in_which_nothing_happens_says_what_it_waits_for() {
        let scene = scene::started();
        let (run, _) = scene.run();
        let pools = [PoolSeen { pool: "default".parse().unwrap(), workers: 1, slots: 2 }];
        let after = |seconds: u64| run.created.plus_micros(seconds * 1_000_000);
        assert_eq!(stuck(&scene.state, run, &pools, after(59)), None);
        let queued = stuck(&scene.state, run, &pools, after(120)).unwrap();
        assert!(queued.starts_with("start: queued in pool `default` for"), "{queued}");
        let missing = stuck(&scene.state, run, &[], after(120)).unwrap();
        assert!(missing.starts_with("start: ") && missing.contains("no pool has one"), "{missing}");
    }
}
