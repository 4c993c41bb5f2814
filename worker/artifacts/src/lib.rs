//! The artifact store: bytes that are written once and never changed, found by path. Two layouts share one form:
//! `runs/<run>/<key>` holds what one attempt left, `cas/<digest>` holds content by its BLAKE3 digest. A store is a local folder
//! or an S3 bucket (in simulations, memory); copying a folder into a bucket is a migration. The crate knows neither tasks nor NATS.

pub mod archive;
mod compose;
mod error;
pub mod failpoint;
mod folder;
mod memory;
mod object;
mod read;
mod s3;
mod spare;
mod store;
pub mod wall;

pub use compose::{OutputPlace, compose, tail};
pub use error::{ObjectError, OpenError, ReadError, StoreError};
pub use memory::{Memory, Way};
pub use object::{Artifact, Manifest, Object, ObjectLink, OutputEntry, ReportNote, TaskNote, Where};
pub use read::{Chunk, read_artifact, read_chunks, read_object, read_output};
pub use s3::S3Access;
pub use store::{Put, Store, hash_file};
