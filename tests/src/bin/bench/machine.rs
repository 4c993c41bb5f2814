//! What the figures were measured on.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::programs::Programs;

/// Name → text, in the order of printing.
pub(crate) fn describe(programs: &Programs, folder: &Path) -> BTreeMap<&'static str, String> {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    BTreeMap::from([
        ("causey", answer(&programs.causey, &["--version"])),
        ("cores", cores.to_string()),
        ("cpu", value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into())),
        ("file system", file_system(folder).unwrap_or_else(|| "unknown".into())),
        ("kernel", fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("load before", fs::read_to_string("/proc/loadavg").unwrap_or_default().split(' ').take(3).collect::<Vec<_>>().join(" ")),
        ("memory", memory().unwrap_or_else(|| "unknown".into())),
        ("nats-server", answer(&programs.nats_server, &["--version"]).trim_start_matches("nats-server: ").to_owned()),
        ("python", answer(&programs.python, &["--version"])),
    ])
}

fn answer(program: &Path, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|error| error.to_string(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The value of the first `name : value` line.
fn value_of(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn memory() -> Option<String> {
    let kibibytes: u64 = value_of("/proc/meminfo", "MemTotal")?.split(' ').next()?.parse().ok()?;
    Some(format!("{} GiB", kibibytes.div_ceil(1024 * 1024)))
}

/// The type of the file system that holds `folder`.
fn file_system(folder: &Path) -> Option<String> {
    let folder = folder.canonicalize().ok()?;
    let mounts = fs::read_to_string("/proc/mounts").ok()?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let holding = mounts.filter(|(place, _)| folder.starts_with(place)).max_by_key(|(place, _)| place.len());
    holding.map(|(_, kind)| kind.to_owned())
}

/// Resident memory of a process, in MB.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(crate) fn resident_megabytes(pid: u32) -> anyhow::Result<f64> {
    let text = value_of(&format!("/proc/{pid}/status"), "VmRSS").ok_or_else(|| anyhow::anyhow!("process {pid} is gone"))?;
    let kibibytes: u64 = text.split(' ').next().unwrap_or_default().parse()?;
    Ok(kibibytes as f64 * 1_024.0 / 1e6)
}
