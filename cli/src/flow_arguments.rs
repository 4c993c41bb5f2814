//! `causey run FLOW --alpha 0.5`: a flow's parameters look like options, but only the flow knows their names. So the command line
//! is split before clap reads it: behind the flow, whatever is no option of `run` is a parameter. Pure.

use std::collections::BTreeMap;

use causey_protocol::parameter::{Parameter, Values};
use causey_protocol::problem::{Code, Problem};
use serde_json::Value;

/// An option of the command itself.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// With its dashes: `--tag`, `-p`.
    pub(crate) name: String,
    pub(crate) takes_value: bool,
}

/// What clap shall read, and the parameters as typed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Split {
    pub(crate) ours: Vec<String>,
    pub(crate) parameters: Vec<(String, String)>,
}

/// Splits the words behind `causey run`. A parameter without a value is `true`, as a switch would be.
///
/// # Errors
/// A parameter before the flow: it could not be told from its value.
pub(crate) fn split(words: impl IntoIterator<Item = String>, known: &[Known]) -> Result<Split, Problem> {
    let mut split = Split::default();
    let mut words = words.into_iter().peekable();
    let mut flow_seen = false;
    while let Some(word) = words.next() {
        let (name, inline) = match word.split_once('=') {
            Some((name, value)) if word.starts_with("--") => (name, Some(value.to_owned())),
            _ => (word.as_str(), None),
        };
        if let Some(option) = known.iter().find(|option| option.name == name) {
            let takes_next = option.takes_value && inline.is_none();
            split.ours.push(word);
            if takes_next {
                split.ours.extend(words.next());
            }
        } else if let Some(parameter) = name.strip_prefix("--").filter(|parameter| !parameter.is_empty()) {
            if !flow_seen {
                return Err(Problem::new(Code::PARAMETER_UNKNOWN, format!("`--{parameter}` is no option of `causey run`"))
                    .hint(format!("parameters follow the flow: causey run FLOW --{parameter} VALUE")));
            }
            let value = inline.or_else(|| words.next_if(|next| !next.starts_with("--")));
            split.parameters.push((parameter.to_owned(), value.unwrap_or_else(|| "true".into())));
        } else {
            flow_seen |= !word.starts_with('-');
            split.ours.push(word);
        }
    }
    Ok(split)
}

/// Refuses parameters in the words behind `causey resume`, where they cannot be given.
///
/// # Errors
/// The first word that looks like one.
pub(crate) fn refuse(words: &[String], known: &[Known]) -> Result<(), Problem> {
    let name = |word: &String| word.split_once('=').map_or(word.as_str(), |(name, _)| name).to_owned();
    let builtin = ["--", "--help", "--version"];
    let foreign =
        |name: &String| name.starts_with("--") && !builtin.contains(&name.as_str()) && !known.iter().any(|option| option.name == *name);
    match words.iter().map(name).find(foreign) {
        None => Ok(()),
        Some(name) => {
            let what = format!("`{name}` is no option of `causey resume`, and a resumed run has the parameters of the earlier one");
            Err(Problem::new(Code::NOT_RESUMABLE, what).hint("start a new run for other parameters: causey run FLOW"))
        }
    }
}

/// Checks the names against the flow's parameters (`-` may stand for `_`) and reads the values.
///
/// # Errors
/// The first unknown name, with a guess at what was meant; a missing or mistyped value.
pub(crate) fn resolve(parameters: &[Parameter], given: &[(String, String)]) -> Result<Values, Problem> {
    let mut values = BTreeMap::new();
    for (typed, text) in given {
        let find = |name: &str| parameters.iter().find(|parameter| parameter.name == name);
        let Some(parameter) = find(typed).or_else(|| find(&typed.replace('-', "_"))) else {
            return Err(unknown(parameters, typed));
        };
        values.insert(parameter.name.clone(), Value::String(text.clone()));
    }
    causey_protocol::parameter::resolve(parameters, values.clone())?;
    Ok(values)
}

fn unknown(parameters: &[Parameter], typed: &str) -> Problem {
    let problem = Problem::new(Code::PARAMETER_UNKNOWN, format!("the flow has no parameter `{typed}`"));
    let names: Vec<&str> = parameters.iter().map(|parameter| parameter.name.as_str()).collect();
    match closest(typed, &names) {
        Some(name) => problem.hint(format!("did you mean --{name}?")),
        None if names.is_empty() => problem.hint("this flow has no parameters"),
        None => problem.hint(format!("it has: --{}", names.join(", --"))),
    }
}

/// The name that `typed` was probably meant to be.
pub(crate) fn closest<'a>(typed: &str, names: &[&'a str]) -> Option<&'a str> {
    let scored = names.iter().map(|name| (strsim::jaro_winkler(typed, name), *name));
    scored.filter(|(score, _)| *score > 0.8).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use causey_protocol::parameter::ParameterType;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn known() -> Vec<Known> {
        vec![Known { name: "--tag".into(), takes_value: true }, Known { name: "--json".into(), takes_value: false }]
    }

    fn parameters() -> Vec<Parameter> {
        let parameter = |name: &str, kind| Parameter { name: name.into(), kind, required: false, default: None, help: String::new() };
        vec![parameter("alpha", ParameterType::Float), parameter("learning_rate", ParameterType::Float)]
    }

    #[test]
    fn options_of_the_command_and_parameters_of_the_flow_are_told_apart() {
        let split = split(words("--json flow.py --alpha -0.5 --tag x --name=a=b --fast --tag=y"), &known()).unwrap();
        assert_eq!(split.ours, words("--json flow.py --tag x --tag=y"));
        let expected = [("alpha", "-0.5"), ("name", "a=b"), ("fast", "true")];
        assert_eq!(split.parameters, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn a_parameter_before_the_flow_is_refused_with_advice() {
        let problem = split(words("--alpha 1 flow.py"), &known()).unwrap_err();
        assert_eq!(problem.hint.unwrap(), "parameters follow the flow: causey run FLOW --alpha VALUE");
    }

    #[test]
    fn a_resumed_run_takes_no_parameters() {
        assert!(refuse(&words("brisk-otter-41 train --tag x --json"), &known()).is_ok());
        let problem = refuse(&words("brisk-otter-41 --alpha 1"), &known()).unwrap_err();
        assert_eq!(problem.message, "`--alpha` is no option of `causey resume`, and a resumed run has the parameters of the earlier one");
    }

    #[test]
    fn a_misspelt_parameter_is_answered_with_a_guess() {
        let given = |name: &str| vec![(name.to_owned(), "1".to_owned())];
        assert_eq!(resolve(&parameters(), &given("alhpa")).unwrap_err().hint.unwrap(), "did you mean --alpha?");
        assert_eq!(resolve(&parameters(), &given("zzz")).unwrap_err().hint.unwrap(), "it has: --alpha, --learning_rate");
        assert!(resolve(&parameters(), &given("learning-rate")).unwrap().contains_key("learning_rate"));
    }

    #[test]
    fn a_value_of_the_wrong_type_is_refused_before_anything_is_sent() {
        let problem = resolve(&parameters(), &[("alpha".into(), "much".into())]).unwrap_err();
        assert_eq!(problem.message, "parameter `alpha` needs a number, got \"much\"");
    }
}
