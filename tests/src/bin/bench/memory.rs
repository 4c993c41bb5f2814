//! Memory of coordinator and worker at rest, before any flow has run.

use std::time::Duration;

use crate::machine::resident_megabytes;
use crate::stack::Stack;
use crate::table::Row;

const REST: Duration = Duration::from_secs(5);

/// Measures a stack that has just started.
pub(crate) async fn measure(stack: &Stack) -> anyhow::Result<Vec<Row>> {
    tokio::time::sleep(REST).await;
    Ok(vec![
        Row::less("memory", "coordinator at rest, resident", "MB", resident_megabytes(stack.coordinator_pid())?).gate(30.0).goal(15.0),
        Row::less("memory", "worker at rest without Python, resident", "MB", resident_megabytes(stack.worker_pid())?).gate(20.0).goal(10.0),
    ])
}
