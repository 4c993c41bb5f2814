//! Reads a TOML document by hand, so that everything wrong is told at once, each with its line and how to mend it. It knows keys and
//! kinds of values, not what they mean.

use std::ops::Range;

use serde::Serialize;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// How alike a name must be to be meant, 0 to 1.
const ALIKE: f64 = 0.75;

/// Something wrong with a flow file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Flaw {
    pub message: String,
    pub line: u32,
    pub step: Option<String>,
    pub hint: Option<String>,
}

/// A value with its place.
pub(super) type Value<'t> = Spanned<DeValue<'t>>;

/// The document's text and what has been found wrong with it.
#[derive(Debug)]
pub(super) struct Reader<'t> {
    text: &'t str,
    pub(super) flaws: Vec<Flaw>,
    /// The step that is being read.
    pub(super) step: Option<String>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str) -> Self {
        Self { text, flaws: Vec::new(), step: None }
    }

    /// The whole document; `None` when it is no TOML.
    pub(super) fn document(&mut self) -> Option<DeTable<'t>> {
        match DeTable::parse(self.text) {
            Ok(table) => Some(table.into_inner()),
            Err(error) => {
                let span = error.span().unwrap_or_default();
                let message = format!("this is no TOML: {}", error.message().replace('\n', ", "));
                self.flaw(span, message, None);
                None
            }
        }
    }

    /// The line of a place, from 1.
    pub(super) fn line(&self, at: usize) -> u32 {
        let before = &self.text.as_bytes()[..at.min(self.text.len())];
        u32::try_from(before.iter().filter(|byte| **byte == b'\n').count()).unwrap_or(u32::MAX).saturating_add(1)
    }

    pub(super) fn flaw(&mut self, span: Range<usize>, message: impl Into<String>, hint: Option<String>) {
        let line = self.line(span.start);
        self.flaws.push(Flaw { message: message.into(), line, step: self.step.clone(), hint });
    }

    /// Names every key that is not one of `known`.
    pub(super) fn only(&mut self, table: &DeTable<'t>, known: &[&str], place: &str) {
        for (key, _) in table.iter() {
            let name: &str = key.get_ref();
            if !known.contains(&name) {
                let hint = did_you_mean(name, known).unwrap_or_else(|| format!("known here: {}", known.join(", ")));
                self.flaw(key.span(), format!("`{name}` is not a key of {place}"), Some(hint));
            }
        }
    }

    fn wrong(&mut self, value: &Value<'t>, key: &str, wanted: &str) {
        let found = value.get_ref().type_str();
        self.flaw(value.span(), format!("`{key}` must be {wanted}, not {}", a(found)), None);
    }

    pub(super) fn table<'v>(&mut self, value: &'v Value<'t>, key: &str) -> Option<&'v DeTable<'t>> {
        let found = value.get_ref().as_table();
        if found.is_none() {
            self.wrong(value, key, "a table");
        }
        found
    }

    pub(super) fn text<'v>(&mut self, value: &'v Value<'t>, key: &str) -> Option<&'v str> {
        let found = value.get_ref().as_str();
        if found.is_none() {
            self.wrong(value, key, "text in quotes");
        }
        found
    }

    pub(super) fn flag(&mut self, value: &Value<'t>, key: &str) -> Option<bool> {
        let found = value.get_ref().as_bool();
        if found.is_none() {
            self.wrong(value, key, "true or false");
        }
        found
    }

    pub(super) fn texts(&mut self, value: &Value<'t>, key: &str) -> Option<Vec<String>> {
        let Some(array) = value.get_ref().as_array() else {
            self.wrong(value, key, "a list of texts");
            return None;
        };
        let texts: Vec<String> = array.iter().filter_map(|item| self.text(item, key).map(str::to_owned)).collect();
        (texts.len() == array.len()).then_some(texts)
    }

    pub(super) fn number(&mut self, value: &Value<'t>, key: &str) -> Option<f64> {
        let found = number(value.get_ref());
        if found.is_none() {
            self.wrong(value, key, "a number");
        }
        found
    }

    pub(super) fn integer(&mut self, value: &Value<'t>, key: &str) -> Option<i64> {
        let found = integer(value.get_ref());
        if found.is_none() {
            self.wrong(value, key, "a whole number");
        }
        found
    }

    /// Seconds: a number of them, or text such as `"90s"`, `"15m"`, `"2h"`, `"1d"`, `"500ms"`.
    pub(super) fn seconds(&mut self, value: &Value<'t>, key: &str) -> Option<f64> {
        let found = match value.get_ref() {
            DeValue::String(text) => seconds(text),
            other => number(other),
        };
        if found.is_none() {
            self.wrong(value, key, "a time such as \"90s\", \"15m\" or \"2h\", or a number of seconds");
        }
        found
    }

    pub(super) fn json(&mut self, value: &Value<'t>, key: &str) -> Option<serde_json::Value> {
        let found = json(value.get_ref());
        if found.is_none() {
            self.wrong(value, key, "a value that JSON has too");
        }
        found
    }
}

fn a(kind: &str) -> String {
    let article = if kind.starts_with(['a', 'i']) { "an" } else { "a" };
    format!("{article} {kind}")
}

/// The name among `known` that was probably meant.
pub(super) fn did_you_mean(name: &str, known: &[&str]) -> Option<String> {
    let likeness = |other: &&str| strsim::jaro_winkler(name, other);
    let best = known.iter().copied().max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    (likeness(&best) >= ALIKE).then(|| format!("did you mean `{best}`?"))
}

fn number(value: &DeValue<'_>) -> Option<f64> {
    match value {
        DeValue::Float(float) => float.as_str().parse().ok(),
        #[expect(clippy::cast_precision_loss, reason = "times, shares and sizes are small")]
        other => integer(other).map(|number| number as f64),
    }
}

fn integer(value: &DeValue<'_>) -> Option<i64> {
    let number = value.as_integer()?;
    i64::from_str_radix(number.as_str(), number.radix()).ok()
}

fn seconds(text: &str) -> Option<f64> {
    let digits = text.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let factor = match &text[digits.len()..] {
        "ms" => 0.001,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return None,
    };
    digits.trim().parse::<f64>().ok().filter(|number| number.is_finite() && *number >= 0.0).map(|number| number * factor)
}

fn json(value: &DeValue<'_>) -> Option<serde_json::Value> {
    Some(match value {
        DeValue::String(text) => text.as_ref().into(),
        DeValue::Boolean(flag) => (*flag).into(),
        DeValue::Integer(_) => integer(value)?.into(),
        DeValue::Float(_) => serde_json::Number::from_f64(number(value)?)?.into(),
        DeValue::Array(items) => items.iter().map(|item| json(item.get_ref())).collect::<Option<Vec<_>>>()?.into(),
        DeValue::Table(table) => {
            let fields = table.iter().map(|(key, value)| Some((key.get_ref().to_string(), json(value.get_ref())?)));
            serde_json::Value::Object(fields.collect::<Option<_>>()?)
        }
        DeValue::Datetime(_) => return None,
    })
}
