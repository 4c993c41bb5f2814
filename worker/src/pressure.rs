//! Whether this machine is short of memory. A template that nobody uses then goes early: its flow can be imported again.

use std::fs;

/// Share of the last ten seconds in which some process waited for memory, in hundredths, that counts as short.
const WAITING_PERCENT: f64 = 10.0;

/// Of all memory, so much must be available: one part in 20.
const AVAILABLE_PART: u64 = 20;

pub(crate) fn is_short_of_memory() -> bool {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    is_short(&read("/proc/meminfo"), &read("/proc/pressure/memory"))
}

/// What the kernel says in its two files, of which either may be missing.
fn is_short(memory: &str, pressure: &str) -> bool {
    let kilobytes = |name: &str| {
        let line = memory.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    };
    let waiting = pressure.lines().find_map(|line| line.strip_prefix("some avg10=")?.split(' ').next()?.parse::<f64>().ok());
    let scarce = kilobytes("MemTotal").zip(kilobytes("MemAvailable")).is_some_and(|(total, available)| available < total / AVAILABLE_PART);
    scarce || waiting.is_some_and(|percent| percent >= WAITING_PERCENT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_that_is_available_or_much_waiting_is_short() {
        let memory = |available: u64| format!("MemTotal:       8000000 kB\nMemFree: 1 kB\nMemAvailable:   {available} kB\n");
        let pressure = |percent: &str| format!("some avg10={percent} avg60=0.00 avg300=0.00 total=6476613\nfull avg10=0.00\n");
        assert!(!is_short(&memory(4_000_000), &pressure("0.00")));
        assert!(is_short(&memory(300_000), &pressure("0.00")));
        assert!(is_short(&memory(4_000_000), &pressure("25.10")));
        assert!(!is_short("", ""));
    }
}
