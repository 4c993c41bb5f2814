//! A flow's definition as text: its steps in order with where they lead, its parameters and its triggers.

use causey_protocol::flow::{Definition, Step, Transition};
use causey_protocol::gate::{ApprovalGate, SignalGate};
use causey_protocol::parameter::{Parameter, ParameterType};
use causey_protocol::policy::HostMode;

use crate::screen::format::{count, one_line};
use crate::screen::paint::Paint;

/// The whole flow.
pub(crate) fn lines(flow: &Definition, paint: Paint) -> Vec<String> {
    let mut lines = vec![format!("{}   {} · {}", paint.bold(flow.name.as_str()), flow.file, count(flow.steps.len() as u64, "step"))];
    if !flow.doc.trim().is_empty() {
        lines.push(format!("  {}", paint.dim(&one_line(flow.doc.trim(), 120))));
    }
    if let Some(seconds) = flow.timeout_seconds {
        lines.push(format!("  a run may take {} at most", in_words(seconds)));
    }
    lines.push(String::new());
    let names = flow.steps.iter().map(|step| step.name.as_str().len()).max().unwrap_or_default();
    lines.extend(flow.steps.iter().map(|step| step_line(step, names, paint)));
    if !flow.parameters.is_empty() {
        lines.extend([String::new(), "parameters".into()]);
        let names = flow.parameters.iter().map(|parameter| parameter.name.len()).max().unwrap_or_default();
        lines.extend(flow.parameters.iter().map(|parameter| parameter_line(parameter, names)));
    }
    if !flow.triggers.is_empty() {
        lines.extend([String::new(), "triggers".into()]);
        for trigger in &flow.triggers {
            let events: Vec<&str> = trigger.events.iter().map(|event| event.name.as_str()).collect();
            lines.push(format!("  {}", events.join(" and ")));
        }
    }
    lines
}

fn step_line(step: &Step, names: usize, paint: Paint) -> String {
    let lead = match &step.next {
        Transition::Linear { to } => format!("→ {to}"),
        Transition::Branch { to } => format!("→ {}", to.iter().map(|step| step.as_str()).collect::<Vec<_>>().join(", ")),
        Transition::Foreach { to, variable } => format!("⇉ {to}  for each of {variable}"),
        Transition::Gang { to } => format!("⇉ {to}  as a gang"),
        Transition::Switch { condition, cases } => {
            let cases: Vec<String> = cases.iter().map(|case| format!("{} → {}", case.value, case.to)).collect();
            format!("? {condition}: {}", cases.join(", "))
        }
        Transition::End => "end of the flow".into(),
    };
    let mark = if step.join { "⇒" } else { "·" };
    let notes = notes(step);
    let notes = if notes.is_empty() { String::new() } else { format!("   {}", paint.dim(&notes.join(" · "))) };
    format!("  {mark} {:names$}  {lead}{notes}", step.name)
}

fn notes(step: &Step) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(gate) = &step.gate {
        notes.extend(gate.signals.iter().map(signal_note));
        notes.extend(gate.approval.as_ref().map(approval_note));
    }
    notes.extend(step.retry.as_ref().map(|retry| match retry.on.is_empty() {
        true => format!("retries {}", retry.times),
        false => format!("retries {} on {}", retry.times, retry.on.join(", ")),
    }));
    notes.extend(step.timeout_seconds.map(|seconds| format!("at most {}", in_words(seconds))));
    notes.extend(step.catch.as_ref().map(|_| "catches failures".to_owned()));
    notes.extend(step.gather_seconds.map(|seconds| format!("gathers for {}", in_words(seconds))));
    notes.extend(step.visits_max.map(|visits| format!("at most {visits} visits")));
    if let Some(resources) = &step.resources {
        notes.push(format!("cpu {}", resources.cpu));
        notes.extend(resources.memory_mb.map(|memory| format!("memory {memory} MB")));
        notes.extend((resources.gpu > 0.0).then(|| format!("gpu {}", resources.gpu)));
        notes.extend(resources.gpu_model.clone());
        notes.extend(resources.gpu_memory_mb.map(|memory| format!("gpu memory {memory} MB")));
        notes.extend(resources.disk_mb.map(|disk| format!("disk {disk} MB")));
        notes.extend(resources.shared_memory_mb.map(|memory| format!("shared memory {memory} MB")));
        notes.extend(resources.labels.iter().map(|(name, value)| format!("{name}={value}")));
        notes.extend(resources.custom.iter().map(|(name, wanted)| format!("{name} {wanted}")));
        notes.extend(resources.pool.as_ref().map(|pool| format!("pool {pool}")));
        notes.extend(resources.spill.as_ref().map(|spill| format!("spills to pool {}", spill.pool)));
    }
    notes.extend(
        step.host
            .filter(|host| *host != HostMode::Fork)
            .map(|host| if host == HostMode::Reuse { "one process for many tasks".to_owned() } else { "fresh interpreter".to_owned() }),
    );
    notes
}

fn signal_note(signal: &SignalGate) -> String {
    let limit = signal.timeout_seconds.map(|seconds| format!(", at most {}", in_words(seconds))).unwrap_or_default();
    let default = signal.default.as_ref().map(|default| format!(", then {}", one_line(&default.value.to_string(), 40))).unwrap_or_default();
    format!("waits for signal {}{limit}{default}", signal.name)
}

fn approval_note(approval: &ApprovalGate) -> String {
    let by = if approval.by.is_empty() { String::new() } else { format!(" by {}", approval.by.join(" or ")) };
    let limit = approval.timeout_seconds.map(|seconds| format!(", within {}", in_words(seconds))).unwrap_or_default();
    format!("needs approval{by}{limit}")
}

/// A time limit: `90 s`, `1.5 min`, `2 h`.
fn in_words(seconds: f64) -> String {
    match seconds {
        ..120.0 => format!("{seconds} s"),
        120.0..7_200.0 => format!("{} min", seconds / 60.0),
        _ => format!("{} h", seconds / 3_600.0),
    }
}

fn parameter_line(parameter: &Parameter, names: usize) -> String {
    let kind = match parameter.kind {
        ParameterType::Int => "int",
        ParameterType::Float => "float",
        ParameterType::Str => "str",
        ParameterType::Bool => "bool",
        ParameterType::Json => "json",
    };
    let value = match &parameter.default {
        Some(default) => format!("default {default}"),
        None if parameter.required => "required".into(),
        None => "optional".into(),
    };
    format!("  --{:names$}  {kind:5}  {value}  {}", parameter.name, one_line(&parameter.help, 80)).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_is_shown_with_steps_parameters_and_triggers() {
        let flow: Definition = serde_json::from_value(serde_json::json!({
            "format": 1, "name": "Hello", "language": "python", "file": "hello.py", "package": "0".repeat(64), "doc": "Says hello.\nMore.",
            "timeout_seconds": 7200.0,
            "steps": [
                {"name": "start", "next": {"foreach": {"to": "work", "variable": "items"}}},
                {"name": "work", "next": {"linear": {"to": "join"}}, "host": "reuse",
                 "retry": {"times": 3, "delay_seconds": 1.0, "on": ["OSError"]}, "timeout_seconds": 90.0},
                {"name": "join", "join": true, "next": {"gang": {"to": "train"}}},
                {"name": "train", "next": {"linear": {"to": "meet"}}, "gather_seconds": 30.0},
                {"name": "meet", "join": true, "next": {"linear": {"to": "again"}}},
                {"name": "again", "visits_max": 9, "next": {"switch": {"condition": "left", "cases": [
                    {"value": true, "to": "again"}, {"value": false, "to": "end"}]}}},
                {"name": "end", "next": "end", "gate": {"approval": {"by": ["ann", "bob"], "timeout_seconds": 3600.0}, "signals": [
                    {"name": "go", "timeout_seconds": 90.0, "default": {"value": {"rate": 1}}}]}}],
            "parameters": [{"name": "alpha", "type": "float", "default": 0.5, "help": "How much"}, {"name": "day", "type": "str", "required": true}],
            "triggers": [{"events": [{"name": "viewing.arrived"}, {"name": "titles.arrived"}]}]}))
        .unwrap();
        let expected = "\
Hello   hello.py · 7 steps
  Says hello.
  a run may take 2 h at most

  · start  ⇉ work  for each of items
  · work   → join   retries 3 on OSError · at most 90 s · one process for many tasks
  ⇒ join   ⇉ train  as a gang
  · train  → meet   gathers for 30 s
  ⇒ meet   → again
  · again  ? left: true → again, false → end   at most 9 visits
  · end    end of the flow   waits for signal go, at most 90 s, then {\"rate\":1} · needs approval by ann or bob, within 60 min

parameters
  --alpha  float  default 0.5  How much
  --day    str    required

triggers
  viewing.arrived and titles.arrived";
        assert_eq!(lines(&flow, Paint::plain()).join("\n"), expected);
    }
}
