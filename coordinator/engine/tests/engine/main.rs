//! The engine from outside: scenarios, and properties over random happenings.

mod backfills;
mod concurrency;
mod everything;
mod fair;
mod gangs;
mod gates;
mod golden;
mod graphs;
mod letters;
mod limits;
mod memos;
mod pools;
mod properties;
mod resumes;
mod scenarios;
mod schedules;
mod switches;
mod upkeep;
mod why;
mod work;
mod world;
