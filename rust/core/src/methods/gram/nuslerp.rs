//! Spherical interpolation by weights.

use super::{Blend, Gram, SPEC, Vectors, arc};
use crate::methods::{Base, Default, Kernel, Kind, Method, Parameter, Params, Spec, WEIGHT, elements, row};

/// Squared sine up to which directions cannot be told from parallel or opposite: dot products are exact to about 1e-13.
const ROUNDING: f64 = 1e-12;

pub(in crate::methods) struct Nuslerp;

static NUSLERP: Spec = Spec {
    name: "nuslerp",
    summary: "spherical interpolation by weights, of two models or of their changes from a base",
    formula: "(sin((1-t) a) u1 + sin(t a) u2) / sin a, t = w2 / (w1 + w2), u = x or x - base (then added to the base)",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; as in mergekit",
    parameters: &[
        WEIGHT,
        Parameter::shared("nuslerp_flatten", "take each tensor as one vector", Kind::Switch, Default::Switch(true)),
        Parameter::shared(
            "nuslerp_row_wise",
            "if not flattened: along the first dimension instead of the last",
            Kind::Switch,
            Default::Switch(false),
        ),
    ],
    base: Base::Optional,
    inputs: (2, 2),
    ..SPEC
};

impl Method for Nuslerp {
    fn spec(&self) -> &Spec {
        &NUSLERP
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let weights = params.numbers("weight");
        let sum = weights[0] + weights[1];
        let t = if sum.abs() < 1e-6 { 0.5 } else { weights[1] / sum };
        let columns = elements(shape) / shape.first().copied().unwrap_or(1).max(1);
        let vectors = match (params.switch("nuslerp_flatten"), params.switch("nuslerp_row_wise")) {
            (true, _) => Vectors::Tensor,
            (false, true) if columns <= 1 => Vectors::Tensor,
            (false, true) => Vectors::Column(columns),
            (false, false) => Vectors::Row(row(shape)),
        };
        Blend::boxed(2, vectors, move |gram| Ok(nuslerp(gram, t)))
    }
}

fn nuslerp(gram: &Gram, t: f64) -> Vec<f64> {
    let cosine = gram.cosine(0, 1);
    let zero = gram.norm(0) == 0.0 || gram.norm(1) == 0.0;
    if zero || 1.0 - cosine * cosine <= ROUNDING { vec![1.0 - t, t] } else { arc(cosine, t) }
}
