//! Random graphs. Those built of whole constructs are taken; of those with a fault in them whatever is taken is balanced, and either way
//! a run comes to its end whichever way its switches turn.

use std::collections::{BTreeMap, BTreeSet};

use crate::world::{World, definition};
use causey_protocol::flow::{Definition, Flow, StepIndex, Transition};
use causey_protocol::id::StepName;
use causey_protocol::input::Input;
use causey_protocol::record::{Answer, RunState};
use causey_protocol::task::Outcome;
use proptest::prelude::*;
use proptest::sample::Index;

/// A part of a flow with one beginning and one end.
#[derive(Clone, Debug)]
enum Part {
    Step,
    /// A step that a switch leads back to.
    Again,
    Sequence(Vec<Part>),
    Branch(Vec<Part>),
    Foreach(Box<Part>),
    Switch(Vec<Part>),
}

fn part() -> impl Strategy<Value = Part> {
    let leaf = prop_oneof![3 => Just(Part::Step), 1 => Just(Part::Again)];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let several = prop::collection::vec(inner.clone(), 2..4);
        prop_oneof![
            several.clone().prop_map(Part::Sequence),
            several.clone().prop_map(Part::Branch),
            inner.prop_map(|inner| Part::Foreach(Box::new(inner))),
            several.prop_map(Part::Switch),
        ]
    })
}

/// Writes parts as lines of [`definition`], from the last one to the first.
#[derive(Default)]
struct Lines {
    lines: Vec<String>,
    steps: usize,
}

impl Lines {
    fn name(&mut self) -> String {
        self.steps += 1;
        format!("s{}", self.steps)
    }

    fn step(&mut self, rest: &str) -> String {
        let name = self.name();
        self.lines.push(format!("{name} {rest}"));
        name
    }

    /// The part between two plain steps: neither splits nor switches lead straight into a join. Gives the first.
    fn framed(&mut self, part: &Part, exit: &str) -> String {
        let last = self.step(&format!("> {exit}"));
        let inner = self.part(part, &last);
        self.step(&format!("> {inner}"))
    }

    /// Writes the part; gives the step it begins with.
    fn part(&mut self, part: &Part, exit: &str) -> String {
        match part {
            Part::Step => self.step(&format!("> {exit}")),
            Part::Again => {
                let name = self.name();
                let behind = self.step(&format!("> {exit}"));
                self.lines.push(format!("{name} ? {name} {behind}"));
                self.step(&format!("> {name}"))
            }
            Part::Sequence(parts) => parts.iter().rev().fold(exit.to_owned(), |exit, part| self.part(part, &exit)),
            Part::Switch(parts) => {
                let cases: Vec<String> = parts.iter().map(|part| self.framed(part, exit)).collect();
                self.step(&format!("? {}", cases.join(" ")))
            }
            Part::Branch(_) | Part::Foreach(_) => {
                let join = self.name();
                self.lines.push(format!("{join}* > {exit}"));
                match part {
                    Part::Branch(parts) => {
                        let branches: Vec<String> = parts.iter().map(|part| self.framed(part, &join)).collect();
                        self.step(&format!("> {}", branches.join(" ")))
                    }
                    Part::Foreach(inner) => {
                        let item = self.framed(inner, &join);
                        self.step(&format!("each {item}"))
                    }
                    Part::Step | Part::Again | Part::Sequence(_) | Part::Switch(_) => unreachable!("it has no join"),
                }
            }
        }
    }

    fn of(part: &Part) -> Vec<String> {
        let mut lines = Self { lines: vec!["end".into()], steps: 0 };
        lines.framed(part, "end");
        lines.lines
    }
}

fn built(lines: &[String]) -> Definition {
    definition("Demo", &lines.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Walks every path from the first step, with the splits that are open and the branch taken at each, and says what is not balanced.
fn imbalance(flow: &Flow) -> Option<String> {
    let index = |name: &StepName| flow.find(name).expect("a step that is named exists");
    let name = |step: StepIndex| flow.step(step).name.to_string();
    let mut waiting = vec![(flow.start(), Vec::<(StepIndex, usize)>::new())];
    let (mut seen, mut reached) = (BTreeSet::new(), BTreeSet::new());
    let mut joins: BTreeMap<StepIndex, BTreeSet<StepIndex>> = BTreeMap::new();
    while let Some((here, mut open)) = waiting.pop() {
        if !seen.insert((here, open.clone())) {
            continue;
        }
        reached.insert(here);
        let step = flow.step(here);
        if step.join {
            let Some((split, _)) = open.pop() else { return Some(format!("{} joins nothing", step.name)) };
            if flow.closes(here).map(|closed| closed.step) != Some(split) {
                return Some(format!("{} does not say that it closes {}", step.name, name(split)));
            }
            joins.entry(split).or_default().insert(here);
        }
        let levels: Vec<StepIndex> =
            open.iter().map(|(split, _)| *split).filter(|split| matches!(flow.step(*split).next, Transition::Foreach { .. })).collect();
        if flow.foreach_levels(here).collect::<Vec<_>>() != levels {
            return Some(format!("{} lies in other foreaches than it says", step.name));
        }
        if step.next == Transition::End && !open.is_empty() {
            return Some(format!("the flow ends inside {}", name(open[0].0)));
        }
        let splits = matches!(step.next, Transition::Branch { .. } | Transition::Foreach { .. });
        for (branch, target) in step.next.targets().into_iter().enumerate().filter(|(_, target)| **target != step.name) {
            let mut open = open.clone();
            if splits {
                open.push((here, branch));
            }
            waiting.push((index(target), open));
        }
    }
    let split_apart = joins.iter().find(|(_, joins)| joins.len() > 1).map(|(split, _)| format!("several joins close {}", name(*split)));
    let unreached = flow.indices().find(|step| !reached.contains(step)).map(|step| format!("{} is never reached", name(step)));
    split_apart.or(unreached)
}

/// Runs a flow to its end; `turns` say which way each switch goes and which task comes next.
fn run(definition: Definition, turns: &[Index]) -> Result<(), TestCaseError> {
    let mut world = World::new();
    let Answer::RunStarted { run, .. } = world.submit(definition, Default::default()) else { panic!("the flow was checked") };
    let mut turns = turns.iter().cycle();
    for _ in 0..3_000 {
        let queued = world.queued();
        let turn = turns.next().expect("it goes round");
        if queued.is_empty() {
            let Some(digest) = world.blobs.pop() else { break };
            world.input(Input::BlobStored { digest });
            continue;
        }
        let (dispatch, task) = world.take(&queued[turn.index(queued.len())]);
        let (foreach, targets) = {
            let flow = world.state.flow_of(world.state.run(run).unwrap()).unwrap();
            let next = &flow.step(flow.find(&dispatch.step).unwrap()).next;
            let targets: Vec<StepName> = next.targets().into_iter().cloned().collect();
            let switch = matches!(next, Transition::Switch { .. });
            (matches!(next, Transition::Foreach { .. }).then_some(1 + u32::try_from(turn.index(3)).unwrap()), switch.then_some(targets))
        };
        let mut item = world.success(&dispatch, &task, foreach, Vec::new());
        if let (Some(mut targets), Outcome::Succeeded(success)) = (targets, &mut item.outcome) {
            // Nobody goes round for ever.
            targets.retain(|target| task.visit < 3 || *target != dispatch.step);
            success.next = vec![targets[turn.index(targets.len())].clone()];
        }
        world.report(item);
    }
    prop_assert_eq!(world.run_state(run), RunState::Succeeded, "{:?}", world.problem(run));
    prop_assert_eq!(world.replayed().hash(), world.state.hash());
    Ok(())
}

/// A fault: a step that leads elsewhere, is a join or no longer one, or is gone.
fn spoiled(mut lines: Vec<String>, faults: &[(u8, Index, Index)]) -> Vec<String> {
    for (kind, place, other) in faults {
        let other = lines[other.index(lines.len())].split_whitespace().next().unwrap_or_default().trim_end_matches('*').to_owned();
        let at = place.index(lines.len());
        let mut words: Vec<String> = lines[at].split_whitespace().map(str::to_owned).collect();
        match kind % 4 {
            0 if words.len() > 2 => {
                let target = 2 + place.index(words.len() - 2);
                words[target] = other;
            }
            1 => words[0] = if words[0].ends_with('*') { words[0].trim_end_matches('*').into() } else { format!("{}*", words[0]) },
            2 if words.len() > 2 && words[1] != "each" => words.push(other),
            3 if lines.len() > 2 => {
                lines.remove(at);
                continue;
            }
            _ => {}
        }
        lines[at] = words.join(" ");
    }
    lines
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn whole_constructs_make_a_flow_that_is_balanced_and_ends(part in part(), turns in prop::collection::vec(any::<Index>(), 1..30)) {
        let lines = Lines::of(&part);
        let flow = Flow::try_from(built(&lines));
        prop_assert!(flow.is_ok(), "{:?} of {lines:#?}", flow);
        prop_assert_eq!(imbalance(&flow.unwrap()), None, "{:#?}", lines);
        run(built(&lines), &turns)?;
    }

    #[test]
    fn whatever_is_taken_of_a_spoiled_flow_is_balanced_and_ends(
        part in part(),
        faults in prop::collection::vec((any::<u8>(), any::<Index>(), any::<Index>()), 1..4),
        turns in prop::collection::vec(any::<Index>(), 1..30),
    ) {
        let lines = spoiled(Lines::of(&part), &faults);
        match Flow::try_from(built(&lines)) {
            Err(problem) => prop_assert!(problem.message.contains("step `") || problem.message.contains("flow Demo"), "{}", problem.message),
            Ok(flow) => {
                prop_assert_eq!(imbalance(&flow), None, "{:#?}", lines);
                run(built(&lines), &turns)?;
            }
        }
    }
}

#[test]
fn two_joins_that_close_one_split_are_refused() {
    let lines =
        ["start > left right", "left ? a b", "right ? c d", "a > one", "c > one", "b > two", "d > two", "one* > end", "two* > end", "end"];
    let problem = Flow::try_from(definition("Demo", &lines)).unwrap_err();
    assert_eq!(problem.message, "step `two` joins paths that step `start` opens, and so does `one`; all must meet in one join");
    let lines = ["start each item", "item ? a b", "a > one", "b > two", "one* > end", "two* > end", "end"];
    assert!(Flow::try_from(definition("Demo", &lines)).is_err());
}
