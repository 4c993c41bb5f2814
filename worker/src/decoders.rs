//! What a worker reads that user code or a stranger wrote, for fuzz targets: whether it takes the bytes. The worker itself calls what
//! stands behind these.

use std::path::Path;

use crate::{connection, package};

/// Whether a host may say this line.
#[must_use]
pub fn host_line(line: &[u8]) -> bool {
    connection::read_line(line).is_ok()
}

/// Whether these bytes are a code package; unpacks it into `folder`, which is empty and nobody else's.
pub fn package(bytes: &[u8], folder: &Path) -> bool {
    package::unpack_archive(bytes, folder).is_ok()
}
