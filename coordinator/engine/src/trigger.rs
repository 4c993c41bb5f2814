//! Events start runs: which triggers an event matches, how its data fills parameters, and the origin that makes it happen once.

use causey_protocol::event::{CloudEvent, STARTING_EVENTS_BYTES_MAX};
use causey_protocol::flow::{Flow, TriggerEvent};
use causey_protocol::id::{FlowName, Origin, RunId, SourceName, hash_fields};
use causey_protocol::parameter::Values;
use causey_protocol::record::{Cause, Record, Work};
use serde_json::Value;

use crate::concurrency::Begun;
use crate::engine::{Decider, NewRun};
use crate::state::State;
use crate::work::{Measure, TriggerPlace};

/// Triggers pulled in one piece.
const TRIGGERS_MAX: usize = 100;

/// What one trigger made of an event.
enum Outcome {
    Started(RunId),
    /// It was here before, and what came of it.
    Duplicate(String),
    /// Nothing started, and why.
    Waits(String),
}

impl State {
    /// Places in triggers that this type of event fills, from one on: one more than fit a piece, so that the next is known.
    fn matching(&self, kind: &str, from: Option<&TriggerPlace>) -> Vec<TriggerPlace> {
        let flows = match from {
            Some((flow, ..)) => self.deployments.range(flow.clone()..),
            None => self.deployments.range(..),
        };
        let flows = flows.filter_map(|(name, deployment)| Some((name, self.definitions.get(&deployment.definition)?)));
        let all = flows.flat_map(|(name, flow)| places(flow, kind).map(move |(trigger, place)| (name.clone(), trigger, place)));
        all.skip_while(|place| from.is_some_and(|from| place < from)).take(TRIGGERS_MAX + 1).collect()
    }
}

impl Decider<'_> {
    pub(crate) fn event(&mut self, sequence: u64, source: &SourceName, event: &CloudEvent) {
        self.pull_triggers(sequence, source, event, None);
    }

    /// Pulls the triggers that an event matches, from one on and as many as fit a piece.
    pub(crate) fn pull_triggers(&mut self, sequence: u64, source: &SourceName, event: &CloudEvent, from: Option<&TriggerPlace>) {
        let (begins, mut measure) = (from.is_none(), Measure::default());
        let matching = self.state.matching(&event.kind, from);
        let (mut started, mut because, mut duplicates, mut next) = (Vec::new(), Vec::new(), 0, None);
        if begins && matching.is_empty() {
            because.push(format!("no deployed flow has a trigger on `{}`", event.kind));
        }
        let matches = matching.len();
        for (pulled, (name, trigger, place)) in matching.into_iter().enumerate() {
            if pulled == TRIGGERS_MAX || (pulled > 0 && measure.is_full(self.records())) {
                next = Some((name, trigger, place));
                break;
            }
            match self.pull_trigger(&name, trigger, place, source, event) {
                Outcome::Started(run) => {
                    started.push(run);
                    if self.state.waits_of(run).is_some() {
                        because.push(format!("flow {name}: its run waits for a place"));
                    }
                }
                Outcome::Duplicate(why) => {
                    duplicates += 1;
                    because.push(why);
                }
                Outcome::Waits(why) => because.push(format!("flow {name}: {why}")),
            }
        }
        if let Some(next) = next {
            if begins {
                let cloud_event = event.to_structured();
                self.emit(Record::WorkAccepted(Box::new(Work::Event { sequence, source: source.clone(), cloud_event })));
            }
            return self.emit(Record::EventSpread { sequence, next, started, because, duplicates });
        }
        let before = self.state.work_of_event(sequence).and_then(|id| self.state.work.get(&id));
        let (matched, repeated) = before.map_or((0, 0), |before| (before.matches as usize, before.duplicates));
        let matches = matched + matches;
        let duplicate = matches > 0 && (repeated + duplicates) as usize == matches;
        self.emit(Record::EventTaken { sequence, source: event.source.clone(), id: event.id.clone(), started, because, duplicate });
    }

    fn pull_trigger(&mut self, name: &FlowName, trigger: u16, place: u16, source: &SourceName, event: &CloudEvent) -> Outcome {
        let deployment = self.state.deployments.get(name).cloned();
        let flow = deployment.as_ref().and_then(|deployment| self.state.definitions.get(&deployment.definition).cloned());
        let Some((deployment, flow)) = deployment.zip(flow) else {
            return Outcome::Waits("its definition is missing".into());
        };
        let wanted = &flow.definition().triggers[usize::from(trigger)].events;
        let own = event_identity(source, event);
        let seen = Origin(hash_fields("causey origin event v1", &[name.as_str().as_bytes(), &trigger.to_le_bytes(), &own]));
        if let Some((_, run)) = self.state.origins.get(&seen) {
            return Outcome::Duplicate(format!("flow {name} has run for this event before: {run}"));
        }
        if let Some(problem) = self.state.skipped_before(&seen) {
            return Outcome::Duplicate(format!("flow {name} did not run for this event before: {}", problem.message));
        }
        let mut held = self.state.held.get(&(name.clone(), trigger)).cloned().unwrap_or_default();
        let structured = event.to_structured();
        let bytes = held.events.values().map(|(_, event)| event).chain([&structured]).map(|event| event.to_string().len()).sum::<usize>();
        if bytes > STARTING_EVENTS_BYTES_MAX {
            let limit = STARTING_EVENTS_BYTES_MAX;
            return Outcome::Waits(format!(
                "an event of {bytes} bytes starts no run, the limit is {limit}; pass large data by its address (dataref)"
            ));
        }
        held.events.insert(place, (seen, structured.clone()));
        if held.events.len() < wanted.len() {
            self.emit(Record::EventHeld { flow: name.clone(), trigger, event: place, origin: seen, cloud_event: structured });
            let missing: Vec<&str> =
                (0..).zip(wanted).filter(|(at, _)| !held.events.contains_key(at)).map(|(_, event)| event.name.as_str()).collect();
            return Outcome::Waits(format!("waits for {} of {} events: {}", missing.len(), wanted.len(), missing.join(", ")));
        }
        let mut given = Values::new();
        for (at, wanted) in (0..).zip(wanted) {
            if let Err(why) = fill(&flow, wanted, &held.events[&at].1, &mut given) {
                return Outcome::Waits(why);
            }
        }
        let parameters = match causey_protocol::parameter::resolve(&flow.definition().parameters, given) {
            Ok(values) => values,
            Err(problem) => return Outcome::Waits(problem.message),
        };
        let joined = held.events.values().map(|(origin, _)| *origin).filter(|origin| *origin != seen).collect();
        let cause = Cause::Event { trigger, events: held.events.into_values().map(|(_, event)| event).collect() };
        let new = NewRun::of(flow, Some(deployment.version), seen, parameters, cause, deployment.user);
        let new = NewRun { joined, ..new };
        match self.begin(new) {
            Begun::Started(run) => Outcome::Started(run),
            Begun::Skipped(problem) => Outcome::Waits(problem.message),
        }
    }
}

/// The places in the flow's triggers that this type of event fills.
fn places<'a>(flow: &'a Flow, kind: &'a str) -> impl Iterator<Item = (u16, u16)> + 'a {
    (0..).zip(&flow.definition().triggers).flat_map(move |(trigger, rule)| {
        (0..).zip(&rule.events).filter(move |(_, event)| event.name == kind).map(move |(place, _)| (trigger, place))
    })
}

/// What makes two deliveries the same event: who was authenticated, and the CloudEvents source and id.
fn event_identity(source: &SourceName, event: &CloudEvent) -> Vec<u8> {
    hash_fields("causey event identity v1", &[source.as_str().as_bytes(), event.source.as_bytes(), event.id.as_bytes()]).to_vec()
}

/// Adds to `given` what `wanted` maps from the event's data.
fn fill(flow: &Flow, wanted: &TriggerEvent, event: &Value, given: &mut Values) -> Result<(), String> {
    let data = event.get("data").unwrap_or(&Value::Null);
    match &wanted.parameters {
        Some(mapping) => {
            for (parameter, field) in mapping {
                let value = data
                    .get(field)
                    .ok_or_else(|| format!("event `{}` has no data field `{field}` for parameter `{parameter}`", wanted.name))?;
                given.insert(parameter.clone(), value.clone());
            }
        }
        None => {
            for parameter in &flow.definition().parameters {
                if let Some(value) = data.get(&parameter.name) {
                    given.insert(parameter.name.clone(), value.clone());
                }
            }
        }
    }
    Ok(())
}
