//! Measures of layers, before all scans: by how much each model's changes of a layer are scaled before they are merged.

use std::collections::{BTreeMap, HashMap};

use parking_lot::Mutex;

use super::Means;
use super::found::Scales;
use super::threads;
use super::tiles::{Inputs, Scratch};
use super::whole::{Crew, Reading};
use crate::error::Result;
use crate::methods::Cost;
use crate::methods::larv::{self, Measure, READS};
use crate::plan::layers::Layers;
use crate::plan::{Action, Plan, TensorPlan};

/// What the matrices of each model show, by tensor and model.
pub type Measures = BTreeMap<usize, BTreeMap<usize, Vec<Measure>>>;

/// The scales of every stack that has a tensor left to make; what is `known` is not measured again.
///
/// # Errors
/// Input that cannot be read or is not finite, matrices whose eigenvalues do not converge, [`crate::error::Error::Interrupted`].
pub fn scales(inputs: &Inputs, means: &Means, known: &Measures, left: impl Fn(usize) -> bool) -> Result<Scales> {
    let mut out = Scales::new();
    for stack in inputs.plan.scaled().values() {
        if stack.scaled.values().flatten().any(|t| left(*t)) {
            let unknown = stack.scaled.values().flatten().copied().filter(|t| !known.contains_key(t));
            let measured = of_tensors(inputs, means, &unknown.collect::<Vec<_>>())?;
            out.extend(of_stack(inputs.plan, stack, |t| known.get(&t).or(measured.get(&t))));
        }
    }
    // The scales of codes are of the same values as the codes.
    let plan = inputs.plan;
    let of_codes: HashMap<&str, _> = out.iter().map(|(t, own)| (plan.tensors[*t].weight(), own)).collect();
    let scales = plan.tensors.iter().enumerate().filter(|(_, t)| t.is_scales());
    let more: Scales = scales.filter_map(|(i, t)| Some((i, (*of_codes.get(t.weight())?).clone()))).collect();
    drop(of_codes);
    out.extend(more);
    Ok(out)
}

/// Measures some tensors, one at a time, on all threads.
///
/// # Errors
/// As [`scales`].
pub fn of_tensors(inputs: &Inputs, means: &Means, tensors: &[usize]) -> Result<Measures> {
    let (crew, measured) = (Crew::new(means.threads), Mutex::new(Measures::new()));
    threads::each(tensors.len(), 1, inputs.progress, means.observer, |i, scratch: &mut Scratch| {
        let found = of_tensor(*inputs, &crew, tensors[i], scratch)?;
        measured.lock().insert(tensors[i], found);
        Ok(())
    })?;
    Ok(measured.into_inner())
}

fn of_stack<'m>(
    plan: &Plan,
    stack: &Layers,
    found: impl Fn(usize) -> Option<&'m BTreeMap<usize, Vec<Measure>>>,
) -> Scales {
    let tensors = || stack.scaled.iter().flat_map(|(layer, own)| own.iter().map(|t| (*layer, *t)));
    // By model and layer.
    let mut measured: BTreeMap<usize, BTreeMap<usize, Vec<Measure>>> = BTreeMap::new();
    for (layer, tensor) in tensors() {
        for (model, found) in found(tensor).into_iter().flatten() {
            measured.entry(*model).or_default().entry(layer).or_default().extend(found);
        }
    }
    let mut scales: HashMap<_, Vec<f64>> = HashMap::new();
    let mut out = Scales::new();
    for (layer, tensor) in tensors() {
        let Action::Compute { params, inputs: views, .. } = &plan.tensors[tensor].action else { continue };
        let Some(gate) = larv::gate(params) else { continue };
        let scale = |model: usize| {
            let known = scales.entry((model, gate)).or_insert_with(|| {
                let none = BTreeMap::new();
                let own = measured.get(&model).unwrap_or(&none);
                let layers: Vec<_> = (0..stack.count).map(|l| own.get(&l).cloned().unwrap_or_default()).collect();
                larv::scales(&layers, gate)
            });
            known[layer]
        };
        out.insert(tensor, views[..params.inputs].iter().map(|v| v.like().model).map(scale).collect());
    }
    out
}

/// What every model's change of a tensor shows, matrix by matrix; a model that is merged twice is measured once.
fn of_tensor(
    inputs: Inputs,
    crew: &Crew,
    tensor: usize,
    scratch: &mut Scratch,
) -> Result<BTreeMap<usize, Vec<Measure>>> {
    let (mut out, t) = (BTreeMap::new(), &inputs.plan.tensors[tensor]);
    let Action::Compute { params, inputs: views, .. } = &t.action else { return Ok(out) };
    let Some((count, rows, columns)) = larv::measured(params, t.values()) else { return Ok(out) };
    let mut ranks = vec![None; count as usize];
    let mut read = 0;
    for view in &views[..params.inputs] {
        let model = view.like().model;
        if out.contains_key(&model) {
            continue;
        }
        let mut pair = t.clone();
        if let Action::Compute { params, inputs, apart, cost, .. } = &mut pair.action {
            (params.inputs, *inputs, *apart, *cost) = (1, vec![view.clone()], Vec::new(), Cost::ELEMENT);
        }
        let found = of_pair(inputs, crew, &pair, (count, rows, columns), &mut ranks, scratch)?;
        out.insert(model, found);
        read += inputs.plan.input_bytes(&pair);
    }
    // What it could have taken, so that the bar ends at its end.
    inputs.progress.add((READS as u64 * inputs.plan.input_bytes(t)).saturating_sub(read));
    Ok(out)
}

/// The matrices of one model beside the base's that it has changed.
fn of_pair(
    inputs: Inputs,
    crew: &Crew,
    pair: &TensorPlan,
    (count, rows, columns): (u64, u64, u64),
    ranks: &mut [Option<f64>],
    scratch: &mut Scratch,
) -> Result<Vec<Measure>> {
    let mut found = Vec::new();
    for (matrix, rank) in ranks.iter_mut().enumerate().take(count as usize) {
        let mut read = Reading::of(inputs, pair, scratch, true);
        let start = matrix as u64 * rows * columns;
        let dimensions = (rows as usize, columns as usize);
        let made = crew.pool()?.install(|| larv::measure(&mut read, start, dimensions, rank));
        found.extend(read.ended(made)?);
    }
    Ok(found)
}
