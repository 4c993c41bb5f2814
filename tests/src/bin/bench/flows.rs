//! The flows that are measured. Their steps do nothing, so that what is measured is everything around them.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

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

fn step(place: usize, steps: usize) -> String {
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
