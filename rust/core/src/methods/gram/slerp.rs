//! Spherical interpolation between two models.

use super::{Blend, Gram, SPEC, Vectors, ZERO, arc};
use crate::methods::{ANY, Base, Default, Kernel, Method, Parameter, Params, Spec};

/// Cosine beyond which models count as collinear; as in mergekit.
const COLLINEAR: f64 = 0.9995;

pub(in crate::methods) struct Slerp;

static SLERP: Spec = Spec {
    name: "slerp",
    summary: "spherical interpolation between the base and one other model",
    formula: "(sin((1-t) a) x0 + sin(t a) x1) / sin a, a = angle(x0, x1); linear when |cos a| > 0.9995",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985",
    parameters: &[Parameter::shared("t", "0 gives the base, 1 the other model", ANY, Default::Required)],
    base: Base::First,
    inputs: (2, 2),
    ..SPEC
};

impl Method for Slerp {
    fn spec(&self) -> &Spec {
        &SLERP
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let t = params.number("t");
        Blend::boxed(2, Vectors::Tensor, move |gram| Ok(slerp(gram, t)))
    }
}

fn slerp(gram: &Gram, t: f64) -> Vec<f64> {
    let norm = |i| if gram.norm(i) > ZERO { gram.norm(i) } else { 1.0 };
    let cosine = (gram.dot(0, 1) / (norm(0) * norm(1))).clamp(-1.0, 1.0);
    if cosine.abs() > COLLINEAR { vec![1.0 - t, t] } else { arc(cosine, t) }
}
