//! The engine from outside: scenarios, and properties over random happenings.

mod everything;
mod golden;
mod limits;
mod properties;
mod scenarios;
mod switches;
mod upkeep;
mod world;
