//! Harness of the tests on real processes: finds the programs, gives every test a folder of its own, starts stacks and services in it,
//! and judges the streams and the store from outside. It stops what it started and nothing else.

pub mod api;
pub mod bounds;
pub mod cable;
pub mod cluster;
pub mod decoders;
pub mod disk;
pub mod history;
pub mod process;
pub mod project;
pub mod reports;
pub mod service;
pub mod simulation;
pub mod stack;
pub mod tools;
pub mod wait;
pub mod wheels;

pub use api::Api;
pub use cable::{Cable, Direction};
pub use cluster::Cluster;
pub use disk::SmallDisk;
pub use history::History;
pub use project::{Output, Project};
pub use service::{Coordinator, Nats, Service};
pub use stack::{Role, Stack};
pub use wait::until;
