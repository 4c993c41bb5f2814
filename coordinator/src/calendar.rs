//! Cron patterns and time zones: at which instants a schedule fires, and how an instant is written. The engine knows instants only; this
//! is the one place that reads patterns, and it knows no flow's state.
//!
//! Daylight saving is croner's: a pattern with one hour, minute and second fires once a day, at the first instant after the gap when its
//! time is skipped and at the first of the two when it is doubled; any other pattern follows the clock, so that skipped times do not
//! fire and doubled ones fire twice.

use std::collections::BTreeMap;

use causey_artifacts::wall;
use causey_protocol::flow::{Definition, schedule_problem};
use causey_protocol::id::Timestamp;
use causey_protocol::parameter::Values;
use causey_protocol::problem::Problem;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::TimeZone;
use jiff::{Zoned, civil};
use serde_json::Value;

const MICROS: u64 = 1_000_000;

/// Why a pattern or a zone is none.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "cron `{cron}` has {found} fields; five (minute hour day month weekday), six (a year behind) or seven (seconds in front) are read"
    )]
    Fields { cron: String, found: usize },
    #[error("cron `{cron}` is not read: {because}")]
    Pattern { cron: String, because: String },
    #[error("time zone `{zone}` is unknown; use a name such as Europe/Berlin")]
    Zone { zone: String },
    #[error("cron `{cron}` never fires")]
    Never { cron: String },
}

/// A pattern in a zone.
#[derive(Clone, Debug)]
pub struct Calendar {
    pattern: Cron,
    zone: TimeZone,
}

impl Calendar {
    /// Reads a pattern as [`Schedule::cron`](causey_protocol::schedule::Schedule::cron) describes it. In six and seven fields weekdays
    /// count from Sunday = 1, as on AWS and in Quartz; in five from Sunday = 0.
    ///
    /// # Errors
    /// When the pattern or the zone cannot be read.
    pub fn new(cron: &str, zone: &str) -> Result<Self, Error> {
        let fields = cron.split_whitespace().count();
        let (text, quartz) = match fields {
            1 if cron.trim().starts_with('@') => (cron.to_owned(), false),
            5 => (cron.to_owned(), false),
            6 => (format!("0 {cron}"), true),
            7 => (cron.to_owned(), true),
            found => return Err(Error::Fields { cron: cron.into(), found }),
        };
        let parser = CronParser::builder().seconds(Seconds::Optional).year(Year::Optional);
        let parser = parser.alternative_weekdays(quartz).sloppy_ranges(quartz).build();
        let pattern = parser.parse(&text).map_err(|error| Error::Pattern { cron: cron.into(), because: error.to_string() })?;
        let zone = TimeZone::get(zone).map_err(|_| Error::Zone { zone: zone.into() })?;
        Ok(Self { pattern, zone })
    }

    fn local(&self, instant: Timestamp) -> Option<Zoned> {
        let second = i64::try_from(instant.0 / MICROS).ok()?;
        Some(jiff::Timestamp::from_second(second).ok()?.to_zoned(self.zone.clone()))
    }

    /// The first firing after `instant`.
    #[must_use]
    pub fn after(&self, instant: Timestamp) -> Option<Timestamp> {
        micros(&self.pattern.find_next_occurrence(&self.local(instant)?, false).ok()?)
    }

    /// The last firing at or before `instant`.
    #[must_use]
    pub fn up_to(&self, instant: Timestamp) -> Option<Timestamp> {
        micros(&self.pattern.find_previous_occurrence(&self.local(instant)?, true).ok()?)
    }

    /// The firings in `from..to`, as far as there are no more than `max`: the first, the last, and how many.
    #[must_use]
    pub fn span(&self, from: Timestamp, to: Timestamp, max: u32) -> Option<(Timestamp, Timestamp, u32)> {
        let mut next = self.after(Timestamp(from.0.div_ceil(MICROS).saturating_sub(1) * MICROS)).filter(|next| *next < to)?;
        let (first, mut total) = (next, 1);
        while let Some(after) = self.after(next).filter(|after| *after < to && total <= max) {
            (next, total) = (after, total + 1);
        }
        Some((first, next, total))
    }

    /// Reads an end of a span of time: a date, a date and time in this zone, or an instant with its offset.
    #[must_use]
    pub fn read(&self, text: &str) -> Option<Timestamp> {
        if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            return u64::try_from(instant.as_microsecond()).ok().map(Timestamp);
        }
        micros(&self.zone.to_ambiguous_zoned(text.parse::<civil::DateTime>().ok()?).compatible().ok()?)
    }

    /// Writes an instant in the forms of [`Schedule::parameters`](causey_protocol::schedule::Schedule::parameters).
    ///
    /// # Errors
    /// The parameter whose pattern asks for something unknown.
    pub fn write(&self, instant: Timestamp, forms: &BTreeMap<String, String>) -> Result<Values, String> {
        let Some(local) = self.local(instant) else { return Err("the instant is out of range".into()) };
        let written = |form: &str| match form {
            "date" => Ok(Value::from(local.date().to_string())),
            "datetime" => jiff::fmt::strtime::format("%Y-%m-%dT%H:%M:%S%:z", &local).map(Value::from),
            "seconds" => Ok(Value::from(instant.0 / MICROS)),
            pattern => jiff::fmt::strtime::format(pattern, &local).map(Value::from),
        };
        let value = |(name, form): (&String, &String)| match written(form) {
            Ok(value) => Ok((name.clone(), value)),
            Err(error) => Err(format!("parameter `{name}` takes the instant as {form:?}: {error}")),
        };
        forms.iter().map(value).collect()
    }
}

fn micros(local: &Zoned) -> Option<Timestamp> {
    u64::try_from(local.timestamp().as_microsecond()).ok().map(Timestamp)
}

/// Checks what the flow's schedules say against the calendar.
///
/// # Errors
/// The first [`Problem`]: a pattern or zone that cannot be read, a pattern that never fires, an instant that cannot be written.
pub fn check(definition: &Definition) -> Result<(), Problem> {
    for schedule in &definition.schedules {
        let wrong = |what: String| schedule_problem(definition, schedule, what).hint("see docs/operations.md, \"Schedules\"");
        let calendar = Calendar::new(&schedule.cron, schedule.zone()).map_err(|error| wrong(error.to_string()))?;
        let Some(next) = calendar.after(wall::now()) else {
            return Err(wrong(Error::Never { cron: schedule.cron.clone() }.to_string()));
        };
        calendar.write(next, &schedule.parameters).map_err(wrong)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        Timestamp(u64::try_from(text.parse::<jiff::Timestamp>().unwrap().as_microsecond()).unwrap())
    }

    fn next(cron: &str, zone: &str, after: &str, count: usize) -> Vec<String> {
        let calendar = Calendar::new(cron, zone).unwrap();
        let mut instant = at(after);
        let mut found = Vec::new();
        for _ in 0..count {
            instant = calendar.after(instant).unwrap();
            found.push(calendar.local(instant).unwrap().strftime("%a %m-%d %H:%M:%S%:z").to_string());
        }
        found
    }

    #[test]
    fn five_fields_are_crontabs_six_are_aws_and_seven_have_seconds() {
        let after = "2026-01-01T00:00:00Z";
        assert_eq!(next("30 2 * * 1", "UTC", after, 1), ["Mon 01-05 02:30:00+00:00"]);
        assert_eq!(next("30 2 ? * 1 *", "UTC", after, 1), ["Sun 01-04 02:30:00+00:00"]);
        assert_eq!(next("0 0 ? * SUN *", "UTC", after, 1), ["Sun 01-04 00:00:00+00:00"]);
        assert_eq!(next("0/20 * * * ? *", "UTC", after, 2), ["Thu 01-01 00:20:00+00:00", "Thu 01-01 00:40:00+00:00"]);
        assert_eq!(next("*/30 * * * * * *", "UTC", after, 2), ["Thu 01-01 00:00:30+00:00", "Thu 01-01 00:01:00+00:00"]);
        assert_eq!(next("0 0 1 1 ? 2031", "UTC", after, 1), ["Wed 01-01 00:00:00+00:00"]);
        assert_eq!(next("@daily", "Asia/Tokyo", after, 1), ["Fri 01-02 00:00:00+09:00"]);
    }

    #[test]
    fn a_time_that_is_skipped_fires_after_the_gap_and_one_that_is_doubled_fires_once() {
        // Clocks go from 2:00 to 3:00 on 29 March 2026 and from 3:00 to 2:00 on 25 October.
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00:00Z", 2),
            ["Sun 03-29 03:00:00+02:00", "Mon 03-30 02:30:00+02:00"]
        );
        assert_eq!(
            next("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00:00Z", 2),
            ["Sun 10-25 02:30:00+02:00", "Mon 10-26 02:30:00+01:00"]
        );
        assert_eq!(
            next("0 * * * *", "Europe/Berlin", "2026-03-28T23:30:00Z", 3),
            ["Sun 03-29 01:00:00+01:00", "Sun 03-29 03:00:00+02:00", "Sun 03-29 04:00:00+02:00"]
        );
        assert_eq!(
            next("0 * * * *", "Europe/Berlin", "2026-10-24T23:30:00Z", 3),
            ["Sun 10-25 02:00:00+02:00", "Sun 10-25 02:00:00+01:00", "Sun 10-25 03:00:00+01:00"]
        );
    }

    #[test]
    fn firings_are_found_backwards_as_they_are_forwards() {
        for (cron, zone) in [
            ("*/7 * * * *", "America/New_York"),
            ("0 */5 * * *", "Australia/Lord_Howe"),
            ("0 0 L * *", "UTC"),
            ("30 2 * * *", "Europe/Berlin"),
        ] {
            let calendar = Calendar::new(cron, zone).unwrap();
            let mut instant = at("2026-03-01T00:00:00Z");
            for _ in 0..500 {
                let next = calendar.after(instant).unwrap();
                assert_eq!(calendar.up_to(next), Some(next), "{cron} {zone}");
                assert_eq!(calendar.up_to(Timestamp(next.0 + MICROS / 2)), Some(next));
                assert!(next > instant);
                instant = next;
            }
        }
    }

    #[test]
    fn a_span_counts_what_fires_between_its_ends() {
        let daily = Calendar::new("0 0 * * *", "Europe/Berlin").unwrap();
        let ends = |from, to| (daily.read(from).unwrap(), daily.read(to).unwrap());
        let (from, to) = ends("2026-01-01", "2026-02-01");
        assert_eq!(daily.span(from, to, 100), Some((from, daily.read("2026-01-31").unwrap(), 31)));
        assert_eq!(daily.span(from, to, 10).unwrap().2, 11, "more than asked for is told apart");
        let (from, to) = ends("2026-01-01T00:00:01", "2026-01-01T23:00");
        assert_eq!(daily.span(from, to, 100), None);
        assert_eq!(daily.read("2025-12-31T23:00:00Z"), daily.read("2026-01-01"));
        assert_eq!(daily.read("yesterday"), None);
    }

    #[test]
    fn an_instant_is_written_in_the_local_time_of_its_zone() {
        let calendar = Calendar::new("0 0 * * *", "America/New_York").unwrap();
        let forms = [("day", "date"), ("at", "datetime"), ("n", "seconds"), ("month", "%Y-%m")];
        let forms = forms.map(|(name, form)| (name.to_owned(), form.to_owned())).into();
        let written = calendar.write(at("2026-01-01T02:00:00Z"), &forms).unwrap();
        let expected = serde_json::json!({"day": "2025-12-31", "at": "2025-12-31T21:00:00-05:00", "n": 1_767_232_800, "month": "2025-12"});
        assert_eq!(serde_json::to_value(written).unwrap(), expected);
        assert!(calendar.write(at("2026-01-01T02:00:00Z"), &[("x".into(), "%!".into())].into()).unwrap_err().contains("parameter `x`"));
    }

    #[test]
    fn what_is_no_schedule_is_said() {
        let error = |cron: &str, zone: &str| Calendar::new(cron, zone).unwrap_err().to_string();
        assert!(error("0 2 * *", "UTC").starts_with("cron `0 2 * *` has 4 fields"));
        assert!(error("61 * * * *", "UTC").starts_with("cron `61 * * * *` is not read"));
        assert!(error("0 0 * FOO *", "UTC").contains("FOO"));
        assert_eq!(error("0 2 * * *", "Mars/Base"), "time zone `Mars/Base` is unknown; use a name such as Europe/Berlin");
        for never in ["0 0 30 2 *", "0 0 * * ? 2020"] {
            assert_eq!(Calendar::new(never, "UTC").unwrap().after(at("2026-01-01T00:00:00Z")), None, "{never}");
        }
    }
}
