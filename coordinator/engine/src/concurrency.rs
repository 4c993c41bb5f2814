//! How many runs of one deployed flow are under way at once, and what becomes of one more: it runs, waits, is skipped, or takes the
//! place of another. What decides is the newest deployed version, whichever version the runs are of.

use std::collections::{BTreeMap, BTreeSet};

use causey_protocol::id::{FlowName, Origin, RunId};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Cause, Position, Record, RunState, TaskSet};
use causey_protocol::schedule::{Concurrency, Strategy, WAITING_RUNS_MAX};

use crate::engine::{Decider, NewRun};
use crate::run::Run;
use crate::state::State;

/// Runs that one input lets go or cancels: keeps a turn small. More only come together when a new version has another strategy; the rest
/// follow as runs end.
const MOVED_MAX: usize = 100;

/// The runs of one deployed flow that have not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lane {
    active: BTreeSet<RunId>,
    /// In the order in which they came.
    waiting: BTreeMap<Position, RunId>,
}

/// The runs of every deployed flow that have not ended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Lanes(BTreeMap<FlowName, Lane>);

impl Lanes {
    pub(crate) fn enter(&mut self, flow: &FlowName, run: &Run) {
        if run.start.version.is_none() {
            return;
        }
        let lane = self.0.entry(flow.clone()).or_default();
        match run.waits {
            Some(place) => drop(lane.waiting.insert(place, run.id())),
            None => drop(lane.active.insert(run.id())),
        }
    }

    pub(crate) fn leave(&mut self, flow: &FlowName, run: &Run) {
        let Some(lane) = self.0.get_mut(flow) else { return };
        match run.waits {
            Some(place) => drop(lane.waiting.remove(&place)),
            None => drop(lane.active.remove(&run.id())),
        }
        if lane.active.is_empty() && lane.waiting.is_empty() {
            self.0.remove(flow);
        }
    }
}

/// What became of a wish for a run.
pub(crate) enum Begun {
    /// There is one; it may wait for its place.
    Started(RunId),
    Skipped(Problem),
}

/// Why a run has not begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waits {
    pub flow: FlowName,
    pub concurrency: Concurrency,
    /// Runs that are before it in the line.
    pub ahead: usize,
    /// Runs that hold the places, oldest first.
    pub active: Vec<RunId>,
}

impl State {
    fn lane(&self, flow: &FlowName) -> Option<&Lane> {
        self.index_by.lanes.0.get(flow)
    }

    /// What the newest deployed version says; `None` where any number of runs may be under way.
    pub(crate) fn concurrency_of(&self, flow: &FlowName) -> Option<Concurrency> {
        let deployment = self.deployments.get(flow)?;
        let concurrency = self.definitions.get(&deployment.definition)?.definition().concurrency?;
        (concurrency.strategy != Strategy::All).then_some(concurrency)
    }

    /// Whether a run of the flow could begin at once.
    #[must_use]
    pub fn has_place(&self, flow: &FlowName) -> bool {
        match (self.concurrency_of(flow), self.lane(flow)) {
            (Some(concurrency), Some(lane)) => lane.waiting.is_empty() && lane.active.len() < concurrency.max as usize,
            _ => true,
        }
    }

    /// Runs of the flow that have not ended: those that have begun, and those that wait for a place.
    #[must_use]
    pub fn runs_under_way(&self, flow: &FlowName) -> (usize, usize) {
        self.lane(flow).map_or((0, 0), |lane| (lane.active.len(), lane.waiting.len()))
    }

    /// What a run waits for that has not begun.
    #[must_use]
    pub fn waits_of(&self, run: RunId) -> Option<Waits> {
        let run = self.run(run)?;
        let (place, flow) = (run.waits?, self.flow_of(run)?.definition().name.clone());
        let lane = self.lane(&flow)?;
        let concurrency = self.concurrency_of(&flow).unwrap_or(Concurrency { strategy: Strategy::All, max: 1 });
        let ahead = lane.waiting.range(..place).count();
        Some(Waits { flow, concurrency, ahead, active: lane.active.iter().copied().collect() })
    }

    /// The run that may begin next.
    fn next_admissible(&self, flow: &FlowName) -> Option<RunId> {
        let lane = self.lane(flow)?;
        let limit = self.concurrency_of(flow).map_or(usize::MAX, |concurrency| concurrency.max as usize);
        lane.waiting.values().next().copied().filter(|_| lane.active.len() < limit)
    }

    /// Why this origin starts no run although none has stemmed from it.
    pub(crate) fn skipped_before(&self, origin: &Origin) -> Option<Problem> {
        self.skipped.get(origin).map(|(_, because)| Problem::new(Code::CONCURRENCY, because.clone()))
    }

    /// What is wrong with the lanes, in words.
    pub(crate) fn lane_violations(&self, found: &mut Vec<String>) {
        let mut lanes = Lanes::default();
        for run in self.live_runs() {
            if let Some(flow) = self.flow_of(run) {
                lanes.enter(&flow.definition().name, run);
            }
        }
        let is_same = |(one, other): (&Lane, &Lane)| one.active == other.active && one.waiting == other.waiting;
        let known = &self.index_by.lanes.0;
        if !lanes.0.keys().eq(known.keys()) || !lanes.0.values().zip(known.values()).all(is_same) {
            found.push(format!("the runs under way are {lanes:?}, but the index says {known:?}"));
        }
        // I5: whoever waits for a place waits for a run that holds one.
        for (flow, _) in lanes.0.iter().filter(|(_, lane)| lane.active.is_empty()) {
            found.push(format!("runs of {flow} wait for a place, but nobody holds one"));
        }
    }
}

impl Decider<'_> {
    /// Starts a run as far as its flow's strategy allows.
    pub(crate) fn begin(&mut self, new: NewRun) -> Begun {
        let name = new.flow.definition().name.clone();
        let Some(Concurrency { strategy, max }) = self.state.concurrency_of(&name).filter(|_| new.version.is_some()) else {
            return Begun::Started(self.start_run(new));
        };
        if self.state.has_place(&name) {
            return Begun::Started(self.start_run(new));
        }
        match strategy {
            Strategy::All => Begun::Started(self.start_run(new)),
            Strategy::Skip => {
                let holder = self.state.lane(&name).and_then(|lane| self.state.name_of(*lane.active.first()?)).map(ToString::to_string);
                let because = format!("skipped: {} of at most {max} runs of {name} under way ({})", max, holder.unwrap_or_default());
                self.skip(new, &because)
            }
            Strategy::Queue if self.waiting(&name).len() >= WAITING_RUNS_MAX => {
                self.skip(new, &format!("refused: {WAITING_RUNS_MAX} runs of {name} wait for a place, and no more may"))
            }
            Strategy::Queue => Begun::Started(self.start_run(NewRun { waits: true, ..new })),
            Strategy::Latest => {
                self.drop_waiting(&name);
                Begun::Started(self.start_run(NewRun { waits: true, ..new }))
            }
            Strategy::Replace => {
                self.drop_waiting(&name);
                let active = self.state.lane(&name).map(|lane| lane.active.iter().copied().collect::<Vec<_>>()).unwrap_or_default();
                let over = (active.len() + 1).saturating_sub(max as usize);
                for run in active.into_iter().take(over.min(MOVED_MAX)) {
                    self.finish(run, RunState::Cancelled, Some(Problem::new(Code::CONCURRENCY, "a newer run has replaced it")));
                }
                Begun::Started(self.start_run(new))
            }
        }
    }

    fn waiting(&self, flow: &FlowName) -> Vec<RunId> {
        self.state.lane(flow).map(|lane| lane.waiting.values().copied().collect()).unwrap_or_default()
    }

    /// A newer run takes the place in the line.
    fn drop_waiting(&mut self, flow: &FlowName) {
        for run in self.waiting(flow).into_iter().take(MOVED_MAX) {
            self.finish(run, RunState::Cancelled, Some(Problem::new(Code::CONCURRENCY, "a newer run has taken its place in the line")));
        }
    }

    fn skip(&mut self, new: NewRun, because: &str) -> Begun {
        let trigger = if let Cause::Event { trigger, .. } = &new.cause { Some(*trigger) } else { None };
        let flow = new.flow.definition().name.clone();
        let (origin, joined, because) = (new.origin, new.joined, because.to_owned());
        self.emit(Record::StartSkipped { flow, origin, joined, trigger, because: because.clone() });
        let hint = "see what is under way: causey runs; the flow's @concurrency decides";
        Begun::Skipped(Problem::new(Code::CONCURRENCY, because).hint(hint))
    }

    /// Lets runs of a flow begin for which there is a place now.
    pub(crate) fn admit(&mut self, flow: &FlowName) {
        for _ in 0..MOVED_MAX {
            let Some(run) = self.state.next_admissible(flow) else { return };
            self.emit(Record::RunAdmitted { run });
            let Some((_, definition)) = self.run_and_flow(run) else { return };
            self.open(run, definition.start(), TaskSet::One { path: Default::default(), visit: 0 }, 0, 0);
        }
    }
}
