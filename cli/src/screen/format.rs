//! Times, durations and counts as people read them.

use std::time::{SystemTime, UNIX_EPOCH};

/// `41 ms`, `0.9 s`, `2 m 05 s`, `3 h 07 m`.
pub(crate) fn duration(micros: u64) -> String {
    let (millis, seconds) = (micros / 1_000, micros / 1_000_000);
    match seconds {
        _ if millis < 200 => format!("{millis} ms"),
        0..60 => format!("{}.{} s", millis / 1_000, millis % 1_000 / 100),
        60..3600 => format!("{} m {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} m", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A moment in local time: `2026-11-23 07:44:54`.
pub(crate) fn moment(micros: u64) -> String {
    let stamp = i64::try_from(micros).ok().and_then(|micros| jiff::Timestamp::from_microsecond(micros).ok());
    stamp.map_or_else(String::new, |stamp| stamp.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// Now, in microseconds since 1970.
pub(crate) fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// `1 task`, `6 tasks`.
pub(crate) fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// The first line of a text, cut to `width` characters.
pub(crate) fn one_line(text: &str, width: usize) -> String {
    clip(text.lines().next().unwrap_or_default(), width)
}

/// At most `width` characters, the last one `…` if some are missing. Control characters, which could move the cursor, become `·`.
pub(crate) fn clip(text: &str, width: usize) -> String {
    let clean = text.chars().map(|c| if c.is_control() && c != '\t' { '·' } else { c });
    let shown: String = clean.clone().take(width).collect();
    if clean.count() <= width { shown } else { shown.chars().take(width.saturating_sub(1)).chain(['…']).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_the_unit_people_would_say() {
        let shown = [0, 41_000, 250_000, 900_000, 59_999_000, 125_000_000, 11_220_000_000].map(duration);
        assert_eq!(shown, ["0 ms", "41 ms", "0.2 s", "0.9 s", "59.9 s", "2 m 05 s", "3 h 07 m"]);
    }

    #[test]
    fn what_a_step_prints_cannot_move_the_cursor() {
        assert_eq!(clip("a\x1b[2Jb", 20), "a·[2Jb");
        assert_eq!(clip("abcdef", 4), "abc…");
    }
}
