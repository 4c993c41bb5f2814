//! Status of a run: what its running attempts tell about it. Kept in the state, so that every coordinator can answer, also after the run's
//! end and whoever leads by then; bounded in names and bytes, and told at most once a second and attempt.

use causey_protocol::id::{RunId, Timestamp};
use causey_protocol::record::Record;
use causey_protocol::status::{self, STATUS_NAMES_MAX, Values};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::engine::Decider;
use crate::run::{Run, TaskRef};

/// The last value of a name, and which attempt told it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub value: Value,
    pub at: Timestamp,
    pub task: TaskRef,
    pub attempt: u32,
}

impl Run {
    pub(crate) fn set_status(&mut self, at: Timestamp, task: &TaskRef, attempt: u32, values: &Values) {
        for (name, value) in values {
            self.status.insert(name.clone(), Status { value: value.clone(), at, task: task.clone(), attempt });
        }
    }
}

impl Decider<'_> {
    /// An open attempt tells about its run; what is too large or one name too many is left out.
    pub(crate) fn tell_status(&mut self, run: RunId, task: &TaskRef, attempt: u32, values: Values) {
        let Some(found) = self.state.run(run) else { return };
        let mut room = STATUS_NAMES_MAX.saturating_sub(found.status.len());
        let before = values.len();
        let mut kept = Values::new();
        for (name, value) in values {
            let known = found.status.contains_key(&name);
            if status::fault(&value).is_none() && (known || room > 0) {
                room -= usize::from(!known);
                kept.insert(name, value);
            }
        }
        let refused = before - kept.len();
        if !kept.is_empty() {
            let TaskRef { step, path, visit } = task.clone();
            self.emit(Record::StatusSet { run, step, path, visit, attempt, values: kept });
        }
        if refused > 0 || before == 0 {
            self.ignore(format!("{refused} values that run {run} told about itself: too large, or beyond {STATUS_NAMES_MAX} names"));
        }
    }
}
