//! A wide foreach and its join: how many tasks a second.

use std::path::Path;

use crate::flows::{self, FOREACH_ITEMS};
use crate::log;
use crate::session::Session;
use crate::stack::SLOTS;
use crate::stats::Samples;
use crate::table::Row;
use crate::trace::Used;

const FLOW: &str = "BenchForeach";

/// Measures both kinds of hosts.
pub(crate) async fn measure(session: &mut Session<'_>, folder: &Path, traced: bool) -> anyhow::Result<(Vec<Row>, f64)> {
    session.deploy(&flows::write(folder, FLOW, &flows::foreach(FLOW, FOREACH_ITEMS))?)?;
    let mut rows = Vec::new();
    let mut gap = 0.0_f64;
    for (host, warm_up, runs, gate, goal) in [("reuse", 2, 9, 5_000.0, 10_000.0), ("fork", 1, 5, 500.0, 800.0)] {
        let (mut rates, mut walls) = (Samples::default(), Samples::default());
        for number in 0..warm_up + runs {
            let place = session.place().await?;
            let before = Used::read(session.stack);
            let ended = session.run(FLOW, host).await?;
            if number < warm_up {
                continue;
            }
            let after = Used::read(session.stack);
            let timeline = log::timeline(session, place, &ended.run).await?;
            #[expect(clippy::cast_precision_loss, reason = "a thousand")]
            rates.push(FOREACH_ITEMS as f64 / timeline.fan_millis() * 1e3);
            walls.push(ended.wall.as_secs_f64() * 1e3);
            gap = gap.max(timeline.longest_gap);
            if traced {
                println!(
                    "foreach, {host}: split → join {:.1} ms, run {:.1} ms in {} turns, longest gap {:.1} ms",
                    timeline.fan_millis(),
                    timeline.millis(),
                    timeline.turns,
                    timeline.longest_gap
                );
                after.print_since(before, FOREACH_ITEMS);
            }
        }
        let name = format!("foreach of {FOREACH_ITEMS}, {host}, {SLOTS} slots");
        rows.push(Row::more("foreach", name.clone(), "steps/s", rates.median()).spread(rates.spread()).gate(gate).goal(goal));
        rows.push(Row::less("foreach", format!("{name}, whole run by the client's clock"), "ms", walls.median()).spread(walls.spread()));
    }
    Ok((rows, gap))
}
