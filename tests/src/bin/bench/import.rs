//! What `import causey` costs over starting Python. Both are started in turn, so that the machine's moods fall on both.

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;

use crate::programs::Programs;
use crate::stats::Samples;
use crate::table::Row;

const BLOCKS: usize = 5;
const ROUNDS: usize = 25;

/// Measures the difference of the medians, in several blocks.
pub(crate) fn measure(programs: &Programs) -> anyhow::Result<Vec<Row>> {
    start(programs, "import causey")?;
    let (mut extra, mut bare) = (Samples::default(), Samples::default());
    for _ in 0..BLOCKS {
        let (mut without, mut with) = (Samples::default(), Samples::default());
        for _ in 0..ROUNDS {
            without.push(start(programs, "pass")?);
            with.push(start(programs, "import causey")?);
        }
        extra.push(with.median() - without.median());
        bare.push(without.median());
    }
    Ok(vec![
        Row::less("import", "SDK import over bare Python", "ms", extra.median()).spread(extra.spread()).gate(15.0).goal(5.0),
        Row::less("import", "bare Python, start to exit", "ms", bare.median()).spread(bare.spread()),
    ])
}

/// Milliseconds of one start. Isolated from the environment's own start-up files, which would hide the difference.
fn start(programs: &Programs, code: &str) -> anyhow::Result<f64> {
    let mut command = programs.python();
    command.args(["-c", code]).env("PYTHONPATH", &programs.sdk).current_dir(Path::new("/"));
    let begun = Instant::now();
    let status = command.status()?;
    ensure!(status.success(), "python -c {code:?} ended with {status}");
    Ok(begun.elapsed().as_secs_f64() * 1e3)
}
