//! The flow graph, valid by construction: a [`Flow`] can only be made from a [`Definition`] that passed every check, so the
//! engine never meets an unknown step, a cycle or an unbalanced join. Each error names the step and its line.

mod check;
mod definition;
mod graph;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, SignalName, StepName};
use crate::problem::Problem;

pub use check::schedule_problem;
pub use definition::{Case, Definition, Step, StepCode, Transition, Trigger, TriggerEvent};

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
        check::check(definition)
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
        definition::leads_to_itself(step)
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
