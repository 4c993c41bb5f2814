//! When a deployed flow starts by the clock, and how many of its runs may be under way at once. What a cron pattern means is not known
//! here: whoever has a calendar computes instants, everyone else compares them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{FlowName, Timestamp};
use crate::parameter::Values;

/// Most schedules of one flow.
pub const SCHEDULES_MAX: usize = 100;

/// Longest cron pattern and time zone, in bytes.
pub const PATTERN_BYTES_MAX: usize = 200;

/// Missed firings that are made up for when the author sets no bound of his own, and the highest bound he may set.
pub const CATCH_UP_MAX_DEFAULT: u32 = 100;
pub const CATCH_UP_MAX: u32 = 1_000;

/// Longest spread of firings, in seconds.
pub const JITTER_SECONDS_MAX: u32 = 86_400;

/// Most runs of one flow that a strategy lets go at once.
pub const CONCURRENT_RUNS_MAX: u32 = 1_000;

/// Most runs of one flow that wait for a place.
pub const WAITING_RUNS_MAX: usize = 1_000;

/// Most runs of one backfill.
pub const BACKFILL_RUNS_MAX: u32 = 10_000;

/// Most runs of one backfill at once.
pub const BACKFILL_PARALLEL_MAX: u32 = 100;

/// A rule: at which instants the flow starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schedule {
    /// Five fields as in crontab(5), six as on AWS (a year behind), seven as in Quartz (seconds in front too), or `@daily` and the like.
    pub cron: String,
    /// IANA name; `None`: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
    /// Line of the rule in the flow file; 0 when unknown.
    #[serde(default)]
    pub line: u32,
    #[serde(default)]
    pub catch_up: CatchUp,
    /// Missed firings that `all` makes up for; of more, the newest.
    #[serde(default = "catch_up_max_default")]
    pub catch_up_max: u32,
    /// Each firing comes up to so many seconds later; how many follows from its instant.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub jitter_seconds: u32,
    /// Flow parameter → how the instant is written into it: `date`, `datetime`, `seconds` or a pattern of strftime(3).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parameters: BTreeMap<String, String>,
}

fn catch_up_max_default() -> u32 {
    CATCH_UP_MAX_DEFAULT
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it like this")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// What becomes of firings that nobody could see to in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// None of them runs.
    Skip,
    /// The newest one runs.
    #[default]
    Latest,
    /// Each of them runs, in order.
    All,
}

impl CatchUp {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Latest => "latest",
            Self::All => "all",
        }
    }
}

impl Schedule {
    /// Tells the schedules of a flow apart, over versions too: a new version with the same pattern and zone goes on where the old one was.
    #[must_use]
    pub fn identity(&self) -> String {
        let words: Vec<&str> = self.cron.split_whitespace().collect();
        format!("{} {}", words.join(" "), self.zone())
    }

    /// IANA name of the zone.
    #[must_use]
    pub fn zone(&self) -> &str {
        self.timezone.as_deref().unwrap_or("UTC")
    }

    /// What is wrong with it whatever the calendar says.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let lengths = [("cron", self.cron.as_str()), ("timezone", self.zone())];
        if let Some((what, _)) = lengths.iter().find(|(_, text)| text.is_empty() || text.len() > PATTERN_BYTES_MAX) {
            return Some(format!("`{what}` needs 1 to {PATTERN_BYTES_MAX} bytes"));
        }
        if !(1..=CATCH_UP_MAX).contains(&self.catch_up_max) {
            return Some(format!("it catches up with {} firings; 1 to {CATCH_UP_MAX} are possible", self.catch_up_max));
        }
        if self.jitter_seconds > JITTER_SECONDS_MAX {
            return Some(format!("a jitter of {} seconds is over {JITTER_SECONDS_MAX}", self.jitter_seconds));
        }
        form_fault(&self.parameters)
    }
}

/// Which of the parameters asks for a form that no instant has.
#[must_use]
pub fn form_fault(parameters: &BTreeMap<String, String>) -> Option<String> {
    let known = |form: &str| matches!(form, "date" | "datetime" | "seconds") || (form.contains('%') && form.len() <= PATTERN_BYTES_MAX);
    let (name, form) = parameters.iter().find(|(_, form)| !known(form))?;
    Some(format!(
        "parameter `{name}` takes the instant as {form:?}; use \"date\", \"datetime\", \"seconds\" or a pattern such as \"%Y-%m\""
    ))
}

/// How many runs of a deployed flow may be under way at once, and what becomes of one more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Concurrency {
    pub strategy: Strategy,
    #[serde(default = "one")]
    pub max: u32,
}

fn one() -> u32 {
    1
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// All run.
    All,
    /// One more does not run.
    Skip,
    /// One more waits its turn.
    Queue,
    /// The oldest one is cancelled, and one more starts at once.
    Replace,
    /// One waits at most; a newer one takes its place.
    Latest,
}

impl Strategy {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Skip => "skip",
            Self::Queue => "queue",
            Self::Replace => "replace",
            Self::Latest => "latest",
        }
    }
}

impl Concurrency {
    /// Most runs at once; `None` without a bound.
    #[must_use]
    pub fn limit(&self) -> Option<usize> {
        (self.strategy != Strategy::All).then_some(self.max as usize)
    }

    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let fits = (1..=CONCURRENT_RUNS_MAX).contains(&self.max);
        (!fits).then(|| format!("{} runs at once are not between 1 and {CONCURRENT_RUNS_MAX}", self.max))
    }
}

/// One run for every instant of a span of time. The instants are computed as they are needed; none of them is listed anywhere.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BackfillPlan {
    pub flow: FlowName,
    pub cron: String,
    /// IANA name.
    pub timezone: String,
    /// The first and the last instant, and how many there are in all.
    pub first: Timestamp,
    pub last: Timestamp,
    pub total: u32,
    pub max_parallel: u32,
    /// The same for every run.
    pub parameters: Values,
    /// As in [`Schedule::parameters`].
    pub instant: BTreeMap<String, String>,
}

impl BackfillPlan {
    /// What is wrong with it.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if self.total == 0 || self.first > self.last {
            return Some("there is no instant between its ends".into());
        }
        if self.total > BACKFILL_RUNS_MAX {
            return Some(format!("{} runs are more than {BACKFILL_RUNS_MAX}", self.total));
        }
        if !(1..=BACKFILL_PARALLEL_MAX).contains(&self.max_parallel) {
            return Some(format!("{} runs at once are not between 1 and {BACKFILL_PARALLEL_MAX}", self.max_parallel));
        }
        form_fault(&self.instant)
    }
}
