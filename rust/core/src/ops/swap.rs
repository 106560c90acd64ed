//! Layer swapping (Bandarkar et al., "Layer swapping for zero-shot cross-lingual transfer in LLMs", arXiv 2410.01335).
//!
//! The bottom and top layers come from the donor, layers at the borders are blended, everything else is the
//! recipient's. What is not blended is moved bit for bit.

use std::path::Path;

use crate::error::{Error, Result};
use crate::methods::{Params, Value};
use crate::names::{module, split_layer};
use crate::plan::{Draft, Models, Operand, OutputConfig};
use crate::recipe::{NonLayer, Swap};

/// What becomes of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The recipient's.
    Keep,
    /// The donor's.
    Take,
    /// Between the two.
    Blend,
}

/// The role of each of `layers` layers.
///
/// # Errors
/// [`Error::Recipe`] if the recipe asks for more layers than there are.
pub fn roles(swap: &Swap, layers: usize) -> Result<Vec<Role>> {
    if let Some(listed) = &swap.layers {
        if let Some(l) = listed.iter().find(|l| **l >= layers) {
            return Err(Error::recipe(
                "layers",
                format!("layer {l} does not exist; there are {layers}, numbered from 0"),
            ));
        }
        return Ok((0..layers).map(|l| if listed.contains(&l) { Role::Take } else { Role::Keep }).collect());
    }
    // A side that gives no layer has no border to blend.
    let below = if swap.bottom > 0 { swap.transition } else { 0 };
    let above = if swap.top > 0 { swap.transition } else { 0 };
    let asked = [swap.bottom, below, above, swap.top].into_iter().fold(0usize, usize::saturating_add);
    if asked > layers {
        return Err(Error::recipe(
            "",
            format!(
                "bottom {} + top {} with {} transition layers is {asked}, but there are {layers} layers",
                swap.bottom,
                swap.top,
                below + above
            ),
        ));
    }
    Ok((0..layers)
        .map(|l| {
            if l < swap.bottom || l >= layers - swap.top {
                Role::Take
            } else if l < swap.bottom + below || l >= layers - swap.top - above {
                Role::Blend
            } else {
                Role::Keep
            }
        })
        .collect())
}

/// Compiles a swap; `keep_shards` leaves every tensor in the shard it has in the recipient.
///
/// # Errors
/// Layers that do not exist, models with different layers, tensors or shapes.
pub fn build(swap: &Swap, keep_shards: bool) -> Result<Draft> {
    let mut models = Models::default();
    let into = models.open(&swap.into)?;
    let from = models.open(&swap.from)?;
    let (stack, layers) = models.stack(into)?;
    let (donor_stack, donor_layers) = models.stack(from)?;
    if (&stack, layers) != (&donor_stack, donor_layers) {
        return Err(Error::checkpoint(
            Path::new(&swap.from),
            format!(
                "has {donor_layers} layers `{donor_stack}`, the recipient has {layers} layers `{stack}`; they must match"
            ),
        ));
    }
    let roles = roles(swap, layers)?;
    let config = OutputConfig { from: into, layers: None, dtype: swap.dtype, mostly: None, untied: false };
    let mut draft = Draft::new("swap".into(), models, config);
    draft.keep_shards_of = keep_shards.then_some(into);
    draft.notes = notes(swap, &roles, &draft.models.labels()[from], &draft.models.labels()[into]);
    refuse_extra(&draft.models, into, from, &stack)?;
    let names: Vec<String> = draft.models.get(into).tensors.iter().map(|t| t.name.clone()).collect();
    let mut taken = false;
    for (tensor, name) in names.into_iter().enumerate() {
        let own = Operand { model: into, tensor };
        let layer = split_layer(&name).filter(|l| l.stack == stack);
        let role = match (layer, swap.non_layer) {
            (Some(l), _) if swap.modules.contain(module(&name)) => roles[l.layer],
            (Some(_), _) | (None, NonLayer::Into) => Role::Keep,
            (None, NonLayer::From) => Role::Take,
            (None, NonLayer::Mean) => Role::Blend,
        };
        let share = if layer.is_some() { swap.blend } else { 0.5 };
        taken |= layer.is_some() && role != Role::Keep;
        let donor = || draft.models.need(from, &name, Path::new(&swap.into));
        match role {
            Role::Keep => draft.copy(name, own, swap.dtype)?,
            Role::Take => {
                let donor = donor()?;
                crate::plan::same_shape(&draft.models, &[own, donor])?;
                let dtype = swap.dtype.unwrap_or(draft.models.tensor(own).dtype);
                draft.copy(name, donor, Some(dtype))?;
            }
            Role::Blend => {
                let donor = donor()?;
                let dtype = swap.dtype.unwrap_or(draft.models.tensor(own).dtype);
                draft.merge(name, "linear", halves(share), None, vec![donor, own], Some(dtype))?;
            }
        }
    }
    if swap.non_layer != NonLayer::Into {
        let names: Vec<String> = draft.models.get(from).tensors.iter().map(|t| t.name.clone()).collect();
        for (tensor, name) in names.into_iter().enumerate() {
            let inside = split_layer(&name).is_some_and(|l| l.stack == stack);
            if inside || draft.models.get(into).find(&name).is_some() {
                continue;
            }
            // The donor's own tensors outside the layers: most often a head that the recipient ties to its embedding.
            let own = Operand { model: from, tensor };
            match swap.non_layer {
                NonLayer::Mean => {
                    let other = draft.models.need(into, &name, Path::new(&swap.from))?;
                    draft.merge(name, "linear", halves(0.5), None, vec![own, other], swap.dtype)?;
                }
                _ => draft.copy(name, own, swap.dtype)?,
            }
        }
    }
    draft.settle_head();
    if into == from {
        draft.warnings.push("donor and recipient are the same checkpoint".into());
    }
    if !taken {
        draft.warnings.push("no layer is swapped; give --bottom, --top or --layers".into());
    }
    Ok(draft)
}

/// Parameters of a `linear` merge of donor and recipient, the donor's share given.
fn halves(share: f64) -> Params {
    let mut params = Params { inputs: 2, ..Params::default() };
    params.shared.insert("normalize", Value::Bool(false));
    params.per_input.insert("weight", vec![Value::Number(share), Value::Number(1.0 - share)]);
    params
}

/// What is done, for people; where the tensors outside the layers come from is always said.
fn notes(swap: &Swap, roles: &[Role], donor: &str, recipient: &str) -> Vec<(&'static str, String)> {
    let ranges = |role: Role| {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for l in (0..roles.len()).filter(|l| roles[*l] == role) {
            match runs.last_mut() {
                Some((_, last)) if *last + 1 == l => *last = l,
                _ => runs.push((l, l)),
            }
        }
        let texts = runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
        texts.collect::<Vec<_>>().join(", ")
    };
    let mut out = Vec::new();
    for (title, role, whose) in [
        ("donor", Role::Take, format!("of {donor}")),
        ("blended", Role::Blend, format!("({} of {donor})", swap.blend)),
        ("recipient", Role::Keep, format!("of {recipient}")),
    ] {
        let listed = ranges(role);
        if !listed.is_empty() {
            out.push((title, format!("layers {listed} {whose}")));
        }
    }
    if let Some(text) = &swap.modules_text {
        out.push(("modules", format!("only {text} move")));
    }
    let (source, option) = match swap.non_layer {
        NonLayer::Into => (recipient.to_owned(), "into"),
        NonLayer::From => (donor.to_owned(), "from"),
        NonLayer::Mean => (format!("the mean of {recipient} and {donor}"), "mean"),
    };
    out.push((
        "outside",
        format!("embeddings, final norm, head and all else outside the layers: {source} (--non-layer {option})"),
    ));
    out
}

/// A tensor inside the layers that only the donor has would be lost.
fn refuse_extra(models: &Models, into: usize, from: usize, stack: &str) -> Result<()> {
    for t in &models.get(from).tensors {
        let inside = split_layer(&t.name).is_some_and(|l| l.stack == stack);
        if inside && models.get(into).find(&t.name).is_none() {
            models.need(into, &t.name, &models.get(from).path)?;
        }
    }
    Ok(())
}
