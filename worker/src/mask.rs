//! Takes secrets out of whatever leaves an attempt beside its artifacts: output, errors, status, what it publishes. A secret that a step
//! prints in several writes is found too: the end of a piece that may be its beginning is held back until more comes.

use std::sync::Arc;

use aho_corasick::{AhoCorasick, MatchKind};
use causey_protocol::task::{ErrorInfo, Publication};
use serde_json::Value;

use crate::frame::{Failed, Finished};
use crate::result::Ended;

/// What stands in a secret's place.
const STARS: &str = "***";

/// Shorter lines of a secret of several lines are found only within the whole of it, in bytes.
const LINE_BYTES_MIN: usize = 6;

/// The secrets of one attempt. Without any it changes nothing and costs nothing.
#[derive(Clone, Default)]
pub(crate) struct Mask(Option<Arc<Known>>);

struct Known {
    finder: AhoCorasick,
    texts: Vec<Vec<u8>>,
}

impl std::fmt::Debug for Mask {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mask({})", self.0.as_ref().map_or(0, |known| known.texts.len()))
    }
}

impl Mask {
    pub(crate) fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut texts: Vec<Vec<u8>> = secrets.into_iter().flat_map(forms).map(String::into_bytes).collect();
        texts.sort();
        texts.dedup();
        if texts.is_empty() {
            return Self::default();
        }
        let finder = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&texts).expect("secrets are short");
        Self(Some(Arc::new(Known { finder, texts })))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    fn hides(&self, text: &str) -> bool {
        self.0.as_ref().is_some_and(|known| known.finder.is_match(text))
    }

    pub(crate) fn text(&self, text: &mut String) {
        if let Some(known) = self.0.as_ref().filter(|known| known.finder.is_match(text.as_str())) {
            *text = known.finder.replace_all(text, &vec![STARS; known.texts.len()]);
        }
    }

    /// All texts in a value, and the names of its fields.
    pub(crate) fn value(&self, value: &mut Value) {
        if self.0.is_none() {
            return;
        }
        match value {
            Value::String(text) => self.text(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.value(item)),
            Value::Object(fields) => {
                for (mut name, mut value) in std::mem::take(fields) {
                    self.text(&mut name);
                    self.value(&mut value);
                    fields.insert(name, value);
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }

    fn error(&self, error: &mut ErrorInfo) {
        let ErrorInfo { kind, message, traceback, file, step: _, line: _, source, column, end_column, hash: _, hint, classes: _ } = error;
        let before = source.clone();
        [Some(kind), Some(message), Some(traceback), file.as_mut(), source.as_mut(), hint.as_mut()]
            .into_iter()
            .flatten()
            .for_each(|text| self.text(text));
        if *source != before {
            // They would point elsewhere.
            (*column, *end_column) = (None, None);
        }
    }

    fn publication(&self, publication: &mut Publication) {
        let Publication { metrics, tags, description, .. } = publication;
        metrics.values_mut().for_each(|value| self.value(value));
        tags.values_mut().for_each(|tag| self.text(tag));
        self.text(description);
    }

    /// What is told of an attempt. A run that it starts gets its parameters as they are, which is why they must not hold a secret.
    pub(crate) fn ended(&self, mut ended: Ended) -> Ended {
        if self.0.is_none() {
            return ended;
        }
        match &mut ended {
            Ended::Finished(finished) => {
                let Finished { publish, start, .. } = finished.as_mut();
                publish.iter_mut().for_each(|publication| self.publication(publication));
                let telling = start.iter().find(|start| start.parameters.values().any(|value| self.is_in(value)));
                if let Some(start) = telling {
                    return self::telling(start.flow.as_str());
                }
            }
            Ended::Failed(failed) => {
                let Failed { error, .. } = failed.as_mut();
                self.error(error);
            }
            Ended::Broken { error, .. } => self.error(error),
        }
        ended
    }

    fn is_in(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.hides(text),
            Value::Array(items) => items.iter().any(|item| self.is_in(item)),
            Value::Object(fields) => fields.iter().any(|(name, value)| self.hides(name) || self.is_in(value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }
}

fn telling(flow: &str) -> Ended {
    let error = ErrorInfo {
        kind: causey_protocol::problem::Code::SECRET.to_string(),
        message: format!("a run of {flow} cannot be started: its parameters hold a secret, and everybody can read parameters"),
        hint: Some("let the steps of that flow ask for the secret themselves, with @secrets(sources=[…])".into()),
        ..ErrorInfo::default()
    };
    Ended::Broken { kind: causey_protocol::task::FailureKind::Permanent, error: Box::new(error) }
}

/// How a secret may stand in a text: as it is, with its quotes and backslashes escaped, and line by line.
fn forms(secret: &str) -> Vec<String> {
    let whole = secret.trim();
    if whole.is_empty() {
        return Vec::new();
    }
    let escaped = whole.replace('\\', "\\\\");
    let mut forms = vec![whole.to_owned(), escaped.replace('\n', "\\n"), escaped.replace('\n', "\\n").replace('"', "\\\"")];
    forms.push(escaped.replace('\n', "\\n").replace('\'', "\\'"));
    if whole.contains('\n') {
        forms.extend(whole.lines().map(str::trim).filter(|line| line.len() >= LINE_BYTES_MIN).map(str::to_owned));
    }
    forms
}

/// What one stream has said that may become a secret.
#[derive(Debug, Default)]
pub(crate) struct Held(Vec<u8>);

impl Held {
    /// What can be shown once `piece` has come.
    pub(crate) fn pass(&mut self, mask: &Mask, piece: &[u8]) -> Vec<u8> {
        let Some(known) = &mask.0 else { return piece.to_vec() };
        let mut all = std::mem::take(&mut self.0);
        all.extend_from_slice(piece);
        let (mut shown, mut from) = (Vec::with_capacity(all.len()), 0);
        let mut hold = known.beginning(&all, from);
        for found in known.finder.find_iter(&all) {
            // It may be the beginning of a longer one.
            if found.start() >= hold {
                break;
            }
            shown.extend_from_slice(&all[from..found.start()]);
            shown.extend_from_slice(STARS.as_bytes());
            from = found.end();
            hold = known.beginning(&all, from);
        }
        shown.extend_from_slice(&all[from..hold]);
        self.0 = all.split_off(hold);
        shown
    }

    /// What was held back, once nothing more comes.
    pub(crate) fn rest(&mut self, mask: &Mask) -> Vec<u8> {
        let held = std::mem::take(&mut self.0);
        match &mask.0 {
            Some(known) => known.finder.replace_all_bytes(&held, &vec![STARS; known.texts.len()]),
            None => held,
        }
    }
}

impl Known {
    /// Where the end of `all` begins that may go on as a secret, not before `from`; its length when there is none.
    fn beginning(&self, all: &[u8], from: usize) -> usize {
        let longest = self.texts.iter().map(Vec::len).max().unwrap_or_default();
        let first = from.max((all.len() + 1).saturating_sub(longest));
        let may_go_on = |at: &usize| self.texts.iter().any(|text| text.len() > all.len() - at && text.starts_with(&all[*at..]));
        (first..all.len()).find(may_go_on).unwrap_or(all.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(mask: &Mask, pieces: &[&str]) -> Vec<String> {
        let mut held = Held::default();
        let mut shown: Vec<String> = pieces.iter().map(|piece| String::from_utf8(held.pass(mask, piece.as_bytes())).unwrap()).collect();
        shown.push(String::from_utf8(held.rest(mask)).unwrap());
        shown
    }

    /// Row 40 of the fault model.
    #[test]
    fn a_secret_is_masked_wherever_the_writes_cut_it() {
        let mask = Mask::new(["s3cret-word"]);
        let text = "before s3cret-word after s3cret s3cret-wors3cret-word";
        for cut in 0..=text.len() {
            assert_eq!(in_pieces(&mask, &[&text[..cut], &text[cut..]]).concat(), "before *** after s3cret s3cret-wor***", "cut at {cut}");
        }
        let letters: Vec<&str> = text.split_inclusive(|_: char| true).collect();
        assert_eq!(in_pieces(&mask, &letters).concat(), "before *** after s3cret s3cret-wor***");
    }

    #[test]
    fn only_what_may_become_a_secret_is_held_back() {
        let mask = Mask::new(["s3cret"]);
        assert_eq!(in_pieces(&mask, &["hello s3", "m\n"]), ["hello ", "s3m\n", ""]);
        assert_eq!(in_pieces(&mask, &["hello s3"]), ["hello ", "s3"]);
        assert_eq!(in_pieces(&Mask::default(), &["hello s3"]), ["hello s3", ""]);
    }

    #[test]
    fn the_longer_of_two_secrets_is_hidden_whole() {
        let mask = Mask::new(["abc", "abcdef"]);
        assert_eq!(in_pieces(&mask, &["abc", "def abc", "d"]).concat(), "*** ***d");
    }

    #[test]
    fn lines_and_escaped_forms_are_hidden_too() {
        let mask = Mask::new(["-----BEGIN-----\nline\\one\n", "quo'te"]);
        assert_eq!(in_pieces(&mask, &["-----BEGIN-----\r\n", "{'k': 'quo\\'te'} line\\\\one"]).concat(), "***\r\n{'k': '***'} line\\\\one");
        let mut value = serde_json::json!({"x": ["quo'te!", 1], "quo'te": null});
        mask.value(&mut value);
        assert_eq!(value, serde_json::json!({"x": ["***!", 1], "***": null}));
    }
}
