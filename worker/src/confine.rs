//! What a host may not do. The process that is about to become a host binds itself (`causey confine`) and then turns into the
//! interpreter; nothing it starts can undo that. The worker itself stays free.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use landlock::{
    ABI, AccessFs, CompatLevel, Compatible as _, Ruleset, RulesetAttr as _, RulesetCreatedAttr as _, RulesetStatus, Scope,
    path_beneath_rules,
};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit};
use rustix::thread::{CapabilitySet, capability_is_in_bounding_set, remove_capability_from_bounding_set};
use serde::{Deserialize, Serialize};

/// The newest rules asked for; an older kernel keeps those it knows.
const RULES: ABI = ABI::V6;

/// What is kept from steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Sandbox {
    /// Nothing but new privileges
    Off,
    /// Other processes: a step reads neither memory nor environment of the worker, and signals only what steps have started
    #[default]
    Processes,
    /// Files too: a step writes only to its own folders, temporary ones, and what `--writable` names
    Files,
}

/// What holds for a host and all it starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Confinement {
    /// Whether it becomes the parent of what its descendants leave behind.
    pub keeps_orphans: bool,
    pub sandbox: Sandbox,
    /// Files and folders that can be written to where files are kept from it.
    pub writable: Vec<PathBuf>,
    /// Files and folders whose contents it does not see there.
    pub unreadable: Vec<PathBuf>,
}

/// Why a process is not confined.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    #[error("the confinement cannot be read")]
    Malformed(#[from] serde_json::Error),
    #[error("cannot {what}")]
    System {
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("cannot set up Landlock")]
    Landlock(#[from] landlock::RulesetError),
    #[error(
        "this kernel has no Landlock, so files cannot be kept from steps\nhint: start the worker with --sandbox processes, or on Linux 5.13 or newer with Landlock enabled"
    )]
    NoLandlock,
    #[error("cannot start {}", program.display())]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Confinement {
    /// Reads its JSON form.
    ///
    /// # Errors
    /// [`ConfineError::Malformed`].
    pub fn read(text: &str) -> Result<Self, ConfineError> {
        Ok(serde_json::from_str(text)?)
    }

    /// Binds this process, which has one thread.
    ///
    /// # Errors
    /// [`ConfineError`] when the kernel refuses; what it does not know is left out, but for files that were to be kept.
    pub fn apply(&self) -> Result<(), ConfineError> {
        let failed = |what| move |errno: rustix::io::Errno| ConfineError::System { what, source: errno.into() };
        rustix::thread::set_no_new_privs(true).map_err(failed("give up new privileges"))?;
        // The image of a large step would fill the disk.
        let none = Rlimit { current: Some(0), maximum: rustix::process::getrlimit(Resource::Core).maximum };
        rustix::process::setrlimit(Resource::Core, none).map_err(failed("do without core dumps"))?;
        if self.keeps_orphans {
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).map_err(failed("take care of orphans"))?;
        }
        if self.sandbox != Sandbox::Off {
            drop_powers().map_err(failed("give up capabilities"))?;
        }
        match self.sandbox {
            Sandbox::Off => Ok(()),
            Sandbox::Processes => {
                // Any rule at all puts the process into a domain of its own. This one forbids what no step does.
                let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
                let rules = rules.handle_access(AccessFs::MakeBlock)?.scope(Scope::Signal)?;
                rules.create()?.restrict_self()?;
                Ok(())
            }
            Sandbox::Files => self.keep_files(),
        }
    }

    fn keep_files(&self) -> Result<(), ConfineError> {
        let writing = AccessFs::from_write(RULES);
        let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(writing)?.scope(Scope::Signal)?;
        let rules = if self.unreadable.is_empty() { rules } else { rules.handle_access(AccessFs::ReadFile)? };
        let mut rules = rules.create()?.add_rules(path_beneath_rules(&self.writable, writing))?;
        if !self.unreadable.is_empty() {
            rules = rules.add_rules(path_beneath_rules(readable(Path::new("/"), &self.unreadable), AccessFs::ReadFile))?;
        }
        match rules.restrict_self()?.ruleset {
            RulesetStatus::NotEnforced => Err(ConfineError::NoLandlock),
            RulesetStatus::PartiallyEnforced | RulesetStatus::FullyEnforced => Ok(()),
        }
    }
}

/// Gives up what would let a step that runs as root look past these rules; whoever has none of it gives up nothing. A program that root
/// starts has what the bounding set leaves, whatever its starter had.
fn drop_powers() -> rustix::io::Result<()> {
    let powers = CapabilitySet::SYS_ADMIN | CapabilitySet::PERFMON | CapabilitySet::SYS_PTRACE | CapabilitySet::SYS_MODULE;
    let mut sets = rustix::thread::capabilities(None)?;
    for power in powers.iter() {
        if capability_is_in_bounding_set(power).unwrap_or(false) {
            match remove_capability_from_bounding_set(power) {
                Ok(()) | Err(Errno::PERM) => {}
                Err(error) => return Err(error),
            }
        }
    }
    for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
        set.remove(powers);
    }
    rustix::thread::set_capabilities(None, sets)
}

/// The largest files and folders that hold nothing of what is `hidden`. Rules allow and never forbid, so whatever lies beside a hidden
/// thing, or beside a folder on the way to it, is allowed by its name.
fn readable(folder: &Path, hidden: &[PathBuf]) -> Vec<PathBuf> {
    if hidden.iter().any(|hidden| folder.starts_with(hidden)) {
        return Vec::new();
    }
    if !hidden.iter().any(|hidden| hidden.starts_with(folder)) {
        return vec![folder.to_owned()];
    }
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.flat_map(|entry| readable(&entry.path(), hidden)).collect()
}

/// Binds this process by a confinement in its JSON form, and turns it into a program.
///
/// # Errors
/// [`ConfineError`].
pub fn become_host(confinement: &str, words: &[OsString]) -> Result<Infallible, ConfineError> {
    Confinement::read(confinement)?.apply()?;
    let program = PathBuf::from(words.first().cloned().unwrap_or_default());
    let source = Command::new(&program).args(&words[1.min(words.len())..]).exec();
    Err(ConfineError::Start { program, source })
}

/// Whether files can be kept from steps on this machine.
///
/// # Errors
/// [`ConfineError`] when not.
pub(crate) fn check_files() -> Result<(), ConfineError> {
    let rules = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
    rules.handle_access(AccessFs::from_write(ABI::V1)).and_then(Ruleset::create).map(drop).map_err(|_| ConfineError::NoLandlock)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_beside_a_hidden_thing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a", "b/c", "b/secret", "b/d"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        let mut found = readable(folder.path(), &[folder.path().join("b/secret")]);
        found.sort();
        assert_eq!(found, ["a", "b/c", "b/d"].map(|name| folder.path().join(name)));
        assert_eq!(readable(folder.path(), &[]), [folder.path()]);
        assert_eq!(readable(folder.path(), &[folder.path().to_owned()]), Vec::<PathBuf>::new());
    }
}
