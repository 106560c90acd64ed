//! How the change of each tensor is kept, as far as headers tell.

use std::collections::HashSet;

use super::options::{Form, Options};
use crate::checkpoint::delta::{Kept, Part};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::attention::Attention;
use crate::model::families::Families;
use crate::model::names::split_layer;
use crate::model::tied;
use crate::sizes::SPAN;

/// Elements that are worked on together, where an element takes whole bytes.
pub const TASK: u64 = 1 << 20;

/// A tensor of the models.
#[derive(Clone)]
pub struct Item {
    /// Its name.
    pub name: String,
    /// Index in the base.
    pub base: Option<usize>,
    /// Index in the tuned model.
    pub tuned: Option<usize>,
    /// How its change is kept, if there is one.
    pub kept: Kept,
    /// Whether the base's tensor is kept too.
    pub old: bool,
    /// Whether what the form loses is kept besides.
    pub exact: bool,
    /// Of a change that is kept as factors: how the matrix lies.
    pub matrix: Option<Matrix>,
    /// The smaller side of a matrix that is to be kept as factors.
    pub side: Option<u64>,
}

/// How a tensor is a matrix, or several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Matrix {
    /// How many; experts.
    pub count: u64,
    /// Rows of one.
    pub rows: u64,
    /// Its columns.
    pub columns: u64,
    /// Whether the model keeps it as [in, out].
    pub turned: bool,
}

/// Elements of a task of a tensor: digests are joined of whole leaves, which tasks must not cut.
pub fn task(t: &Tensor) -> u64 {
    if t.dtype.bits() < 8 { SPAN } else { TASK }
}

/// The tensors of both models, in the order of the base's bytes, those that are new behind them.
///
/// # Errors
/// [`Error::Tensor`] for what no delta is taken of.
pub fn items(base: &Checkpoint, tuned: &Checkpoint, options: &Options) -> Result<Vec<Item>> {
    // Only adapters are of matrices as [out, in]: factors are of the tensor as it lies.
    let turned =
        options.form == Form::Lora && base.tensors.iter().any(|t| Attention::tells_transposed(&t.name, &t.shape));
    let both = options.exact || options.form == Form::Xor;
    let families = Families::of(base.tensors.iter().map(|t| (t.name.as_str(), t.dtype)));
    alike(base, tuned, &families)?;
    let named = |i: &usize| options.left.contains(&base.tensors[*i].name);
    let left: HashSet<&str> = (0..base.tensors.len()).filter(named).filter_map(|i| families.module(i)).collect();
    let mut out = Vec::with_capacity(base.tensors.len());
    let mut met = vec![false; tuned.tensors.len()];
    for (i, own) in base.tensors.iter().enumerate() {
        let mate = tuned.find_alike(&own.name);
        let mut item = Item {
            name: own.name.clone(),
            base: Some(i),
            tuned: mate,
            kept: Kept::Gone,
            old: both,
            exact: false,
            matrix: None,
            side: None,
        };
        if let Some(j) = mate {
            met[j] = true;
            let other = &tuned.tensors[j];
            let mut matrix = matrix(own, turned);
            // Adapters of tables are of their rows: W = [tokens, hidden] = (B A) transposed.
            if let Some(m) = matrix.as_mut().filter(|_| options.form == Form::Lora && tied::is_table(&own.name)) {
                m.turned = true;
            }
            // Codes and scales mean something only together: both are kept as bits, or left.
            let member = families.module(i);
            item.kept = if member.is_some_and(|of| left.contains(of)) {
                Kept::Left
            } else {
                kept(own, other, matrix, options, member.is_some())
            };
            let adapts = options.form != Form::Lora || own.name.ends_with(".weight");
            let factored = matrix
                .filter(|_| options.form.factors() && adapts && member.is_none() && is_kept_apart(own, other, options));
            item.side = factored.map(|m| m.rows.min(m.columns));
            item.old = both && item.kept == Kept::Whole;
            item.exact = options.exact && matches!(item.kept, Kept::Sparse | Kept::Bits | Kept::LowRank);
            item.matrix = matrix.filter(|_| item.kept == Kept::LowRank);
            if options.form == Form::Lora && item.matrix.is_some_and(|m| m.count > 1) {
                let problem = "holds stacked experts, which no adapter that PEFT loads carries; use --form lowrank";
                return Err(Error::tensor(&base.path, &own.name, problem));
            }
        }
        out.push(item);
    }
    for (j, t) in tuned.tensors.iter().enumerate().filter(|(j, _)| !met[*j]) {
        out.push(Item {
            name: t.name.clone(),
            base: None,
            tuned: Some(j),
            kept: Kept::Whole,
            old: false,
            exact: false,
            matrix: None,
            side: None,
        });
    }
    refuse_rank(&out, options)?;
    Ok(out)
}

/// Refuses models of which one stores a weight quantised and the other otherwise: what is written beside the weights says of one
/// of them only.
fn alike(base: &Checkpoint, tuned: &Checkpoint, families: &Families) -> Result<()> {
    let theirs = Families::of(tuned.tensors.iter().map(|t| (t.name.as_str(), t.dtype)));
    let mate =
        |other: &Checkpoint, of: &Families, name: &str| other.find_alike(name).is_some_and(|j| of.module(j).is_some());
    for (own, of, other, there) in [(base, families, tuned, &theirs), (tuned, &theirs, base, families)] {
        let unlike = |(i, t): &(usize, &Tensor)| of.module(*i).is_some() && !mate(other, there, &t.name);
        if let Some((_, t)) = own.tensors.iter().enumerate().find(unlike) {
            let problem = format!(
                "is part of a quantised weight, which {} does not store so; write the plain models first (`suture convert`)",
                other.path.display()
            );
            return Err(Error::tensor(&own.path, &t.name, problem));
        }
    }
    Ok(())
}

/// Refuses a rank that no matrix has.
fn refuse_rank(items: &[Item], options: &Options) -> Result<()> {
    let Some(rank) = options.rank_alone() else { return Ok(()) };
    let sides = items.iter().filter_map(|item| Some((item.side?, &item.name)));
    match sides.max_by_key(|(side, _)| *side).filter(|(side, _)| *side < rank) {
        Some((most, name)) => {
            let problem =
                format!("{rank} is above every matrix: the most that one has is {most}, `{name}`; give at most that");
            Err(Error::recipe("rank", problem))
        }
        None => Ok(()),
    }
}

/// Whether the change of a tensor that is a matrix is to be kept as factors or signs, if that pays.
fn is_kept_apart(own: &Tensor, other: &Tensor, options: &Options) -> bool {
    let number = own.dtype.computes() && other.dtype.computes() && own.shape == other.shape;
    let lossy = own.dtype == other.dtype || !options.exact;
    number && lossy && apart(own, options) && !options.left.contains(&own.name) && !options.whole.contains(&own.name)
}

/// How a change is kept; that of a `member` of a quantised weight is no number.
fn kept(own: &Tensor, other: &Tensor, matrix: Option<Matrix>, options: &Options, member: bool) -> Kept {
    let alike = own.shape == other.shape && own.dtype == other.dtype;
    let number = own.dtype.computes() && other.dtype.computes() && !member;
    let lossless = options.exact || options.form == Form::Xor;
    match options.form {
        _ if options.left.contains(&own.name) => Kept::Left,
        _ if own.shape != other.shape || (!alike && (lossless || !number)) => Kept::Whole,
        Form::Lora if !number => Kept::Whole,
        Form::Xor => Kept::Xor,
        _ if !number => Kept::Xor,
        _ if options.whole.contains(&own.name) => Kept::Whole,
        Form::Sparse if options.by_tensor && !matrix.is_some_and(|_| fewer(own, options)) => Kept::Whole,
        Form::Sparse => Kept::Sparse,
        Form::Bits if matrix.is_some() && apart(own, options) => Kept::Bits,
        Form::Lora if matrix.is_some() && apart(own, options) && own.name.ends_with(".weight") => Kept::LowRank,
        Form::LowRank if apart(own, options) && matrix.is_some_and(|m| pays(own, m, options)) => Kept::LowRank,
        // Smaller than the tensor itself, and it goes both ways.
        Form::Bits | Form::LowRank if options.exact => Kept::Xor,
        _ => Kept::Whole,
    }
}

/// Whether a tensor is no table of tokens or head, or these are as all else.
fn apart(t: &Tensor, options: &Options) -> bool {
    options.embed || !(tied::is_table(&t.name) || tied::is_head(&t.name))
}

/// Whether factors take less than the tensor.
fn pays(t: &Tensor, m: Matrix, options: &Options) -> bool {
    // By energy alone the rank is not known yet.
    let by_energy = options.rank.is_none() && options.rank_share.is_none();
    let rank = if by_energy { 1 } else { options.rank_of(m.rows, m.columns) };
    let factors = m.count.saturating_mul(rank).saturating_mul(m.rows + m.columns + 1);
    factors.saturating_mul(options.factor_dtype().bits()) < t.elements().saturating_mul(t.dtype.bits())
}

/// Whether places and values take less than the tensor.
fn fewer(t: &Tensor, options: &Options) -> bool {
    let place = if t.elements() > u64::from(u32::MAX) { 64 } else { 32 };
    let value = if t.dtype == Dtype::F64 { 64 } else { 32 };
    let kept = options.kept_of(t.elements()).unwrap_or(t.elements());
    kept.saturating_mul(place + value) < t.elements().saturating_mul(t.dtype.bits())
}

/// The matrix that a tensor is, if it is one: linear layers, convolutions by their outputs, stacked experts.
fn matrix(t: &Tensor, turned: bool) -> Option<Matrix> {
    let (first, rest) = t.shape.split_first()?;
    let behind: u64 = rest.iter().product();
    let found = match t.shape.len() {
        0 | 1 => return None,
        3 if t.name.contains("experts") => Matrix { count: *first, rows: rest[0], columns: rest[1], turned: false },
        2 => {
            let inside = split_layer(&t.name).is_some() && !tied::is_table(&t.name) && !tied::is_head(&t.name);
            Matrix { count: 1, rows: *first, columns: behind, turned: turned && inside }
        }
        _ => Matrix { count: 1, rows: *first, columns: behind, turned: false },
    };
    (found.count > 0 && found.rows > 1 && found.columns > 1).then_some(found)
}

impl Item {
    /// The parts that keep it.
    pub fn parts(&self) -> Vec<Part> {
        let mut parts: Vec<Part> = match self.kept {
            Kept::Xor => vec![Part::Xor],
            Kept::Sparse => vec![Part::Index, Part::Values],
            Kept::Bits => vec![Part::Signs, Part::Scale],
            Kept::LowRank => vec![Part::Left, Part::Middle, Part::Right],
            Kept::Whole => vec![Part::Whole],
            Kept::Same | Kept::Left | Kept::Gone => vec![],
        };
        if self.old {
            parts.push(Part::Old);
        }
        if self.exact {
            parts.extend([Part::Forward, Part::Back]);
        }
        parts
    }
}
