//! MagMax: of each element the largest change.

use super::{ANY, Base, Class, Default, Element, Kernel, LAMBDA, Method, Parameter, Params, Spec, Tile};

pub(super) struct Magmax;

static SPEC: Spec = Spec {
    name: "magmax",
    summary: "take, element by element, the change of the model that changed it most",
    formula: "base + lambda * w_k d_k, k = argmax_i |w_i d_i|, the later model of equal ones",
    paper: "Marczak et al., MagMax, arXiv 2407.06322",
    departs: "not in mergekit",
    parameters: &[Parameter::each("weight", "weight of the model's change", ANY, Default::Number(1.0)), LAMBDA],
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
        let weights: Vec<f32> = params.numbers("weight").iter().map(|w| *w as f32).collect();
        let lambda = params.number("lambda") as f32;
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let Some(base) = tile.base else { return };
            out.fill(0.0);
            for (x, w) in tile.inputs.iter().zip(&weights) {
                for ((o, x), b) in out.iter_mut().zip(*x).zip(base) {
                    let change = w * (x - b);
                    // A NaN wins, whether it comes now or came before.
                    *o = if (change.abs() < o.abs()) | o.is_nan() { *o } else { change };
                }
            }
            for (o, b) in out.iter_mut().zip(base) {
                *o = if *o == 0.0 { *b } else { b + lambda * *o };
            }
        })))
    }
}
