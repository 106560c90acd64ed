//! Small methods of one element at a time.

use super::{ANY, Base, Default, Element, Kernel, Kind, LARV, Method, POSITIVE, Parameter, Params, Spec, Tile};
use crate::kernels::arith::moved;

const SPEC: Spec = Spec { inputs: (1, 1), homogeneous: false, ..Spec::COMMON };

pub(super) struct Expo;

static EXPO: Spec = Spec {
    name: "expo",
    summary: "go on in the direction that preference training took from the base",
    formula: "x + alpha (x - base), x the aligned model, base the model before alignment",
    paper: "Zheng et al., Model extrapolation expedites alignment, arXiv 2404.16792",
    departs: "not in mergekit",
    parameters: &[
        Parameter::shared("alpha", "how far to go on; the paper has 0.1 to 0.5", ANY, Default::Required),
        LARV,
    ],
    homogeneous: true,
    ..SPEC
};

impl Method for Expo {
    fn spec(&self) -> &Spec {
        &EXPO
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let alpha = params.number("alpha");
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let base = tile.base.unwrap_or(tile.inputs[0]);
            for ((o, x), b) in out.iter_mut().zip(tile.inputs[0]).zip(base) {
                let change = alpha * (f64::from(*x) - f64::from(*b));
                *o = moved(*x, change);
            }
        })))
    }
}

pub(super) struct Nearswap;

static NEARSWAP: Spec = Spec {
    name: "nearswap",
    summary: "move the base towards another model where the two are already near",
    formula: "(1-w) base + w x, w = min(1, t / |base - x|)",
    paper: "as in mergekit",
    parameters: &[Parameter::shared(
        "t",
        "distance up to which an element is taken whole from the other model",
        POSITIVE,
        Default::Required,
    )],
    ..SPEC
};

impl Method for Nearswap {
    fn spec(&self) -> &Spec {
        &NEARSWAP
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let t = params.number("t");
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let base = tile.base.unwrap_or(tile.inputs[0]);
            for ((o, x), b) in out.iter_mut().zip(tile.inputs[0]).zip(base) {
                let (x, b) = (f64::from(*x), f64::from(*b));
                let w = (t / (b - x).abs().max(1e-6)).clamp(0.0, 1.0);
                *o = (w * x + (1.0 - w) * b) as f32;
            }
        })))
    }
}

pub(super) struct Mask;

static MASK: Spec = Spec {
    name: "mask",
    summary: "keep of each model's change what its masks let through, rescaled",
    formula: "base + sum_i weight_i mask_i (x_i - base)",
    paper: "Huang et al., EMR-Merging, arXiv 2405.17461: gives a model back from the unified one",
    departs: "not in mergekit; `emr` with `masks: true` writes masks and the weight to give, named scale in its report",
    parameters: &[
        Parameter::each("weight", "factor on what is kept of the model's change", ANY, Default::Number(1.0)),
        Parameter::each(
            "masks",
            "checkpoint of masks (BOOL, or numbers to multiply by) with the model's tensor names and shapes",
            Kind::Checkpoint,
            Default::Required,
        ),
        LARV,
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    homogeneous: false,
    ..SPEC
};

impl Method for Mask {
    fn spec(&self) -> &Spec {
        &MASK
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let weights = params.numbers("weight");
        Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
            let Some(base) = tile.base else { return };
            let (models, masks) = tile.inputs.split_at(weights.len());
            for (e, (o, b)) in out.iter_mut().zip(base).enumerate() {
                let kept =
                    |((x, m), w): ((&&[f32], &&[f32]), &f64)| w * f64::from(m[e]) * (f64::from(x[e]) - f64::from(*b));
                let change: f64 = models.iter().zip(masks).zip(&weights).map(kept).sum();
                *o = moved(*b, change);
            }
        })))
    }
}
