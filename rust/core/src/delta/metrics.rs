//! The metrics of a comparison: one line each, computed from the moments.

use serde_json::{Value, json};

use super::QUANTILES;
use super::moments::Moments;
use super::options::Options;

/// Which values of a metric tell most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tells {
    /// The largest.
    Most,
    /// The smallest.
    Least,
    /// Those far from zero, on either side.
    Either,
}

/// A metric.
pub struct Metric {
    /// Name in tables, JSON and CSV.
    pub name: &'static str,
    /// One line: what it is.
    pub summary: &'static str,
    /// Which of its values tell most.
    pub tells: Tells,
    /// Whether it counts elements, so that it means something where they cannot be computed on.
    pub counts: bool,
    /// Its value.
    pub value: fn(&Moments) -> f64,
}

macro_rules! metrics {
    ($($name:literal, $summary:literal, $tells:ident, $value:expr;)*) => {
        /// All metrics, in the order they are shown.
        pub static METRICS: &[Metric] =
            &[$(Metric { name: $name, summary: $summary, tells: Tells::$tells, counts: counts($name), value: $value }),*];
    };
}

metrics! {
    "mean_abs", "mean absolute change", Most, |m| ratio(m.abs_delta, paired(m));
    "rms", "root of the mean squared change", Most, |m| ratio(m.square_delta, paired(m)).sqrt();
    "max_abs", "largest absolute change", Most, |m| m.max_delta;
    "mean", "mean change, with its sign", Either, |m| ratio(m.delta, paired(m));
    "l2", "L2 norm of the change", Most, |m| m.square_delta.sqrt();
    "relative_l2", "L2 norm of the change over that of the base (inf if only the base is zero)", Most,
        |m| ratio(m.square_delta.sqrt(), m.square_base.sqrt());
    "relative_mean", "mean absolute change over the mean absolute value of the base", Most,
        |m| ratio(m.abs_delta, m.abs_base);
    "cosine", "cosine of base and tuned", Least, cosine;
    "changed", "share of elements changed", Most, |m| ratio(m.changed as f64, m.elements as f64);
    "unchanged", "share of elements that hold the same value, bit for bit", Least,
        |m| ratio((m.elements - m.changed) as f64, m.elements as f64);
    "flipped", "share of elements whose sign flipped", Most, |m| ratio(m.flipped as f64, m.elements as f64);
    "nonfinite", "NaN and infinite elements of both", Most, |m| (m.nonfinite_base + m.nonfinite_tuned) as f64;
}

/// What is told where weights are quantised.
pub(super) const BELOW_STEP: &str = "below_step";

/// Every metric that a comparison with these options has, of `quantised` models or not: what its figures are called, and what they mean.
///
/// Those of the order of the changes (`spread`) are there for tensors, layers, modules and the total alone.
pub fn specs(options: &Options, quantised: bool) -> Vec<Value> {
    let spec = |name: &str, summary: &str, tells: Tells, spread: bool| {
        let (signed, ascending) = (tells == Tells::Either, tells == Tells::Least);
        json!({"name": name, "summary": summary, "signed": signed, "ascending": ascending, "spread": spread})
    };
    let mut found: Vec<Value> = METRICS.iter().map(|m| spec(m.name, m.summary, m.tells, false)).collect();
    if quantised {
        let summary =
            "of the changed elements of quantised weights, the share that changed by less than half a step of it";
        found.push(spec(BELOW_STEP, summary, Tells::Most, false));
    }
    let Some(above) = &options.spread else { return found };
    let mut ordered = |name: &str, summary: &str| found.push(spec(name, summary, Tells::Most, true));
    for (name, q) in QUANTILES {
        ordered(name, &format!("{q} quantile of |change|"));
    }
    ordered("gini", "Gini coefficient of |change|: towards 1 if few elements hold all of it");
    ordered("top1", "share of all |change| held by the 1 % of elements that changed most");
    for t in above {
        let of = if t.relative { " times the mean of |base|" } else { "" };
        ordered(&format!("above_{}", t.text), &format!("share of elements with |change| above {}{of}", t.value));
    }
    found
}

/// Metrics that count elements, and do not look into them.
const fn counts(name: &str) -> bool {
    matches!(name.as_bytes(), b"changed" | b"unchanged" | b"nonfinite")
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
