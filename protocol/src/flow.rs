//! The flow graph, valid by construction: a [`Flow`] can only be made from a [`Definition`] that passed every check, so the
//! engine never meets an unknown step, a cycle or an unbalanced join. Each error names the step and its line.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::id::{Digest, FlowName, StepName};
use crate::parameter::Parameter;
use crate::policy::{CatchPolicy, HostMode, Resources, RetryPolicy};
use crate::problem::{Code, Problem};

/// Most steps a flow may have.
pub const STEPS_MAX: usize = 1_000;

/// Deepest nesting of foreach levels.
pub const FOREACH_DEPTH_MAX: usize = 16;

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
    End,
}

impl Transition {
    /// The steps this transition names.
    #[must_use]
    pub fn targets(&self) -> &[StepName] {
        match self {
            Self::Linear { to } | Self::Foreach { to, .. } => std::slice::from_ref(to),
            Self::Branch { to } => to,
            Self::End => &[],
        }
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

    /// The steps whose transition names this one, in order of definition.
    #[must_use]
    pub fn parents(&self, index: StepIndex) -> &[StepIndex] {
        &self.parents[usize::from(index.0)]
    }

    /// The split this join closes; `None` for a step that is no join.
    #[must_use]
    pub fn closes(&self, index: StepIndex) -> Option<Split> {
        self.closes[usize::from(index.0)]
    }

    /// The foreach steps that enclose this one, outermost first; as many as a task's path has indices.
    pub fn foreach_levels(&self, index: StepIndex) -> impl Iterator<Item = StepIndex> + '_ {
        self.enclosing[usize::from(index.0)].iter().filter(|split| split.foreach).map(|split| split.step)
    }

    pub fn indices(&self) -> impl Iterator<Item = StepIndex> + use<> {
        (0..self.definition.steps.len()).map(|place| StepIndex(u16::try_from(place).unwrap_or(u16::MAX)))
    }
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
    let digest = Digest::of(&serde_json::to_vec(&definition).expect("a definition has a JSON form"));
    Ok(Flow { definition, digest, start, index, parents, closes, enclosing })
}

fn check_header(definition: &Definition) -> Result<(), Problem> {
    if definition.format != 1 {
        return Err(fault(definition, None, format!("has definition format {}; this server reads format 1", definition.format)));
    }
    if definition.steps.is_empty() || definition.steps.len() > STEPS_MAX {
        return Err(fault(definition, None, format!("has {} steps; 1 to {STEPS_MAX} are possible", definition.steps.len())));
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
    Ok(())
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
        let splits = matches!(step.next, Transition::Branch { .. } | Transition::Foreach { .. });
        if splits && definition.steps[usize::from(to.0)].join {
            return Err(fault(definition, Some(step), format!("splits straight into the join `{target}`; put a step between them")));
        }
    }
    if let Transition::Branch { to } = &step.next {
        let distinct: BTreeSet<_> = to.iter().collect();
        if to.len() < 2 || distinct.len() < to.len() {
            return Err(fault(definition, Some(step), "branches to fewer than two different steps"));
        }
    }
    if let Some(what) = step.retry.as_ref().and_then(RetryPolicy::fault) {
        return Err(fault(definition, Some(step), format!("is wrong: {what}")));
    }
    if let Some(resources) = &step.resources {
        let cpu_fits = resources.cpu.is_finite() && resources.cpu > 0.0 && resources.cpu <= 1024.0;
        if !cpu_fits || !resources.gpu.is_finite() || resources.gpu < 0.0 {
            return Err(fault(definition, Some(step), "asks for an impossible amount of cpu or gpu"));
        }
    }
    if step.catch.is_some() && matches!(step.next, Transition::Foreach { .. }) {
        return Err(fault(definition, Some(step), "has catch and a foreach: when it fails there are no items to go on with"));
    }
    Ok(())
}

/// The step without parents; every other one must be reached, and one must end.
fn find_ends(definition: &Definition, index: &BTreeMap<StepName, StepIndex>) -> Result<StepIndex, Problem> {
    let targets: BTreeSet<&StepName> = definition.steps.iter().flat_map(|step| step.next.targets()).collect();
    let mut sources = definition.steps.iter().filter(|step| !targets.contains(&step.name));
    let Some(start) = sources.next() else {
        return Err(fault(definition, None, "has no first step: every step is the target of another"));
    };
    if let Some(orphan) = sources.next() {
        let start_named = definition.steps.iter().find(|step| step.name.as_str() == "start");
        let orphan = if start_named.is_some_and(|named| named.name == orphan.name) { start } else { orphan };
        return Err(fault(definition, Some(orphan), "is never reached: no step goes on to it"));
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
        for target in step.next.targets() {
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
        for target in definition.steps[usize::from(step.0)].next.targets() {
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
    Err(fault(definition, stuck, "is part of a cycle: following its transitions leads back to it"))
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
            closes[at] = Some(close(definition, step, &arriving)?);
            let branches = arriving.iter().map(|stack| stack.last().map_or(0, |(_, branch)| *branch));
            let mut ordered: Vec<(usize, StepIndex)> = branches.zip(parents[at].iter().copied()).collect();
            ordered.sort_by_key(|(branch, _)| *branch);
            parents[at] = ordered.into_iter().map(|(_, parent)| parent).collect();
            let mut stack = arriving.into_iter().next().unwrap_or_default();
            stack.pop();
            open[at] = stack;
        } else {
            if arriving.len() > 1 {
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
        Transition::Foreach { .. } => stack.push((Split { step: parent, foreach: true }, 0)),
        Transition::Linear { .. } | Transition::End => {}
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
    if branches.len() != expected || arriving.len() != expected {
        let what =
            format!("joins {} of the {expected} paths that step `{}` opens; all must meet in one join", arriving.len(), splitter.name);
        return Err(fault(definition, Some(join), what));
    }
    Ok(split)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds a definition from lines such as `start > a b`, `a > join*`, `fan each work`, `join* > end`; `*` marks a join.
    fn definition(lines: &[&str]) -> Definition {
        let steps = lines.iter().enumerate().map(|(place, line)| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let name = |word: &str| StepName::new(word.trim_end_matches('*')).unwrap();
            let next = match words[1..] {
                [] => Transition::End,
                [">", to] => Transition::Linear { to: name(to) },
                ["each", to] => Transition::Foreach { to: name(to), variable: "items".into() },
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
        }
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
    fn an_invalid_definition_cannot_be_deserialized_into_a_flow() {
        let json = serde_json::to_string(&definition(&["start > start"])).unwrap();
        assert!(serde_json::from_str::<Flow>(&json).is_err());
    }
}
