//! Everything people look at: texts made from the API's answers. All but `live` is pure: values in, lines out.

pub(crate) mod ansi;
pub(crate) mod failure;
pub(crate) mod format;
pub(crate) mod graph;
pub(crate) mod live;
pub(crate) mod output;
pub(crate) mod paint;
pub(crate) mod table;
pub(crate) mod tree;
pub(crate) mod waits;
