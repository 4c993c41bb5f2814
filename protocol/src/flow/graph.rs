//! How the steps of a definition hang together: its ends, an order without a cycle, the split that each join closes, and what follows
//! from them.

use std::collections::{BTreeMap, BTreeSet};

use super::check::fault;
use super::definition::{Definition, Step, Transition, leads_to_itself};
use super::{FOREACH_DEPTH_MAX, Split, StepIndex};
use crate::id::StepName;
use crate::problem::Problem;

/// The step without parents; every other one must be reached, and one must end.
pub(super) fn find_ends(definition: &Definition, index: &BTreeMap<StepName, StepIndex>) -> Result<StepIndex, Problem> {
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

pub(super) fn parents_of(definition: &Definition, index: &BTreeMap<StepName, StepIndex>) -> Vec<Vec<StepIndex>> {
    let mut parents = vec![Vec::new(); definition.steps.len()];
    for step in &definition.steps {
        for target in step.next.targets().into_iter().filter(|target| **target != step.name) {
            parents[usize::from(index[target].0)].push(index[&step.name]);
        }
    }
    parents
}

pub(super) fn topological_order(
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

pub(super) type Balance = (Vec<Option<Split>>, Vec<Vec<Split>>);

/// Follows the open splits along the graph. `open[step]` is the stack of splits around the step, each with the branch taken. Puts the
/// parents of a join into the order in which its split names the branches, which is the order of the join's inputs.
pub(super) fn balance(
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

/// For each step, whether a memoised one takes its results.
pub(super) fn feeds_memo(definition: &Definition, parents: &[Vec<StepIndex>]) -> Vec<bool> {
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
pub(super) fn certain(definition: &Definition, index: &BTreeMap<StepName, StepIndex>, order: &[StepIndex], start: StepIndex) -> Vec<bool> {
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
