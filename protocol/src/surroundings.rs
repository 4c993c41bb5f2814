//! What surrounds the code of a step: variables of its process, secrets, and the packages that it imports. Of a secret only its source
//! is ever named: its value is known to workers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{Digest, is_name};

/// Most bytes of all variables of a step, names and values together.
pub const VARIABLES_BYTES_MAX: usize = 64 * 1024;

/// Most sources of secrets of a step.
pub const SECRETS_MAX: usize = 64;

/// Longest source of a secret, in bytes.
pub const SECRET_SOURCE_BYTES_MAX: usize = 1024;

/// Longest word about the interpreter that an environment needs, in bytes.
pub const PYTHON_BYTES_MAX: usize = 128;

/// Variables with this beginning are Causey's own.
const OWN_PREFIX: &str = "CAUSEY_";

/// What a step has beside code and inputs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Surroundings {
    /// Variables that its process begins with.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub variables: BTreeMap<String, String>,
    /// What the worker looks up at the start of each attempt and puts into its variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretSource>,
    /// `None`: whatever the worker's own interpreter has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

/// Packages that a worker installs for a step, and the interpreter they are for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// The lock: a blob in the artifact store, one package with version and hashes per entry, without addresses.
    pub lock: Digest,
    /// Versions of Python that will do, such as `>=3.11` or `3.12`.
    pub python: String,
}

impl Surroundings {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Why a step cannot have these, in words; `None` when it can.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let mut bytes = 0;
        for (name, value) in &self.variables {
            if let Some(what) = variable_fault(name) {
                return Some(what);
            }
            if value.contains('\0') {
                return Some(format!("the value of variable `{name}` holds a null character"));
            }
            bytes += name.len() + value.len();
        }
        if bytes > VARIABLES_BYTES_MAX {
            return Some(format!("its variables take {bytes} bytes; at most {VARIABLES_BYTES_MAX} are accepted"));
        }
        if self.secrets.len() > SECRETS_MAX {
            return Some(format!("it has {} secrets; at most {SECRETS_MAX} are possible", self.secrets.len()));
        }
        let mut seen: BTreeSet<&str> = self.variables.keys().map(String::as_str).collect();
        let twice = self.secrets.iter().filter_map(SecretSource::variable).find(|name| !seen.insert(name));
        if let Some(name) = twice {
            return Some(format!("variable `{name}` is set twice"));
        }
        let python = self.environment.as_ref().map(|environment| environment.python.as_str());
        let unreadable =
            python.filter(|python| python.is_empty() || python.len() > PYTHON_BYTES_MAX || python.contains(char::is_control))?;
        Some(format!("its environment is for Python {unreadable:?}, which is no version"))
    }
}

/// Why a step cannot set a variable of this name; `None` when it can.
#[must_use]
pub fn variable_fault(name: &str) -> Option<String> {
    let is_letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
    if name.is_empty() || name.len() > 256 || !name.chars().all(is_letter) || name.starts_with(|first: char| first.is_ascii_digit()) {
        return Some(format!("{name:?} is no name of a variable"));
    }
    name.starts_with(OWN_PREFIX).then(|| format!("variable `{name}` is Causey's own"))
}

/// Who knows a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Provider {
    /// A variable of the worker's process.
    Variable,
    /// A file on the worker's machine, or a folder of them.
    File,
    /// A command that the worker's operator has named.
    Command,
}

impl Provider {
    const ALL: [Self; 3] = [Self::Variable, Self::File, Self::Command];

    fn word(self) -> &'static str {
        match self {
            Self::Variable => "env",
            Self::File => "file",
            Self::Command => "command",
        }
    }
}

/// Where a secret is found, and the variable it becomes: `env:NAME`, `file:/PATH`, `command:NAME/ARGUMENT`, each perhaps behind
/// `VARIABLE=`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct SecretSource {
    variable: Option<String>,
    pub provider: Provider,
    pub reference: String,
}

impl SecretSource {
    /// The variable that takes the value; `None` when the source says it.
    #[must_use]
    pub fn variable(&self) -> Option<&str> {
        match self.provider {
            Provider::Variable => Some(self.variable.as_deref().unwrap_or(&self.reference)),
            Provider::File | Provider::Command => self.variable.as_deref(),
        }
    }

    /// The source without the variable.
    #[must_use]
    pub fn place(&self) -> String {
        format!("{}:{}", self.provider.word(), self.reference)
    }

    /// Of a command, the name that the operator gave it and what it is asked for.
    #[must_use]
    pub fn command(&self) -> (&str, Option<&str>) {
        self.reference.split_once('/').map_or((&self.reference, None), |(name, argument)| (name, Some(argument)))
    }
}

impl fmt::Display for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.variable {
            Some(variable) => write!(f, "{variable}={}", self.place()),
            None => f.write_str(&self.place()),
        }
    }
}

impl From<SecretSource> for String {
    fn from(source: SecretSource) -> Self {
        source.to_string()
    }
}

impl TryFrom<String> for SecretSource {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for SecretSource {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let unreadable = || format!("secret {text:?} is none of env:NAME, file:/PATH, command:NAME, each perhaps behind VARIABLE=");
        if text.len() > SECRET_SOURCE_BYTES_MAX || text.contains(char::is_control) {
            return Err(unreadable());
        }
        let (before, reference) = text.split_once(':').ok_or_else(unreadable)?;
        let (variable, word) = before.split_once('=').map_or((None, before), |(variable, word)| (Some(variable), word));
        let provider = Provider::ALL.into_iter().find(|provider| provider.word() == word).ok_or_else(unreadable)?;
        if let Some(what) = variable.and_then(variable_fault) {
            return Err(format!("secret {text:?}: {what}"));
        }
        let source = Self { variable: variable.map(str::to_owned), provider, reference: reference.to_owned() };
        match provider {
            Provider::Variable => {
                let what = source.variable().and_then(variable_fault).or_else(|| variable_fault(reference));
                what.map_or(Ok(source), |what| Err(format!("secret {text:?}: {what}")))
            }
            Provider::File if !reference.starts_with('/') => Err(format!("secret {text:?}: the path of a file begins with /")),
            Provider::Command if !is_name(source.command().0) => Err(format!("secret {text:?}: a command is named by its operator")),
            Provider::File | Provider::Command => Ok(source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_reads_as_it_is_written() {
        for text in ["env:TOKEN", "A=env:TOKEN", "file:/run/secrets", "KEY=file:/k", "command:vault", "DB=command:vault/db/password:1"] {
            let source: SecretSource = text.parse().unwrap();
            assert_eq!(source.to_string(), text);
        }
        let source: SecretSource = "DB=command:vault/db/key".parse().unwrap();
        assert_eq!((source.variable(), source.command()), (Some("DB"), ("vault", Some("db/key"))));
        assert_eq!("file:/run/secrets/db".parse::<SecretSource>().unwrap().variable(), None);
    }

    #[test]
    fn a_source_that_cannot_be_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<SecretSource>().unwrap_err();
        assert!(refused("TOKEN").contains("none of env:NAME"));
        assert!(refused("vault:x").contains("none of env:NAME"));
        assert!(refused("file:x").contains("begins with /"));
        assert!(refused("command:/bin/sh").contains("named by its operator"));
        assert!(refused("env:CAUSEY_NATS_URL").contains("Causey's own"));
        assert!(refused("CAUSEY_HOST_ID=env:A").contains("Causey's own"));
    }

    #[test]
    fn a_variable_that_is_set_twice_or_no_variable_is_named() {
        let surroundings = |json: &str| serde_json::from_str::<Surroundings>(json).unwrap();
        assert_eq!(surroundings(r#"{"variables": {"A": "1"}, "secrets": ["env:B", "file:/c"]}"#).fault(), None);
        let twice = surroundings(r#"{"variables": {"A": "1"}, "secrets": ["A=env:B"]}"#);
        assert_eq!(twice.fault().unwrap(), "variable `A` is set twice");
        assert_eq!(surroundings(r#"{"variables": {"A-B": "1"}}"#).fault().unwrap(), "\"A-B\" is no name of a variable");
        assert!(serde_json::from_str::<Surroundings>(r#"{"secrets": ["nowhere"]}"#).is_err());
    }
}
