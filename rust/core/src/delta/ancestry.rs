//! Do models come from one base? Measured on a sample before a merge, for models that do not seldom merge well.
//!
//! Real fine-tunes have a cosine above 0.97 with their base, models trained apart one below 0.25.

use super::moments::Moments;
use crate::checkpoint::Source;
use crate::error::Result;
use crate::kernels::cast::widen;
use crate::plan::{Action, Operand, Plan};

/// Tensors looked at, and elements of each.
const TENSORS: usize = 32;
const ELEMENTS: u64 = 4096;
/// Cosine below which models are called strangers.
const STRANGE: f64 = 0.6;

/// A warning for each model of a merge that does not look like the first (the base, if there is one).
///
/// # Errors
/// [`crate::error::Error::Io`] if the sample cannot be read.
pub fn doubts(plan: &Plan, sources: &[Vec<Source>]) -> Result<Vec<String>> {
    // Vectors are alike in all models, as norms near 1 are; matrices tell models apart.
    let merges: Vec<Vec<Operand>> = plan
        .tensors
        .iter()
        .filter(|t| t.shape.len() > 1 && t.elements() >= 64)
        .filter_map(|t| match &t.action {
            Action::Merge { base, inputs, params, .. } => {
                Some(base.iter().chain(&inputs[..params.inputs.min(inputs.len())]).copied().collect())
            }
            Action::Copy { .. } => None,
        })
        .collect();
    let mut found: Vec<Moments> = vec![Moments::default(); plan.models.len()];
    let mut first = None;
    for operands in merges.iter().step_by(merges.len().div_ceil(TENSORS).max(1)) {
        let Some((lead, others)) = operands.split_first() else { continue };
        if *first.get_or_insert(lead.model) != lead.model {
            continue;
        }
        let base = sample(plan, sources, *lead)?;
        for other in others.iter().filter(|o| o.model != lead.model) {
            found[other.model] += Moments::of(&base, &sample(plan, sources, *other)?);
        }
    }
    let Some(first) = first else { return Ok(Vec::new()) };
    let strange = |m: &Moments| {
        let norms = (m.square_base * m.square_tuned).sqrt();
        (norms > 0.0).then(|| m.product / norms).filter(|c| *c < STRANGE)
    };
    Ok(found
        .iter()
        .enumerate()
        .filter_map(|(i, m)| {
            let cosine = strange(m)?;
            Some(format!(
                "{} and {} do not look like tunings of one model: cosine {cosine:.2}, relative change {:.2} on a sample of their \
                 matrices (tunings have a cosine above 0.97)",
                plan.models[first].path.display(),
                plan.models[i].path.display(),
                (m.square_delta / m.square_base).sqrt()
            ))
        })
        .collect())
}

/// Elements from the middle of a tensor.
fn sample(plan: &Plan, sources: &[Vec<Source>], o: Operand) -> Result<Vec<f32>> {
    let t = plan.tensor(o);
    let n = t.elements().min(ELEMENTS);
    let width = t.dtype.bytes() as u64;
    let start = (t.elements() - n) / 2;
    let mut buffer = None;
    let bytes = sources[o.model][t.file].read(t.begin + start * width, (n * width) as usize, &mut buffer)?;
    let mut wide = vec![0.0; n as usize];
    widen(t.dtype, bytes, &mut wide);
    Ok(wide)
}
