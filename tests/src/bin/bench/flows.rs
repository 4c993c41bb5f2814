//! The flows that are measured. Their steps do nothing, so that what is measured is everything around them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use causey_protocol::flow::{Definition, Flow};
use causey_protocol::id::Digest;
use serde_json::{Value, json};

/// Steps of the chain that the gates are about.
pub(crate) const CHAIN_STEPS: usize = 40;

/// Items of the foreach that the gates are about.
pub(crate) const FOREACH_ITEMS: usize = 1_000;

/// The type of the event that starts the event flow.
pub(crate) const EVENT: &str = "bench.tick";

/// A flow whose steps follow one another.
pub(crate) fn chain(name: &str, steps: usize, imports: &[&str]) -> String {
    let mut text = head(name, imports, "");
    for place in 0..steps {
        let next = if place + 1 == steps { "pass".into() } else { format!("self.next(self.{})", step(place + 1, steps)) };
        let _ = write!(text, "\n    @step\n    def {}(self):\n        {next}\n", step(place, steps));
    }
    text
}

/// The name of a chain's step.
pub(crate) fn step(place: usize, steps: usize) -> String {
    match place {
        0 => "start".into(),
        _ if place + 1 == steps => "end".into(),
        _ => format!("s{place:02}"),
    }
}

/// A split, one task per item, and the join.
pub(crate) fn foreach(name: &str, items: usize) -> String {
    let mut text = head(name, &[], "");
    let _ = write!(
        text,
        "
    @step
    def start(self):
        self.items = list(range({items}))
        self.next(self.work, foreach=\"items\")

    @step
    def work(self):
        self.next(self.join)

    @step
    def join(self, inputs):
        self.next(self.end)

    @step
    def end(self):
        pass
"
    );
    text
}

/// A chain in one pool, as the engine gets it.
pub(crate) fn chain_definition(name: &str, steps: usize, pool: &str) -> anyhow::Result<Flow> {
    let steps = (0..steps).map(|place| {
        let next = if place + 1 == steps { json!("end") } else { json!({"linear": {"to": step(place + 1, steps)}}) };
        json!({"name": step(place, steps), "next": next, "resources": {"pool": pool}})
    });
    definition(name, &steps.collect::<Vec<_>>())
}

/// A split, one task per item, the join and the end, each in its pool, as the engine gets it.
pub(crate) fn foreach_definition(name: &str, pools: [&str; 4]) -> anyhow::Result<Flow> {
    let step =
        |name: &str, pool: &str, join: bool, next: Value| json!({"name": name, "join": join, "next": next, "resources": {"pool": pool}});
    let steps = [
        step("start", pools[0], false, json!({"foreach": {"to": "work", "variable": "items"}})),
        step("work", pools[1], false, json!({"linear": {"to": "join"}})),
        step("join", pools[2], true, json!({"linear": {"to": "end"}})),
        step("end", pools[3], false, json!("end")),
    ];
    definition(name, &steps)
}

/// The package of flows whose steps nobody runs.
pub(crate) const NO_CODE: &[u8] = b"no code";

fn definition(name: &str, steps: &[Value]) -> anyhow::Result<Flow> {
    let package = Digest::of(NO_CODE);
    let definition = json!({"format": 1, "name": name, "language": "python", "file": "flow.py", "package": package, "steps": steps});
    let definition: Definition = serde_json::from_value(definition)?;
    Flow::try_from(definition).map_err(|problem| anyhow::anyhow!("{problem:?}"))
}

/// A flow started by an event; its first line notes the time in `file`, under the number that the event carries.
pub(crate) fn event(name: &str, file: &Path) -> String {
    let mut text = head(name, &["time"], &format!("@trigger(event=\"{EVENT}\")\n"));
    let _ = write!(
        text,
        "    number = Parameter(\"number\", type=int, default=0)

    @step
    def start(self):
        now = time.time_ns()
        with open({:?}, \"a\") as file:
            file.write(f\"{{self.number}} {{now}}\\n\")
        self.next(self.end)

    @step
    def end(self):
        pass
",
        file.display().to_string()
    );
    text
}

fn head(name: &str, imports: &[&str], decorators: &str) -> String {
    let imports: String = imports.iter().map(|module| format!("import {module}\n")).collect();
    format!("{imports}\nfrom causey import FlowSpec, Parameter, step, trigger\n\n\n{decorators}class {name}(FlowSpec):\n")
}

/// Writes a flow's file.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> std::io::Result<PathBuf> {
    std::fs::create_dir_all(folder)?;
    let path = folder.join(format!("{}.py", name.to_lowercase()));
    std::fs::write(&path, text)?;
    Ok(path)
}
