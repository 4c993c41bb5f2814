//! The checks of a definition: what each part of it may say, then (in `graph`) how the steps hang together.

use std::collections::{BTreeMap, BTreeSet};

use super::definition::{Case, Definition, Step, Transition, leads_to_itself};
use super::{Flow, STEPS_MAX, StepIndex, VISITS_MAX, graph};
use crate::gate::SIGNALS_BYTES_MAX;
use crate::id::{Digest, StepName};
use crate::policy::{self, MemoPolicy, RetryPolicy};
use crate::problem::{Code, Problem};
use crate::resources::Resources;
use crate::schedule::{SCHEDULES_MAX, Schedule};

pub(super) fn fault(definition: &Definition, step: Option<&Step>, what: impl std::fmt::Display) -> Problem {
    let place = match step {
        Some(step) if step.line > 0 => format!("{}:{}: step `{}` ", definition.file, step.line, step.name),
        Some(step) => format!("step `{}` ", step.name),
        None => format!("flow {} ", definition.name),
    };
    Problem::new(Code::GRAPH, format!("{place}{what}"))
}

pub(super) fn check(definition: Definition) -> Result<Flow, Problem> {
    check_header(&definition)?;
    let index = index_steps(&definition)?;
    for step in &definition.steps {
        check_step(&definition, &index, step)?;
    }
    let start = graph::find_ends(&definition, &index)?;
    let mut parents = graph::parents_of(&definition, &index);
    let order = graph::topological_order(&definition, &index, &parents)?;
    let (closes, enclosing) = graph::balance(&definition, &index, &mut parents, &order, start)?;
    let certain = graph::certain(&definition, &index, &order, start);
    let feeds_memo = graph::feeds_memo(&definition, &parents);
    let digest = Digest::of(&serde_json::to_vec(&definition).expect("a definition has a JSON form"));
    Ok(Flow { definition, digest, start, index, parents, closes, enclosing, certain, feeds_memo })
}

fn check_header(definition: &Definition) -> Result<(), Problem> {
    if definition.format != 1 {
        return Err(fault(definition, None, format!("has definition format {}; this server reads format 1", definition.format)));
    }
    if definition.steps.is_empty() || definition.steps.len() > STEPS_MAX {
        return Err(fault(definition, None, format!("has {} steps; 1 to {STEPS_MAX} are possible", definition.steps.len())));
    }
    if let Some(what) = definition.timeout_seconds.and_then(policy::timeout_fault) {
        return Err(fault(definition, None, format!("is wrong: {what}")));
    }
    let gates = definition.steps.iter().filter_map(|step| step.gate.as_ref());
    let defaults = gates.flat_map(|gate| &gate.signals).filter_map(|signal| signal.default.as_ref());
    let bytes: usize = defaults.map(|default| default.value.to_string().len()).sum();
    if bytes > SIGNALS_BYTES_MAX {
        return Err(fault(definition, None, format!("has signal defaults of {bytes} bytes; at most {SIGNALS_BYTES_MAX} are accepted")));
    }
    if let Some(what) = definition.standing.fault() {
        return Err(fault(definition, None, format!("is wrong: {what}")));
    }
    let mut seen = BTreeSet::new();
    if let Some(twice) = definition.parameters.iter().find(|parameter| !seen.insert(&parameter.name)) {
        return Err(fault(definition, None, format!("has parameter `{}` twice", twice.name)));
    }
    for trigger in &definition.triggers {
        if trigger.events.is_empty() {
            return Err(fault(definition, None, "has a trigger without an event"));
        }
        let mapped = trigger.events.iter().filter_map(|event| event.parameters.as_ref()).flat_map(BTreeMap::keys);
        for name in mapped {
            if !seen.contains(name) {
                return Err(fault(definition, None, format!("has a trigger that fills parameter `{name}`, which the flow does not have")));
            }
        }
    }
    if let Some(what) = definition.concurrency.and_then(|concurrency| concurrency.fault()) {
        return Err(fault(definition, None, format!("has a concurrency that is wrong: {what}")));
    }
    check_schedules(definition, &seen)
}

fn check_schedules(definition: &Definition, parameters: &BTreeSet<&String>) -> Result<(), Problem> {
    if definition.schedules.len() > SCHEDULES_MAX {
        return Err(fault(definition, None, format!("has {} schedules; at most {SCHEDULES_MAX} are possible", definition.schedules.len())));
    }
    let mut seen = BTreeSet::new();
    for schedule in &definition.schedules {
        let unknown = schedule.parameters.keys().find(|name| !parameters.contains(name));
        let unknown = unknown.map(|name| format!("it fills parameter `{name}`, which the flow does not have"));
        let twice = (!seen.insert(schedule.identity())).then(|| "it is there twice".to_owned());
        if let Some(what) = schedule.fault().or(unknown).or(twice) {
            return Err(schedule_problem(definition, schedule, what));
        }
    }
    Ok(())
}

/// The problem of a schedule that cannot be, named by its place.
#[must_use]
pub fn schedule_problem(definition: &Definition, schedule: &Schedule, what: impl std::fmt::Display) -> Problem {
    let place = if schedule.line > 0 { format!("{}:{}: ", definition.file, schedule.line) } else { String::new() };
    let message = format!("{place}schedule `{}` of flow {} is wrong: {what}", schedule.identity(), definition.name);
    Problem::new(Code::SCHEDULE, message)
}

fn index_steps(definition: &Definition) -> Result<BTreeMap<StepName, StepIndex>, Problem> {
    let mut index = BTreeMap::new();
    for (place, step) in definition.steps.iter().enumerate() {
        let here = StepIndex(u16::try_from(place).unwrap_or(u16::MAX));
        if index.insert(step.name.clone(), here).is_some() {
            return Err(fault(definition, Some(step), "is defined twice"));
        }
    }
    Ok(index)
}

fn check_step(definition: &Definition, index: &BTreeMap<StepName, StepIndex>, step: &Step) -> Result<(), Problem> {
    for target in step.next.targets() {
        let Some(to) = index.get(target) else {
            return Err(fault(definition, Some(step), format!("goes on to `{target}`, which is not a step")));
        };
        let how = match step.next {
            Transition::Branch { .. } | Transition::Foreach { .. } | Transition::Gang { .. } => "splits",
            Transition::Switch { .. } => "switches",
            Transition::Linear { .. } | Transition::End => continue,
        };
        if definition.steps[usize::from(to.0)].join {
            return Err(fault(definition, Some(step), format!("{how} straight into the join `{target}`; put a step between them")));
        }
    }
    if let Transition::Switch { condition, cases } = &step.next {
        check_switch(definition, step, condition, cases)?;
    }
    if let Transition::Gang { to } = &step.next {
        check_gang(definition, index, &definition.steps[usize::from(index[to].0)])?;
    }
    if let Some(seconds) = step.gather_seconds {
        if !definition.steps.iter().any(|split| matches!(&split.next, Transition::Gang { to } if *to == step.name)) {
            return Err(fault(definition, Some(step), "says how long its gang may gather, but no step opens a gang of it"));
        }
        if let Some(what) = policy::timeout_fault(seconds) {
            return Err(fault(definition, Some(step), format!("is wrong: {what}")));
        }
    }
    if let Some(visits) = step.visits_max {
        if !leads_to_itself(step) {
            return Err(fault(definition, Some(step), "bounds its visits, but no case of a switch leads back to it"));
        }
        if !(1..=VISITS_MAX).contains(&visits) {
            return Err(fault(definition, Some(step), format!("bounds its visits at {visits}; 1 to {VISITS_MAX} are possible")));
        }
    }
    if let Transition::Branch { to } = &step.next {
        let distinct: BTreeSet<_> = to.iter().collect();
        if to.len() < 2 || distinct.len() < to.len() {
            return Err(fault(definition, Some(step), "branches to fewer than two different steps"));
        }
    }
    let times = [step.timeout_seconds.and_then(policy::timeout_fault), step.grace_seconds.and_then(policy::grace_fault)];
    if let Some(what) = step.retry.as_ref().and_then(RetryPolicy::fault).into_iter().chain(times.into_iter().flatten()).next() {
        return Err(fault(definition, Some(step), format!("is wrong: {what}")));
    }
    if let Some(gate) = &step.gate {
        if let Some(what) = gate.fault() {
            return Err(fault(definition, Some(step), format!("is wrong: {what}")));
        }
        if leads_to_itself(step) {
            let problem = fault(definition, Some(step), "waits for a signal or an approval, and leads back to itself");
            return Err(problem.hint("a signal or an approval counts once in a run; let the step before it wait"));
        }
        if definition.steps.iter().any(|other| matches!(&other.next, Transition::Gang { to, .. } if *to == step.name)) {
            let problem = fault(definition, Some(step), "waits for a signal or an approval, and is the step of a gang");
            return Err(problem.hint("let the step before it wait"));
        }
    }
    if let Some(memo) = &step.memo {
        check_memo(definition, step, memo)?;
    }
    if let Some(what) = step.resources.as_ref().and_then(Resources::fault) {
        return Err(fault(definition, Some(step), what));
    }
    if let Some(what) = step.surroundings.as_ref().and_then(|surroundings| surroundings.fault()) {
        return Err(fault(definition, Some(step), format!("is wrong: {what}")));
    }
    match &step.next {
        Transition::Foreach { .. } if step.catch.is_some() => {
            Err(fault(definition, Some(step), "has catch and a foreach: when it fails there are no items to go on with"))
        }
        Transition::Gang { .. } if step.catch.is_some() => {
            Err(fault(definition, Some(step), "has catch and opens a gang: when it fails there is no number of members to go on with"))
        }
        Transition::Switch { .. } if step.catch.is_some() => {
            Err(fault(definition, Some(step), "has catch and a switch: when it fails there is no value to choose a case by"))
        }
        _ => Ok(()),
    }
}

fn check_memo(definition: &Definition, step: &Step, memo: &MemoPolicy) -> Result<(), Problem> {
    if let Some(what) = memo.fault() {
        return Err(fault(definition, Some(step), format!("is wrong: {what}")));
    }
    if step.catch.is_some() {
        let problem = fault(definition, Some(step), "is memoised and has catch: a caught failure would be taken as its result");
        return Err(problem.hint("let the step raise, or do not memoise it"));
    }
    if definition.steps.iter().any(|other| matches!(&other.next, Transition::Gang { to, .. } if *to == step.name)) {
        let problem = fault(definition, Some(step), "is memoised, and is the step of a gang");
        return Err(problem.hint("memoise the join behind it"));
    }
    Ok(())
}

/// A gang's step goes on to the join that closes it, and a failure of one member is a failure of all.
fn check_gang(definition: &Definition, index: &BTreeMap<StepName, StepIndex>, gang: &Step) -> Result<(), Problem> {
    let joined =
        matches!(&gang.next, Transition::Linear { to } if index.get(to).is_some_and(|to| definition.steps[usize::from(to.0)].join));
    if !joined {
        return Err(fault(definition, Some(gang), "runs as a gang, so it has to go on to a join and to nothing else"));
    }
    if gang.catch.is_some() {
        return Err(fault(definition, Some(gang), "has catch and runs as a gang: when a member fails, the others cannot go on without it"));
    }
    Ok(())
}

fn check_switch(definition: &Definition, step: &Step, condition: &str, cases: &[Case]) -> Result<(), Problem> {
    if condition.is_empty() {
        return Err(fault(definition, Some(step), "has a switch without a condition"));
    }
    if cases.len() < 2 {
        return Err(fault(definition, Some(step), format!("switches between {} cases; at least two are needed", cases.len())));
    }
    for (place, Case { value, .. }) in cases.iter().enumerate() {
        if !(value.is_string() || value.is_number() || value.is_boolean()) {
            return Err(fault(definition, Some(step), format!("has a switch case {value}, which is no text, number or boolean")));
        }
        if cases[..place].iter().any(|earlier| earlier.value == *value) {
            return Err(fault(definition, Some(step), format!("has the switch case {value} twice")));
        }
    }
    Ok(())
}
