//! Methods whose result is a linear combination with coefficients from dot products: one pass to sum the products of
//! all pairs (their Gram matrix), one to combine. No tensor is ever held in memory.

mod blend;
mod karcher;
mod matrix;
mod metagpt;
mod model_stock;
mod multislerp;
mod nuslerp;
mod slerp;

use super::{Class, Spec};
use blend::{Blend, Vectors};
use matrix::Gram;

pub(super) use karcher::Karcher;
pub(super) use metagpt::Metagpt;
pub(super) use model_stock::ModelStock;
pub(super) use multislerp::Multislerp;
pub(super) use nuslerp::Nuslerp;
pub(super) use slerp::Slerp;

/// Norm up to which a tensor counts as zero; as in mergekit.
const ZERO: f64 = 1e-8;

const SPEC: Spec = Spec {
    departs: "dot products are summed in f64",
    class: Class::Gram,
    reads: 2,
    homogeneous: false,
    ..Spec::COMMON
};

/// Weights on the great circle at share `t` between two directions.
fn arc(cosine: f64, t: f64) -> Vec<f64> {
    let angle = cosine.acos();
    vec![((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
}
