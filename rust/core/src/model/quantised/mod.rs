//! Quantised weights, recognised: which stored tensors make which weight, and how. The tensors decide; what the config says confirms
//! it, and tells what they do not (the sides of a tile, which form of a format it is).

mod bitsandbytes;
mod float;
mod four;
mod integer;
mod refused;
mod said;

use std::cell::Cell;
use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::coding::{Coding, Number};
use super::families::Families;
use crate::dtype::Dtype;
pub use said::Said;

/// A stored tensor, as far as its header tells.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its dtype.
    pub dtype: Dtype,
    /// Its shape.
    pub shape: &'a [u64],
}

/// A quantised weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Weight {
    /// The stored tensor whose place it takes.
    pub stands: usize,
    /// Its name in the plain model.
    pub name: String,
    /// Its shape there.
    pub shape: Vec<u64>,
    /// How its elements are made.
    pub coding: Coding,
    /// What the form is called.
    pub form: String,
    /// The stored tensors it is made of, in the order of the form.
    pub parts: Vec<usize>,
}

/// What is quantised in a checkpoint.
#[derive(Debug, Default)]
pub struct Found {
    /// The weights, in the order of what is stored.
    pub weights: Vec<Weight>,
    /// Tensors that mean something only to those.
    pub beside: Vec<usize>,
    /// Zero points of GPTQ that are stored as ones alone, which are read as 0.
    pub wrapped: u64,
    /// Why nothing is decoded, where something cannot be.
    pub refused: Option<String>,
}

/// What is wrong with a stored tensor: its index, and the problem.
pub type Wrong = (usize, String);

/// The bytes of a small tensor.
pub type Read<'a> = &'a dyn Fn(usize) -> Result<Vec<u8>, String>;

/// The tensors of a checkpoint, and what is known of how they are quantised.
pub struct Stored<'a> {
    tensors: &'a [Seen<'a>],
    by_name: HashMap<&'a str, usize>,
    said: Said,
    read: Read<'a>,
    /// As [`Found::wrapped`].
    wrapped: Cell<u64>,
}

impl<'a> Stored<'a> {
    fn find(&self, stem: &str, ending: &str) -> Option<usize> {
        self.by_name.get(format!("{stem}{ending}").as_str()).copied()
    }

    /// The first of several endings that there is.
    fn any(&self, stem: &str, endings: &[&str]) -> Option<usize> {
        endings.iter().find_map(|e| self.find(stem, e))
    }

    fn dtype(&self, tensor: usize) -> Dtype {
        self.tensors[tensor].dtype
    }

    fn shape(&self, tensor: usize) -> &'a [u64] {
        self.tensors[tensor].shape
    }

    fn elements(&self, tensor: usize) -> u64 {
        self.shape(tensor).iter().product()
    }

    /// A part that has to be there because `of` is.
    fn need(&self, stem: &str, ending: &str, of: usize) -> Result<usize, Wrong> {
        let lacks = || (of, format!("has no `{stem}{ending}` beside it, without which it means nothing"));
        self.find(stem, ending).ok_or_else(lacks)
    }

    /// Checks the shape and dtype of a part.
    fn expect(&self, tensor: usize, dtypes: &[Dtype], shape: &[u64]) -> Result<(), Wrong> {
        let t = &self.tensors[tensor];
        // One number is one number.
        let one = |s: &[u64]| s.iter().product::<u64>() == 1 && s.len() <= 1;
        if dtypes.contains(&t.dtype) && (t.shape == shape || (one(t.shape) && one(shape))) {
            return Ok(());
        }
        let names: Vec<&str> = dtypes.iter().map(|d| d.name()).collect();
        let problem = format!("is {} {:?}, expected {} {shape:?}", t.dtype.name(), t.shape, names.join(" or "));
        Err((tensor, problem))
    }

    /// How the scales in a tensor are stored.
    fn number(&self, tensor: usize, allowed: &[Dtype]) -> Result<Number, Wrong> {
        let dtype = self.dtype(tensor);
        let found = Number::of(dtype).filter(|_| allowed.contains(&dtype));
        let names = || allowed.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
        found.ok_or_else(|| (tensor, format!("is {}, and scales here are {}", dtype.name(), names())))
    }

    /// A matrix's rows and columns, those of stacked ones one behind the other.
    fn matrix(&self, tensor: usize) -> Result<(u64, u64), Wrong> {
        match self.shape(tensor) {
            [rest @ .., columns] if !rest.is_empty() && *columns > 0 && rest.iter().all(|n| *n > 0) => {
                Ok((rest.iter().product(), *columns))
            }
            shape => Err((tensor, format!("has shape {shape:?}, expected a matrix"))),
        }
    }

    /// The bytes of a part that says something of the others.
    fn bytes(&self, tensor: usize, most: u64) -> Result<Vec<u8>, Wrong> {
        if self.elements(tensor) * self.dtype(tensor).bits() / 8 > most {
            return Err((tensor, format!("is larger than {most} bytes, which is more than it can have to say")));
        }
        (self.read)(tensor).map_err(|problem| (tensor, problem))
    }

    /// The groups of inputs in another order, if they are: each below `groups`.
    fn order(&self, tensor: usize, inputs: u64, group: u64, groups: u64) -> Result<bool, Wrong> {
        self.expect(tensor, &[Dtype::I32], &[inputs])?;
        let bytes = self.bytes(tensor, 64 << 20)?;
        let order: Vec<i32> = bytes.as_chunks::<4>().0.iter().map(|b| i32::from_le_bytes(*b)).collect();
        if let Some(i) = order.iter().position(|g| !(0..groups as i64).contains(&i64::from(*g))) {
            return Err((tensor, format!("says group {} of input {i}, and there are {groups} groups", order[i])));
        }
        let unused = groups > 1 && order.iter().all(|g| *g == 0);
        let plain = order.iter().enumerate().all(|(i, g)| i as u64 / group == *g as u64);
        Ok(!unused && !plain)
    }
}

/// `X` of the name of a weight that `ending` ends, whatever is quantised.
fn stem_of<'n>(name: &'n str, ending: &str) -> Option<&'n str> {
    name.strip_suffix(ending).filter(|stem| !stem.is_empty())
}

/// Finds out what is quantised among `tensors`, of whose config.json (and what lies beside it) `quantisation` is the part that speaks
/// of it.
///
/// # Errors
/// The tensor that does not fit the others, with the problem.
pub fn recognise(tensors: &[Seen], quantisation: Option<&Value>, read: Read) -> Result<Found, Wrong> {
    let named = tensors.iter().map(|t| (t.name, t.dtype));
    if named.clone().all(|(_, dtype)| dtype.computes()) {
        // bitsandbytes may keep its codes as floats; its scales are bytes of JSON then, too.
        return Ok(Found::default());
    }
    let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name, i)).collect();
    let stored = Stored { tensors, by_name, said: Said::of(quantisation), read, wrapped: Cell::default() };
    let families = Families::of(named);
    let mut out = Found::default();
    let mut known: HashSet<&str> = HashSet::new();
    for index in 0..tensors.len() {
        if let Some(reason) = refused::reason(&stored, index) {
            out.refused.get_or_insert(reason);
            continue;
        }
        if let Some(weight) = weight(&stored, index)? {
            if let Some(stem) = families.module(index) {
                known.insert(stem);
            }
            out.weights.push(weight);
        }
    }
    for (index, t) in tensors.iter().enumerate() {
        match families.module(index) {
            Some(stem) if known.contains(stem) => {
                out.beside.push(index);
            }
            Some(stem) if out.refused.is_none() => {
                let problem = "is part of a quantised weight whose layout is not known";
                out.refused = Some(format!("`{}` {problem} (of `{stem}`)", t.name));
            }
            _ => {}
        }
    }
    if !out.weights.is_empty() {
        // What attention keeps of keys and values, in their range as they are quantised; and scales that stand for the weight's part.
        let cache = [".k_scale", ".v_scale", ".q_scale", ".input_scale", ".activation_scale"];
        let of_cache = |t: &Seen| cache.iter().any(|e| t.name.ends_with(e)) && t.shape.iter().product::<u64>() <= 1;
        let more = (0..tensors.len()).filter(|i| families.module(*i).is_none() && of_cache(&tensors[*i]));
        let more: Vec<usize> = more.collect();
        out.beside.extend(more);
    }
    out.wrapped = stored.wrapped.get();
    let parts: HashSet<usize> = out.weights.iter().flat_map(|w| w.parts.iter().copied()).collect();
    out.beside.extend(parts);
    out.beside.sort_unstable();
    out.beside.dedup();
    Ok(out)
}

/// The weight that the tensor at `index` holds the codes of.
fn weight(stored: &Stored, index: usize) -> Result<Option<Weight>, Wrong> {
    let name = stored.tensors[index].name;
    if let Some(stem) = stem_of(name, ".weight") {
        if stored.find(stem, ".weight.absmax").is_some() {
            return bitsandbytes::four(stored, index, stem).map(Some);
        }
        if stored.find(stem, ".SCB").is_some() {
            return bitsandbytes::eight(stored, index, stem).map(Some);
        }
    }
    if let Some(stem) = stem_of(name, ".weight_packed") {
        return match stored.dtype(index) {
            Dtype::U8 => four::packed(stored, index, stem).map(Some),
            _ => integer::packed(stored, index, stem).map(Some),
        };
    }
    if let Some(stem) = stem_of(name, ".qweight") {
        return integer::words(stored, index, stem).map(Some);
    }
    for ending in ["_blocks", ".blocks"] {
        if let Some(stem) = stem_of(name, ending)
            && let Some(scales) = stored.find(stem, if ending == "_blocks" { "_scales" } else { ".scales" })
        {
            return four::blocks(stored, index, stem, scales, ending == "_blocks").map(Some);
        }
    }
    float::scaled(stored, index)
}
