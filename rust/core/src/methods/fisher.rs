//! Averages weighted, element by element, by how sure each model is of the element.

use super::{Base, Class, Default, Element, Kernel, Kind, Method, POSITIVE, Parameter, Params, Spec, Tile};

pub(super) struct Fisher;

static SPEC: Spec = Spec {
    name: "fisher",
    summary: "average weighted, element by element, by each model's squared gradients",
    formula: "sum_i w_i F_i x_i / sum_i w_i F_i, F_i = max(squared gradients of model i, floor)",
    paper: "Matena and Raffel, Merging models with Fisher-weighted averaging, arXiv 2111.09832",
    departs: "not in mergekit; the squared gradients are given as checkpoints, nothing is trained here",
    parameters: &[
        Parameter::each("weight", "weight of the model", POSITIVE, Default::Number(1.0)),
        Parameter::each(
            "fisher",
            "checkpoint of squared gradients with the model's tensor names and shapes",
            Kind::Checkpoint,
            Default::Required,
        ),
        Parameter::shared("floor", "least squared gradient", POSITIVE, Default::Number(1e-6)),
    ],
    base: Base::None,
    inputs: (1, usize::MAX),
    class: Class::Element,
    reads: 1,
    homogeneous: false,
};

impl Method for Fisher {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (weights, floor) = (params.numbers("weight"), params.number("floor"));
        if weights.iter().sum::<f64>() <= 0.0 || floor <= 0.0 {
            return Err("the weights must not all be 0, nor the floor".into());
        }
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let (models, gradients) = tile.inputs.split_at(weights.len());
            for (e, o) in out.iter_mut().enumerate() {
                // From a negative zero, which keeps the sign of zeros.
                let (mut sum, mut total) = (-0.0, 0.0);
                for ((x, f), w) in models.iter().zip(gradients).zip(&weights) {
                    let f = f64::from(f[e]);
                    // `max` would take the floor for a NaN.
                    let weight = w * if f < floor { floor } else { f };
                    sum += weight * f64::from(x[e]);
                    total += weight;
                }
                *o = (sum / total) as f32;
            }
        })))
    }
}
