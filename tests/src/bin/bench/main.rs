//! `make bench`: measures Causey against the gates that must hold and the goals it aims at, with the raw figures of the machine beside
//! them. Builds nothing; starts its own stack in a temporary folder. The exit status is 1 if a gate does not hold.

mod always;
mod chain;
mod cold;
mod crowd;
mod engine;
mod event;
mod floor;
mod flows;
mod foreach;
mod import;
mod log;
mod machine;
mod memory;
mod native;
mod peer;
mod programs;
mod session;
mod stack;
mod stats;
mod stub;
mod table;
mod takeover;
mod trace;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use serde_json::json;

use crate::floor::Floor;
use crate::programs::Programs;
use crate::session::Session;
use crate::stack::{Stack, Sync};
use crate::table::Row;

/// The coordinator's, so that the bare engine is measured as it runs there.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "usage: bench [NAME]... [--json FILE] [--trace]
  NAME     engine, memory, native, floor, chain, foreach, event, cold, import, crowd, always, takeover; all of them without a name
  --json   write machine and rows to FILE as well
  --trace  print where the time of a step goes";

const NAMES: [&str; 12] =
    ["engine", "memory", "native", "floor", "chain", "foreach", "event", "cold", "import", "crowd", "always", "takeover"];

/// A step loop that stands still for longer has a fault, however good its median is.
const GAP_MAX_MILLIS: f64 = 250.0;

struct Arguments {
    names: Vec<String>,
    json: Option<PathBuf>,
    trace: bool,
}

impl Arguments {
    fn read() -> anyhow::Result<Self> {
        let mut read = Self { names: Vec::new(), json: None, trace: false };
        let mut given = std::env::args().skip(1);
        while let Some(argument) = given.next() {
            match argument.as_str() {
                "--json" => read.json = Some(given.next().context(USAGE)?.into()),
                "--trace" => read.trace = true,
                name if NAMES.contains(&name) => read.names.push(argument),
                _ => bail!("{argument:?} is not known\n{USAGE}"),
            }
        }
        Ok(read)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

// One thread, as in the hot loops that the raw figures are compared with.
#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.first().is_some_and(|first| first == peer::ROLE) {
        peer::run(&words[1..]).await?;
        return Ok(ExitCode::SUCCESS);
    }
    let arguments = Arguments::read()?;
    let folder = tempfile::Builder::new().prefix("causey-bench-").tempdir()?;
    spread(folder.path());
    let programs = Programs::find(folder.path())?;
    let machine = machine::describe(&programs, folder.path());
    for (name, value) in &machine {
        println!("{name:12} {value}");
    }
    println!();
    let mut rows = Vec::new();
    if arguments.wants("engine") {
        eprintln!("measuring engine …");
        rows.extend(engine::measure()?);
    }
    if ["memory", "native", "floor", "chain", "foreach", "event"].iter().any(|name| arguments.wants(name)) {
        rows.extend(with_stack(&arguments, &programs, folder.path()).await?);
    }
    if arguments.wants("cold") {
        eprintln!("measuring cold …");
        rows.extend(cold::measure(&programs, &folder.path().join("cold"))?);
    }
    if arguments.wants("import") {
        eprintln!("measuring import …");
        rows.extend(import::measure(&programs)?);
    }
    if arguments.wants("crowd") {
        eprintln!("measuring crowd …");
        rows.extend(crowd::measure(&programs, &folder.path().join("crowd")).await?);
    }
    if arguments.wants("always") {
        eprintln!("measuring always …");
        rows.extend(always::measure(&programs, &folder.path().join("always")).await?);
    }
    if arguments.wants("takeover") {
        eprintln!("measuring takeover …");
        rows.extend(takeover::measure(&folder.path().join("takeover")).await?);
    }
    println!("{}", table::render(&rows));
    if let Some(file) = &arguments.json {
        std::fs::write(file, serde_json::to_vec_pretty(&json!({"machine": machine, "rows": rows}))?)?;
    }
    let failed = rows.iter().filter(|row| row.passed == Some(false)).count();
    if failed == 0 {
        println!("all gates hold");
        return Ok(ExitCode::SUCCESS);
    }
    println!("{failed} gates do not hold");
    Ok(ExitCode::FAILURE)
}

/// Has an ext4 place the folders made in `folder` far from each other and from what is beside it, as they lie on a machine that does
/// nothing else: where many files were deleted in the last minutes, as by an earlier benchmark, making one takes up to a millisecond.
fn spread(folder: &Path) {
    use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
    let spread = || -> std::io::Result<()> {
        let opened = std::fs::File::open(folder)?;
        Ok(ioctl_setflags(&opened, ioctl_getflags(&opened)? | IFlags::TOPDIR)?)
    };
    if let Err(error) = spread() {
        eprintln!("folders lie where the file system puts them: {error}");
    }
}

async fn with_stack(arguments: &Arguments, programs: &Programs, folder: &Path) -> anyhow::Result<Vec<Row>> {
    let stack = Stack::start(programs, &folder.join("stack"), Sync::Default).await?;
    let measured = on_stack(arguments, programs, folder, &stack).await;
    stack.stop();
    measured
}

async fn on_stack(arguments: &Arguments, programs: &Programs, folder: &Path, stack: &Stack) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    if arguments.wants("memory") {
        eprintln!("measuring memory …");
        rows.extend(memory::measure(stack).await?);
    }
    let mut session = Session::open(stack, programs).await?;
    let mut floor = Floor::default();
    let flows = folder.join("flows");
    let (mut measured, mut gap) = (Vec::new(), 0.0_f64);
    let compared = ["floor", "chain", "event"].iter().any(|name| arguments.wants(name));
    if compared {
        eprintln!("measuring floor …");
        floor.measure(&session, programs, folder).await?;
    }
    if arguments.wants("chain") {
        eprintln!("measuring chain …");
        let (found, longest) = chain::measure(&mut session, &flows, arguments.trace).await?;
        measured.extend(found);
        gap = gap.max(longest);
        // Again on the other side, so that a drifting machine shows in the floor too.
        floor.measure(&session, programs, folder).await?;
    }
    if arguments.wants("event") {
        eprintln!("measuring event …");
        measured.extend(event::measure(&mut session, &flows).await?);
    }
    if arguments.wants("foreach") {
        eprintln!("measuring foreach …");
        let (found, longest) = foreach::measure(&mut session, &flows, arguments.trace).await?;
        measured.extend(found);
        gap = gap.max(longest);
    }
    if arguments.wants("native") {
        // Last: what it leaves in the streams is written to disk while others would be measured.
        eprintln!("measuring native …");
        measured.extend(native::measure(&mut session).await?);
    }
    if gap > 0.0 {
        measured.push(Row::less("gap", "longest time between two turns of a run, chain and foreach", "ms", gap).gate(GAP_MAX_MILLIS));
    }
    if compared {
        let step = floor.step_millis();
        rows.extend(floor.rows());
        measured = measured.into_iter().map(|row| if row.unit == "ms/step" { row.of_floor(step) } else { row }).collect();
        if let Some(times) = measured.iter().find_map(|row| row.of_floor) {
            measured.push(Row::less("chain", "chain, reuse, as a multiple of the floor", "×", times).gate(1.9));
        }
    }
    rows.extend(measured);
    Ok(rows)
}
