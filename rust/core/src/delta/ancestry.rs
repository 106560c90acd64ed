//! Do models come from one base? Measured on a sample before a merge or a swap, for models that do not seldom merge well.
//!
//! Real fine-tunes have a cosine above 0.97 with their base, models trained apart one below 0.25.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::moments::Moments;
use crate::checkpoint::Tensor;
use crate::error::Result;
use crate::plan::{Action, Plan};
use crate::source::{IoMode, object};
use crate::view::{Place, Slot, Sources, stored};

/// Tensors looked at, and elements of each.
const TENSORS: usize = 32;
const ELEMENTS: u64 = 4096;
/// Cosine below which models are called strangers.
const STRANGE: f64 = 0.6;

/// A warning for each model of a merge or swap that does not look like the first (the base, if there is one).
///
/// # Errors
/// [`crate::error::Error::Io`] if the sample cannot be read.
pub fn doubts(plan: &Plan, io: IoMode) -> Result<Vec<String>> {
    let sources = &plan.sources(io);
    // A merge's base or first model, a swap's recipient.
    let first = plan.config.from;
    let others = others(plan, first);
    let lead = &plan.models[first];
    // Vectors are alike in all models, as norms near 1 are; matrices tell models apart.
    let matrices: Vec<usize> = (lead.tensors.iter().enumerate())
        // The factors of adapters start at random: they tell nothing.
        .filter(|(_, t)| !t.is_factor())
        .filter(|(_, t)| t.shape.len() > 1 && t.elements() >= 64 && t.dtype.computes())
        .map(|(i, _)| i)
        .collect();
    let mate = |tensor: usize, model: usize| {
        let own = &lead.tensors[tensor];
        let comparable = |o: &Place| plan.tensor(*o).shape == own.shape && plan.tensor(*o).dtype.computes();
        plan.models[model].find(&own.name).map(|tensor| Place { model, tensor }).filter(comparable)
    };
    let looked = || matrices.iter().copied().step_by(matrices.len().div_ceil(TENSORS).max(1));
    // Of models in a store all samples are fetched side by side.
    for tensor in looked() {
        let mates = others.iter().filter_map(|model| mate(tensor, *model));
        let of_store = |p: &Place| plan.models[p.model].files.iter().any(|f| object::is_remote(f.identity));
        for place in std::iter::once(Place { model: first, tensor }).chain(mates).filter(of_store) {
            stored(plan.tensor(place), &sources[place.model]).ahead(&middle(plan.tensor(place)));
        }
    }
    let mut found: BTreeMap<usize, Moments> = BTreeMap::new();
    for tensor in looked() {
        let base = sample(plan, sources, Place { model: first, tensor })?;
        for model in others.iter().copied() {
            if let Some(mate) = mate(tensor, model) {
                *found.entry(model).or_default() += Moments::of(&base, &sample(plan, sources, mate)?);
            }
        }
    }
    let warning = |(model, m): (usize, Moments)| {
        let norms = (m.square_base * m.square_tuned).sqrt();
        let cosine = (norms > 0.0).then(|| m.product / norms).filter(|c| *c < STRANGE)?;
        Some(format!(
            "{} and {} do not look like tunings of one model: cosine {cosine:.2}, relative change {:.2} on a sample of their \
             matrices (tunings have a cosine above 0.97)",
            plan.labels[first],
            plan.labels[model],
            (m.square_delta / m.square_base).sqrt()
        ))
    };
    Ok(found.into_iter().filter_map(warning).collect())
}

/// Models whose weights enter the output, but for the one at `first`. Those that only lend parameters (masks, squared
/// gradients) are none of them.
fn others(plan: &Plan, first: usize) -> BTreeSet<usize> {
    let mut all: BTreeSet<usize> = BTreeSet::new();
    for t in plan.tensors.iter() {
        match &t.action {
            Action::Move { from, .. } => all.extend(from.places().iter().map(|p| p.model)),
            Action::Compute { base, inputs, params, .. } => {
                let models = base.iter().chain(&inputs[..params.inputs.min(inputs.len())]);
                all.extend(models.flat_map(|v| v.places()).map(|p| p.model));
            }
        }
    }
    all.remove(&first);
    all
}

/// The elements that are looked at.
fn middle(tensor: &Tensor) -> Range<u64> {
    let all = tensor.elements();
    let n = all.min(ELEMENTS);
    (all - n) / 2..(all - n) / 2 + n
}

/// Elements from the middle of a tensor.
fn sample(plan: &Plan, sources: &Sources, place: Place) -> Result<Vec<f32>> {
    let tensor = plan.tensor(place);
    let view = stored(tensor, &sources[place.model]);
    let part = middle(tensor);
    let mut slot = Slot::default();
    let bytes = view.read(&part, &mut slot)?;
    let mut wide = vec![0.0; (part.end - part.start) as usize];
    view.decode(bytes, &part, &part, &mut wide)?;
    view.release(&part);
    Ok(wide)
}
