//! Weighted average of models ("model soup").

use super::{ANY, Base, Class, Default, Kernel, Kind, Method, Parameter, Params, Spec, Tile};
use crate::kernels::arith;

pub(super) struct Linear;

static SPEC: Spec = Spec {
    name: "linear",
    summary: "weighted average of the models",
    formula: "sum_i w_i x_i / sum_i w_i, or without the division",
    paper: "Wortsman et al., Model soups, arXiv 2203.05482",
    departs: "accumulates in f64; weights that sum to zero are an error, not NaN",
    parameters: &[
        Parameter {
            name: "weight",
            summary: "weight of the model",
            kind: ANY,
            default: Default::Required,
            per_input: true,
        },
        Parameter {
            name: "normalize",
            summary: "divide by the sum of the weights",
            kind: Kind::Switch,
            default: Default::Switch(true),
            per_input: false,
        },
    ],
    base: Base::None,
    inputs: (1, usize::MAX),
    class: Class::Element,
    reads: 1,
    homogeneous: false,
};

struct Bound {
    weights: Vec<f64>,
}

impl Method for Linear {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let mut weights = params.numbers("weight");
        if params.switch("normalize") {
            let sum: f64 = weights.iter().sum();
            if sum.abs() < 1e-12 {
                return Err("the weights sum to zero; change them, or set `normalize: false`".into());
            }
            weights.iter_mut().for_each(|w| *w /= sum);
        }
        Ok(Box::new(Bound { weights }))
    }
}

impl Kernel for Bound {
    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        arith::combine(tile.inputs, &self.weights, out);
    }
}
