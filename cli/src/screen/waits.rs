//! What a run waits for, in words, with the command that ends the waiting.

use crate::client::answer::{ChildView, RunView, Waiting};

/// What tasks of a step wait for; `None` when they wait for nothing of the kind.
pub(crate) fn of_step(run: &RunView, step: &str) -> Option<String> {
    let gates = run.gates.as_ref()?;
    let waiting = gates.waiting.iter().find(|waiting| waiting.step == step)?;
    let parts = parts(run, waiting, &gates.children);
    (!parts.is_empty()).then(|| format!("waits for {}", parts.join(" and ")))
}

fn parts(run: &RunView, waiting: &Waiting, children: &[ChildView]) -> Vec<String> {
    let mut parts: Vec<String> = waiting.signals.iter().map(|name| format!("signal {name} (causey signal {} {name})", run.name)).collect();
    if waiting.approval {
        parts.push(format!("approval (causey approve {} {})", run.name, waiting.step));
    }
    let named = |id: &String| children.iter().find(|child| child.run == *id).map_or_else(|| id.clone(), |child| child.name.clone());
    match &waiting.children[..] {
        [] => {}
        [one] => parts.push(format!("run {}", named(one))),
        [first, rest @ ..] => parts.push(format!("run {} and {} more", named(first), rest.len())),
    }
    parts
}

/// Who decided about steps, and the runs that this one started.
pub(crate) fn notes(run: &RunView) -> Vec<String> {
    let Some(gates) = &run.gates else { return Vec::new() };
    let decided = gates.approvals.iter().filter_map(|approval| {
        let decision = approval.decision.as_ref()?;
        let word = if decision.approved { "approved" } else { "rejected" };
        let because = if decision.because.is_empty() { String::new() } else { format!(": {}", decision.because) };
        Some(format!("  {} was {word} by {}{because}", approval.step, decision.user))
    });
    let children = gates.children.iter().map(|child| {
        let state = child.state.map_or("under way", |state| state.word());
        format!("  {}/{} started {}  {}  {state}", child.step, child.task, child.flow, child.name)
    });
    decided.chain(children).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::screen::paint::Paint;
    use crate::screen::tree;

    #[test]
    fn a_waiting_step_says_what_would_open_it() {
        let mut run = tree::tests::run();
        run.gates = serde_json::from_value(serde_json::json!({
            "waiting": [{"step": "join", "tasks": 1, "signals": ["go"], "approval": true, "children": []},
                        {"step": "end", "tasks": 1, "signals": [], "approval": false, "children": ["0199", "0200"]}],
            "approvals": [{"step": "work", "decision": {"approved": false, "user": "ann", "because": "wrong day", "at": 1}}],
            "children": [{"run": "0199", "name": "calm-fox-2", "flow": "Other", "step": "work", "task": "1", "state": null}]}))
        .unwrap();
        let rows = tree::rows(&run, 1_700_000_000_000_000, Paint::plain());
        assert!(
            rows[2].ends_with("waits for signal go (causey signal brisk-otter-41 go) and approval (causey approve brisk-otter-41 join)")
        );
        assert!(rows[3].ends_with("waits for run calm-fox-2 and 1 more"), "{rows:?}");
        assert_eq!(notes(&run), ["  work was rejected by ann: wrong day", "  work/1 started Other  calm-fox-2  under way"]);
    }
}
