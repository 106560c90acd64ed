//! A model with deltas in it: the checkpoint, whose tensors are made of its own and the deltas'.

use std::sync::Arc;

use super::{Delta, Entry, Kept, Part, Sampled, Stored};
use crate::checkpoint::exact::Exact;
use crate::checkpoint::made::{Factor, Made, Product, Signs, Sparse, Sum};
use crate::checkpoint::reference::{Applied, called};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::source::{self, IoMode};

/// How a delta is applied.
#[derive(Clone, Copy)]
struct How {
    /// What its changes are multiplied by.
    weight: f64,
    /// Whether it is taken out again.
    back: bool,
}

/// How a model's tensor relates to the one that a delta was taken from.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stands {
    /// It is that one, as far as can be told.
    There,
    /// It was, before other deltas.
    Below,
}

impl Checkpoint {
    /// Folds a delta in, without touching what is stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Tensor`] if it is damaged, or not of this model, or cannot be scaled.
    pub(in crate::checkpoint) fn fold_delta(&mut self, applied: &Applied) -> Result<()> {
        let delta = Delta::open(&applied.path)?;
        let how = How { weight: applied.weight(), back: applied.back };
        if how.back && how.weight != 1.0 {
            let problem = format!("is taken out as a whole; expected weight 1, found {}", how.weight);
            return Err(Error::checkpoint(&delta.path, problem));
        }
        let stands = self.stands(&delta, how.back)?;
        let changed = self.change(&delta, how, &stands, false)?;
        let name = called(&delta.path);
        let (form, way) = (&delta.said.form, if how.back { ", taken out" } else { "" });
        let times = if how.weight == 1.0 { String::new() } else { format!(", {} times", how.weight) };
        let tensors = if changed == 1 { "tensor" } else { "tensors" };
        self.folded.push(format!("{name} ({form} delta{way}){times}: {changed} {tensors}"));
        if stands.contains(&Stands::Below) && delta.said.exact {
            self.warnings.push(format!(
                "{}: is added to a model that other deltas have changed: the sum is formed in f64 and rounded once, and what \
                 makes it exact alone is left out",
                delta.path.display()
            ));
        }
        Ok(())
    }

    /// Whether a delta is of its quantised weights as they are stored.
    ///
    /// # Errors
    /// As [`Delta::open`].
    pub(in crate::checkpoint) fn is_stored_for(&self, applied: &Applied) -> Result<bool> {
        if !self.is_coded() {
            return Ok(false);
        }
        let is = |e: &Entry| {
            let here = self.find_alike(&e.name).map(|i| self.tensors[i].dtype).filter(|dtype| !dtype.computes());
            here.is_some() && [&e.base, &e.tuned].into_iter().flatten().any(|s| Some(s.dtype) == here)
        };
        Ok(Delta::open(&applied.path)?.said.tensors.iter().any(is))
    }

    /// As [`Self::fold_delta`], of a delta that is being made: what makes it exact is not there yet, and its models are those it
    /// is of.
    ///
    /// # Errors
    /// As [`Self::fold_delta`].
    pub fn with_inexact(&self, delta: &Delta, back: bool) -> Result<Self> {
        let mut out = self.clone();
        let stands = vec![Stands::There; delta.said.tensors.len()];
        out.change(delta, How { weight: 1.0, back }, &stands, true)?;
        Ok(out)
    }

    /// How its tensors relate to those that the delta was taken from; or, taken `back`, leads to.
    fn stands(&self, delta: &Delta, back: bool) -> Result<Vec<Stands>> {
        let mut sampled = Sampled::new(self);
        let mut out = Vec::with_capacity(delta.said.tensors.len());
        for entry in &delta.said.tensors {
            // What a sum of deltas leads to is not known.
            let unknown = || entry.base.clone().map(|base| Stored { sample: None, ..base });
            let led =
                entry.tuned.clone().or_else(|| if entry.kept == Kept::Same { entry.base.clone() } else { unknown() });
            let of = if back { led.as_ref() } else { entry.base.as_ref() };
            let gone = back && entry.kept == Kept::Gone;
            let Some(stored) = of.filter(|_| !gone) else {
                out.push(Stands::There);
                continue;
            };
            let here = self.written();
            let here = here.display();
            let Some(own) = self.find_alike(&entry.name).map(|i| &self.tensors[i]) else {
                return Err(other(delta, entry, back, &format!("is not in {here}")));
            };
            if (own.dtype, &own.shape) != (stored.dtype, &stored.shape) {
                let (found, shape) = (own.dtype.name(), &own.shape);
                let expected = format!("expected {} of {:?}", stored.dtype.name(), stored.shape);
                let found = format!("is {found} of shape {shape:?} in {here}, {expected}");
                return Err(other(delta, entry, back, &found));
            }
            out.push(match self.known(&mut sampled, own, stored)? {
                Some(stands) => stands,
                None if own.made.is_some() => {
                    let found = format!("is made when {here} is read; if the delta is of what is written of it, write it first (`suture lora fold`)");
                    return Err(other(delta, entry, back, &found));
                }
                None => {
                    let whose = if back { "the model that the delta leads to" } else { "the delta's base" };
                    return Err(other(delta, entry, back, &format!("holds other bytes in {here} than in {whose}")));
                }
            });
        }
        Ok(out)
    }

    fn known(&self, sampled: &mut Sampled, own: &Tensor, stored: &Stored) -> Result<Option<Stands>> {
        if let Some(Made::Exact(exact)) = own.made.as_deref()
            && exact.promise.as_ref() == Some(&stored.digest)
        {
            return Ok(Some(Stands::There));
        }
        let Some(root) = root(own) else { return Ok(Some(Stands::There)) };
        let stands = if own.made.is_some() { Stands::Below } else { Stands::There };
        let same = match (sampled.of(root)?, &stored.sample) {
            (Some(found), Some(expected)) => found == *expected,
            _ => true,
        };
        Ok(same.then_some(stands))
    }

    /// Puts the changes in; returns how many tensors they reach.
    fn change(&mut self, delta: &Delta, how: How, stands: &[Stands], inexact: bool) -> Result<usize> {
        let first = self.files.len();
        for mut file in delta.files.iter().cloned() {
            file.header_digest = format!("{}{}{}{}", file.header_digest, delta.about, how.weight, how.back);
            file.metadata.clear();
            file.adapter = true;
            self.files.push(file);
        }
        let fold = Fold { delta, how, first, inexact };
        let mut changed = 0;
        for (entry, stands) in delta.said.tensors.iter().zip(stands) {
            changed += usize::from(fold.tensor(self, entry, *stands)?);
        }
        Ok(changed)
    }
}

/// The error of a tensor that is not as the delta's own model has it.
fn other(delta: &Delta, entry: &Entry, back: bool, found: &str) -> Error {
    let model = if back { &delta.said.tuned } else { &delta.said.base };
    delta.wrong(entry, format!("{found}: the delta belongs to another model, `{}`; name that one", model.name))
}

/// The stored tensor that one was before anything changed it.
fn root(tensor: &Tensor) -> Option<&Tensor> {
    match tensor.made.as_deref() {
        None | Some(Made::Coded(_)) => Some(tensor),
        Some(Made::Sum(sum)) => root(&sum.parts.first()?.0),
        Some(Made::Exact(exact)) => root(&exact.under),
        Some(Made::Rows(_)) => None,
    }
}

/// A delta being folded in.
struct Fold<'a> {
    delta: &'a Delta,
    how: How,
    /// The place of its first file among the model's.
    first: usize,
    /// Without what makes it exact.
    inexact: bool,
}

impl Fold<'_> {
    fn part(&self, entry: &Entry, part: Part) -> Result<Tensor> {
        Ok(self.delta.part(entry, part)?.shifted(self.first))
    }

    /// Changes a tensor; whether there was something to change.
    fn tensor(&self, model: &mut Checkpoint, entry: &Entry, stands: Stands) -> Result<bool> {
        let own = model.find_alike(&entry.name).map(|i| model.tensors[i].clone());
        match (entry.kept, own) {
            (Kept::Same, _) => return Ok(false),
            (Kept::Whole, own) => return self.whole(model, entry, own),
            (Kept::Gone, own) => return self.gone(model, entry, own),
            (Kept::Xor, Some(own)) => {
                let bare = own.made.as_deref().is_none_or(|m| matches!(m, Made::Exact(_)));
                if self.how.weight != 1.0 || (stands == Stands::Below && own.made.is_some()) || !bare {
                    let problem = "its change is kept as bits, which can be put in as they are and nothing else: no weight, no \
                                   other changes below it";
                    return Err(self.delta.wrong(entry, problem.into()));
                }
                let name = own.name.clone();
                self.put_exact(model, entry, own, Part::Xor, name)?;
                return Ok(true);
            }
            (_, None) => return Err(self.delta.wrong(entry, "is not in the model".into())),
            (kept, Some(own)) => {
                let exact = if self.how.back { Part::Back } else { Part::Forward };
                let exact = Some(exact).filter(|p| {
                    entry.parts.contains_key(p) && !self.inexact && stands == Stands::There && self.how.weight == 1.0
                });
                let name = own.name.clone();
                let under = if kept == Kept::Left { own } else { self.sum(entry, own)? };
                match exact {
                    Some(part) => self.put_exact(model, entry, under, part, name)?,
                    None => model.put(under),
                }
            }
        }
        Ok(true)
    }

    fn put_exact(&self, model: &mut Checkpoint, entry: &Entry, under: Tensor, part: Part, name: String) -> Result<()> {
        let said = &self.delta.said;
        let (to, from) = if self.how.back { (&entry.base, &said.tuned) } else { (&entry.tuned, &said.base) };
        let exact = Exact {
            blocks: self.part(entry, part)?,
            starts: Arc::default(),
            promise: to.as_ref().map(|stored| stored.digest.clone()),
            delta: self.delta.path.clone(),
            of: from.name.clone(),
            under: under.clone(),
        };
        model.put(Tensor { name, made: Some(Arc::new(Made::Exact(exact))), ..under });
        Ok(())
    }

    /// The tensor with a change that is added.
    fn sum(&self, entry: &Entry, own: Tensor) -> Result<Tensor> {
        let delta = self.delta;
        if !own.dtype.computes() {
            let problem = format!("is {}; expected F64, F32, F16 or BF16", own.dtype.name());
            return Err(delta.wrong(entry, problem));
        }
        // What made another delta exact does so no more.
        let own = match own.made.as_deref() {
            Some(Made::Exact(e)) if matches!(e.under.made.as_deref(), Some(Made::Sum(_))) => e.under.clone(),
            _ => own,
        };
        let mut sum = match own.made.as_deref() {
            Some(Made::Sum(before)) if before.magnitude.is_none() => before.clone(),
            _ => Sum { parts: vec![(own.clone(), 1.0)], ..Sum::default() },
        };
        let weight = if self.how.back { -1.0 } else { self.how.weight };
        match entry.kept {
            Kept::Sparse => sum.sparse.push(Sparse {
                index: self.part(entry, Part::Index)?,
                values: self.part(entry, Part::Values)?,
                scale: weight,
            }),
            Kept::Bits => {
                let scale = self.number(entry)?;
                sum.signs.push(Signs { bits: self.part(entry, Part::Signs)?, scale: scale * weight });
            }
            _ => {
                let product = product(delta, entry, weight)?;
                let moved = |f: Factor| Factor { tensor: f.tensor.shifted(self.first), ..f };
                sum.products.push(Product {
                    left: moved(product.left),
                    middle: product.middle.map(|m| m.shifted(self.first)),
                    right: moved(product.right),
                    ..product
                });
            }
        }
        Ok(Tensor { made: Some(Arc::new(Made::Sum(sum))), ..own })
    }

    /// The scale of signs.
    fn number(&self, entry: &Entry) -> Result<f64> {
        let tensor = self.delta.part(entry, Part::Scale)?;
        let file = &self.delta.files[tensor.file];
        let source = source::open(&file.path, file.identity, IoMode::Pread);
        let mut room = None;
        let bytes = source.read(tensor.begin..tensor.begin + tensor.nbytes, &mut room)?;
        let scale = match *bytes {
            [a, b, c, d] => f64::from(f32::from_le_bytes([a, b, c, d])),
            _ => f64::NAN,
        };
        if scale.is_finite() {
            return Ok(scale);
        }
        Err(self.delta.wrong(entry, format!("`{}` is no finite F32; the delta is damaged", tensor.name)))
    }

    /// A tensor that is kept as it is in the tuned model.
    fn whole(&self, model: &mut Checkpoint, entry: &Entry, own: Option<Tensor>) -> Result<bool> {
        let (delta, weight) = (self.delta, self.how.weight);
        if self.how.back {
            if self.inexact {
                return Ok(false);
            }
            if entry.base.is_none() {
                model.remove(&entry.name);
                return Ok(true);
            }
            self.old(model, entry)?;
            return Ok(true);
        }
        let whole = self.part(entry, Part::Whole)?;
        let name = own.as_ref().map_or_else(|| entry.name.clone(), |t| t.name.clone());
        let Some(own) = own.filter(|own| weight != 1.0 || own.made.is_some()) else {
            if weight != 1.0 {
                let problem = format!("is new to the model, and has no change that could be taken {weight} times");
                return Err(delta.wrong(entry, problem));
            }
            model.put(Tensor { name, ..whole });
            return Ok(true);
        };
        if own.shape != whole.shape || !own.dtype.computes() || !whole.dtype.computes() {
            let problem = "is kept whole, and is of another shape or a dtype without arithmetic: no weight, and no other changes \
                           below it";
            return Err(delta.wrong(entry, problem.into()));
        }
        let base = root(&own).unwrap_or(&own).clone();
        let mut sum = match own.made.as_deref() {
            Some(Made::Sum(before)) if before.magnitude.is_none() => before.clone(),
            _ => Sum { parts: vec![(own.clone(), 1.0)], ..Sum::default() },
        };
        sum.parts.extend([(whole, weight), (base, -weight)]);
        model.put(Tensor { made: Some(Arc::new(Made::Sum(sum))), ..own });
        Ok(true)
    }

    /// Puts the base's tensor back.
    fn old(&self, model: &mut Checkpoint, entry: &Entry) -> Result<()> {
        if !entry.parts.contains_key(&Part::Old) {
            let problem =
                "is replaced as a whole, and the delta does not hold the base's; extract it with --exact, or as xor";
            return Err(self.delta.wrong(entry, problem.into()));
        }
        let old = self.part(entry, Part::Old)?;
        let name = model.find_alike(&entry.name).map(|i| model.tensors[i].name.clone());
        model.put(Tensor { name: name.unwrap_or_else(|| entry.name.clone()), ..old });
        Ok(())
    }

    /// A tensor that the tuned model lacks.
    fn gone(&self, model: &mut Checkpoint, entry: &Entry, own: Option<Tensor>) -> Result<bool> {
        if self.inexact {
            return Ok(false);
        }
        if self.how.back {
            self.old(model, entry)?;
        } else if let Some(own) = own.filter(|_| self.how.weight == 1.0) {
            model.remove(&own.name);
        }
        Ok(true)
    }
}

/// The product that a change is.
pub(super) fn product(delta: &Delta, entry: &Entry, scale: f64) -> Result<Product> {
    let (left, right) = (delta.part(entry, Part::Left)?, delta.part(entry, Part::Right)?);
    let middle = entry.parts.contains_key(&Part::Middle).then(|| delta.part(entry, Part::Middle)).transpose()?;
    let wrong = || {
        let problem = format!("its factors have shapes {:?} and {:?}; the delta is damaged", left.shape, right.shape);
        delta.wrong(entry, problem)
    };
    let shape = entry.base.as_ref().map(|b| b.shape.as_slice()).unwrap_or_default();
    let floats = left.dtype.computes() && right.dtype.computes() && middle.is_none_or(|m| m.dtype.computes());
    let behind = |s: &[u64]| s.iter().product::<u64>();
    let factor = |t: &Tensor, block, rank, step| Factor { tensor: t.clone(), block, rank, step };
    // [experts, rows, rank] and [experts, rank, columns]
    if let ([experts, rows, columns], [e, m, rank], [f, k, n]) = (shape, &left.shape[..], &right.shape[..]) {
        let fits = (e, f, m, n, k) == (experts, experts, rows, columns, rank);
        if !fits || !floats || middle.is_some_and(|s| s.shape != [*experts, *rank]) || entry.turned {
            return Err(wrong());
        }
        let (left, right) = (factor(left, m * rank, 1, *rank), factor(right, rank * n, *n, 1));
        return Ok(Product {
            left,
            middle: middle.cloned(),
            right,
            rank: *rank,
            rows: *rows,
            columns: *columns,
            scale,
        });
    }
    let (Some((rows, rest)), Some((across, inner))) = (shape.split_first(), right.shape.split_first()) else {
        return Err(wrong());
    };
    let (columns, inputs, rank) = (behind(rest), behind(inner), *across);
    let outputs = left.shape.first().copied().unwrap_or(0);
    let ranks = left.shape.get(1..).map_or(0, behind);
    let expected = if entry.turned { (columns, *rows) } else { (*rows, columns) };
    let bad = (outputs, inputs) != expected || ranks != rank || rank == 0 || !floats;
    if bad || middle.is_some_and(|s| s.shape != [rank]) || (entry.turned && middle.is_some()) {
        return Err(wrong());
    }
    let (b, a) = (factor(left, 0, 1, rank), factor(right, 0, inputs, 1));
    let (left, right) = if entry.turned { (a, b) } else { (b, a) };
    Ok(Product { left, middle: middle.cloned(), right, rank, rows: *rows, columns, scale })
}
