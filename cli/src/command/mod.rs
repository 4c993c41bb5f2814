//! One module per command of the command line.

pub(crate) mod autoscale;
pub(crate) mod backfill;
pub(crate) mod cancel;
pub(crate) mod check;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod events;
pub(crate) mod follow;
pub(crate) mod gates;
pub(crate) mod given;
pub(crate) mod letters;
pub(crate) mod logs;
pub(crate) mod models;
pub(crate) mod pools;
pub(crate) mod query;
pub(crate) mod resume;
pub(crate) mod run;
pub(crate) mod runs;
pub(crate) mod schedules;
pub(crate) mod service;
pub(crate) mod show;
pub(crate) mod state;
pub(crate) mod subscriber;
pub(crate) mod watch;
pub(crate) mod why;
