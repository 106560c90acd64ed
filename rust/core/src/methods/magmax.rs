//! MagMax: of each element the largest change.

use super::{ANY, Base, Class, Default, Element, Kernel, LAMBDA, LARV, Method, Parameter, Params, SVC, Spec, Tile};
use crate::kernels::arith::{moved, of_changes};

pub(super) struct Magmax;

static SPEC: Spec = Spec {
    name: "magmax",
    summary: "take, element by element, the change of the model that changed it most",
    formula: "base + lambda * w_k d_k, k = argmax_i |w_i d_i|, the later model of equal ones",
    paper: "Marczak et al., MagMax, arXiv 2407.06322",
    departs: "not in mergekit",
    parameters: &[
        Parameter::each("weight", "weight of the model's change", ANY, Default::Number(1.0)),
        SVC,
        LARV,
        LAMBDA,
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Element,
    reads: 1,
    homogeneous: true,
};

impl Method for Magmax {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (weights, lambda) = (params.numbers("weight"), params.number("lambda"));
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let Some(base) = tile.base else { return };
            of_changes(base, tile.inputs, &weights, out, |b, changes, weights| {
                let mut largest = 0f64;
                for (w, d) in weights.iter().zip(changes) {
                    let change = w * d;
                    // A NaN wins, whether it comes now or came before.
                    largest = if (change.abs() < largest.abs()) | largest.is_nan() { largest } else { change };
                }
                moved(b, lambda * largest)
            });
        })))
    }
}
