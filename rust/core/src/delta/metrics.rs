//! The metrics of a comparison: one line each, computed from the moments.

use super::moments::Moments;

/// A metric.
pub struct Metric {
    /// Name in tables, JSON and CSV.
    pub name: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// Its value.
    pub value: fn(&Moments) -> f64,
}

macro_rules! metrics {
    ($($name:literal, $summary:literal, $value:expr;)*) => {
        /// All metrics, in the order they are shown.
        pub static METRICS: &[Metric] = &[$(Metric { name: $name, summary: $summary, value: $value }),*];
    };
}

metrics! {
    "mean_abs", "mean absolute change", |m| ratio(m.abs_delta, paired(m));
    "rms", "root of the mean squared change", |m| ratio(m.square_delta, paired(m)).sqrt();
    "max_abs", "largest absolute change", |m| m.max_delta;
    "mean", "mean change, with its sign", |m| ratio(m.delta, paired(m));
    "l2", "L2 norm of the change", |m| m.square_delta.sqrt();
    "relative_l2", "L2 norm of the change over that of the base (inf if only the base is zero)",
        |m| ratio(m.square_delta.sqrt(), m.square_base.sqrt());
    "relative_mean", "mean absolute change over the mean absolute value of the base",
        |m| ratio(m.abs_delta, m.abs_base);
    "cosine", "cosine of base and tuned", cosine;
    "changed", "share of elements changed", |m| ratio(m.changed as f64, m.elements as f64);
    "unchanged", "share of elements that hold the same value, bit for bit",
        |m| ratio((m.elements - m.changed) as f64, m.elements as f64);
    "flipped", "share of elements whose sign flipped", |m| ratio(m.flipped as f64, m.elements as f64);
    "nonfinite", "NaN and infinite elements of both", |m| (m.nonfinite_base + m.nonfinite_tuned) as f64;
}

/// Pairs that are in the sums.
fn paired(m: &Moments) -> f64 {
    (m.elements - m.skipped) as f64
}

/// `a / b`; nothing over nothing is nothing.
pub(super) fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

pub(super) fn cosine(m: &Moments) -> f64 {
    let norms = m.square_base.sqrt() * m.square_tuned.sqrt();
    if m.square_delta == 0.0 {
        1.0
    } else if norms == 0.0 {
        0.0
    } else {
        (m.product / norms).clamp(-1.0, 1.0)
    }
}
