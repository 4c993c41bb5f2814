//! The rows of the result: what was measured, against which gate and goal, and whether it holds.

use serde::Serialize;

use crate::stats::Spread;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Better {
    Lower,
    Higher,
}

/// One figure. Rows without a gate inform only.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) group: &'static str,
    pub(crate) name: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
    pub(crate) gate: Option<f64>,
    pub(crate) goal: Option<f64>,
    pub(crate) measured: f64,
    /// Over the runs; for latencies over all samples.
    pub(crate) spread: Option<Spread>,
    /// Multiple of the floor computed from the raw figures of the same run.
    pub(crate) of_floor: Option<f64>,
    pub(crate) passed: Option<bool>,
}

impl Row {
    /// A figure of which less is better.
    pub(crate) fn less(group: &'static str, name: impl Into<String>, unit: &'static str, measured: f64) -> Self {
        Self {
            group,
            name: name.into(),
            unit,
            better: Better::Lower,
            gate: None,
            goal: None,
            measured,
            spread: None,
            of_floor: None,
            passed: None,
        }
    }

    /// A figure of which more is better.
    pub(crate) fn more(group: &'static str, name: impl Into<String>, unit: &'static str, measured: f64) -> Self {
        Self { better: Better::Higher, ..Self::less(group, name, unit, measured) }
    }

    pub(crate) fn gate(self, gate: f64) -> Self {
        let passed = match self.better {
            Better::Lower => self.measured <= gate,
            Better::Higher => self.measured >= gate,
        };
        Self { gate: Some(gate), passed: Some(passed), ..self }
    }

    pub(crate) fn goal(self, goal: f64) -> Self {
        Self { goal: Some(goal), ..self }
    }

    pub(crate) fn spread(self, spread: Spread) -> Self {
        Self { spread: Some(spread), ..self }
    }

    pub(crate) fn of_floor(self, floor: f64) -> Self {
        Self { of_floor: (floor > 0.0).then(|| self.measured / floor), ..self }
    }

    fn line(&self) -> [String; 8] {
        let optional = |value: Option<f64>| value.map_or_else(String::new, number);
        let verdict = match self.passed {
            Some(true) => "pass",
            Some(false) => "FAIL",
            None => "",
        };
        [
            self.name.clone(),
            self.unit.into(),
            optional(self.gate),
            optional(self.goal),
            number(self.measured),
            self.spread.map_or_else(String::new, |spread| format!("{} … {} ({})", number(spread.min), number(spread.max), spread.samples)),
            self.of_floor.map_or_else(String::new, |times| format!("{times:.2}×")),
            verdict.into(),
        ]
    }
}

/// Three significant digits, and thousands set apart.
fn number(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if size >= 1_000.0 => {
            let digits = format!("{value:.0}");
            let (head, tail) = digits.split_at(digits.len() - 3);
            format!("{head},{tail}")
        }
        _ if size >= 100.0 => format!("{value:.0}"),
        _ if size >= 10.0 => format!("{value:.1}"),
        _ if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

/// The rows as a Markdown table, aligned for a terminal as well.
pub(crate) fn render(rows: &[Row]) -> String {
    let head = ["figure", "unit", "gate", "goal", "measured", "min … max (samples)", "of floor", ""].map(str::to_owned);
    let lines: Vec<[String; 8]> = std::iter::once(head).chain(rows.iter().map(Row::line)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; 8] = std::array::from_fn(width);
    let cell = |(text, width): (&String, &usize)| format!(" {text}{} ", " ".repeat(width - text.chars().count()));
    let mut out = String::new();
    for (place, line) in lines.iter().enumerate() {
        let cells: Vec<String> = line.iter().zip(&widths).map(cell).collect();
        out += &format!("|{}|\n", cells.join("|"));
        if place == 0 {
            let rules: Vec<String> = widths.iter().map(|width| "-".repeat(width + 2)).collect();
            out += &format!("|{}|\n", rules.join("|"));
        }
    }
    out
}
