//! Weighted average of models ("model soup").

use super::{ANY, Base, Class, Default, Kernel, Kind, Method, Parameter, Params, Spec, Tile, adds_up, normalised};
use crate::kernels::arith;

pub(super) struct Linear;

static SPEC: Spec = Spec {
    name: "linear",
    summary: "weighted average of the models",
    formula: "sum_i w_i x_i / sum_i w_i, or without the division",
    paper: "Wortsman et al., Model soups, arXiv 2203.05482",
    departs: "accumulates in f64; weights that sum to zero are an error, not NaN",
    parameters: &[
        Parameter::each("weight", "weight of the model", ANY, Default::Required),
        Parameter::shared("normalize", "divide by the sum of the weights", Kind::Switch, Default::Switch(true)),
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

/// The weights as they are used.
fn weights(params: &Params) -> Result<Vec<f64>, String> {
    let weights = params.numbers("weight");
    if params.switch("normalize") {
        return normalised(weights, "normalize");
    }
    Ok(weights)
}

impl Method for Linear {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn identity(&self, params: &Params) -> bool {
        weights(params).is_ok_and(|weights| adds_up(&weights))
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Bound { weights: weights(params)? }))
    }
}

impl Kernel for Bound {
    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        arith::combine(tile.inputs, &self.weights, out);
    }
}
