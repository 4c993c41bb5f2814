//! The pure engine: inputs and state give records, folding records gives the state, and the state says which commands must be in
//! force. No clock, network, disk, randomness or unordered map: results depend on nothing but the arguments.

mod backfill;
mod chunk;
mod command;
mod concurrency;
mod engine;
mod foreach;
mod invariant;
mod join;
mod letter;
mod name;
mod queued;
mod reason;
mod retire;
mod retry;
mod run;
mod schedule;
mod state;
mod storage;
mod switch;
mod table;
mod tasks;
mod timeout;
mod trigger;
mod why;

pub use backfill::Backfill;
pub use command::{Command, commands, dispatch, outstanding};
pub use concurrency::Waits;
pub use engine::decide;
pub use invariant::violations;
pub use letter::Letter;
pub use queued::{Queued, queued};
pub use reason::{HeldEvent, PoolSeen, Reason};
pub use retire::{History, HistoryError, RetiredRun};
pub use run::{Chunk, Foreach, Join, OpenDispatch, Run, StepSummary, Task, TaskRef, TaskState};
pub use schedule::{Fired, Firing, Schedules};
pub use state::{Deployment, EventOutcome, Held, ModelVersion, Notification, State};
pub use storage::HeldBack;
pub use table::{Change, Table, TableId};
pub use tasks::Place;
pub use why::{Question, Wait, why};
