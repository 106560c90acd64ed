//! The swap recipe: layers of donors put into a recipient (Bandarkar et al., arXiv 2410.01335).

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::fields::{Fields, wrong};
use super::{Filter, To};
use crate::checkpoint::Reference;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Where the tensors outside the layers come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum NonLayer {
    /// The recipient.
    Into,
    /// The donor.
    From,
    /// The base.
    Base,
    /// The mean of the recipient and all donors.
    Mean,
    /// The donor with this share, the recipient with the rest.
    Share(f64),
}

/// How a layer next to a donor's is blended.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Blend {
    /// With the donor at this share.
    Share(f64),
    /// With the donor's share falling evenly over the transition, from its side to the recipient's.
    Ramp,
}

/// Which modules of a swapped layer move: parts of their names, globs, or filters as configs have them, which are of whole names
/// of tensors.
#[derive(Debug, Clone)]
pub struct Modules(Option<Vec<(Filter, bool)>>);

impl Modules {
    /// True if the module called `name` (`self_attn.q_proj`) of the tensor called `tensor` moves.
    pub fn contain(&self, name: &str, tensor: &str) -> bool {
        let matches = |(filter, whole): &(Filter, bool)| filter.matches(if *whole { tensor } else { name });
        self.0.as_ref().is_none_or(|filters| filters.iter().any(matches))
    }
}

/// A model that gives layers.
#[derive(Debug, Clone)]
pub struct Donor {
    /// Its place in the recipe, for errors; empty where it is the only one.
    pub at: String,
    /// Its path.
    pub from: Reference,
    /// Path of the model it was tuned from, if that is not the swap's base: its change moves, not its weights.
    pub base: Option<Reference>,
    /// Layers from the bottom that it gives.
    pub bottom: usize,
    /// Layers from the top that it gives.
    pub top: usize,
    /// Layers blended above those at the bottom.
    pub below: usize,
    /// Layers blended below those at the top.
    pub above: usize,
    /// How these are blended.
    pub blend: Blend,
    /// Layers it gives, if listed one by one.
    pub layers: Option<BTreeSet<usize>>,
    /// True if it gives every layer.
    pub all: bool,
    /// Layers blended, with its share, if listed one by one.
    pub blended: BTreeMap<usize, f64>,
    /// Which modules of these layers move.
    pub modules: Modules,
    /// The same as it was given.
    pub modules_text: Option<String>,
    /// Which attention heads move; `None` for whole tensors.
    pub heads: Option<BTreeSet<usize>>,
}

impl Donor {
    /// The place of its key in the recipe, for errors.
    pub fn place(&self, key: &str) -> String {
        if self.at.is_empty() { key.to_owned() } else { format!("{}.{key}", self.at) }
    }
}

/// A swap recipe.
#[derive(Debug, Clone)]
pub struct Swap {
    /// Path of the recipient: what is not swapped comes from it.
    pub into: Reference,
    /// Path of the base, for `non_layer: base` and for donors whose change moves.
    pub base: Option<Reference>,
    /// The models that give layers, at least one.
    pub donors: Vec<Donor>,
    /// Where everything outside the layers comes from.
    pub non_layer: NonLayer,
    /// The stack that layers are numbered in, if not the recipient's main one.
    pub stack: Option<String>,
    /// Tensors that stay the recipient's whatever else is asked, and need not be in all models.
    pub ignore: Vec<Filter>,
    /// True if the donor is the base of the recipient: for people it is then a revert.
    pub revert: bool,
    /// True if the models are adapters, whose tensors belong together by layer.
    pub adapters: bool,
    /// Dtype of the output, if not the recipient's.
    pub dtype: Option<Dtype>,
    /// Whether quantised weights are decoded, to that dtype.
    pub to: Option<To>,
}

pub(super) fn parse(value: &Value) -> Result<Swap> {
    let mut fields = Fields::new("", value)?;
    let into = super::model("into", fields.need("into")?)?;
    let base = fields.get("base").map(|v| super::model("base", v)).transpose()?;
    let listed = fields.list("donors")?.filter(|d| !d.is_empty());
    let listed = listed.ok_or_else(|| Error::recipe("donors", "no model gives layers"))?;
    let several = listed.len() > 1;
    let at = |i| if several { format!("donors[{i}]") } else { String::new() };
    let donors: Vec<Donor> = listed.iter().enumerate().map(|(i, d)| donor(at(i), d)).collect::<Result<_>>()?;
    if let Some(d) = donors.iter().find(|d| d.base.is_some() && base.is_none()) {
        return Err(Error::recipe(&d.at, "a donor's own base needs the base that its change is added to; give `base`"));
    }
    let non_layer = match fields.get("non_layer") {
        None => NonLayer::Into,
        Some(v) => match (v.as_str(), v.as_f64()) {
            (Some("into"), _) => NonLayer::Into,
            (Some("from"), _) => NonLayer::From,
            (Some("base"), _) => NonLayer::Base,
            (Some("mean"), _) => NonLayer::Mean,
            (_, Some(share)) if (0.0..=1.0).contains(&share) => NonLayer::Share(share),
            _ => return Err(wrong("non_layer", "into, from, base or mean", v)),
        },
    };
    if non_layer == NonLayer::Base && base.is_none() {
        return Err(Error::recipe("non_layer", "asks for the base; give `base` too"));
    }
    let paths: BTreeSet<&Reference> = donors.iter().map(|d| &d.from).collect();
    if matches!(non_layer, NonLayer::From | NonLayer::Share(_)) && paths.len() > 1 {
        let problem = "asks for the donor's tensors, but there are several donors; expected into, base or mean";
        return Err(Error::recipe("non_layer", problem));
    }
    let stack = fields.text("stack")?.map(str::to_owned);
    let ignore = fields.get("ignore").map(|v| Filter::list("ignore", v)).transpose()?.unwrap_or_default();
    let mut flag = |key| fields.get(key).and_then(Value::as_bool).unwrap_or(false);
    let (adapters, revert) = (flag("adapters"), flag("revert"));
    let dtype = fields.text("dtype")?.map(|d| super::parse_dtype("dtype", d)).transpose()?;
    let to = super::to(&mut fields)?;
    fields.finish()?;
    Ok(Swap {
        into,
        base,
        donors,
        non_layer,
        stack,
        ignore,
        revert,
        adapters,
        dtype: to.and_then(To::dtype).or(dtype),
        to,
    })
}

fn donor(at: String, value: &Value) -> Result<Donor> {
    let mut fields = Fields::new(at.clone(), value)?;
    let (from_at, base_at) = (fields.path("from"), fields.path("base"));
    let from = super::model(&from_at, fields.need("from")?)?;
    let base = fields.get("base").map(|v| super::model(&base_at, v)).transpose()?;
    let bottom = fields.count("bottom", 0)?;
    let top = fields.count("top", 0)?;
    let below = fields.count("transition_bottom", 0)?;
    let above = fields.count("transition_top", 0)?;
    let place = fields.path("blend");
    let share = |at: &str, v: &Value| match v.as_f64() {
        Some(s) if (0.0..=1.0).contains(&s) => Ok(s),
        Some(s) => Err(Error::recipe(at, format!("expected a number from 0 to 1, found {s}"))),
        None => Err(wrong(at, "a number from 0 to 1, or ramp", v)),
    };
    let blend = match fields.get("blend") {
        None => Blend::Share(0.5),
        Some(v) if v.as_str() == Some("ramp") => Blend::Ramp,
        Some(v) => Blend::Share(share(&place, v)?),
    };
    let place = fields.path("layers");
    let listed = fields.get("layers");
    let all = listed.and_then(Value::as_str).is_some_and(|text| text.trim() == "all");
    let read = |v| if all { Ok(BTreeSet::new()) } else { numbers(&place, v, "layers such as 0-4,30,31, or all") };
    let layers = listed.map(read).transpose()?;
    if layers.is_some() && (bottom, top, below, above) != (0, 0, 0, 0) {
        return Err(Error::recipe(place, "lists layers one by one; it does not go with bottom, top or transition"));
    }
    if layers.is_some() && blend == Blend::Ramp {
        return Err(Error::recipe(place, "lists layers one by one; there is no transition that a ramp could go over"));
    }
    let place = fields.path("blended");
    let blended = match fields.get("blended") {
        None => BTreeMap::new(),
        Some(v) => v
            .as_object()
            .ok_or_else(|| wrong(&place, "a mapping from layers to shares", v))?
            .iter()
            .map(|(l, v)| {
                let layer = l.parse().map_err(|_| Error::recipe(&place, format!("expected a layer, found `{l}`")))?;
                Ok((layer, share(&place, v)?))
            })
            .collect::<Result<_>>()?,
    };
    let modules_text = fields.text("modules")?.map(str::to_owned);
    let modules = Modules(modules_text.as_deref().map(filters).transpose()?);
    let place = fields.path("heads");
    let heads = fields.get("heads").map(|v| numbers(&place, v, "heads such as 0-3,7")).transpose()?;
    fields.finish()?;
    Ok(Donor { at, from, base, bottom, top, below, above, blend, layers, all, blended, modules, modules_text, heads })
}

/// Layers or heads as `0-4,30,31` or a list of numbers.
fn numbers(at: &str, value: &Value, expected: &str) -> Result<BTreeSet<usize>> {
    let bad = || wrong(at, expected, value);
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

/// Filters separated by commas; what looks like a glob is one.
fn filters(text: &str) -> Result<Vec<(Filter, bool)>> {
    let filter = |f: &str| {
        let globbed = f.contains(['*', '?', '[']) && !f.contains(':') && f != "*";
        let filter = Filter::parse("modules", &if globbed { glob(f) } else { f.to_owned() })?;
        Ok((filter, !globbed && f.contains(':')))
    };
    text.split(',').map(str::trim).map(filter).collect()
}

/// A glob as filters have it; `!` stays before it.
fn glob(text: &str) -> String {
    text.strip_prefix('!').map_or_else(|| format!("glob:{text}"), |rest| format!("!glob:{rest}"))
}
