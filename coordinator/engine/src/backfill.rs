//! Backfills: one run for every instant of a span of time, in order, a few at once. The state holds how far a backfill has come and which
//! of its runs are under way, never a list of all of them. The shell says which instant comes next.

use std::collections::BTreeSet;

use causey_protocol::id::{Digest, Origin, RequestId, RunId, Timestamp, hash_fields};
use causey_protocol::parameter::{self, Values};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, BackfillStarted, Cause, Record, RunState};
use causey_protocol::schedule::BackfillPlan;
use serde::{Deserialize, Serialize};

use crate::engine::Decider;
use crate::state::State;

/// Backfills that may be under way at once.
const UNDER_WAY_MAX: usize = 100;

/// Ended backfills that are remembered.
const ENDED_KEPT: usize = 100;

/// How far a backfill has come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backfill {
    pub plan: BackfillPlan,
    pub definition: Digest,
    pub version: u32,
    pub user: String,
    pub created: Timestamp,
    /// Every instant up to here has been seen to.
    pub cursor: Timestamp,
    /// Runs that have not ended.
    pub live: BTreeSet<RunId>,
    pub succeeded: u32,
    pub failed: u32,
    pub cancelled: u32,
    /// Instants that started no run, and why the last of them did not.
    pub without: u32,
    pub because: Option<String>,
    /// Why it was cancelled.
    pub stopped: Option<String>,
    pub finished: Option<Timestamp>,
}

impl Backfill {
    fn new(started: &BackfillStarted, created: Timestamp) -> Self {
        Self {
            plan: started.plan.clone(),
            definition: started.definition,
            version: started.version,
            user: started.user.clone(),
            created,
            cursor: Timestamp(started.plan.first.0.saturating_sub(1)),
            live: BTreeSet::new(),
            succeeded: 0,
            failed: 0,
            cancelled: 0,
            without: 0,
            because: None,
            stopped: None,
            finished: None,
        }
    }

    /// Instants that have been seen to.
    #[must_use]
    pub fn done(&self) -> u32 {
        self.succeeded + self.failed + self.cancelled + self.without
    }

    /// Whether it starts no further run.
    #[must_use]
    pub fn is_exhausted(&self) -> bool {
        self.stopped.is_some() || self.cursor >= self.plan.last
    }
}

impl State {
    /// Backfills that may start their next run now.
    pub fn backfills_ready(&self) -> impl Iterator<Item = (&RequestId, &Backfill)> {
        let running = self.index_by.backfills.iter().filter_map(|id| Some((id, self.backfills.get(id)?)));
        running.filter(|(_, backfill)| {
            let waits = backfill.live.len() >= backfill.plan.max_parallel as usize;
            !backfill.is_exhausted() && !waits && self.has_place(&backfill.plan.flow)
        })
    }

    pub(crate) fn start_backfill(&mut self, started: &BackfillStarted) {
        self.backfills.insert(started.backfill.clone(), Backfill::new(started, self.at));
        self.index_by.backfills.insert(started.backfill.clone());
    }

    pub(crate) fn advance_backfill(&mut self, id: &RequestId, instant: Timestamp, run: Option<RunId>, because: Option<&str>) {
        let Some(backfill) = self.backfills.get_mut(id) else { return };
        backfill.cursor = backfill.cursor.max(instant);
        if run.is_none() {
            backfill.without += 1;
            backfill.because = because.map(ToOwned::to_owned);
        }
        self.end_backfill(id);
    }

    pub(crate) fn stop_backfill(&mut self, id: &RequestId, because: &str) {
        let Some(backfill) = self.backfills.get_mut(id) else { return };
        backfill.stopped = Some(because.to_owned());
        self.end_backfill(id);
    }

    /// A run of a backfill has started, or ended in this state.
    pub(crate) fn count_in_backfill(&mut self, id: &RequestId, run: RunId, ended: Option<RunState>) {
        let Some(backfill) = self.backfills.get_mut(id) else { return };
        let Some(ended) = ended else {
            backfill.live.insert(run);
            return;
        };
        backfill.live.remove(&run);
        match ended {
            RunState::Succeeded => backfill.succeeded += 1,
            RunState::Cancelled => backfill.cancelled += 1,
            RunState::Pending | RunState::Running | RunState::Failed | RunState::Aborted => backfill.failed += 1,
        }
        self.end_backfill(id);
    }

    /// Notes the end of a backfill that has nothing left to do; the oldest ended ones make room.
    fn end_backfill(&mut self, id: &RequestId) {
        let at = self.at;
        let Some(backfill) = self.backfills.get_mut(id).filter(|found| found.is_exhausted() && found.live.is_empty()) else { return };
        backfill.finished.get_or_insert(at);
        self.index_by.backfills.remove(id);
        while self.backfills.len() > self.index_by.backfills.len() + ENDED_KEPT {
            let ended = self.backfills.iter().filter_map(|(id, backfill)| Some((backfill.finished?, id)));
            let Some(oldest) = ended.min().map(|(_, id)| id.clone()) else { break };
            self.backfills.remove(&oldest);
        }
    }
}

impl Decider<'_> {
    pub(crate) fn backfill(&mut self, id: &RequestId, plan: BackfillPlan, user: String) -> Result<Answer, Problem> {
        if let Some(known) = self.state.backfills.get(id) {
            return Ok(Answer::BackfillStarted { backfill: id.clone(), total: known.plan.total });
        }
        if let Some(what) = plan.fault() {
            return Err(Problem::new(Code::SCHEDULE, format!("the backfill is wrong: {what}")));
        }
        if self.state.index_by.backfills.len() >= UNDER_WAY_MAX {
            let what = format!("{UNDER_WAY_MAX} backfills are under way, and no more may be");
            return Err(Problem::new(Code::CONCURRENCY, what).hint("see: causey backfills"));
        }
        let (flow, version) = self.deployed(&plan.flow)?;
        let parameters = &flow.definition().parameters;
        if let Some(unknown) = plan.instant.keys().find(|name| !parameters.iter().any(|parameter| parameter.name == **name)) {
            return Err(Problem::new(Code::PARAMETER_UNKNOWN, format!("flow {} has no parameter `{unknown}`", plan.flow)));
        }
        // What the instants fill is not known yet; the rest must fit.
        let others = parameters.iter().filter(|parameter| !plan.instant.contains_key(&parameter.name)).cloned().collect::<Vec<_>>();
        let given = plan.parameters.iter().filter(|(name, _)| !plan.instant.contains_key(*name));
        parameter::resolve(&others, given.map(|(name, value)| (name.clone(), value.clone())).collect())?;
        let (definition, version, total) = (flow.digest(), version.unwrap_or_default(), plan.total);
        let started = BackfillStarted { backfill: id.clone(), plan, definition, version, user };
        self.emit(Record::BackfillStarted(Box::new(started)));
        Ok(Answer::BackfillStarted { backfill: id.clone(), total })
    }

    pub(crate) fn backfill_due(&mut self, id: RequestId, instant: Timestamp, given: Values) {
        let ready = self.state.backfills_ready().find(|(ready, _)| **ready == id).map(|(_, backfill)| backfill.clone());
        let Some(backfill) = ready.filter(|ready| instant > ready.cursor && instant <= ready.plan.last) else {
            return self.ignore(format!("backfill {id} has come past {}, or may start no run now", instant.0));
        };
        let origin = Origin(hash_fields("causey origin backfill v1", &[id.as_str().as_bytes(), &instant.0.to_le_bytes()]));
        let cause = Cause::Backfill { backfill: id.clone(), instant };
        let given = backfill.plan.parameters.into_iter().chain(given).collect();
        let new = match self.state.definitions.get(&backfill.definition).cloned() {
            Some(flow) => self.of_deployment(flow, backfill.version, origin, given, cause, backfill.user),
            None => Err(Problem::new(Code::NOT_FOUND, "the flow's definition is missing")),
        };
        let (run, because) = self.begin_once(new);
        self.emit(Record::BackfillAdvanced { backfill: id, instant, run, because });
    }

    pub(crate) fn backfill_over(&mut self, id: RequestId) {
        match self.state.backfills.get(&id).filter(|backfill| !backfill.is_exhausted()) {
            Some(backfill) => {
                let (instant, because) = (backfill.plan.last, Some("the calendar has no further instant".into()));
                self.emit(Record::BackfillAdvanced { backfill: id, instant, run: None, because });
            }
            None => self.ignore(format!("backfill {id} has nothing left to do")),
        }
    }

    pub(crate) fn cancel_backfill(&mut self, id: RequestId, because: &str) -> Answer {
        let Some(backfill) = self.state.backfills.get(&id) else {
            return Answer::Refused(Problem::new(Code::NOT_FOUND, format!("no backfill {id}")).hint("see: causey backfills"));
        };
        let live = backfill.live.clone();
        if backfill.finished.is_some() {
            return Answer::Done;
        }
        let why = if because.is_empty() { "cancelled on request".into() } else { format!("cancelled on request: {because}") };
        if backfill.stopped.is_none() {
            self.emit(Record::BackfillCancelled { backfill: id, because: why.clone() });
        }
        for run in live {
            self.finish(run, RunState::Cancelled, Some(Problem::new(Code::CANCELLED, why.clone())));
        }
        Answer::Done
    }
}
