//! Which tasks a record is about, and the compact forms of what it says of each.

use serde::{Deserialize, Serialize};

use crate::id::{ContentId, Digest, MemoKey, Path};

/// Tasks of one step.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskSet {
    One {
        path: Path,
        visit: u32,
    },
    /// Items `from..to` of the foreach opened on `path`.
    Range {
        path: Path,
        from: u32,
        to: u32,
    },
}

impl TaskSet {
    /// The tasks' paths and visits, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Path, u32)> + '_ {
        let (one, range) = match self {
            Self::One { path, visit } => (Some((path.clone(), *visit)), None),
            Self::Range { path, from, to } => (None, Some((*from..*to).map(|index| (path.child(index), 0)))),
        };
        one.into_iter().chain(range.into_iter().flatten())
    }

    /// Whether a task is one of them.
    #[must_use]
    pub fn holds(&self, task: &Path, of_visit: u32) -> bool {
        match self {
            Self::One { path, visit } => path == task && *visit == of_visit,
            Self::Range { path, from, to } => {
                let place = task.split_last();
                of_visit == 0 && place.is_some_and(|(outer, index)| outer == *path && (*from..*to).contains(&index))
            }
        }
    }

    #[must_use]
    pub fn len(&self) -> u32 {
        match self {
            Self::One { .. } => 1,
            Self::Range { from, to, .. } => to.saturating_sub(*from),
        }
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An item of [`super::Record::AttemptsSucceeded`] as a compact tuple: index, digest and size of the object, microseconds of start and end
/// behind the record's `since`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemSucceeded(pub u32, pub Digest, pub u64, pub u64, pub u64);

/// An item of [`super::Record::ResultsReused`] as a compact tuple: place among the tasks that were sought, place among the owners, number of
/// the accepted attempt, digest and size of the object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemReused(pub u32, pub u32, pub u32, pub Digest, pub u64);

/// A task's result in [`super::Record::ResultsRemembered`] as a compact tuple: path, visit, what its object contains, and the key under which later
/// runs find it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResultRemembered(pub Path, pub u32, pub Option<ContentId>, pub Option<MemoKey>);
