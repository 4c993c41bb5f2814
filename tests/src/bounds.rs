//! I10, as far as it shows in the log and its fold: a turn has a size, no pool, run or tenant has more open than its window takes, and
//! what the state remembers of the past has a number or an age. What a process holds beside its state is bounded where it is held,
//! beside the type or in its `config.rs`.

use std::time::Duration;

use causey_engine::{Run, State, TaskRef};
use causey_protocol::codec::TURN_BYTES_MAX;
use causey_protocol::flow::StepIndex;
use causey_protocol::id::{PoolName, Timestamp};
use causey_protocol::record::{Record, TaskSet};

/// Records of a turn: the leader takes inputs up to 800, and one more input decides a piece of 256.
const RECORDS_MAX: usize = 800 + 256;

/// How long answers to requests and outcomes of events are kept.
const ANSWERS_KEPT: Duration = Duration::from_secs(600);

const SNAPSHOTS_MAX: usize = 2;

/// Dead letters of both kinds.
const LETTERS_MAX: usize = 2 * 500;

/// Results of memoised steps.
const REMEMBERED_MAX: usize = 100_000;

/// Finished runs that are whole in the state after their history was stored, as the coordinators of the log are told.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub runs_whole: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { runs_whole: usize::MAX }
    }
}

impl Bounds {
    /// Judges a record in the state in which it was decided.
    pub fn record(self, state: &State, record: &Record, found: &mut Vec<String>) {
        let Record::AttemptsOpened { run: id, step, pool, tasks, .. } = record else { return };
        let Some(run) = state.run(*id) else { return };
        if is_gang(run, *step, tasks) {
            return;
        }
        let more = tasks.len();
        let mut check = |whose: String, open: u32, window: Option<u32>| {
            // What is larger than the whole window goes alone.
            if let Some(window) = window.filter(|window| open > 0 && open.saturating_add(more) > *window) {
                found.push(format!("I10: {more} attempts of run {id} were opened beside {open} of {whose}, whose window is {window}"));
            }
        };
        check(format!("pool {pool}"), open_in(state, pool), Some(state.window(pool)));
        check("the run".into(), run.open(), run.start.standing.max_parallel);
        let tenant = run.tenant();
        if let window @ Some(_) = state.shares.of(tenant).window {
            let open = state.live_runs().filter(|other| other.tenant() == tenant).map(Run::open).sum();
            check(format!("tenant {tenant}"), open, window);
        }
    }

    /// Judges the state after a turn.
    pub fn turn(self, state: &State, (bytes, records): (usize, usize), found: &mut Vec<String>) {
        let sizes = [
            ("bytes of the turn", bytes, TURN_BYTES_MAX),
            ("records of the turn", records, RECORDS_MAX),
            ("snapshots", state.snapshots.len(), SNAPSHOTS_MAX),
            ("remembered results", state.memo.len(), REMEMBERED_MAX),
            ("dead letters", state.dead_letters.len(), LETTERS_MAX),
            ("finished runs that are whole", state.histories.len(), self.runs_whole),
        ];
        found.extend(
            sizes.iter().filter(|(_, is, most)| is > most).map(|(what, is, most)| format!("I10: {is} {what}, at most {most} may be")),
        );
        let oldest = Timestamp(state.at.0.saturating_sub(u64::try_from(ANSWERS_KEPT.as_micros()).unwrap_or(u64::MAX)));
        let answers = state.requests.values().filter(|(at, _)| *at < oldest).count();
        let events = state.events_taken.values().filter(|outcome| outcome.at < oldest).count();
        if answers + events > 0 {
            found.push(format!("I10: {answers} answers and {events} outcomes of events are older than {} s", ANSWERS_KEPT.as_secs()));
        }
    }
}

/// Attempts that are open in a pool, counted anew.
fn open_in(state: &State, pool: &PoolName) -> u32 {
    let dispatches = state.live_runs().flat_map(Run::dispatches);
    dispatches.filter(|(_, dispatch)| dispatch.pool == *pool).map(|(_, dispatch)| dispatch.open).sum()
}

/// The members of a gang are opened together, whatever else is open: they would otherwise wait for each other.
fn is_gang(run: &Run, step: StepIndex, tasks: &TaskSet) -> bool {
    tasks.iter().next().is_some_and(|(path, visit)| run.gang_of(&TaskRef::new(step, path, visit)).is_some())
}
