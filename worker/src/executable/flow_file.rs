//! A flow file in TOML: its graph for the coordinator, and its commands for the host that runs them. Everything wrong is told
//! with its line and how to mend it; nothing is run.

use std::collections::BTreeMap;

use super::definition::{self, Parsed};
pub use super::reader::Flaw;
use super::reader::Reader;

/// A flow file that can be run.
#[derive(Clone, Debug)]
pub struct FlowFile {
    /// The definition, still without the digest of its package.
    pub definition: serde_json::Value,
    /// Files and folders beside it that belong to the package, as patterns relative to its folder.
    pub package: Vec<String>,
    pub(super) steps: BTreeMap<String, CommandStep>,
}

/// A step that is a command.
#[derive(Clone, Debug, Default)]
pub(super) struct CommandStep {
    pub(super) what: What,
    pub(super) env: BTreeMap<String, String>,
    /// Artifacts it reads; `None`: all it can.
    pub(super) inputs: Option<Vec<String>>,
    /// Files it has to leave.
    pub(super) outputs: Vec<String>,
    /// Exit codes after which another try would not help.
    pub(super) permanent: Vec<i64>,
}

/// What is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    /// A program and its arguments.
    Program(Vec<String>),
    /// Text for `sh`.
    Shell(String),
    /// The code is in a file of another language.
    Elsewhere,
}

impl Default for What {
    fn default() -> Self {
        Self::Program(Vec::new())
    }
}

impl FlowFile {
    /// Reads a flow file. `name` is its name inside the package.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one [`Flaw`].
    pub fn parse(text: &str, name: &str) -> Result<Self, Vec<Flaw>> {
        let mut reader = Reader::new(text);
        let Some(document) = reader.document() else { return Err(reader.flaws) };
        let parsed = definition::read(&mut reader, &document, name);
        match parsed {
            Some(Parsed { definition, package, steps }) if reader.flaws.is_empty() => Ok(Self { definition, package, steps }),
            _ => {
                if reader.flaws.is_empty() {
                    reader.flaw(0..0, "the file defines no flow", None);
                }
                reader.flaws.sort_by_key(|flaw| flaw.line);
                Err(reader.flaws)
            }
        }
    }

    /// The files of other languages that its steps name.
    #[must_use]
    pub fn other_files(&self) -> Vec<String> {
        let steps = self.definition["steps"].as_array().into_iter().flatten();
        steps.filter_map(|step| step["code"]["file"].as_str().map(str::to_owned)).collect()
    }

    /// The first words of its commands: programs, some of which are files of the package.
    #[must_use]
    pub fn programs(&self) -> Vec<&str> {
        let programs = self.steps.values().filter_map(|step| match &step.what {
            What::Program(words) => words.first().map(String::as_str),
            What::Shell(_) | What::Elsewhere => None,
        });
        programs.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: &str = r#"
[flow]
name = "Words"
doc = "Counts words."
timeout = "10m"

[parameters]
text = "to be"
times = { type = "int", default = 3, help = "how often" }

[env]
LC_ALL = "C"

[steps.start]
run = "echo '[1]' > $CAUSEY_OUTPUTS/words.json"
foreach = "words"
outputs = ["words.json"]

[steps.count]
command = ["wc", "-w"]
retry = { times = 2, delay = "1s", on = [75] }
timeout = "30s"
resources = { cpu = 2, memory = 512 }

[steps.join]
join = true
r = "join.R"

[steps.end]
command = ["true"]
"#;

    fn flaws(text: &str) -> Vec<(u32, String, Option<String>)> {
        FlowFile::parse(text, "flow.toml").unwrap_err().into_iter().map(|flaw| (flaw.line, flaw.message, flaw.hint)).collect()
    }

    #[test]
    fn a_flow_file_becomes_a_definition() {
        let flow = FlowFile::parse(WORDS, "words.toml").unwrap();
        let definition = &flow.definition;
        assert_eq!((definition["name"].as_str(), definition["language"].as_str()), (Some("Words"), Some("exec")));
        assert_eq!(definition["steps"][0]["next"], serde_json::json!({"foreach": {"to": "count", "variable": "words"}}));
        assert_eq!(definition["steps"][1]["retry"]["on"], serde_json::json!(["exit 75"]));
        assert_eq!(definition["steps"][2]["code"], serde_json::json!({"language": "r", "file": "join.R"}));
        assert_eq!(definition["steps"][3]["next"], "end");
        assert_eq!(definition["parameters"][1]["type"], "int");
        assert_eq!(flow.other_files(), ["join.R"]);
        let mut value = definition.clone();
        value["package"] = serde_json::json!(causey_protocol::id::Digest::of(b"p"));
        let definition: causey_protocol::flow::Definition = serde_json::from_value(value).unwrap();
        let flow = causey_protocol::flow::Flow::try_from(definition).unwrap();
        assert!(flow.is_mixed());
    }

    #[test]
    fn what_is_wrong_is_told_with_line_and_hint() {
        let found = flaws("[flow]\nname = \"W\"\n[steps.a]\ncomand = [\"x\"]\nnext = \"ende\"\n[steps.end]\nrun = 3\n");
        assert_eq!(
            found,
            [
                (3, "step `a` has nothing to run".to_owned(), Some("give it `command`, `run`, `r` or `python`".to_owned())),
                (4, "`comand` is not a key of a step".to_owned(), Some("did you mean `command`?".to_owned())),
                (5, "step `a` goes on to `ende`, which is not a step".to_owned(), Some("did you mean `end`?".to_owned())),
                (7, "`run` must be text in quotes, not an integer".to_owned(), None),
            ]
        );
        assert_eq!(flaws("[flow\nname = 1\n")[0].0, 1);
        assert_eq!(flaws("")[0].1, "the flow has no steps");
        assert_eq!(flaws("[steps.a]\nrun = \"x\"\ntimeout = \"soon\"\n")[0].0, 3);
    }

    #[test]
    fn a_step_runs_one_thing() {
        let found = flaws("[steps.a]\nrun = \"x\"\nr = \"a.R\"\n");
        assert_eq!(found[0].1, "step `a` has `run` and `r`: a step runs one thing");
    }
}
