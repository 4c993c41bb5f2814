//! Secrets of steps: looked up by the worker at the start of each attempt, from its own environment, from files of its machine, or by
//! commands that its operator has named. A flow names places; values are never in a message.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use causey_protocol::problem::Code;
use causey_protocol::surroundings::{Provider, SecretSource, variable_fault};
use causey_protocol::task::{ErrorInfo, FailureKind};

use crate::mask::Mask;

/// Longest value of a secret, and most that a command may say, in bytes.
const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Most files of a folder of secrets.
const FILES_MAX: usize = 256;

/// Longest time a command may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(30);

/// By this exit status (`EX_TEMPFAIL` of sysexits) a command says that it may work later.
const STATUS_LATER: i32 = 75;

/// What steps may ask this worker for.
#[derive(Clone, Debug, Default)]
pub(crate) struct Secrets {
    /// Places, each perhaps with a star at its end; empty: all.
    pub(crate) allowed: Vec<String>,
    /// The words of each command.
    pub(crate) commands: BTreeMap<String, Vec<String>>,
    /// Files and folders that no step may read, so neither by way of the worker.
    pub(crate) hidden: Vec<PathBuf>,
}

/// The secrets of an attempt, by variable.
#[derive(Default)]
pub(crate) struct Revealed {
    pub(crate) variables: BTreeMap<String, String>,
    pub(crate) mask: Mask,
}

impl std::fmt::Debug for Revealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Why there is no secret. Never says anything of a value.
#[derive(Debug, thiserror::Error)]
#[error("secret {source_text} of step `{step}` {what}")]
pub(crate) struct SecretError {
    step: String,
    source_text: String,
    what: String,
    hint: Option<&'static str>,
    /// It may be there later.
    transient: bool,
}

impl SecretError {
    pub(crate) fn into_fault(self) -> (FailureKind, ErrorInfo) {
        let kind = if self.transient { FailureKind::Infrastructure } else { FailureKind::Permanent };
        let error = ErrorInfo {
            kind: Code::SECRET.to_string(),
            message: self.to_string(),
            hint: self.hint.map(str::to_owned),
            step: Some(self.step),
            ..ErrorInfo::default()
        };
        (kind, error)
    }
}

/// What is wrong with a source, and how to mend it.
struct Trouble {
    what: String,
    hint: Option<&'static str>,
    transient: bool,
}

fn trouble(what: impl Into<String>, hint: &'static str) -> Trouble {
    Trouble { what: what.into(), hint: Some(hint), transient: false }
}

/// The credentials of the worker's own store, which steps do not see otherwise.
fn is_own(source: &SecretSource) -> bool {
    source.provider == Provider::Variable && source.reference.starts_with("AWS_")
}

impl Secrets {
    /// Looks up all of them.
    ///
    /// # Errors
    /// [`SecretError`] for the first that cannot be had.
    pub(crate) async fn reveal(&self, step: &str, sources: &[SecretSource]) -> Result<Revealed, SecretError> {
        let mut variables = BTreeMap::new();
        for source in sources {
            let found = self.one(source).await.map_err(|Trouble { what, hint, transient }| SecretError {
                step: step.to_owned(),
                source_text: source.place(),
                what,
                hint,
                transient,
            })?;
            variables.extend(found);
        }
        let mask = Mask::new(variables.values().map(String::as_str));
        Ok(Revealed { variables, mask })
    }

    async fn one(&self, source: &SecretSource) -> Result<Vec<(String, String)>, Trouble> {
        let place = source.place();
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(beginning) => place.starts_with(beginning),
            None => place == *pattern,
        };
        // A path that climbs could leave the folder that a pattern means.
        let climbs = source.provider == Provider::File && Path::new(&source.reference).components().any(|part| part.as_os_str() == "..");
        let is_hidden = source.provider == Provider::File && self.hides(Path::new(&source.reference)).await;
        let is_allowed = if self.allowed.is_empty() { !is_own(source) } else { self.allowed.iter().any(matches) };
        if climbs || is_hidden || !is_allowed {
            return Err(trouble("is not given to steps by this worker", "the worker's operator says with --secrets which are"));
        }
        let found = match source.provider {
            Provider::Variable => vec![(source.variable(), variable(&source.reference)?)],
            Provider::File => return files(source).await,
            Provider::Command => return self.command(source).await,
        };
        Ok(found.into_iter().filter_map(|(name, value)| Some((name?.to_owned(), value))).collect())
    }

    /// Whether a path is, contains or lies in something hidden, also by links.
    async fn hides(&self, path: &Path) -> bool {
        let real = async |path: &Path| tokio::fs::canonicalize(path).await.unwrap_or_else(|_| path.to_owned());
        let path = real(path).await;
        for hidden in &self.hidden {
            let hidden = real(hidden).await;
            if path.starts_with(&hidden) || hidden.starts_with(&path) {
                return true;
            }
        }
        false
    }

    async fn command(&self, source: &SecretSource) -> Result<Vec<(String, String)>, Trouble> {
        let (name, argument) = source.command();
        let Some(words) = self.commands.get(name) else {
            return Err(trouble(
                "names a command that this worker does not have",
                "its operator adds one with --secret-command NAME=PROGRAM",
            ));
        };
        let mut command = tokio::process::Command::new(&words[0]);
        command.args(&words[1..]).args(argument).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let seen = "see the worker's log for what the command said";
        let output = match tokio::time::timeout(COMMAND_TIMEOUT, command.kill_on_drop(true).output()).await {
            Ok(Ok(output)) => output,
            Ok(Err(error)) => return Err(trouble(format!("cannot be had: {} does not start: {error}", words[0]), seen)),
            Err(_) => {
                let what = format!("cannot be had: its command was not done after {} seconds", COMMAND_TIMEOUT.as_secs());
                return Err(Trouble { what, hint: Some(seen), transient: true });
            }
        };
        if !output.status.success() {
            tracing::warn!(command = name, status = %output.status, said = %String::from_utf8_lossy(&output.stderr), "a secret cannot be had");
            let transient = output.status.code() == Some(STATUS_LATER);
            return Err(Trouble { what: format!("cannot be had: its command ended with {}", output.status), hint: Some(seen), transient });
        }
        said(source, text(output.stdout)?)
    }
}

/// The answer of a command: an object of texts by variable, or one text.
fn said(source: &SecretSource, answer: String) -> Result<Vec<(String, String)>, Trouble> {
    if let Some(name) = source.variable() {
        return Ok(vec![(name.to_owned(), answer)]);
    }
    let Ok(named) = serde_json::from_str::<BTreeMap<String, String>>(&answer) else {
        let (name, argument) = source.command();
        return Ok(vec![(spelled(argument.unwrap_or(name)), answer)]);
    };
    if let Some(what) = named.keys().find_map(|name| variable_fault(name)) {
        return Err(trouble(format!("cannot be had: {what}"), "a command answers an object of texts by variable, or one text"));
    }
    Ok(named.into_iter().collect())
}

fn variable(name: &str) -> Result<String, Trouble> {
    let hint = "set the variable where the worker is started, or name another source";
    match std::env::var_os(name).map(OsString::into_string) {
        Some(Ok(value)) => Ok(value),
        Some(Err(_)) => Err(trouble("is no text", hint)),
        None => Err(trouble("is not in the environment of the worker", hint)),
    }
}

async fn files(source: &SecretSource) -> Result<Vec<(String, String)>, Trouble> {
    let (path, name) = (source.reference.clone(), source.variable().map(str::to_owned));
    let read = move || -> Result<Vec<(String, String)>, Trouble> {
        let path = Path::new(&path);
        if !path.is_dir() {
            let name = name.unwrap_or_else(|| spelled(&path.file_name().unwrap_or_default().to_string_lossy()));
            return Ok(vec![(name, file(path)?)]);
        }
        if name.is_some() {
            return Err(trouble("is a folder, which becomes several variables", "leave out what stands before the equals sign"));
        }
        let mut found: Vec<_> = std::fs::read_dir(path).map_err(|error| unreadable(&error))?.flatten().collect();
        // What begins with a dot is how mounted secrets are kept up to date.
        found.retain(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".") && entry.path().is_file());
        if found.len() > FILES_MAX {
            return Err(trouble(format!("is a folder of over {FILES_MAX} files"), "name the files that the step needs"));
        }
        found.iter().map(|entry| Ok((spelled(&entry.file_name().to_string_lossy()), file(&entry.path())?))).collect()
    };
    tokio::task::spawn_blocking(read).await.expect("reading a file does not panic")
}

fn file(path: &Path) -> Result<String, Trouble> {
    if !path.is_file() {
        return Err(trouble("is not there", "put the file on the machine of the worker, readable for it"));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(path).map_err(|error| unreadable(&error))?;
    opened.take(VALUE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(|error| unreadable(&error))?;
    text(bytes)
}

fn unreadable(error: &io::Error) -> Trouble {
    trouble(format!("cannot be read: {error}"), "put the file on the machine of the worker, readable for it")
}

/// A value without the end of its last line.
fn text(bytes: Vec<u8>) -> Result<String, Trouble> {
    if bytes.len() > VALUE_BYTES_MAX {
        return Err(trouble(
            format!("has over {VALUE_BYTES_MAX} bytes"),
            "a secret becomes a variable; let the step read large files itself",
        ));
    }
    let hint = "a secret becomes a variable, which is text";
    let mut text = String::from_utf8(bytes).map_err(|_| trouble("is no text", hint))?;
    if text.contains('\0') {
        return Err(trouble("is no text", hint));
    }
    if text.ends_with('\n') {
        text.pop();
    }
    Ok(text)
}

/// The variable for a file or an argument: `db-password` becomes `DB_PASSWORD`.
fn spelled(name: &str) -> String {
    let last = name.rsplit('/').next().unwrap_or(name);
    let spelled: String =
        last.chars().map(|letter| if letter.is_ascii_alphanumeric() { letter.to_ascii_uppercase() } else { '_' }).collect();
    if spelled.starts_with(|first: char| first.is_ascii_digit()) { format!("_{spelled}") } else { spelled }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn reveal(secrets: &Secrets, sources: &[&str]) -> Result<Revealed, (FailureKind, String)> {
        let sources: Vec<SecretSource> = sources.iter().map(|text| text.parse().unwrap()).collect();
        secrets.reveal("train", &sources).await.map_err(|error| {
            let (kind, error) = error.into_fault();
            (kind, error.message)
        })
    }

    fn told(revealed: &Revealed) -> Vec<(&str, &str)> {
        revealed.variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn shell(text: &str) -> Secrets {
        let words = ["sh", "-c", text, "sh"].map(str::to_owned).to_vec();
        Secrets { commands: BTreeMap::from([("vault".to_owned(), words)]), ..Secrets::default() }
    }

    #[tokio::test]
    async fn files_become_variables_of_their_names() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("db-password"), "p w\n").unwrap();
        std::fs::write(folder.path().join("2fa"), "x").unwrap();
        std::fs::write(folder.path().join(".hidden"), "x").unwrap();
        let place = folder.path().display();
        let all = reveal(&Secrets::default(), &[&format!("file:{place}")]).await.unwrap();
        assert_eq!(told(&all), [("DB_PASSWORD", "p w"), ("_2FA", "x")]);
        let one = reveal(&Secrets::default(), &[&format!("KEY=file:{place}/db-password")]).await.unwrap();
        assert_eq!(told(&one), [("KEY", "p w")]);
        assert_eq!(format!("{one:?}"), r#"{"KEY"}"#);
        let (kind, message) = reveal(&Secrets::default(), &[&format!("file:{place}/gone")]).await.unwrap_err();
        assert_eq!((kind, message), (FailureKind::Permanent, format!("secret file:{place}/gone of step `train` is not there")));
    }

    #[tokio::test]
    async fn only_what_the_operator_allows_is_given() {
        let secrets = Secrets { allowed: vec!["file:/run/secrets/*".into(), "env:PATH".into()], ..Secrets::default() };
        assert!(reveal(&secrets, &["env:PATH"]).await.is_ok());
        for place in ["env:HOME", "file:/run/secrets/../../etc/passwd", "command:vault"] {
            let (_, message) = reveal(&secrets, &[place]).await.unwrap_err();
            assert!(message.ends_with("is not given to steps by this worker"), "{message}");
        }
    }

    #[tokio::test]
    async fn what_is_the_workers_own_is_not_given_unless_it_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("own");
        std::fs::create_dir(&own).unwrap();
        std::fs::write(own.join("token"), "t").unwrap();
        std::os::unix::fs::symlink(own.join("token"), folder.path().join("link")).unwrap();
        std::fs::write(folder.path().join("other"), "o").unwrap();
        let place = |name: &str| format!("X=file:{}", folder.path().join(name).display());
        let secrets = Secrets { hidden: vec![own.clone()], ..Secrets::default() };
        assert_eq!(told(&reveal(&secrets, &[&place("other")]).await.unwrap()), [("X", "o")]);
        let folder_of_all = format!("file:{}", folder.path().display());
        for place in [place("own/token"), place("link"), folder_of_all, "env:AWS_SECRET_ACCESS_KEY".into()] {
            let (_, message) = reveal(&secrets, &[&place]).await.unwrap_err();
            assert!(message.ends_with("is not given to steps by this worker"), "{message}");
        }
        let named = Secrets { allowed: vec!["env:AWS_*".into()], ..Secrets::default() };
        let (_, message) = reveal(&named, &["env:AWS_NOT_THERE_AT_ALL"]).await.unwrap_err();
        assert!(!message.contains("is not given"), "{message}");
    }

    #[tokio::test]
    async fn a_command_answers_one_text_or_several_by_name() {
        let one = reveal(&shell("echo \"key of $1\""), &["command:vault/db/pass-word", "A=command:vault"]).await.unwrap();
        assert_eq!(told(&one), [("A", "key of "), ("PASS_WORD", "key of db/pass-word")]);
        let several = reveal(&shell(r#"echo '{"USER": "u", "PASSWORD": "p"}'"#), &["command:vault/db"]).await.unwrap();
        assert_eq!(told(&several), [("PASSWORD", "p"), ("USER", "u")]);
        let (kind, message) = reveal(&shell("echo hidden >&2; exit 2"), &["command:vault/db"]).await.unwrap_err();
        assert_eq!(kind, FailureKind::Permanent);
        assert_eq!(message, "secret command:vault/db of step `train` cannot be had: its command ended with exit status: 2");
        assert_eq!(reveal(&shell("exit 75"), &["command:vault"]).await.unwrap_err().0, FailureKind::Infrastructure);
        let (_, message) = reveal(&Secrets::default(), &["command:vault"]).await.unwrap_err();
        assert!(message.ends_with("names a command that this worker does not have"), "{message}");
    }
}
