//! The swap recipe: layers of a donor put into a recipient (Bandarkar et al., arXiv 2410.01335).

use std::collections::BTreeSet;

use globset::{Glob, GlobMatcher};
use serde_json::Value;

use super::fields::{Fields, wrong};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Where the tensors outside the layers come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NonLayer {
    /// The recipient.
    Into,
    /// The donor.
    From,
    /// The mean of both.
    Mean,
}

/// Which modules of a swapped layer move.
#[derive(Debug, Clone)]
pub struct Modules(Option<Vec<GlobMatcher>>);

impl Modules {
    /// True if the module called `name` (`self_attn.q_proj`) moves.
    pub fn contain(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|globs| globs.iter().any(|g| g.is_match(name)))
    }
}

/// A swap recipe.
#[derive(Debug, Clone)]
pub struct Swap {
    /// Path of the recipient: what is not swapped comes from it.
    pub into: String,
    /// Path of the donor.
    pub from: String,
    /// Layers from the bottom that the donor gives.
    pub bottom: usize,
    /// Layers from the top that the donor gives.
    pub top: usize,
    /// Layers blended at each border.
    pub transition: usize,
    /// The donor's share in a blended layer.
    pub blend: f64,
    /// Layers the donor gives, if listed one by one.
    pub layers: Option<BTreeSet<usize>>,
    /// Which modules of these layers move.
    pub modules: Modules,
    /// The same as it was given.
    pub modules_text: Option<String>,
    /// Where everything outside the layers comes from.
    pub non_layer: NonLayer,
    /// Dtype of the output, if not the recipient's.
    pub dtype: Option<Dtype>,
}

pub(super) fn parse(value: &Value) -> Result<Swap> {
    let mut fields = Fields::new("", value)?;
    let mut path = |key| -> Result<String> { Ok(fields.need(key)?.as_str().unwrap_or_default().to_owned()) };
    let (into, from) = (path("into")?, path("from")?);
    let bottom = fields.count("bottom", 0)?;
    let top = fields.count("top", 0)?;
    let transition = fields.count("transition", 0)?;
    let blend = match fields.get("blend") {
        None => 0.5,
        Some(v) => v.as_f64().ok_or_else(|| wrong("blend", "a number from 0 to 1", v))?,
    };
    if !(0.0..=1.0).contains(&blend) {
        return Err(Error::recipe("blend", format!("expected a number from 0 to 1, found {blend}")));
    }
    let layers = fields.get("layers").map(layers).transpose()?;
    if layers.is_some() && (bottom, top, transition) != (0, 0, 0) {
        return Err(Error::recipe("layers", "lists layers one by one; it does not go with bottom, top or transition"));
    }
    let modules_text = fields.text("modules")?.map(str::to_owned);
    let modules = Modules(modules_text.as_deref().map(globs).transpose()?);
    let non_layer = match fields.text("non_layer")? {
        None | Some("into") => NonLayer::Into,
        Some("from") => NonLayer::From,
        Some("mean") => NonLayer::Mean,
        Some(other) => {
            return Err(Error::recipe("non_layer", format!("expected into, from or mean, found `{other}`")));
        }
    };
    let dtype = fields.text("dtype")?.map(|d| super::parse_dtype("dtype", d)).transpose()?;
    fields.finish()?;
    Ok(Swap { into, from, bottom, top, transition, blend, layers, modules, modules_text, non_layer, dtype })
}

/// Layers as `0-4,30,31` or a list of numbers.
fn layers(value: &Value) -> Result<BTreeSet<usize>> {
    let bad = || wrong("layers", "layers such as 0-4,30,31", value);
    if let Some(list) = value.as_array() {
        return list.iter().map(|v| v.as_u64().map(|n| n as usize).ok_or_else(bad)).collect();
    }
    let mut out = BTreeSet::new();
    for part in value.as_str().ok_or_else(bad)?.split(',') {
        let number = |text: &str| text.trim().parse::<usize>().map_err(|_| bad());
        let (first, last) = match part.split_once('-') {
            Some((a, b)) => (number(a)?, number(b)?),
            None => (number(part)?, number(part)?),
        };
        if first > last || last - first > 1_000_000 {
            return Err(bad());
        }
        out.extend(first..=last);
    }
    Ok(out)
}

fn globs(text: &str) -> Result<Vec<GlobMatcher>> {
    text.split(',')
        .map(|g| {
            let glob = Glob::new(g.trim()).map_err(|e| Error::recipe("modules", e.to_string()))?;
            Ok(glob.compile_matcher())
        })
        .collect()
}
