//! Who goes first and who gets how much: what a run asks for, and what an installation gives to each tenant. A tenant is the user a run
//! belongs to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Highest priority; the lowest is its negative.
pub const PRIORITY_MAX: i8 = 100;

/// Runs that have not ended, at most, where nobody says otherwise.
pub const RUNS_MAX: u32 = 100_000;

/// Highest weight of a tenant.
pub const WEIGHT_MAX: u32 = 10_000;

/// How a run stands among others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Standing {
    /// Tasks of runs with a higher one are dispatched first; −100 to 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
    /// Most attempts of the run that are open at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_parallel: Option<u32>,
}

impl Standing {
    #[must_use]
    pub fn is_ordinary(&self) -> bool {
        *self == Self::default()
    }

    /// What is not said here is as in `other`.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self { priority: self.priority.or(other.priority), max_parallel: self.max_parallel.or(other.max_parallel) }
    }

    /// What is said here and not by `flow` as well: what was asked for of a run, whatever its flow says of all.
    #[must_use]
    pub fn beyond(self, flow: Self) -> Self {
        Self {
            priority: self.priority.filter(|_| self.priority != flow.priority),
            max_parallel: self.max_parallel.filter(|_| self.max_parallel != flow.max_parallel),
        }
    }

    /// The priority, 0 where none is said.
    #[must_use]
    pub fn priority(&self) -> i8 {
        self.priority.unwrap_or_default()
    }

    /// Why these numbers make no standing; `None` when they do.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        match self {
            Self { priority: Some(priority), .. } if !(-PRIORITY_MAX..=PRIORITY_MAX).contains(priority) => {
                Some(format!("priority {priority} is not between -{PRIORITY_MAX} and {PRIORITY_MAX}"))
            }
            Self { max_parallel: Some(0), .. } => Some("a run with 0 tasks at a time would never end; give it at least 1".into()),
            _ => None,
        }
    }
}

/// What one tenant gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// While several wait for a pool, each gets open attempts in proportion to its weight; at least 1.
    pub weight: u32,
    /// Most attempts of all its runs that are open at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window: Option<u32>,
}

impl Default for Share {
    fn default() -> Self {
        Self { weight: 1, window: None }
    }
}

/// What every tenant gets, and how many runs there may be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// Tenants with a share of their own.
    pub tenants: BTreeMap<String, Share>,
    /// All others, each.
    pub others: Share,
    /// While this many runs have not ended, no further one is accepted. `None`: [`RUNS_MAX`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runs_max: Option<u32>,
}

impl Shares {
    #[must_use]
    pub fn of(&self, tenant: &str) -> Share {
        self.tenants.get(tenant).copied().unwrap_or(self.others)
    }

    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anybody has a window.
    #[must_use]
    pub fn has_windows(&self) -> bool {
        self.others.window.is_some() || self.tenants.values().any(|share| share.window.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_out_of_range_says_what_is_possible() {
        let fault = |priority, max_parallel| Standing { priority, max_parallel }.fault();
        assert_eq!(fault(Some(100), Some(1)), None);
        assert_eq!(fault(Some(-101), None).unwrap(), "priority -101 is not between -100 and 100");
        assert!(fault(None, Some(0)).unwrap().contains("at least 1"));
    }

    #[test]
    fn a_tenant_without_a_share_of_its_own_gets_what_all_others_get() {
        let ann = Share { weight: 3, window: Some(5) };
        let shares = Shares { tenants: BTreeMap::from([("ann".into(), ann)]), ..Shares::default() };
        assert_eq!((shares.of("ann"), shares.of("bob")), (ann, Share::default()));
        assert!(shares.has_windows());
    }
}
