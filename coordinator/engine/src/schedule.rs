//! Schedules of deployed flows. The shell has the calendar and says which firing has come; what is decided here is that no firing counts
//! twice (its instant must be after the last one) and what it starts.

use std::collections::BTreeMap;
use std::sync::Arc;

use causey_protocol::flow::Flow;
use causey_protocol::id::{FlowName, Origin, RunId, Timestamp, hash_fields};
use causey_protocol::parameter::{self, Values};
use causey_protocol::problem::{Code, Problem};
use causey_protocol::record::{Answer, Cause, Record};
use serde::{Deserialize, Serialize};

use crate::concurrency::Begun;
use crate::engine::{Decider, NewRun};
use crate::state::{Deployment, State};

/// How far the schedules of a deployed flow have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedules {
    /// Who paused them and when.
    pub paused: Option<(String, Timestamp)>,
    /// By [`Schedule::identity`](causey_protocol::schedule::Schedule::identity).
    pub firings: BTreeMap<String, Firing>,
}

/// How far one schedule has come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Firing {
    /// Only later instants fire.
    pub last: Timestamp,
    /// The last firing that was seen to.
    pub fired: Option<Fired>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fired {
    pub instant: Timestamp,
    pub at: Timestamp,
    pub missed: u32,
    pub run: Option<RunId>,
    pub because: Option<String>,
}

impl State {
    /// A new version keeps how far the schedules have come that it still has; others begin now.
    pub(crate) fn set_schedules(&mut self, name: &FlowName, flow: &Flow) {
        let schedules = &flow.definition().schedules;
        if schedules.is_empty() {
            self.schedules.remove(name);
            return;
        }
        let before = self.schedules.get(name).cloned().unwrap_or_default();
        let firing = |identity: String| {
            let firing = before.firings.get(&identity).cloned().unwrap_or(Firing { last: self.at, fired: None });
            (identity, firing)
        };
        let firings = schedules.iter().map(|schedule| firing(schedule.identity())).collect();
        self.schedules.insert(name.clone(), Schedules { paused: before.paused, firings });
    }

    pub(crate) fn schedule_fired(&mut self, flow: &FlowName, schedule: &str, fired: Fired) {
        let Some(found) = self.schedules.get_mut(flow).and_then(|schedules| schedules.firings.get_mut(schedule)) else { return };
        found.last = found.last.max(fired.instant);
        found.fired = Some(fired);
    }

    /// What would have fired during a pause never does.
    pub(crate) fn pause_schedules(&mut self, flow: &FlowName, paused: Option<(String, Timestamp)>) {
        let at = self.at;
        let Some(schedules) = self.schedules.get_mut(flow) else { return };
        if paused.is_none() {
            schedules.firings.values_mut().for_each(|firing| firing.last = firing.last.max(at));
        }
        schedules.paused = paused;
    }
}

impl Decider<'_> {
    /// The schedule that may fire for this instant.
    fn firing(&self, name: &FlowName, schedule: &str, instant: Timestamp) -> Result<(Arc<Flow>, Deployment), String> {
        let schedules = self.state.schedules.get(name).ok_or_else(|| format!("flow {name} has no schedules"))?;
        let firing = schedules.firings.get(schedule).ok_or_else(|| format!("flow {name} has no schedule `{schedule}`"))?;
        if schedules.paused.is_some() {
            return Err(format!("the schedules of flow {name} are paused"));
        }
        if instant <= firing.last {
            return Err(format!("schedule `{schedule}` of flow {name} has come past {}", instant.0));
        }
        let deployment = self.state.deployments.get(name).ok_or_else(|| format!("no flow {name} is deployed"))?;
        let flow = self.state.definitions.get(&deployment.definition).ok_or_else(|| format!("the definition of {name} is missing"))?;
        Ok((flow.clone(), deployment.clone()))
    }

    pub(crate) fn schedule_due(&mut self, name: FlowName, schedule: String, instant: Timestamp, missed: u32, given: Values) {
        let (flow, deployment) = match self.firing(&name, &schedule, instant) {
            Ok(found) => found,
            Err(because) => return self.ignore(because),
        };
        let fields = [name.as_str().as_bytes(), schedule.as_bytes(), &instant.0.to_le_bytes()];
        let origin = Origin(hash_fields("causey origin schedule v1", &fields));
        let cause = Cause::Schedule { schedule: schedule.clone(), instant };
        let new = self.of_deployment(flow, deployment.version, origin, given, cause, deployment.user);
        let (run, because) = self.begin_once(new);
        self.emit(Record::ScheduleFired { flow: name, schedule, instant, missed, run, because });
    }

    pub(crate) fn schedule_missed(&mut self, name: FlowName, schedule: String, until: Timestamp, missed: u32) {
        match self.firing(&name, &schedule, until) {
            Ok(_) => {
                let because = Some("missed: nobody led at its time, and its schedule does not catch up".into());
                let missed = missed.saturating_sub(1);
                self.emit(Record::ScheduleFired { flow: name, schedule, instant: until, missed, run: None, because });
            }
            Err(because) => self.ignore(because),
        }
    }

    /// A run of a deployed version that no person asked for at this moment.
    pub(crate) fn of_deployment(
        &self,
        flow: Arc<Flow>,
        version: u32,
        origin: Origin,
        given: Values,
        cause: Cause,
        user: String,
    ) -> Result<NewRun, Problem> {
        let parameters = parameter::resolve(&flow.definition().parameters, given)?;
        Ok(NewRun::of(flow, Some(version), origin, parameters, cause, user))
    }

    /// Starts the run unless its origin is known; says which run there is now, or why there is none.
    pub(crate) fn begin_once(&mut self, new: Result<NewRun, Problem>) -> (Option<RunId>, Option<String>) {
        let new = match new {
            Ok(new) => new,
            Err(problem) => return (None, Some(problem.message)),
        };
        if let Some((_, run)) = self.state.origins.get(&new.origin) {
            return (None, Some(format!("there has been a run for this instant: {run}")));
        }
        match self.begin(new) {
            Begun::Started(run) => (Some(run), None),
            Begun::Skipped(problem) => (None, Some(problem.message)),
        }
    }

    pub(crate) fn pause_schedules(&mut self, flow: FlowName, user: String, pause: bool) -> Answer {
        let Some(schedules) = self.state.schedules.get(&flow) else {
            let what = format!("no flow `{flow}` with schedules is deployed");
            return Answer::Refused(Problem::new(Code::NOT_FOUND, what).hint("see: causey schedules"));
        };
        if schedules.paused.is_some() != pause {
            self.emit(if pause { Record::SchedulesPaused { flow, user } } else { Record::SchedulesResumed { flow, user } });
        }
        Answer::Done
    }
}
