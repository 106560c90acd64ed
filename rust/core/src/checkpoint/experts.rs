//! Experts of a layer, stored in one tensor or each in its own: the same weights, presented either way.
//!
//! Packed, `experts.gate_up_proj` is [experts, 2 * inner, width], the gate's rows before those of `up`, and `experts.down_proj`
//! [experts, width, inner], as transformers has them from version 5 on. Apart they are `experts.N.gate_proj.weight` and so on;
//! Mixtral calls gate, up and down `w1`, `w3` and `w2`.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::made::Made;
use super::rows::{Layout, Rows, Segment};
use super::{Checkpoint, Tensor};
use crate::error::{Error, Result};

/// How experts are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// All experts of a layer in one tensor.
    Packed,
    /// Each in tensors of its own.
    Apart,
}

impl Packing {
    /// By its name.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "packed" => Some(Self::Packed),
            "apart" => Some(Self::Apart),
            _ => None,
        }
    }
}

/// What the three matrices of an expert are called.
const GATED: [[&str; 3]; 2] = [["gate_proj", "up_proj", "down_proj"], ["w1", "w3", "w2"]];
const GATE_UP: &str = "gate_up_proj";
const DOWN: &str = "down_proj";

/// What modules of experts, and the routers in them, are called at different times.
const MODULES: [&str; 2] = [".block_sparse_moe.", ".mlp."];

/// Whether a name means the experts of a layer in one tensor.
pub(super) fn is_packed(name: &str) -> bool {
    [GATE_UP, DOWN].iter().any(|part| name.strip_suffix(part).is_some_and(|rest| rest.ends_with("experts.")))
}

/// The same under the name that modules of experts have at another time, if it is one of them.
pub(super) fn called_otherwise(name: &str) -> Option<String> {
    let [old, new] = MODULES;
    // A name may end with the module.
    let whole = format!("{name}.");
    let other = if whole.contains(old) { whole.replacen(old, new, 1) } else { whole.replacen(new, old, 1) };
    (other != whole).then(|| other.trim_end_matches('.').to_owned())
}

/// The experts of a module that stores them apart: by number gate, up and down.
type Experts = BTreeMap<u64, [Option<usize>; 3]>;

impl Checkpoint {
    /// How it stores its experts, if it has any that are known.
    pub fn packing(&self) -> Option<Packing> {
        let packed = |t: &Tensor| t.name.ends_with(&format!(".experts.{GATE_UP}")) && t.shape.len() == 3;
        if self.tensors.iter().any(packed) {
            return Some(Packing::Packed);
        }
        self.tensors.iter().any(|t| expert(&t.name).is_some()).then_some(Packing::Apart)
    }

    /// The model with its experts stored as `form` has them; modules of experts are called as in `like`, where it has them.
    ///
    /// # Errors
    /// [`Error::Tensor`] if experts are not of one shape, one is missing, or they are packed in another order.
    pub fn with_experts(&self, form: Packing, like: &Self) -> Result<Self> {
        let made = match form {
            _ if self.packing() == Some(form) => self.tensors.clone(),
            Packing::Packed => self.packed()?,
            Packing::Apart => self.apart(like)?,
        };
        let mut out = self.clone();
        out.tensors = made;
        out.rename_modules(like);
        out.reindex();
        Ok(out)
    }

    /// Its tensors, those of experts packed.
    fn packed(&self) -> Result<Vec<Tensor>> {
        let mut modules: BTreeMap<&str, Experts> = BTreeMap::new();
        for (index, t) in self.tensors.iter().enumerate() {
            if let Some((module, number, which)) = expert(&t.name) {
                modules.entry(module).or_default().entry(number).or_default()[which] = Some(index);
            }
        }
        let mut made: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
        let mut gone: Vec<usize> = Vec::new();
        for (module, experts) in &modules {
            let mut stacked: [Vec<&Tensor>; 2] = [vec![], vec![]];
            for (place, (number, parts)) in experts.iter().enumerate() {
                let [Some(gate), Some(up), Some(down)] = *parts else {
                    let problem = "is not whole: gate, up or down is missing; experts cannot be packed";
                    return Err(Error::tensor(&self.path, &format!("{module}.{number}"), problem));
                };
                if *number != place as u64 {
                    let problem =
                        format!("is missing, and {} experts are there; experts cannot be packed", experts.len());
                    return Err(Error::tensor(&self.path, &format!("{module}.{place}"), problem));
                }
                stacked[0].extend([&self.tensors[gate], &self.tensors[up]]);
                stacked[1].push(&self.tensors[down]);
                gone.extend([gate, up, down]);
            }
            let first = gone.iter().rev().take(experts.len() * 3).min().copied().unwrap_or(0);
            let n = experts.len() as u64;
            made.entry(first).or_default().extend([
                self.stack(&format!("{module}.{GATE_UP}"), &stacked[0], n)?,
                self.stack(&format!("{module}.{DOWN}"), &stacked[1], n)?,
            ]);
        }
        gone.sort_unstable();
        Ok(self.with(made, &gone))
    }

    /// Matrices of one shape, one behind the other, as a tensor of `experts` matrices.
    fn stack(&self, name: &str, parts: &[&Tensor], experts: u64) -> Result<Tensor> {
        let first = parts[0];
        let &[rows, columns] = &first.shape[..] else {
            return Err(Error::tensor(
                &self.path,
                &first.name,
                format!("has shape {:?}, expected a matrix", first.shape),
            ));
        };
        if let Some(other) = parts.iter().find(|t| t.shape != first.shape || t.dtype != first.dtype) {
            let (found, want) = (&other.shape, &first.shape);
            let problem = format!(
                "is {} {found:?}, and `{}` is {} {want:?}; experts cannot be packed",
                other.dtype.name(),
                first.name,
                first.dtype.name()
            );
            return Err(Error::tensor(&self.path, &other.name, problem));
        }
        let segments = (0..parts.len()).map(|i| Segment::Rows(rows, i, 0)).collect();
        let tables = parts.iter().map(|t| Some((*t).clone())).collect();
        let made =
            Rows { layout: Arc::new(Layout::new(segments, Arc::default())), tables, columns, formed: Mutex::new(None) };
        let all = rows * parts.len() as u64;
        Ok(Tensor {
            name: name.to_owned(),
            shape: vec![experts, all / experts, columns],
            nbytes: all * columns * first.dtype.bits() / 8,
            made: Some(Arc::new(Made::Rows(made))),
            strides: None,
            ..first.clone()
        })
    }

    /// Its tensors, those of experts each by itself, under the names that `like` has for them.
    fn apart(&self, like: &Self) -> Result<Vec<Tensor>> {
        let mixtral = like.tensors.iter().any(|t| expert(&t.name).is_some() && t.name.ends_with(".w1.weight"));
        let [gate, up, down] = GATED[usize::from(mixtral)];
        let mut made: BTreeMap<usize, Vec<Tensor>> = BTreeMap::new();
        let mut gone = Vec::new();
        for (index, t) in self.tensors.iter().enumerate() {
            let Some(module) = t.name.strip_suffix(&format!(".{GATE_UP}")).filter(|m| m.ends_with(".experts")) else {
                continue;
            };
            let fail = |problem: &str| Err(Error::tensor(&self.path, &t.name, problem));
            let Some(other) = self.find(&format!("{module}.{DOWN}")) else { return fail("has no down_proj beside it") };
            let d = &self.tensors[other];
            let (&[experts, both, width], &[e, w, inner]) = (&t.shape[..], &d.shape[..]) else {
                return fail("is no stack of matrices; its experts cannot be taken apart");
            };
            if (experts, width) != (e, w) || both != 2 * inner {
                return fail(
                    "is not [experts, 2 * inner, width] beside a down_proj [experts, width, inner]; experts that are kept \
                     transposed, or with gate and up in turns, are not taken apart: merge with models that store them alike",
                );
            }
            let coded = |t: &Tensor| matches!(t.made.as_deref(), Some(Made::Coded(_)));
            if [t, d].iter().any(|t| (t.made.is_some() && !coded(t)) || !t.is_contiguous()) {
                return fail("is made of other tensors; write the model first (`suture convert`, `suture lora fold`)");
            }
            let piece = |of: &Tensor, name: String, rows: u64, at: u64| {
                let (columns, nbytes) = (of.shape[2], rows * of.shape[2] * of.dtype.bits() / 8);
                let whole = Tensor { name, shape: vec![rows, columns], nbytes, ..of.clone() };
                if !coded(of) {
                    return Tensor { begin: of.begin + at * columns * of.dtype.bits() / 8, ..whole };
                }
                let layout = Arc::new(Layout::new(vec![Segment::Rows(rows, 0, at)], Arc::default()));
                let made = Rows { layout, tables: vec![Some(of.clone())], columns, formed: Mutex::new(None) };
                Tensor { made: Some(Arc::new(Made::Rows(made))), ..whole }
            };
            for n in 0..experts {
                let name = |part: &str| format!("{module}.{n}.{part}.weight");
                made.entry(index).or_default().extend([
                    piece(t, name(gate), inner, n * both),
                    piece(t, name(up), inner, n * both + inner),
                    piece(d, name(down), width, n * width),
                ]);
            }
            gone.extend([index, other]);
        }
        gone.sort_unstable();
        Ok(self.with(made, &gone))
    }

    /// Its tensors without those that are `gone`, and with others in the places of some of these.
    fn with(&self, mut made: BTreeMap<usize, Vec<Tensor>>, gone: &[usize]) -> Vec<Tensor> {
        let mut out = Vec::with_capacity(self.tensors.len());
        for (index, t) in self.tensors.iter().enumerate() {
            out.extend(made.remove(&index).into_iter().flatten());
            if gone.binary_search(&index).is_err() {
                out.push(t.clone());
            }
        }
        out
    }

    /// Whether another model stores its experts otherwise, or calls them so.
    pub fn stores_experts_unlike(&self, other: &Self) -> bool {
        let called = |c: &Self| {
            let first = c.tensors.iter().find_map(|t| Some((t, expert(&t.name)?.2)));
            first.map(|(t, which)| (is_called(t, 1, which), t.name.contains(MODULES[0])))
        };
        match (self.packing(), other.packing()) {
            (Some(own), Some(form)) => own != form || (own == Packing::Apart && called(self) != called(other)),
            _ => false,
        }
    }

    /// Gives experts, their modules and the routers beside them the names that another model has for them: Mixtral's
    /// `block_sparse_moe` is `mlp` in later files.
    fn rename_modules(&mut self, like: &Self) {
        let words = |c: &Self| {
            let own = |t: &Tensor| expert(&t.name).map(|(_, _, which)| is_called(t, 1, which));
            c.tensors.iter().find_map(own)
        };
        if let (Some(own), Some(theirs)) = (words(self), words(like))
            && own != theirs
        {
            for t in &mut self.tensors {
                let Some((module, number, which)) = expert(&t.name) else { continue };
                t.name = format!("{module}.{number}.{}.weight", GATED[usize::from(theirs)][which]);
            }
        }
        let has =
            |c: &Self, name: &str| c.tensors.iter().any(|t| t.name.contains(name) && t.name.contains(".experts."));
        for (own, theirs) in [(MODULES[0], MODULES[1]), (MODULES[1], MODULES[0])] {
            if has(self, own) && !has(like, own) && has(like, theirs) {
                self.tensors.iter_mut().for_each(|t| t.name = t.name.replace(own, theirs));
            }
        }
    }
}

/// Whether a matrix of an expert is called as in these names.
fn is_called(t: &Tensor, names: usize, which: usize) -> bool {
    t.name.ends_with(&format!(".{}.weight", GATED[names][which]))
}

/// The module of experts, the number and which of its matrices a tensor's name means.
fn expert(name: &str) -> Option<(&str, u64, usize)> {
    let (rest, part) = name.strip_suffix(".weight")?.rsplit_once('.')?;
    let (module, number) = rest.rsplit_once('.')?;
    let which = GATED.iter().find_map(|names| names.iter().position(|n| *n == part))?;
    (module.ends_with(".experts") || module == "experts").then(|| Some((module, number.parse().ok()?, which)))?
}
