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

/// All metrics, in the order they are shown.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "mean_abs",
        summary: "mean absolute change",
        value: |m| ratio(m.abs_delta, (m.elements - m.skipped) as f64),
    },
    Metric { name: "max_abs", summary: "largest absolute change", value: |m| m.max_delta },
    Metric { name: "l2", summary: "L2 norm of the change", value: |m| m.square_delta.sqrt() },
    Metric {
        name: "relative_l2",
        summary: "L2 norm of the change over that of the base (inf if only the base is zero)",
        value: |m| ratio(m.square_delta.sqrt(), m.square_base.sqrt()),
    },
    Metric { name: "cosine", summary: "cosine of base and tuned", value: cosine },
    Metric {
        name: "changed",
        summary: "share of elements changed",
        value: |m| ratio(m.changed as f64, m.elements as f64),
    },
    Metric {
        name: "flipped",
        summary: "share of elements whose sign flipped",
        value: |m| ratio(m.flipped as f64, m.elements as f64),
    },
    Metric {
        name: "nonfinite",
        summary: "NaN and infinite elements of both",
        value: |m| (m.nonfinite_base + m.nonfinite_tuned) as f64,
    },
];

fn ratio(a: f64, b: f64) -> f64 {
    if a == 0.0 { 0.0 } else { a / b }
}

fn cosine(m: &Moments) -> f64 {
    let norms = m.square_base.sqrt() * m.square_tuned.sqrt();
    if m.square_delta == 0.0 {
        1.0
    } else if norms == 0.0 {
        0.0
    } else {
        (m.product / norms).clamp(-1.0, 1.0)
    }
}
