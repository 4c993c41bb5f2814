//! The flow graph, valid by construction: a [`Flow`] can only be made from a [`Definition`] that passed every check, so the
//! engine never meets an unknown step, a cycle or an unbalanced join. Each error names the step and its line.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::gate::{SIGNALS_BYTES_MAX, StepGate};
use crate::id::{Digest, FlowName, SignalName, StepName};
use crate::parameter::Parameter;
use crate::policy::{self, CatchPolicy, HostMode, MemoPolicy, RetryPolicy};
use crate::problem::{Code, Problem};
use crate::resources::Resources;
use crate::schedule::{Concurrency, SCHEDULES_MAX, Schedule};
use crate::share::Standing;

/// Most steps a flow may have.
pub const STEPS_MAX: usize = 1_000;

/// Deepest nesting of foreach levels.
pub const FOREACH_DEPTH_MAX: usize = 16;

/// The languages that workers run: Python, R, and any executable.
pub const PYTHON: &str = "python";
pub const R: &str = "r";
pub const EXECUTABLE: &str = "exec";

/// How often a step may be entered on one path when its author sets no bound of his own.
pub const VISITS_MAX_DEFAULT: u32 = 1_000;

/// The highest bound an author may set.
pub const VISITS_MAX: u32 = 100_000;

/// What an SDK sends: the flow as its author wrote it. Format: `docs/protocol.md` §4.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Definition {
    pub format: u32,
    pub name: FlowName,
    pub language: String,
    /// The flow file's path inside the code package.
    pub file: String,
    pub package: Digest,
    #[serde(default)]
    pub doc: String,
    pub steps: Vec<Step>,
    #[serde(default)]
    pub parameters: Vec<Parameter>,
    #[serde(default)]
    pub triggers: Vec<Trigger>,
    /// Longest time a run may take, in seconds. A request may set another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedules: Vec<Schedule>,
    /// `None`: any number of runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<Concurrency>,
    /// How its runs stand among others. A request may say otherwise.
    #[serde(default, skip_serializing_if = "Standing::is_ordinary")]
    pub standing: Standing,
}

/// A named node of a flow.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub name: StepName,
    /// Line of the step in the flow file; 0 when unknown.
    #[serde(default)]
    pub line: u32,
    #[serde(default)]
    pub doc: String,
    /// Whether the step waits for all siblings and receives them as inputs.
    #[serde(default)]
    pub join: bool,
    pub next: Transition,
    #[serde(default)]
    pub retry: Option<RetryPolicy>,
    #[serde(default)]
    pub catch: Option<CatchPolicy>,
    #[serde(default)]
    pub resources: Option<Resources>,
    /// `None`: the worker's default.
    #[serde(default)]
    pub host: Option<HostMode>,
    /// How often recursion may enter the step on one path; `None`: [`VISITS_MAX_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visits_max: Option<u32>,
    /// Longest time an attempt may take, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_seconds: Option<f64>,
    /// Time between the request to end and the kill, in seconds; `None`: [`policy::GRACE_SECONDS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace_seconds: Option<f64>,
    /// How long the members of its gang may take to come together, in seconds; `None`: [`policy::GATHER_SECONDS_DEFAULT`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gather_seconds: Option<f64>,
    /// What its tasks wait for beside their inputs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<Box<StepGate>>,
    /// Whether later runs may take its results.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo: Option<MemoPolicy>,
    /// What runs the step where that is not the flow file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Box<StepCode>>,
}

/// The code of one step in a flow whose steps are written in several languages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StepCode {
    pub language: String,
    /// Its file's path inside the code package. It holds a function with the step's name.
    pub file: String,
}

/// How a step ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Transition {
    Linear {
        to: StepName,
    },
    /// Fixed parallel paths.
    Branch {
        to: Vec<StepName>,
    },
    /// One task per item of the artifact `variable`.
    Foreach {
        to: StepName,
        variable: String,
    },
    /// A gang: as many tasks as the step says, which run at the same time and know each other.
    Gang {
        to: StepName,
    },
    /// One of several paths, chosen by the value of the artifact `condition`. A case may lead back to the step itself.
    Switch {
        condition: String,
        cases: Vec<Case>,
    },
    End,
}

/// One value of a switch's condition and where it leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// A text, number or boolean. For people to read: the host compares, the coordinator only knows the steps.
    pub value: serde_json::Value,
    pub to: StepName,
}

impl Transition {
    /// The steps this transition names, each once.
    #[must_use]
    pub fn targets(&self) -> Vec<&StepName> {
        match self {
            Self::Linear { to } | Self::Foreach { to, .. } | Self::Gang { to } => vec![to],
            Self::Branch { to } => to.iter().collect(),
            Self::Switch { cases, .. } => {
                let mut targets: Vec<&StepName> = Vec::with_capacity(cases.len());
                for case in cases {
                    if !targets.contains(&&case.to) {
                        targets.push(&case.to);
                    }
                }
                targets
            }
            Self::End => Vec::new(),
        }
    }

    /// Whether it opens several tasks of one step, told apart by an index in their paths.
    #[must_use]
    pub fn is_indexed(&self) -> bool {
        matches!(self, Self::Foreach { .. } | Self::Gang { .. })
    }
}

/// A rule: which events start the flow. All events named are needed; one alone fires at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trigger {
    pub events: Vec<TriggerEvent>,
}

/// One event a trigger waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TriggerEvent {
    /// The CloudEvent's `type`.
    pub name: String,
    /// Flow parameter → field of the event's data. `None`: every parameter that is a field of the data.
    #[serde(default)]
    pub parameters: Option<BTreeMap<String, String>>,
}

/// A step's place in [`Definition::steps`]; stable for a run, which is pinned to its definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StepIndex(pub u16);

/// The split a join closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    pub step: StepIndex,
    /// Whether its paths are told apart by an index: a foreach, or a gang.
    pub foreach: bool,
}

/// A checked flow: its definition and what follows from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Definition", into = "Definition")]
pub struct Flow {
    definition: Definition,
    digest: Digest,
    start: StepIndex,
    index: BTreeMap<StepName, StepIndex>,
    parents: Vec<Vec<StepIndex>>,
    closes: Vec<Option<Split>>,
    /// Splits that enclose each step, outermost first.
    enclosing: Vec<Vec<Split>>,
    /// Steps that no run can end without.
    certain: Vec<bool>,
    /// Steps whose results a memoised one takes.
    feeds_memo: Vec<bool>,
}

impl From<Flow> for Definition {
    fn from(flow: Flow) -> Self {
        flow.definition
    }
}

impl TryFrom<Definition> for Flow {
    type Error = Problem;
    fn try_from(definition: Definition) -> Result<Self, Problem> {
        check(definition)
    }
}

impl Flow {
    #[must_use]
    pub fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Identity of the definition: equal digests, equal flows.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    #[must_use]
    pub fn start(&self) -> StepIndex {
        self.start
    }

    #[must_use]
    pub fn step(&self, index: StepIndex) -> &Step {
        &self.definition.steps[usize::from(index.0)]
    }

    #[must_use]
    pub fn find(&self, name: &StepName) -> Option<StepIndex> {
        self.index.get(name).copied()
    }

    /// The other steps whose transition names this one, in order of definition; those of a join in the order of its split's branches.
    /// A join and the step behind a switch may have several parents of one branch: alternatives, of which a run takes one.
    #[must_use]
    pub fn parents(&self, index: StepIndex) -> &[StepIndex] {
        &self.parents[usize::from(index.0)]
    }

    /// Whether a switch leads back to the step itself.
    #[must_use]
    pub fn recurs(&self, index: StepIndex) -> bool {
        let step = self.step(index);
        leads_to_itself(step)
    }

    /// Whether every run that succeeds enters the step; a switch may pass others by.
    #[must_use]
    pub fn is_certain(&self, index: StepIndex) -> bool {
        self.certain[usize::from(index.0)]
    }

    /// Whether a memoised step takes its results, so that what they contain has to be known.
    #[must_use]
    pub fn feeds_memo(&self, index: StepIndex) -> bool {
        self.feeds_memo[usize::from(index.0)]
    }

    /// How often the step may be entered on one path.
    #[must_use]
    pub fn visits_max(&self, index: StepIndex) -> u32 {
        self.step(index).visits_max.unwrap_or(VISITS_MAX_DEFAULT)
    }

    /// The language and the file of a step's code.
    #[must_use]
    pub fn code(&self, index: StepIndex) -> (&str, &str) {
        match &self.step(index).code {
            Some(code) => (&code.language, &code.file),
            None => (&self.definition.language, &self.definition.file),
        }
    }

    /// Whether values go from steps of one language to those of another.
    #[must_use]
    pub fn is_mixed(&self) -> bool {
        let language = &self.definition.language;
        self.definition.steps.iter().filter_map(|step| step.code.as_ref()).any(|code| code.language != *language)
    }

    /// The signals that steps of the flow wait for, each once, in order of definition.
    #[must_use]
    pub fn signals(&self) -> Vec<&SignalName> {
        let mut names = Vec::new();
        for signal in self.definition.steps.iter().filter_map(|step| step.gate.as_ref()).flat_map(|gate| &gate.signals) {
            if !names.contains(&&signal.name) {
                names.push(&signal.name);
            }
        }
        names
    }

    /// The split this join closes; `None` for a step that is no join.
    #[must_use]
    pub fn closes(&self, index: StepIndex) -> Option<Split> {
        self.closes[usize::from(index.0)]
    }

    /// Whether the step runs as a gang.
    #[must_use]
    pub fn is_gang(&self, index: StepIndex) -> bool {
        matches!(self.parents(index), [split] if matches!(self.step(*split).next, Transition::Gang { .. }))
    }

    /// The foreach steps (and those that open a gang) that enclose this one, outermost first; as many as a task's path has indices.
    pub fn foreach_levels(&self, index: StepIndex) -> impl Iterator<Item = StepIndex> + '_ {
        self.enclosing[usize::from(index.0)].iter().filter(|split| split.foreach).map(|split| split.step)
    }

    pub fn indices(&self) -> impl Iterator<Item = StepIndex> + use<> {
        (0..self.definition.steps.len()).map(|place| StepIndex(u16::try_from(place).unwrap_or(u16::MAX)))
    }
}

fn leads_to_itself(step: &Step) -> bool {
    matches!(&step.next, Transition::Switch { cases, .. } if cases.iter().any(|case| case.to == step.name))
}

fn fault(definition: &Definition, step: Option<&Step>, what: impl std::fmt::Display) -> Problem {
    let place = match step {
        Some(step) if step.line > 0 => format!("{}:{}: step `{}` ", definition.file, step.line, step.name),
        Some(step) => format!("step `{}` ", step.name),
        None => format!("flow {} ", definition.name),
    };
    Problem::new(Code::GRAPH, format!("{place}{what}"))
}

fn check(definition: Definition) -> Result<Flow, Problem> {
    check_header(&definition)?;
    let index = index_steps(&definition)?;
    for step in &definition.steps {
        check_step(&definition, &index, step)?;
    }
    let start = find_ends(&definition, &index)?;
    let mut parents = parents_of(&definition, &index);
    let order = topological_order(&definition, &index, &parents)?;
    let (closes, enclosing) = balance(&definition, &index, &mut parents, &order, start)?;
    let certain = certain(&definition, &index, &order, start);
    let feeds_memo = feeds_memo(&definition, &parents);
    let digest = Digest::of(&serde_json::to_vec(&definition).expect("a definition has a JSON form"));
    Ok(Flow { definition, digest, start, index, parents, closes, enclosing, certain, feeds_memo })
}

/// For each step, whether a memoised one takes its results.
fn feeds_memo(definition: &Definition, parents: &[Vec<StepIndex>]) -> Vec<bool> {
    let mut feeds = vec![false; definition.steps.len()];
    for (place, (step, parents)) in definition.steps.iter().zip(parents).enumerate().filter(|(_, (step, _))| step.memo.is_some()) {
        feeds[place] |= leads_to_itself(step);
        for parent in parents {
            feeds[usize::from(parent.0)] = true;
        }
    }
    feeds
}

/// For each step, whether the flow cannot come to its end without it: a switch avoids what one of its paths avoids, a split only what all
/// of them avoid.
fn certain(definition: &Definition, index: &BTreeMap<StepName, StepIndex>, order: &[StepIndex], start: StepIndex) -> Vec<bool> {
    let count = definition.steps.len();
    if !definition.steps.iter().any(|step| matches!(step.next, Transition::Switch { .. })) {
        return vec![true; count];
    }
    let targets: Vec<Vec<usize>> = definition
        .steps
        .iter()
        .map(|step| step.next.targets().into_iter().filter(|to| **to != step.name).map(|to| usize::from(index[to].0)).collect())
        .collect();
    let needs = |wanted: usize| {
        let mut avoids = vec![true; count];
        for here in order.iter().rev().map(|here| usize::from(here.0)) {
            let paths = &targets[here];
            avoids[here] = here != wanted
                && match definition.steps[here].next {
                    Transition::Switch { .. } => paths.iter().any(|to| avoids[*to]),
                    _ => paths.iter().all(|to| avoids[*to]),
                };
        }
        !avoids[usize::from(start.0)]
    };
    (0..count).map(needs).collect()
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

/// The step without parents; every other one must be reached, and one must end.
fn find_ends(definition: &Definition, index: &BTreeMap<StepName, StepIndex>) -> Result<StepIndex, Problem> {
    let others = |step: &'_ Step| step.next.targets().into_iter().filter(|target| **target != step.name).cloned().collect::<Vec<_>>();
    let targets: BTreeSet<StepName> = definition.steps.iter().flat_map(others).collect();
    let mut sources = definition.steps.iter().filter(|step| !targets.contains(&step.name));
    let Some(start) = sources.next() else {
        return Err(fault(definition, None, "has no first step: every step is the target of another"));
    };
    if let Some(orphan) = sources.next() {
        let start_named = definition.steps.iter().find(|step| step.name.as_str() == "start");
        let orphan = if start_named.is_some_and(|named| named.name == orphan.name) { start } else { orphan };
        return Err(fault(definition, Some(orphan), "is never reached: no step goes on to it"));
    }
    if leads_to_itself(start) {
        return Err(fault(definition, Some(start), "is the first step and leads back to itself; put a step before it"));
    }
    let ends: Vec<&Step> = definition.steps.iter().filter(|step| step.next == Transition::End).collect();
    match ends[..] {
        [_] => Ok(index[&start.name]),
        [] => Err(fault(definition, None, "has no last step: every step goes on to another")),
        [_, second, ..] => Err(fault(definition, Some(second), "ends the flow, but so does another step; a flow has one last step")),
    }
}

fn parents_of(definition: &Definition, index: &BTreeMap<StepName, StepIndex>) -> Vec<Vec<StepIndex>> {
    let mut parents = vec![Vec::new(); definition.steps.len()];
    for step in &definition.steps {
        for target in step.next.targets().into_iter().filter(|target| **target != step.name) {
            parents[usize::from(index[target].0)].push(index[&step.name]);
        }
    }
    parents
}

fn topological_order(
    definition: &Definition,
    index: &BTreeMap<StepName, StepIndex>,
    parents: &[Vec<StepIndex>],
) -> Result<Vec<StepIndex>, Problem> {
    let mut waiting: Vec<usize> = parents.iter().map(Vec::len).collect();
    let mut order: Vec<StepIndex> = index.values().copied().filter(|step| waiting[usize::from(step.0)] == 0).collect();
    let mut next = 0;
    while let Some(step) = order.get(next).copied() {
        next += 1;
        let here = &definition.steps[usize::from(step.0)];
        for target in here.next.targets().into_iter().filter(|target| **target != here.name) {
            let target = index[target];
            waiting[usize::from(target.0)] -= 1;
            if waiting[usize::from(target.0)] == 0 {
                order.push(target);
            }
        }
    }
    if order.len() == definition.steps.len() {
        return Ok(order);
    }
    let reached: BTreeSet<StepIndex> = order.into_iter().collect();
    let stuck = definition.steps.iter().find(|step| !reached.contains(&index[&step.name]));
    let cycle = fault(definition, stuck, "is part of a cycle: following its transitions leads back to it");
    let switch = |step: &Step| matches!(step.next, Transition::Switch { .. }) && !reached.contains(&index[&step.name]);
    Err(if definition.steps.iter().any(switch) {
        cycle.hint("a switch may lead back to its own step, but not to an earlier one")
    } else {
        cycle
    })
}

type Balance = (Vec<Option<Split>>, Vec<Vec<Split>>);

/// Follows the open splits along the graph. `open[step]` is the stack of splits around the step, each with the branch taken. Puts the
/// parents of a join into the order in which its split names the branches, which is the order of the join's inputs.
fn balance(
    definition: &Definition,
    index: &BTreeMap<StepName, StepIndex>,
    parents: &mut [Vec<StepIndex>],
    order: &[StepIndex],
    start: StepIndex,
) -> Result<Balance, Problem> {
    let count = definition.steps.len();
    let mut open: Vec<Vec<(Split, usize)>> = vec![Vec::new(); count];
    let mut closes = vec![None; count];
    for &here in order {
        let at = usize::from(here.0);
        let step = &definition.steps[at];
        if here == start {
            if step.join {
                return Err(fault(definition, Some(step), "is the first step, so it has no inputs to join"));
            }
            continue;
        }
        let arriving: Vec<Vec<(Split, usize)>> =
            parents[at].iter().map(|parent| leaving(definition, index, &open, *parent, here)).collect();
        if step.join {
            let closed = close(definition, step, &arriving)?;
            // Switches could send one path into each, and both would wait for ever.
            if let Some(other) = closes.iter().position(|other| *other == Some(closed)) {
                let (split, other) = (&definition.steps[usize::from(closed.step.0)].name, &definition.steps[other].name);
                let what = format!("joins paths that step `{split}` opens, and so does `{other}`; all must meet in one join");
                return Err(fault(definition, Some(step), what));
            }
            closes[at] = Some(closed);
            let branches = arriving.iter().map(|stack| stack.last().map_or(0, |(_, branch)| *branch));
            let mut ordered: Vec<(usize, StepIndex)> = branches.zip(parents[at].iter().copied()).collect();
            ordered.sort_by_key(|(branch, _)| *branch);
            parents[at] = ordered.into_iter().map(|(_, parent)| parent).collect();
            let mut stack = arriving.into_iter().next().unwrap_or_default();
            stack.pop();
            open[at] = stack;
        } else {
            // Equal open splits and branches: only one of the paths carries a task, because a switch chose it.
            if arriving.iter().any(|stack| *stack != arriving[0]) {
                return Err(fault(
                    definition,
                    Some(step),
                    "is reached by several steps but is no join; a join takes the argument `inputs`",
                ));
            }
            open[at] = arriving.into_iter().next().unwrap_or_default();
        }
        let depth = open[at].iter().filter(|(split, _)| split.foreach).count();
        if depth > FOREACH_DEPTH_MAX {
            return Err(fault(
                definition,
                Some(step),
                format!("lies in {depth} nested foreach levels; at most {FOREACH_DEPTH_MAX} are possible"),
            ));
        }
        if step.next == Transition::End
            && let Some((split, _)) = open[at].last()
        {
            let split = &definition.steps[usize::from(split.step.0)];
            return Err(fault(
                definition,
                Some(step),
                format!("ends the flow inside the split of step `{}`, which no join closes", split.name),
            ));
        }
    }
    let enclosing = open.into_iter().map(|stack| stack.into_iter().map(|(split, _)| split).collect()).collect();
    Ok((closes, enclosing))
}

/// The open splits as they are on the edge from `parent` to `to`.
fn leaving(
    definition: &Definition,
    index: &BTreeMap<StepName, StepIndex>,
    open: &[Vec<(Split, usize)>],
    parent: StepIndex,
    to: StepIndex,
) -> Vec<(Split, usize)> {
    let mut stack = open[usize::from(parent.0)].clone();
    match &definition.steps[usize::from(parent.0)].next {
        Transition::Branch { to: targets } => {
            let branch = targets.iter().position(|target| index[target] == to).unwrap_or_default();
            stack.push((Split { step: parent, foreach: false }, branch));
        }
        Transition::Foreach { .. } | Transition::Gang { .. } => stack.push((Split { step: parent, foreach: true }, 0)),
        Transition::Linear { .. } | Transition::Switch { .. } | Transition::End => {}
    }
    stack
}

fn close(definition: &Definition, join: &Step, arriving: &[Vec<(Split, usize)>]) -> Result<Split, Problem> {
    let Some((split, _)) = arriving.first().and_then(|stack| stack.last()).copied() else {
        return Err(fault(definition, Some(join), "joins, but no split is open before it"));
    };
    let outer = &arriving[0][..arriving[0].len() - 1];
    let splitter = &definition.steps[usize::from(split.step.0)];
    let same_split =
        |stack: &Vec<(Split, usize)>| stack.last().is_some_and(|(other, _)| *other == split) && stack[..stack.len() - 1] == *outer;
    if !arriving.iter().all(same_split) {
        return Err(fault(definition, Some(join), "joins steps of different splits; close the inner split with a join of its own first"));
    }
    let expected = if split.foreach { 1 } else { splitter.next.targets().len() };
    let branches: BTreeSet<usize> = arriving.iter().map(|stack| stack[stack.len() - 1].1).collect();
    if branches.len() != expected {
        let what =
            format!("joins {} of the {expected} paths that step `{}` opens; all must meet in one join", branches.len(), splitter.name);
        return Err(fault(definition, Some(join), what));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a definition from lines such as `start > a b`, `a > join*`, `fan each work`, `choose ? a b`, `join* > end`; `*` marks a join.
    fn definition(lines: &[&str]) -> Definition {
        let steps = lines.iter().enumerate().map(|(place, line)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = |word: &str| StepName::new(word.trim_end_matches('*')).unwrap();
            let next = match words[1..] {
                [] => Transition::End,
                [">", to] => Transition::Linear { to: name(to) },
                ["each", to] => Transition::Foreach { to: name(to), variable: "items".into() },
                ["gang", to] => Transition::Gang { to: name(to) },
                ["?", ref to @ ..] => Transition::Switch { condition: "kind".into(), cases: cases(to) },
                [">", ref to @ ..] => Transition::Branch { to: to.iter().map(|word| name(word)).collect() },
                _ => panic!("{line}"),
            };
            let line = u32::try_from(place).unwrap() + 10;
            Step {
                name: name(words[0]),
                line,
                doc: String::new(),
                join: words[0].ends_with('*'),
                next,
                retry: None,
                catch: None,
                resources: None,
                host: None,
                visits_max: None,
                timeout_seconds: None,
                grace_seconds: None,
                gather_seconds: None,
                gate: None,
                memo: None,
                code: None,
            }
        });
        Definition {
            format: 1,
            name: FlowName::new("Demo").unwrap(),
            language: "python".into(),
            file: "demo.py".into(),
            package: Digest::of(b""),
            doc: String::new(),
            steps: steps.collect(),
            parameters: Vec::new(),
            triggers: Vec::new(),
            timeout_seconds: None,
            schedules: Vec::new(),
            concurrency: None,
            standing: Standing::default(),
        }
    }

    /// Cases `0`, `1`, … in order.
    fn cases(to: &[&str]) -> Vec<Case> {
        to.iter().enumerate().map(|(value, to)| Case { value: value.into(), to: StepName::new(to).unwrap() }).collect()
    }

    fn error(lines: &[&str]) -> String {
        Flow::try_from(definition(lines)).unwrap_err().message
    }

    #[test]
    fn a_nested_foreach_knows_its_levels_and_the_split_each_join_closes() {
        let flow = Flow::try_from(definition(&[
            "start each outer",
            "outer each inner",
            "inner > left right",
            "left > meet",
            "right > meet",
            "meet* > collect",
            "collect* > gather",
            "gather* > end",
            "end",
        ]))
        .unwrap();
        let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
        let closed = |name: &str| flow.closes(find(name)).map(|split| flow.step(split.step).name.to_string());
        assert_eq!(closed("meet").as_deref(), Some("inner"));
        assert_eq!(closed("collect").as_deref(), Some("outer"));
        assert_eq!(closed("gather").as_deref(), Some("start"));
        let levels = |name: &str| flow.foreach_levels(find(name)).map(|step| flow.step(step).name.to_string()).collect::<Vec<_>>();
        assert_eq!(levels("left"), ["start", "outer"]);
        assert_eq!(levels("collect"), ["start"]);
        assert!(levels("end").is_empty());
    }

    #[test]
    fn a_single_step_is_a_flow() {
        assert!(Flow::try_from(definition(&["only"])).is_ok());
    }

    #[test]
    fn faulty_graphs_are_refused_with_step_and_line() {
        assert_eq!(
            error(&["start > a", "a > start", "end"]),
            "demo.py:10: step `start` is part of a cycle: following its transitions leads back to it"
        );
        assert_eq!(
            error(&["start > a", "a > b", "b > a c", "c"]),
            "demo.py:11: step `a` is part of a cycle: following its transitions leads back to it"
        );
        assert_eq!(error(&["start > nowhere", "end"]), "demo.py:10: step `start` goes on to `nowhere`, which is not a step");
        assert_eq!(error(&["start > end", "lost > end", "end"]), "demo.py:11: step `lost` is never reached: no step goes on to it");
        assert_eq!(
            error(&["start > a b", "a > end", "b > end", "end"]),
            "demo.py:13: step `end` is reached by several steps but is no join; a join takes the argument `inputs`"
        );
        assert_eq!(error(&["start > end", "end*"]), "demo.py:11: step `end` joins, but no split is open before it");
        assert_eq!(
            error(&["start each a", "a > end", "end"]),
            "demo.py:12: step `end` ends the flow inside the split of step `start`, which no join closes"
        );
        assert_eq!(
            error(&["start > a b c", "a > j", "b > j", "c > k", "j* > k", "k* > end", "end"]),
            "demo.py:14: step `j` joins 2 of the 3 paths that step `start` opens; all must meet in one join"
        );
        assert_eq!(
            error(&["start > a b", "a each x", "x > j", "b > j", "j* > end", "end"]),
            "demo.py:14: step `j` joins steps of different splits; close the inner split with a join of its own first"
        );
    }

    #[test]
    fn the_paths_of_a_switch_may_meet_in_a_step_or_in_the_join_around_it() {
        assert!(Flow::try_from(definition(&["start ? a end", "a > end", "end"])).is_ok(), "a path may end early");
        let meeting = Flow::try_from(definition(&["start ? a b", "a > c", "b > c", "c > end", "end"])).unwrap();
        let certain: Vec<bool> = meeting.indices().map(|step| meeting.is_certain(step)).collect();
        assert_eq!(certain, [true, false, false, true, true]);
        let flow =
            Flow::try_from(definition(&["start > right left", "left ? a b", "a > meet", "b > meet", "right > meet", "meet* > end", "end"]))
                .unwrap();
        let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
        let parents: Vec<_> = flow.parents(find("meet")).iter().map(|parent| flow.step(*parent).name.to_string()).collect();
        assert_eq!(parents, ["right", "a", "b"], "in the order of the branches, alternatives together");
    }

    #[test]
    fn a_switch_may_lead_back_to_its_own_step() {
        let flow = Flow::try_from(definition(&["start > again", "again ? again end", "end"])).unwrap();
        assert!(flow.indices().all(|step| flow.is_certain(step)));
        let again = flow.find(&StepName::new("again").unwrap()).unwrap();
        assert!(flow.recurs(again));
        assert_eq!(flow.parents(again), [flow.start()]);
        assert_eq!(flow.visits_max(again), VISITS_MAX_DEFAULT);
    }

    #[test]
    fn faulty_switches_are_refused_with_step_and_line() {
        assert_eq!(error(&["start ? a", "a > end", "end"]), "demo.py:10: step `start` switches between 1 cases; at least two are needed");
        assert_eq!(error(&["start ? nowhere end", "end"]), "demo.py:10: step `start` goes on to `nowhere`, which is not a step");
        assert_eq!(
            error(&["start > a", "a > b", "b ? a end", "end"]),
            "demo.py:11: step `a` is part of a cycle: following its transitions leads back to it"
        );
        assert_eq!(
            error(&["start ? start end", "end"]),
            "demo.py:10: step `start` is the first step and leads back to itself; put a step before it"
        );
        assert_eq!(
            error(&["start each work", "work ? join other", "other > join", "join* > end", "end"]),
            "demo.py:11: step `work` switches straight into the join `join`; put a step between them"
        );
        assert_eq!(
            error(&["start > a b", "a ? x y", "x > join", "y > b", "b > join", "join* > end", "end"]),
            "demo.py:14: step `b` is reached by several steps but is no join; a join takes the argument `inputs`"
        );
        let mut caught = definition(&["start ? a end", "a > end", "end"]);
        caught.steps[0].catch = Some(CatchPolicy { variable: None });
        assert_eq!(
            Flow::try_from(caught).unwrap_err().message,
            "demo.py:10: step `start` has catch and a switch: when it fails there is no value to choose a case by"
        );
    }

    #[test]
    fn a_bound_of_visits_is_for_recursion_and_within_range() {
        let mut flow = definition(&["start > again", "again ? again end", "end"]);
        flow.steps[1].visits_max = Some(0);
        assert_eq!(
            Flow::try_from(flow.clone()).unwrap_err().message,
            "demo.py:11: step `again` bounds its visits at 0; 1 to 100000 are possible"
        );
        (flow.steps[0].visits_max, flow.steps[1].visits_max) = (Some(5), None);
        assert_eq!(
            Flow::try_from(flow).unwrap_err().message,
            "demo.py:10: step `start` bounds its visits, but no case of a switch leads back to it"
        );
    }

    #[test]
    fn a_gang_goes_from_one_step_to_one_join() {
        let lines = ["start gang train", "train > meet", "meet* > end", "end"];
        let flow = Flow::try_from(definition(&lines)).unwrap();
        let find = |name: &str| flow.find(&StepName::new(name).unwrap()).unwrap();
        assert!(flow.is_gang(find("train")) && !flow.is_gang(find("meet")) && !flow.is_gang(find("start")));
        assert_eq!(flow.foreach_levels(find("train")).collect::<Vec<_>>(), [find("start")]);
        assert_eq!(flow.closes(find("meet")), Some(Split { step: find("start"), foreach: true }));
        assert_eq!(
            error(&["start gang meet", "meet* > end", "end"]),
            "demo.py:10: step `start` splits straight into the join `meet`; put a step between them"
        );
        let alone = "demo.py:11: step `train` runs as a gang, so it has to go on to a join and to nothing else";
        assert_eq!(error(&["start gang train", "train > more", "more > meet", "meet* > end", "end"]), alone);
        assert_eq!(error(&["start gang train", "train each more", "more > meet", "meet* > all", "all* > end", "end"]), alone);
        assert_eq!(error(&["start gang train", "train"]), alone);
        assert_eq!(
            error(&["start ? a b", "a gang train", "b > train", "train > meet", "meet* > end", "end"]),
            "demo.py:13: step `train` is reached by several steps but is no join; a join takes the argument `inputs`"
        );
        let change = |change: &dyn Fn(&mut Definition)| {
            let mut flow = definition(&lines);
            change(&mut flow);
            Flow::try_from(flow).unwrap_err().message
        };
        assert_eq!(
            change(&|flow| flow.steps[1].catch = Some(CatchPolicy { variable: None })),
            "demo.py:11: step `train` has catch and runs as a gang: when a member fails, the others cannot go on without it"
        );
        assert_eq!(
            change(&|flow| flow.steps[0].catch = Some(CatchPolicy { variable: None })),
            "demo.py:10: step `start` has catch and opens a gang: when it fails there is no number of members to go on with"
        );
        assert_eq!(
            change(&|flow| flow.steps[1].gather_seconds = Some(0.0)),
            "demo.py:11: step `train` is wrong: a timeout of 0 seconds is not between 0 (excluded) and 31536000"
        );
        assert_eq!(
            change(&|flow| flow.steps[2].gather_seconds = Some(5.0)),
            "demo.py:12: step `meet` says how long its gang may gather, but no step opens a gang of it"
        );
    }

    #[test]
    fn a_timeout_of_zero_is_refused() {
        let mut flow = definition(&["start > end", "end"]);
        flow.steps[0].timeout_seconds = Some(0.0);
        assert_eq!(
            Flow::try_from(flow.clone()).unwrap_err().message,
            "demo.py:10: step `start` is wrong: a timeout of 0 seconds is not between 0 (excluded) and 31536000"
        );
        (flow.steps[0].timeout_seconds, flow.timeout_seconds) = (None, Some(f64::NAN));
        assert_eq!(
            Flow::try_from(flow.clone()).unwrap_err().message,
            "flow Demo is wrong: a timeout of NaN seconds is not between 0 (excluded) and 31536000"
        );
        (flow.timeout_seconds, flow.steps[1].grace_seconds) = (Some(0.5), Some(-1.0));
        assert_eq!(
            Flow::try_from(flow).unwrap_err().message,
            "demo.py:11: step `end` is wrong: a grace of -1 seconds is not between 0 and 3600"
        );
    }

    #[test]
    fn a_schedule_that_cannot_be_is_named_by_its_line() {
        let mut flow = definition(&["only"]);
        let schedule: crate::schedule::Schedule = serde_json::from_str(r#"{"cron": "0  2 * * *", "line": 7}"#).unwrap();
        assert_eq!((schedule.catch_up.as_str(), schedule.catch_up_max, schedule.identity().as_str()), ("latest", 100, "0 2 * * * UTC"));
        flow.schedules = vec![schedule.clone(), schedule.clone()];
        let refused = |flow: &Definition| Flow::try_from(flow.clone()).unwrap_err().message;
        assert_eq!(refused(&flow), "demo.py:7: schedule `0 2 * * * UTC` of flow Demo is wrong: it is there twice");
        flow.schedules = vec![crate::schedule::Schedule { parameters: [("day".into(), "date".into())].into(), ..schedule.clone() }];
        assert!(refused(&flow).ends_with("it fills parameter `day`, which the flow does not have"));
        flow.schedules = vec![crate::schedule::Schedule { catch_up_max: 0, ..schedule }];
        assert!(refused(&flow).ends_with("it catches up with 0 firings; 1 to 1000 are possible"));
        flow.schedules.clear();
        flow.concurrency = Some(crate::schedule::Concurrency { strategy: crate::schedule::Strategy::Skip, max: 0 });
        assert_eq!(refused(&flow), "flow Demo has a concurrency that is wrong: 0 runs at once are not between 1 and 1000");
    }

    #[test]
    fn a_gate_is_checked_and_is_not_for_recursion() {
        let gate = |json| Some(Box::new(serde_json::from_value(json).unwrap()));
        let mut flow = definition(&["start > again", "again ? again end", "end"]);
        flow.steps[0].gate = gate(serde_json::json!({"signals": [{"name": "go"}]}));
        assert!(Flow::try_from(flow.clone()).is_ok(), "the first step may wait too");
        flow.steps[1].gate = gate(serde_json::json!({"approval": {}}));
        assert_eq!(
            Flow::try_from(flow.clone()).unwrap_err().message,
            "demo.py:11: step `again` waits for a signal or an approval, and leads back to itself"
        );
        (flow.steps[1].gate, flow.steps[2].gate) = (None, gate(serde_json::json!({"signals": [{"name": "go"}, {"name": "go"}]})));
        assert_eq!(Flow::try_from(flow.clone()).unwrap_err().message, "demo.py:12: step `end` is wrong: it waits for signal `go` twice");
        let mut gang = definition(&["start gang train", "train > gather", "gather* > end", "end"]);
        gang.steps[1].gate = gate(serde_json::json!({"approval": {}}));
        assert_eq!(
            Flow::try_from(gang).unwrap_err().message,
            "demo.py:11: step `train` waits for a signal or an approval, and is the step of a gang"
        );
        let large =
            || gate(serde_json::json!({"signals": [{"name": "go", "timeout_seconds": 1.0, "default": {"value": "x".repeat(40_000)}}]}));
        (flow.steps[0].gate, flow.steps[2].gate) = (large(), large());
        assert_eq!(Flow::try_from(flow).unwrap_err().message, "flow Demo has signal defaults of 80004 bytes; at most 65536 are accepted");
    }

    #[test]
    fn an_invalid_definition_cannot_be_deserialized_into_a_flow() {
        let json = serde_json::to_string(&definition(&["start > start"])).unwrap();
        assert!(serde_json::from_str::<Flow>(&json).is_err());
    }
}
