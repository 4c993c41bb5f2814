//! What an interpreter says about itself, and whether it is one of the versions that an environment asks for.

use std::path::{Path, PathBuf};

use serde::Deserialize;

const QUESTION: &str = "\
import json, os, sys, sysconfig
try:
    import causey
    sdk = os.path.dirname(os.path.abspath(causey.__file__))
except ImportError:
    sdk = None
print(json.dumps({'version': list(sys.version_info[:3]), 'tag': sys.implementation.cache_tag, 'platform': sysconfig.get_platform(),
    'base': getattr(sys, '_base_executable', sys.executable), 'sdk': sdk}))";

/// An interpreter's own words.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Facts {
    pub(crate) version: Vec<u32>,
    pub(crate) tag: String,
    pub(crate) platform: String,
    pub(crate) base: PathBuf,
    /// The folder of the SDK that is installed in it.
    pub(crate) sdk: Option<PathBuf>,
}

impl Facts {
    /// Asks `python`.
    ///
    /// # Errors
    /// Why it did not answer, in words.
    pub(crate) async fn of(python: &Path) -> Result<Self, String> {
        let mut command = tokio::process::Command::new(python);
        command.args(["-c", QUESTION]).stdin(std::process::Stdio::null()).kill_on_drop(true);
        let output = command.output().await.map_err(|error| format!("{} does not start: {error}", python.display()))?;
        serde_json::from_slice(&output.stdout)
            .map_err(|_| format!("{} does not answer: {}", python.display(), String::from_utf8_lossy(&output.stderr).trim()))
    }

    pub(crate) fn shown(&self) -> String {
        self.version.iter().map(u32::to_string).collect::<Vec<_>>().join(".")
    }

    /// Whether its version is one of `wanted`: a version such as `3.11`, or clauses such as `>=3.10,<3.13`.
    pub(crate) fn is_one_of(&self, wanted: &str) -> bool {
        wanted.split(',').map(str::trim).filter(|clause| !clause.is_empty()).all(|clause| self.fits(clause))
    }

    fn fits(&self, clause: &str) -> bool {
        let at = clause.find(|letter: char| letter.is_ascii_digit()).unwrap_or(clause.len());
        let (operator, version) = (clause[..at].trim(), &clause[at..]);
        let Ok(parts) = version.trim_end_matches(".*").split('.').map(str::parse).collect::<Result<Vec<u32>, _>>() else { return false };
        let begins = self.version.starts_with(&parts);
        let mut whole = parts.clone();
        whole.resize(self.version.len().max(parts.len()), 0);
        match operator {
            "" | "==" | "===" => begins,
            "!=" => !begins,
            ">=" => self.version >= whole,
            "<=" => self.version <= whole,
            ">" => self.version > whole,
            "<" => self.version < whole,
            "~=" => self.version >= whole && self.version.starts_with(&parts[..parts.len() - 1]),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_clause_by_clause() {
        let facts =
            Facts { version: vec![3, 11, 7], tag: "cpython-311".into(), platform: "linux".into(), base: "/python".into(), sdk: None };
        for fits in ["3.11", "==3.11.*", ">=3.10,<3.12", "3.11.7", "~=3.10", "!=3.12", ">3.11", ">= 3.9, != 3.10.*"] {
            assert!(facts.is_one_of(fits), "{fits}");
        }
        for other in ["3.1", "3.12", ">=3.12", "<3.11", "~=3.12", "3.11.8", "three", "3.x", "!=3.11"] {
            assert!(!facts.is_one_of(other), "{other}");
        }
    }
}
