//! Tests on real processes: the program `causey`, nats-server, Python. `make test` says where they are; see `causey_tests::tools`.

mod bad_input;
mod cancel;
mod checker;
mod cluster;
mod durability;
mod events;
mod failpoints;
mod fair;
mod faults;
mod flows;
mod gang;
mod gates;
mod languages;
mod letters;
mod limits;
mod log;
mod main_road;
mod marked;
mod network;
mod output;
mod resume;
mod schedules;
mod standby;
mod sweep;
mod why;
mod wide;
