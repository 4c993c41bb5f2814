//! The words coordinator and workers share: ids, the flow graph, inputs, records, dispatches and reports, NATS subjects and
//! the MessagePack codec. Data and codecs only: this crate knows no clock, no network and no disk.

pub mod artifact;
#[cfg(feature = "backoff")]
pub mod backoff;
pub mod chunk;
pub mod codec;
pub mod event;
pub mod flow;
pub mod gate;
pub mod id;
pub mod input;
pub mod letter;
pub mod live;
pub mod parameter;
pub mod policy;
pub mod problem;
pub mod record;
pub mod resources;
pub mod schedule;
pub mod share;
pub mod status;
pub mod subject;
pub mod surroundings;
pub mod task;
pub mod upkeep;
