//! TALL masks: which elements of the summed change a task needs, and the consensus of these masks.

use super::{ANY, Base, Class, Default, Element, Kernel, Kind, LARV, Method, POSITIVE, Parameter, Params, Spec, Tile};
use crate::kernels::arith::{moved, of_changes, of_one, one};

const THRESHOLD: Parameter = Parameter::each(
    "tall_lambda",
    "how much of the others' change an element of the model's own must outweigh",
    POSITIVE,
    Default::Number(0.4),
);
const ALPHA: Parameter = Parameter::shared("alpha", "factor on the summed change", ANY, Default::Number(1.0));

const SPEC: Spec = Spec {
    name: "tall_mask",
    summary: "take back from the summed change what one of the models needs",
    formula: "base + m_t T, T = alpha sum_i d_i, m_t = [|d_t| > tall_lambda_t |T - d_t|]",
    paper: "Wang et al., Localizing task information (TALL-masks), arXiv 2405.07813",
    departs: "not in mergekit",
    parameters: &[
        Parameter::shared("task", "which model, from 1", Kind::Integer { min: 1, max: 1 << 20 }, Default::Required),
        THRESHOLD,
        ALPHA,
        LARV,
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Element,
    reads: 1,
    homogeneous: true,
};

pub(super) struct TallMask;

impl Method for TallMask {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let task = params.integer("task") as usize;
        if task > params.inputs {
            return Err(format!("task {task} asks for a model that is not there; there are {}", params.inputs));
        }
        let (threshold, alpha) = (params.numbers("tall_lambda")[task - 1], params.number("alpha"));
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let Some(base) = tile.base else { return };
            of_changes(base, tile.inputs, &one(task - 1, tile.inputs.len()), out, |b, changes, which| {
                let total = alpha * changes.iter().sum::<f64>();
                // A NaN stays one, needed or not.
                moved(b, total * if needs(of_one(changes, which), total, threshold) { 1.0 } else { 0.0 })
            });
        })))
    }
}

#[inline(always)]
fn needs(own: f64, total: f64, threshold: f64) -> bool {
    own.abs() > threshold * (total - own).abs()
}

pub(super) struct ConsensusTa;

static CONSENSUS: Spec = Spec {
    name: "consensus_ta",
    summary: "task arithmetic on the elements that enough models need",
    formula: "base + lambda [sum_t m_t >= k] sum_i d_i, m_t as in tall_mask",
    parameters: &[
        Parameter::shared(
            "k",
            "models that must need an element",
            Kind::Integer { min: 0, max: 1 << 20 },
            Default::Number(2.0),
        ),
        Parameter::shared("lambda", "factor on the merged change", ANY, Default::Number(0.4)),
        THRESHOLD,
        ALPHA,
        LARV,
    ],
    ..SPEC
};

impl Method for ConsensusTa {
    fn spec(&self) -> &Spec {
        &CONSENSUS
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let thresholds = params.numbers("tall_lambda");
        let (k, lambda, alpha) = (params.integer("k") as u32, params.number("lambda"), params.number("alpha"));
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let Some(base) = tile.base else { return };
            of_changes(base, tile.inputs, &thresholds, out, |b, changes, thresholds| {
                let sum: f64 = changes.iter().sum();
                let vote = |(d, t): (&f64, &f64)| u32::from(needs(*d, alpha * sum, *t));
                let votes: u32 = changes.iter().zip(thresholds).map(vote).sum();
                moved(b, sum * if votes >= k { lambda } else { 0.0 })
            });
        })))
    }
}
