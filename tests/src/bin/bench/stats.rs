//! Samples of one figure and what is said about them.

use serde::Serialize;

/// Measured values of one kind, in one unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples(Vec<f64>);

impl Samples {
    pub(crate) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Adds what another measurement found.
    pub(crate) fn join(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value below which `share` of the samples lie; 0 without samples.
    pub(crate) fn quantile(&self, share: f64) -> f64 {
        let mut ordered = self.0.clone();
        ordered.sort_by(f64::total_cmp);
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts of samples are small"
        )]
        let place = (ordered.len() as f64 * share) as usize;
        ordered.get(place.min(ordered.len().saturating_sub(1))).copied().unwrap_or_default()
    }

    pub(crate) fn median(&self) -> f64 {
        self.quantile(0.5)
    }

    /// Least, median, most and 99th percentile.
    pub(crate) fn spread(&self) -> Spread {
        Spread { min: self.quantile(0.0), median: self.median(), max: self.quantile(1.0), p99: self.quantile(0.99), samples: self.len() }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// How samples are distributed.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
    pub(crate) p99: f64,
    pub(crate) samples: usize,
}

/// Milliseconds between two times given in microseconds.
#[expect(clippy::cast_precision_loss, reason = "differences of times within one benchmark")]
pub(crate) fn millis_between(from: u64, to: u64) -> f64 {
    to.saturating_sub(from) as f64 / 1_000.0
}
