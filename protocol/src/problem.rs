//! What went wrong, as people read it: a stable code, what and where, and how to mend it. Codes come in ranges: 1xxx usage and
//! configuration, 2xxx user code, 3xxx scheduling, 4xxx storage, 5xxx broker, 6xxx environment, 9xxx bug.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stable number, shown as `CSY-1004`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CSY-{:04}", self.0)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Code> for String {
    fn from(code: Code) -> Self {
        code.to_string()
    }
}

impl TryFrom<String> for Code {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let number = text.strip_prefix("CSY-").and_then(|digits| digits.parse().ok());
        number.map(Code).ok_or_else(|| format!("{text:?} is not an error code such as CSY-1004"))
    }
}

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Self = Self($number);)*
        }
    };
}

codes! {
    /// The request cannot be read.
    MALFORMED = 1001;
    /// A parameter the flow does not have, or a required one that is missing.
    PARAMETER_UNKNOWN = 1002;
    /// A parameter's value has the wrong type.
    PARAMETER_TYPE = 1003;
    /// No token, or a wrong one.
    UNAUTHORIZED = 1004;
    /// A foreign `Host` or `Origin`.
    FOREIGN_ORIGIN = 1005;
    /// No such run, flow, model or page.
    NOT_FOUND = 1006;
    /// Somebody else has to decide about this.
    FORBIDDEN = 1007;
    /// The run cannot be resumed, or not like this.
    NOT_RESUMABLE = 1008;
    /// The flow's graph is not valid.
    GRAPH = 1101;
    /// The request names a code package that is not stored.
    PACKAGE_UNKNOWN = 1102;
    /// The bytes do not have the digest they were sent under.
    PACKAGE_DIGEST = 1103;
    /// A message is over its limit.
    TOO_LARGE = 1104;
    /// The code package holds what no worker unpacks: links, devices, paths out of it, too much.
    PACKAGE_CONTENT = 1106;
    /// A schedule or a span of time that cannot be read, or in which nothing ever fires.
    SCHEDULE = 1105;
    /// The flow file cannot be loaded (said by the SDK).
    FLOW_FILE = 1111;
    /// No flow in the file, or several (said by the SDK).
    NO_FLOW = 1112;
    /// A decorator that is unknown, misplaced or not offered (said by the SDK).
    DECORATOR = 1113;
    /// A parameter that cannot be defined like this (said by the SDK).
    PARAMETER_DEFINITION = 1114;
    /// User code raised.
    USER_CODE = 2101;
    /// The process that ran user code died.
    HOST_DIED = 2102;
    /// The flow file cannot be imported on the worker.
    LOAD_FAILED = 2103;
    /// What a step did is not what the graph says.
    TRANSITION = 2104;
    /// A model cannot be published like this.
    PUBLICATION = 2105;
    /// The attempt was lost with its worker too often.
    POISONED = 2106;
    /// Recursion beyond the bound of its step.
    VISITS = 2107;
    /// A step or a run took longer than its timeout.
    TIMED_OUT = 2108;
    /// An attempt used more memory than it had booked, or than there was.
    OUT_OF_MEMORY = 2109;
    /// A run cannot be started from a step like this.
    CHILD = 2110;
    /// Cancelled on request.
    CANCELLED = 3001;
    /// The flow's concurrency strategy lets no further run start.
    CONCURRENCY = 3002;
    /// A gang has more members than its pool has room for.
    GANG_TOO_LARGE = 3003;
    /// A signal or an approval did not come in time.
    WAITED_IN_VAIN = 3020;
    /// An approval was refused.
    REJECTED = 3021;
    /// A run that another one had started and waited for did not succeed.
    CHILD_FAILED = 3022;
    /// A signal or a decision that nothing waits for.
    NOT_AWAITED = 3023;
    /// The run has ended.
    RUN_ENDED = 3024;
    /// As many runs as there may be have not ended.
    CROWDED = 3010;
    /// The artifact store refused, or a stored object is damaged.
    STORE = 4001;
    /// The streams are nearly full.
    STORAGE_FULL = 4002;
    /// The broker did not answer in time.
    BROKER = 5001;
    /// This coordinator is not the leader.
    NOT_LEADER = 5002;
    /// The environment of a step cannot be built on the worker.
    ENVIRONMENT_BUILD = 6010;
    /// Packages that a flow asks for do not go together, or are not there.
    ENVIRONMENT_UNRESOLVED = 6011;
    /// There is no uv, which resolves and builds environments.
    ENVIRONMENT_TOOL = 6012;
    /// A secret that the worker does not have.
    SECRET = 6101;
    /// A fault of Causey itself.
    BUG = 9001;
}

/// An error as a value: it can be stored in the log, sent over HTTP and printed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    pub code: Code,
    /// What went wrong and where: a lower-case fragment.
    pub message: String,
    /// How to mend it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Problem {
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), hint: None }
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
