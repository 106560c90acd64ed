//! Tensors of a plan in the making, before they have places in files.

use super::Action;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::encoded::{Encode, Part};
use crate::methods::{Params, Value, registry};
use crate::view::View;

/// A tensor of the output.
pub(super) struct Item {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    pub(super) shape: Vec<u64>,
    pub(super) action: Action,
    pub(super) encode: Option<Box<Encode>>,
}

impl Item {
    /// The same under another name.
    pub(super) fn named(&self, name: String) -> Self {
        Self { name, dtype: self.dtype, shape: self.shape.clone(), action: self.action.clone(), encode: None }
    }
}

/// The computation that gives a view's values as they are.
pub(super) fn as_it_is(from: View) -> Result<Action> {
    let mut params = Params { inputs: 1, ..Params::default() };
    params.per_input.insert("scale", vec![Value::Number(1.0)]);
    let method = registry::PASSTHROUGH;
    let cost = method.bind(&params, &[]).map_err(Error::bug)?.cost();
    let (params, inputs) = (params.into(), vec![from]);
    Ok(Action::Compute { method, params, base: None, inputs, apart: vec![], cost, group: None })
}

/// The shard of each tensor, with a weight's codes and scales in one: whoever makes a part of a plan then has both.
pub(super) fn together(items: &[Item], nbytes: &dyn Fn(&Item) -> u64, limit: u64) -> Vec<usize> {
    let is_scales = |i: &Item| i.encode.as_ref().is_some_and(|e| e.part == Part::Scales);
    let (mut shard, mut filled) = (0, 0);
    let mut out = Vec::with_capacity(items.len());
    for (at, item) in items.iter().enumerate() {
        if !is_scales(item) {
            let own = nbytes(item) + items.get(at + 1).filter(|next| is_scales(next)).map_or(0, nbytes);
            if filled > 0 && filled + own > limit {
                (shard, filled) = (shard + 1, 0);
            }
            filled += own;
        }
        out.push(shard);
    }
    out
}
