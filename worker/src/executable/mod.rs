//! Steps that are commands: a flow file in TOML names them ([`flow_file`]), and a host runs them ([`host`]), which speaks the same
//! protocol as those of Python and R ([`task`], [`command`]). A command reads its inputs from files and leaves its outputs as files ([`values`]).

mod command;
mod definition;
pub mod flow_file;
pub mod host;
mod reader;
mod task;
mod values;
