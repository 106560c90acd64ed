//! Models that are quantised: decoded, or moved as they are stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Models, Unused};
use crate::checkpoint::{Checkpoint, Decoded};
use crate::error::{Error, Result};
use crate::model::families::Families;

/// What is to be done about models that do not fit as they are stored.
const TO: &str = "`--to bf16` (`to`) decodes all of them";

/// What is to be done about a quantised tensor that is to be computed on.
pub(super) fn undecoded(model: &Checkpoint) -> String {
    match &model.decoded {
        Some(Decoded::Refused(reason)) => format!("; {reason}"),
        None if model.is_coded() => format!("; {TO}"),
        _ => "; dequantise the model first".to_owned(),
    }
}

/// The first words of the forms that a model's weights are stored in: `fp8`, `gptq`, ...
fn kinds(model: &Checkpoint) -> BTreeSet<String> {
    let Ok(found) = model.recognised() else { return BTreeSet::new() };
    let first = |form: &str| form.split(' ').next().unwrap_or_default().to_owned();
    found.weights.iter().map(|w| first(&w.form)).collect()
}

impl Models {
    /// Checks that models whose tensors are moved as they are stored are all quantised alike, or none is.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] naming the first that is not as the one before, with what to do.
    pub fn stored_alike(&self) -> Result<()> {
        let coded: Vec<bool> = self.checkpoints.iter().map(|c| c.is_coded()).collect();
        let Some(first) = coded.iter().position(|c| *c) else { return Ok(()) };
        let lead = &self.checkpoints[first];
        let own = kinds(lead);
        let list = |kinds: &BTreeSet<String>| match kinds.len() {
            0 => "in a way that is not decoded".to_owned(),
            _ => format!("as {}", kinds.iter().cloned().collect::<Vec<_>>().join(", ")),
        };
        for (other, coded) in self.checkpoints.iter().zip(&coded) {
            // A base of nothing but names, adapters and parts of models have no weights of their own to compare.
            if Arc::ptr_eq(other, lead) {
                continue;
            }
            let there = if *coded { kinds(other) } else { BTreeSet::new() };
            let problem = match (coded, there == own) {
                (true, true) => continue,
                (true, false) => format!("is quantised {}, and {} {}", list(&there), lead.path.display(), list(&own)),
                (false, _) if other.is_decoded() => {
                    format!(
                        "is decoded, since an adapter is put in it, and {} is quantised {}",
                        lead.path.display(),
                        list(&own)
                    )
                }
                (false, _) => format!("is not quantised, and {} is, {}", lead.path.display(), list(&own)),
            };
            return Err(Error::checkpoint(&other.path, format!("{problem}; what is stored cannot be mixed; {TO}")));
        }
        Ok(())
    }

    /// Checks that everything quantised was decoded, as was asked for.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] with the reason why something is not.
    pub fn all_decoded(&self) -> Result<()> {
        for c in &self.checkpoints {
            if let Some(Decoded::Refused(reason)) = &c.decoded {
                return Err(Error::checkpoint(&c.path, reason.clone()));
            }
            let families = Families::of(c.tensors.iter().map(|t| (t.name.as_str(), t.dtype)));
            if let Some(i) = (0..c.tensors.len()).find(|i| families.module(*i).is_some()) {
                let problem = "is part of a quantised weight, which is not decoded";
                return Err(Error::tensor(&c.path, &c.tensors[i].name, problem));
            }
        }
        Ok(())
    }

    /// What was done to the models, for people: names, adapters, what was decoded.
    pub(super) fn notes(&mut self) -> Vec<(String, String)> {
        let named = std::mem::take(&mut self.named).into_iter();
        let named = named.map(|(model, told)| ("names".to_owned(), format!("{model}: {told}")));
        let folded = self.checkpoints.iter().flat_map(|c| &c.folded).map(|told| ("adapter".to_owned(), told.clone()));
        let told = |c: &Arc<Checkpoint>| Some(("decoded".to_owned(), format!("{}: {}", c.name(), c.decoded_told()?)));
        named.chain(folded).chain(self.checkpoints.iter().filter_map(told)).collect()
    }

    /// Stored tensors that the plain models have no tensor of the name of, and why not.
    pub(super) fn dropped(&self) -> Vec<Unused> {
        let labels = self.labels();
        let mut out = Vec::new();
        for (c, label) in self.checkpoints.iter().zip(labels) {
            let Some(Decoded::Forms { gone, .. }) = &c.decoded else { continue };
            let one = |(name, into): &(String, Option<String>)| {
                let reason = match into {
                    Some(weight) => format!("it is decoded, with what belongs to it, into `{weight}`"),
                    None => "it says how the model computes with quantised weights, and these are decoded".to_owned(),
                };
                Unused { model: label.clone(), tensor: name.clone(), reason }
            };
            out.extend(gone.iter().map(one));
        }
        out
    }
}
