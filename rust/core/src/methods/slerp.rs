//! Spherical interpolation between two models, tensor by tensor.
//!
//! The result is a linear combination whose coefficients depend on three dot products: one pass to sum them, one to
//! combine. No tensor is ever held in memory.

use super::{ANY, Base, Default, Granularity, Kernel, Method, Parameter, Params, Spec, Stats, Tile, Totals, Wants};
use crate::kernels::{arith, reduce};

pub(super) struct Slerp;

static SPEC: Spec = Spec {
    name: "slerp",
    summary: "spherical interpolation between the base and one other model",
    formula: "(sin((1-t) a) x0 + sin(t a) x1) / sin a, a = angle(x0, x1); linear when |cos a| > 0.9995",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985",
    departs: "dot products are summed in f64",
    parameters: &[Parameter {
        name: "t",
        summary: "0 gives the base, 1 the other model",
        kind: ANY,
        default: Default::Required,
        per_input: false,
    }],
    base: Base::First,
    inputs: (2, 2),
    granularity: Granularity::Tensor,
    reads: 2,
    homogeneous: false,
};

/// Cosine beyond which the models count as collinear, and norm up to which a tensor counts as zero; as in mergekit.
const COLLINEAR: f64 = 0.9995;
const ZERO: f64 = 1e-8;

struct Bound {
    t: f64,
    weights: Option<[f64; 2]>,
}

impl Method for Slerp {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _elements: u64) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Bound { t: params.number("t"), weights: None }))
    }
}

impl Kernel for Bound {
    fn wants(&self) -> Option<Wants> {
        self.weights.is_none().then_some(Wants { sums: 3, histograms: 0, ranks: 0 })
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let (a, b) = (tile.inputs[0], tile.inputs[1]);
        for (x, y, sum) in [(a, a, 0), (a, b, 1), (b, b, 2)] {
            reduce::dot(x, y, &mut stats.sums[sum]);
        }
    }

    fn take(&mut self, totals: Totals) {
        let norm = |square: f64| if square.sqrt() > ZERO { square.sqrt() } else { 1.0 };
        let cosine = (totals.sums[1] / (norm(totals.sums[0]) * norm(totals.sums[2]))).clamp(-1.0, 1.0);
        self.weights = Some(if cosine.abs() > COLLINEAR {
            [1.0 - self.t, self.t]
        } else {
            let angle = cosine.acos();
            [((1.0 - self.t) * angle).sin() / angle.sin(), (self.t * angle).sin() / angle.sin()]
        });
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        arith::combine(tile.inputs, &self.weights.unwrap_or([1.0 - self.t, self.t]), out);
    }
}
