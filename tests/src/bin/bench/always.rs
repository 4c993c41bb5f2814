//! The same again with everything on disk before it counts: `sync_interval: always`, and artifact files synced.

use std::path::Path;

use crate::programs::Programs;
use crate::session::Session;
use crate::stack::{Stack, Sync};
use crate::table::Row;
use crate::{chain, crowd, event};

/// Measures on a stack of its own.
pub(crate) async fn measure(programs: &Programs, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let stack = Stack::start(programs, folder, Sync::Always).await?;
    let measured = async {
        let mut session = Session::open(&stack, programs).await?;
        let flows = folder.join("flows");
        let mut rows = vec![chain::measure_synced(&mut session, &flows).await?];
        rows.extend(event::measure_synced(&mut session, &flows).await?);
        rows.push(crowd::transitions(&mut session, Sync::Always).await?);
        anyhow::Ok(rows)
    };
    let measured = measured.await;
    stack.stop();
    measured
}
