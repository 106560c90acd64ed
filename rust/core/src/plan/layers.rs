//! The layers whose changes are measured before they are merged.

use std::collections::{BTreeMap, BTreeSet};

use super::{Action, Computation, Draft, Plan};
use crate::error::{Error, Result};
use crate::methods::larv;
use crate::model::names::split_layer;

/// Which models each part of the recipe merges into layers that are scaled, by stack.
#[derive(Default)]
pub(super) struct Scaled(BTreeMap<String, BTreeMap<String, BTreeSet<usize>>>);

impl Scaled {
    /// Takes down a computation of `models`.
    pub(super) fn note(&mut self, c: &Computation, models: &[usize]) {
        if let (Some(name), Some(_)) = (split_layer(&c.name), larv::gate(&c.params)) {
            let parts = self.0.entry(name.stack().to_owned()).or_default();
            parts.entry(c.at.clone()).or_default().extend(models);
        }
    }

    /// # Errors
    /// [`Error::Recipe`] if parts of a stack merge other models: a layer is scaled by what its model is in all of them.
    fn check(&self) -> Result<()> {
        for parts in self.0.values() {
            let Some((first, models)) = parts.iter().next() else { continue };
            if let Some((other, _)) = parts.iter().find(|(_, own)| *own != models) {
                let problem = format!(
                    "`larv` scales a model's changes of a layer by what the other layers are beside it, but {first} and {other} merge \
                     other models; give both the same, or merge them apart"
                );
                return Err(Error::recipe(other, problem));
            }
        }
        Ok(())
    }
}

/// Checks what is scaled, and says how much there is to measure, or that there is nothing.
///
/// # Errors
/// As [`Scaled::check`].
pub(super) fn settle(draft: &mut Draft) -> Result<()> {
    draft.scaled.check()?;
    let (mut set, mut tensors, mut matrices, mut layers) = (false, 0, 0, BTreeSet::new());
    for item in &draft.items {
        let Action::Compute { params, .. } = &item.action else { continue };
        set |= !matches!(params.word("larv"), "none" | "");
        let (Some(_), Some(name)) = (larv::gate(params), split_layer(&item.name)) else { continue };
        layers.insert((name.stack(), name.layer));
        tensors += 1;
        matrices += larv::measured(params, &item.shape).map_or(0, |(count, _, _)| count);
    }
    let counted = |n: u64, of: &str, more: &str| format!("{n} {}", if n == 1 { of } else { more });
    let (layers, matrices) = (counted(layers.len() as u64, "layer", "layers"), counted(matrices, "matrix", "matrices"));
    if tensors > 0 {
        let told =
            format!("{matrices} of {layers} are measured before anything is merged; what is in no layer is not scaled");
        draft.notes.push(("larv".to_owned(), told));
    } else if set {
        draft.warnings.push("`larv` scales by layer, and no tensor that is merged is in one: nothing is scaled".into());
    }
    Ok(())
}

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
            let Some(name) = split_layer(t.weight()).filter(|_| !t.is_scales()) else { continue };
            let stack = stacks.entry(name.stack()).or_default();
            stack.count = stack.count.max(name.layer + 1);
            if matches!(&t.action, Action::Compute { params, base: Some(_), .. } if larv::gate(params).is_some()) {
                stack.scaled.entry(name.layer).or_default().push(index);
            }
        }
        stacks.retain(|_, stack| !stack.scaled.is_empty());
        for tensors in stacks.values_mut().flat_map(|stack| stack.scaled.values_mut()) {
            tensors.sort_by_key(|t| self.tensors[*t].weight());
        }
        stacks
    }
}
