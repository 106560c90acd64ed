//! The layers whose changes are measured before they are merged.

use std::collections::BTreeMap;

use super::{Action, Plan};
use crate::methods::larv;
use crate::model::names::split_layer;

/// The layers of a stack of the output.
#[derive(Debug, Default)]
pub struct Layers {
    /// How many there are, whether scaled or not.
    pub count: usize,
    /// The tensors that are scaled, by layer, in the order of their names: where they lie must not decide how sums are rounded.
    pub scaled: BTreeMap<usize, Vec<usize>>,
}

impl Plan {
    /// Every stack that has tensors whose changes are scaled by layer, by its name.
    pub fn scaled(&self) -> BTreeMap<&str, Layers> {
        let mut stacks: BTreeMap<&str, Layers> = BTreeMap::new();
        for (index, t) in self.tensors.iter().enumerate() {
            let Some(name) = split_layer(&t.name) else { continue };
            let stack = stacks.entry(name.stack()).or_default();
            stack.count = stack.count.max(name.layer + 1);
            if matches!(&t.action, Action::Compute { params, base: Some(_), .. } if larv::gate(params).is_some()) {
                stack.scaled.entry(name.layer).or_default().push(index);
            }
        }
        stacks.retain(|_, stack| !stack.scaled.is_empty());
        for tensors in stacks.values_mut().flat_map(|stack| stack.scaled.values_mut()) {
            tensors.sort_by_key(|t| &self.tensors[*t].name);
        }
        stacks
    }
}
