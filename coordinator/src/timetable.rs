//! What the leader does by the clock: for every schedule of the working state it knows the next firing, and nothing beyond. When one has
//! come it says so to the engine, which decides; firings that came while nobody led are treated as the schedule's catch-up policy says.
//! It also names the next instant of every backfill that may start a run.

use std::collections::BTreeMap;

use causey_engine::State;
use causey_protocol::id::{FlowName, Timestamp, hash_fields};
use causey_protocol::input::Input;
use causey_protocol::record::Record;
use causey_protocol::schedule::{CatchUp, Schedule};

use crate::calendar::Calendar;

/// A firing that is seen to within this time is not missed: a takeover or a restart is no downtime.
const ON_TIME_MICROS: u64 = 60_000_000;

/// Missed firings that are counted beyond those that are made up for.
const MISSED_COUNTED_MAX: usize = 1_000;

/// One schedule of a deployed flow.
#[derive(Debug)]
struct Entry {
    schedule: Schedule,
    calendar: Calendar,
    /// Only later instants fire.
    last: Timestamp,
    /// The next firing, and when it is to be seen to.
    next: Option<(Timestamp, Timestamp)>,
}

/// The next firing of every schedule.
#[derive(Debug, Default)]
pub(crate) struct Timetable {
    entries: BTreeMap<(FlowName, String), Entry>,
    /// Whether the state knows more than this does.
    stale: bool,
    backfills: bool,
}

impl Timetable {
    pub(crate) fn new() -> Self {
        Self { stale: true, ..Self::default() }
    }

    /// Notes a record by which something may become due.
    pub(crate) fn note(&mut self, record: &Record) {
        self.stale |= matches!(
            record,
            Record::FlowDeployed { .. }
                | Record::ScheduleFired { .. }
                | Record::SchedulesPaused { .. }
                | Record::SchedulesResumed { .. }
                | Record::BackfillStarted(_)
                | Record::BackfillAdvanced { .. }
                | Record::BackfillCancelled { .. }
                | Record::RunFinished { .. }
                | Record::RunAdmitted { .. }
        );
    }

    /// When something is to be done next; everything earlier than `now` is to be done at once.
    pub(crate) fn next(&mut self, state: &State) -> Option<Timestamp> {
        if std::mem::take(&mut self.stale) {
            self.refresh(state);
        }
        if self.backfills {
            return Some(Timestamp(0));
        }
        self.entries.values().filter_map(Entry::due).min()
    }

    fn refresh(&mut self, state: &State) {
        self.backfills = state.backfills_ready().next().is_some();
        let mut entries = BTreeMap::new();
        for (flow, schedules) in state.schedules.iter().filter(|(_, schedules)| schedules.paused.is_none()) {
            let definition = state.deployments.get(flow).and_then(|deployment| state.definitions.get(&deployment.definition));
            for schedule in definition.into_iter().flat_map(|definition| &definition.definition().schedules) {
                let key = (flow.clone(), schedule.identity());
                let Some(last) = schedules.firings.get(&key.1).map(|firing| firing.last) else { continue };
                let known = self.entries.remove(&key).filter(|known| known.schedule == *schedule);
                let entry = match known {
                    Some(known) if known.last == last => known,
                    Some(known) => Entry::new(&key, known.schedule, known.calendar, last),
                    None => match Calendar::new(&schedule.cron, schedule.zone()) {
                        Ok(calendar) => Entry::new(&key, schedule.clone(), calendar, last),
                        Err(error) => {
                            tracing::warn!(%flow, "a schedule does not fire: {error}");
                            continue;
                        }
                    },
                };
                entries.insert(key, entry);
            }
        }
        self.entries = entries;
    }

    /// What to tell the engine at `now`.
    pub(crate) fn due(&mut self, state: &State, now: Timestamp) -> Vec<Input> {
        // Whatever becomes of it, it is looked at again.
        self.stale = true;
        let due = self.entries.iter().filter(|(_, entry)| entry.due().is_some_and(|due| due <= now));
        let mut inputs: Vec<Input> = due.flat_map(|(key, entry)| entry.inputs(key, now)).collect();
        inputs.extend(state.backfills_ready().map(|(id, backfill)| {
            let (plan, cursor, backfill) = (&backfill.plan, backfill.cursor, id.clone());
            let next = || {
                let calendar = Calendar::new(&plan.cron, &plan.timezone).ok()?;
                let instant = calendar.after(cursor).filter(|instant| *instant <= plan.last)?;
                Some((instant, calendar.write(instant, &plan.instant).ok()?))
            };
            match next() {
                Some((instant, given)) => Input::BackfillDue { backfill, instant, given },
                None => Input::BackfillOver { backfill },
            }
        }));
        inputs
    }
}

impl Entry {
    fn new(key: &(FlowName, String), schedule: Schedule, calendar: Calendar, last: Timestamp) -> Self {
        let mut entry = Self { schedule, calendar, last, next: None };
        entry.next = entry.calendar.after(last).map(|instant| (instant, entry.seen_to(key, instant)));
        entry
    }

    fn due(&self) -> Option<Timestamp> {
        self.next.map(|(_, due)| due)
    }

    /// When a firing is to be seen to: each has a delay of its own, which is the same whoever leads.
    fn seen_to(&self, (flow, identity): &(FlowName, String), instant: Timestamp) -> Timestamp {
        let spread = u64::from(self.schedule.jitter_seconds) * 1_000_000;
        if spread == 0 {
            return instant;
        }
        let fields = [flow.as_str().as_bytes(), identity.as_bytes(), &instant.0.to_le_bytes()];
        let hash = hash_fields("causey schedule jitter v1", &fields);
        let [a, b, c, d, e, f, g, h, ..] = hash;
        instant.plus_micros(u64::from_le_bytes([a, b, c, d, e, f, g, h]) % spread)
    }

    /// The firings up to `now` that are to be seen to, newest first, as far as anybody counts.
    fn come(&self, key: &(FlowName, String), now: Timestamp) -> Vec<Timestamp> {
        let mut come = Vec::new();
        let mut until = now;
        while let Some(instant) = self.calendar.up_to(until).filter(|instant| *instant > self.last) {
            if self.seen_to(key, instant) <= now {
                come.push(instant);
            }
            if come.len() >= self.schedule.catch_up_max as usize + MISSED_COUNTED_MAX {
                break;
            }
            until = Timestamp(instant.0.saturating_sub(1));
        }
        // Should the calendar not find backwards what it found forwards, the one that is due is seen to all the same.
        if come.is_empty() {
            come.extend(self.next.filter(|(_, due)| *due <= now).map(|(instant, _)| instant));
        }
        come
    }

    fn inputs(&self, key: &(FlowName, String), now: Timestamp) -> Vec<Input> {
        let come = self.come(key, now);
        let Some(newest) = come.first().copied() else { return Vec::new() };
        let (flow, schedule) = key.clone();
        let runs = match self.schedule.catch_up {
            CatchUp::All => come.len().min(self.schedule.catch_up_max as usize),
            CatchUp::Latest => 1,
            CatchUp::Skip if now.micros_since(self.seen_to(key, newest)) <= ON_TIME_MICROS => 1,
            CatchUp::Skip => 0,
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        if runs == 0 {
            return vec![Input::Missed { flow, schedule, until: newest, missed: count(come.len()) }];
        }
        let due = |(place, instant): (usize, &Timestamp)| {
            // Those that are passed over came before the first that runs.
            let missed = if place + 1 == runs { count(come.len() - runs) } else { 0 };
            let given = self.calendar.write(*instant, &self.schedule.parameters).unwrap_or_default();
            Input::Due { flow: flow.clone(), schedule: schedule.clone(), instant: *instant, missed, given }
        };
        come.iter().take(runs).enumerate().rev().map(due).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_engine::decide;
    use causey_protocol::flow::{Definition, Flow};
    use causey_protocol::id::Digest;
    use causey_protocol::input::{Request, RequestMessage};
    use serde_json::{Value, json};

    const HOUR: u64 = 3_600_000_000;
    const MINUTE: u64 = 60_000_000;

    /// A leader without a log, whose clock the test moves.
    struct Leader {
        state: State,
        timetable: Timetable,
        now: u64,
        requests: u32,
    }

    impl Leader {
        /// At an hour, half an hour before the first firing of `30 * * * *`.
        fn new(schedule: &Value) -> Self {
            let now = 1_800_000_000 / 3_600 * HOUR;
            let mut leader = Self { state: State::default(), timetable: Timetable::new(), now, requests: 0 };
            leader.deploy(schedule);
            leader
        }

        fn deploy(&mut self, schedule: &Value) {
            let definition: Definition = serde_json::from_value(json!({
                "format": 1, "name": "Nightly", "language": "python", "file": "f.py", "package": Digest::of(b"p"),
                "steps": [{"name": "start", "next": "end"}], "schedules": [schedule],
                "parameters": [{"name": "day", "type": "str", "default": "none"}]
            }))
            .unwrap();
            let flow = Flow::try_from(definition).unwrap();
            self.request(Request::Deploy { flow: Box::new(flow) });
        }

        fn request(&mut self, request: Request) {
            self.requests += 1;
            let id = format!("r{}", self.requests).parse().unwrap();
            self.take(Input::Request(RequestMessage { id, user: "ann".into(), request }));
        }

        fn take(&mut self, input: Input) {
            self.state.open_turn(Timestamp(self.now));
            for record in decide(&mut self.state, input) {
                self.timetable.note(&record);
            }
        }

        /// Does what is due now, as often as something is.
        fn look(&mut self) {
            for _ in 0..10 {
                if self.timetable.next(&self.state).is_none_or(|due| due.0 > self.now) {
                    return;
                }
                for input in self.timetable.due(&self.state, Timestamp(self.now)) {
                    self.take(input);
                }
            }
            panic!("it does not come to rest");
        }

        fn at(&mut self, now: u64) -> &mut Self {
            self.now = now;
            self.look();
            self
        }

        /// Another leader takes over.
        fn take_over(&mut self) {
            self.timetable = Timetable::new();
        }

        /// The minutes behind the deployment for which there are runs.
        fn minutes(&self) -> Vec<u64> {
            let first = 1_800_000_000 / 3_600 * HOUR;
            let instants = self.state.runs.values().filter_map(|run| run.start.cause.instant());
            let mut minutes: Vec<u64> = instants.map(|instant| (instant.0 - first) / MINUTE).collect();
            minutes.sort_unstable();
            minutes
        }

        fn missed(&self) -> u32 {
            let schedules = self.state.schedules.values().next().unwrap();
            schedules.firings.values().next().unwrap().fired.as_ref().unwrap().missed
        }
    }

    #[test]
    fn the_next_firing_is_waited_for_and_seen_to_once() {
        let mut leader = Leader::new(&json!({"cron": "30 * * * *"}));
        let begun = leader.now;
        assert_eq!(leader.timetable.next(&leader.state), Some(Timestamp(begun + 30 * MINUTE)));
        leader.at(begun + 30 * MINUTE - 1);
        assert!(leader.minutes().is_empty());
        leader.at(begun + 30 * MINUTE).look();
        leader.take_over();
        leader.look();
        assert_eq!((leader.minutes(), leader.timetable.next(&leader.state)), (vec![30], Some(Timestamp(begun + 90 * MINUTE))));
    }

    #[test]
    fn after_a_downtime_the_policy_decides() {
        let outcomes = [("skip", vec![]), ("latest", vec![270]), ("all", vec![30, 90, 150, 210, 270])];
        for (policy, runs) in outcomes {
            let mut leader = Leader::new(&json!({"cron": "30 * * * *", "catch_up": policy}));
            leader.take_over();
            leader.at(leader.now + 4 * HOUR + 50 * MINUTE);
            assert_eq!(leader.minutes(), runs, "{policy}");
            assert_eq!(leader.missed(), if policy == "all" { 0 } else { 4 }, "{policy}");
            leader.at(leader.now + 40 * MINUTE);
            assert_eq!(leader.minutes().last(), Some(&330), "{policy}");
        }
    }

    #[test]
    fn a_takeover_of_some_seconds_is_no_downtime() {
        let mut leader = Leader::new(&json!({"cron": "30 * * * *", "catch_up": "skip"}));
        leader.at(leader.now + 30 * MINUTE + ON_TIME_MICROS);
        assert_eq!(leader.minutes(), [30]);
    }

    #[test]
    fn of_more_firings_than_the_bound_the_newest_are_made_up_for() {
        let mut leader = Leader::new(&json!({"cron": "* * * * *", "catch_up": "all", "catch_up_max": 3}));
        leader.at(leader.now + 10 * MINUTE);
        assert_eq!(leader.minutes(), [8, 9, 10]);
        leader.take_over();
        leader.at(leader.now + 30 * 24 * HOUR);
        assert_eq!(leader.minutes().len(), 6);
    }

    #[test]
    fn a_clock_that_steps_back_fires_nothing_twice_and_one_that_steps_forward_catches_up() {
        let mut leader = Leader::new(&json!({"cron": "30 * * * *", "catch_up": "all"}));
        let begun = leader.now;
        leader.at(begun + 31 * MINUTE);
        for back in [29, 30, 31] {
            leader.at(begun + back * MINUTE);
        }
        leader.take_over();
        leader.at(begun);
        assert_eq!((leader.minutes(), leader.timetable.next(&leader.state)), (vec![30], Some(Timestamp(begun + 90 * MINUTE))));
        leader.at(begun + 155 * MINUTE);
        assert_eq!(leader.minutes(), [30, 90, 150]);
    }

    #[test]
    fn the_jitter_of_a_firing_is_its_own_and_the_same_for_every_leader() {
        let mut leader = Leader::new(&json!({"cron": "0 * * * *", "jitter_seconds": 600}));
        let begun = leader.now;
        let due = leader.timetable.next(&leader.state).unwrap();
        assert!(due.0 > begun + HOUR && due.0 < begun + HOUR + 10 * MINUTE, "{due:?}");
        leader.take_over();
        assert_eq!(leader.timetable.next(&leader.state), Some(due));
        leader.at(due.0 - 1);
        assert!(leader.minutes().is_empty());
        leader.at(due.0);
        assert_eq!(leader.minutes(), [60]);
        let other = leader.timetable.next(&leader.state).unwrap();
        assert_ne!(other.0 - due.0, HOUR);
    }

    #[test]
    fn paused_schedules_are_not_waited_for() {
        let mut leader = Leader::new(&json!({"cron": "30 * * * *", "catch_up": "all"}));
        let flow = || "Nightly".parse().unwrap();
        leader.request(Request::PauseSchedules { flow: flow() });
        assert_eq!(leader.timetable.next(&leader.state), None);
        leader.at(leader.now + 3 * HOUR);
        leader.request(Request::ResumeSchedules { flow: flow() });
        leader.look();
        assert!(leader.minutes().is_empty());
        leader.at(leader.now + HOUR);
        assert_eq!(leader.minutes(), [210]);
    }

    #[test]
    fn a_run_gets_its_instant_in_the_zone_of_its_schedule() {
        let mut leader =
            Leader::new(&json!({"cron": "30 * * * *", "timezone": "Pacific/Kiritimati", "parameters": {"day": "%Y-%m-%d %H:%M"}}));
        leader.at(leader.now + 30 * MINUTE);
        let run = leader.state.runs.values().next().unwrap();
        assert_eq!(run.start.parameters["day"], "2027-01-15 22:30");
    }

    #[test]
    fn a_new_version_is_waited_for_at_its_own_times() {
        let mut leader = Leader::new(&json!({"cron": "30 * * * *"}));
        let begun = leader.now;
        leader.at(begun + 35 * MINUTE);
        leader.deploy(&json!({"cron": "40 * * * *"}));
        assert_eq!(leader.timetable.next(&leader.state), Some(Timestamp(begun + 40 * MINUTE)));
        leader.at(begun + 95 * MINUTE);
        assert_eq!(leader.minutes(), [30, 40]);
    }
}
