//! LARV (arXiv 2602.09413), a modifier before any method of changes: every model's change of a layer is scaled by what the layer's
//! matrices show before anything is merged.
//!
//! Three steps: [`measure`] takes a matrix of the base and what a model changed of it, [`scales`] makes of all layers' measures a factor
//! for each, and [`Scaled`] has a method see the changes so scaled. A reconstruction: of the paper public summaries and one project that
//! cites its equations were read; how a layer's matrices are pooled (their mean) and what the tiers are was not among it.

mod measure;
mod scaled;
mod scales;

pub use measure::{Measure, measure};
pub use scaled::{Scaled, Seen};
pub use scales::{Gate, scales};

use super::matrix::matrices;
use super::{Cost, Method, Params, Span};

/// How the changes of a tensor with these parameters are scaled, if they are: only in layers.
pub fn gate(params: &Params) -> Option<Gate> {
    match params.word("larv") {
        "continuous" if params.layered => Some(Gate::Continuous),
        "tiered" if params.layered => Some(Gate::Tiered),
        _ => None,
    }
}

/// The matrices of a tensor that say how it is scaled: their number, rows and columns. Kernels of convolutions, which have three
/// dimensions as stacked experts have, are none.
pub fn measured(params: &Params, shape: &[u64]) -> Option<(u64, u64, u64)> {
    gate(params)?;
    matrices(shape).filter(|(_, rows, columns)| shape.len() == 2 || *rows.min(columns) > 1)
}

/// Bytes that measuring a tensor takes, before all else and by itself; 0 if it is not measured.
pub fn bytes(params: &Params, shape: &[u64]) -> u64 {
    measured(params, shape).map_or(0, |(_, rows, columns)| measure::bytes(rows, columns))
}

/// What the scale of the model with this index is called among what was found of a tensor.
pub fn told(model: usize) -> String {
    format!("larv_{}", model + 1)
}

/// What a method costs with what is before it.
pub(super) fn cost(method: &dyn Method, params: &Params, shape: &[u64], own: Cost) -> Result<Cost, String> {
    if params.word("larv") != "none" && method.dtype(params).is_some() {
        return Err("`larv` scales what is added to the base, and here masks are written; leave one of them".into());
    }
    if gate(params).is_none() {
        return Ok(own);
    }
    // Each model is gone over beside the base.
    let reads = own.reads + if measured(params, shape).is_some() { READS } else { 0 };
    let changes = if own.span == Span::Fixed { 4 * (params.inputs as u64 + 1) } else { 0 };
    Ok(Cost { reads, scratch: own.scratch + changes, ..own })
}

/// How often measuring goes over all models and the base, at most.
pub const READS: usize = 2;
