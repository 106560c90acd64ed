//! The work on a piece of a tensor: read of both models, digested, and what is kept of the change.

use std::ops::Range;

use super::options::{Form, Options};
use super::tensors::Item;
use crate::checkpoint::delta::{Kept, Part};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::digest::Leaves;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, first_nonfinite, narrow};
use crate::kernels::changes::{self, differing, subtract};
use crate::kernels::leading::{Triplets, Wanted, leading};
use crate::kernels::packed::{Packer, width};
use crate::kernels::rng;
use crate::kernels::select::magnitude;
use crate::sizes::{CHUNK, PACKED, TILE};
use crate::source::Source;
use crate::view::{Decode, Slot, stored};

/// What is read of the models, and how it is kept.
pub struct Models<'a> {
    /// The base.
    pub base: &'a Checkpoint,
    /// The tuned model.
    pub tuned: &'a Checkpoint,
    /// The base's files.
    pub base_files: Vec<Box<dyn Source>>,
    /// The tuned model's.
    pub tuned_files: Vec<Box<dyn Source>>,
    /// Every tensor.
    pub items: Vec<Item>,
    /// What is asked.
    pub options: &'a Options,
    /// Threads for matrices.
    pub pool: Option<rayon::ThreadPool>,
}

/// Which of the models a task reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Of {
    /// Both, side by side.
    Both,
    /// The tuned model.
    Tuned,
    /// The base.
    Base,
    /// Both, a whole tensor.
    Matrix,
}

/// A piece of a tensor.
#[derive(Debug, Clone)]
pub struct Task {
    /// Which.
    pub item: usize,
    /// What is read.
    pub of: Of,
    /// Its elements.
    pub range: Range<u64>,
}

/// Which changes are kept, of the largest: magnitudes of at least so many bits, and of those equal to it the first.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    /// Bits of the least magnitude.
    pub least: u32,
    /// How many of those equal to it this task may keep.
    pub ties: u64,
}

/// A thread's own memory.
#[derive(Default)]
pub struct Own {
    slots: [Slot; 2],
    wide: [Vec<f32>; 2],
    /// The changes.
    pub change: Vec<f32>,
    packer: Option<Packer>,
}

/// What was found of a piece.
#[derive(Default)]
pub struct Piece {
    /// What is kept.
    pub bytes: Vec<(Part, Vec<u8>)>,
    /// Lengths of packed blocks.
    pub lengths: Vec<u32>,
    /// Leaf digests of the base.
    pub base: Vec<u128>,
    /// Of the tuned model.
    pub tuned: Vec<u128>,
    /// Figures.
    pub sums: Sums,
    /// Ranks of each matrix.
    pub ranks: u64,
}

/// Sums over elements.
#[derive(Debug, Default, Clone, Copy)]
pub struct Sums {
    /// Elements whose bits differ.
    pub changed: u64,
    /// Elements kept.
    pub kept: u64,
    /// Sum of magnitudes of the changes.
    pub magnitudes: f64,
    /// Of their squares.
    pub squares: f64,
    /// Of the squares of what is kept.
    pub held: f64,
}

/// Which elements of a piece are drawn, as DARE draws them, and what their changes are multiplied by.
struct Drawn {
    key: u64,
    start: u64,
    high: Vec<u8>,
    /// A draw below it is kept.
    below: u64,
    times: f64,
}

impl Drawn {
    /// Of random elements, as the seed, the model's name and the tensor's have it; `None` where it is not asked for.
    fn of(options: &Options, model: &str, tensor: &str, range: &Range<u64>) -> Option<Self> {
        let (seed, density) = (options.random?, options.density?);
        let key = rng::key(seed, model, tensor);
        // Pieces begin at whole tasks.
        let mut high = vec![0; (range.end - range.start) as usize];
        rng::high(key, range.start, &mut high);
        Some(Self { key, start: range.start, high, below: (density * 2f64.powi(32)) as u64, times: 1.0 / density })
    }

    fn has(&self, i: usize) -> bool {
        let (high, limit) = (u64::from(self.high[i]), self.below >> 24);
        high < limit || (high == limit && u64::from(rng::low(self.key, self.start + i as u64)) < self.below & 0xff_ffff)
    }
}

impl std::ops::AddAssign for Sums {
    fn add_assign(&mut self, other: Self) {
        self.changed += other.changed;
        self.kept += other.kept;
        self.magnitudes += other.magnitudes;
        self.squares += other.squares;
        self.held += other.held;
    }
}

impl Models<'_> {
    fn pair(&self, item: &Item) -> Result<(&Tensor, &Tensor)> {
        match (item.base, item.tuned) {
            (Some(b), Some(t)) => Ok((&self.base.tensors[b], &self.tuned.tensors[t])),
            _ => Err(Error::bug(format!("`{}` is in one model alone", item.name))),
        }
    }

    /// Refuses NaN and infinities, unless these are let through.
    fn finite(&self, view: &dyn Decode, bytes: &[u8], start: u64) -> Result<()> {
        if self.options.allow_nonfinite {
            return Ok(());
        }
        let problem = "is NaN or infinite; mend the checkpoint, or pass --nan allow";
        first_nonfinite(view.dtype(), bytes).map_or(Ok(()), |i| Err(view.at_fault(start + i as u64, problem)))
    }

    /// The changes of elements of two tensors, `tuned - base`, in `own.change`.
    pub fn change(&self, item: &Item, range: &Range<u64>, own: &mut Own) -> Result<()> {
        let (a, b) = self.pair(item)?;
        let (a, b) = (stored(a, &self.base_files), stored(b, &self.tuned_files));
        let [one, two] = &mut own.slots;
        let raws = (a.read(range, one)?, b.read(range, two)?);
        subtracted((&*a, raws.0), (&*b, raws.1), range, &mut own.wide, &mut own.change)
    }

    /// Does a task.
    pub fn piece(&self, task: &Task, limit: Option<Limit>, own: &mut Own) -> Result<Piece> {
        match task.of {
            Of::Both => self.both(task, limit, own),
            Of::Matrix => self.matrix(task, own),
            Of::Tuned | Of::Base => self.one(task, own),
        }
    }

    /// A piece of a tensor of one model, taken as it is.
    fn one(&self, task: &Task, own: &mut Own) -> Result<Piece> {
        let item = &self.items[task.item];
        let tuned = task.of == Of::Tuned;
        let (index, model, files) =
            if tuned { (item.tuned, self.tuned, &self.tuned_files) } else { (item.base, self.base, &self.base_files) };
        let Some(index) = index else { return Ok(Piece::default()) };
        let view = stored(&model.tensors[index], files);
        let raw = view.read(&task.range, &mut own.slots[0])?;
        self.finite(&*view, raw, task.range.start)?;
        let mut leaves = Leaves::new();
        leaves.update(raw);
        let mut piece = Piece::default();
        let (part, digests) = if tuned { (Part::Whole, &mut piece.tuned) } else { (Part::Old, &mut piece.base) };
        *digests = leaves.finish();
        if tuned || item.old {
            piece.bytes.push((part, raw.to_vec()));
        }
        view.release(&task.range);
        Ok(piece)
    }

    fn both(&self, task: &Task, limit: Option<Limit>, own: &mut Own) -> Result<Piece> {
        let (item, range) = (&self.items[task.item], &task.range);
        let (a, b) = self.pair(item)?;
        let (va, vb) = (stored(a, &self.base_files), stored(b, &self.tuned_files));
        let Own { slots: [one, two], wide, change, packer } = own;
        let (base, tuned) = (va.read(range, one)?, vb.read(range, two)?);
        let mut piece = Piece::default();
        let (mut leaves, mut others) = (Leaves::new(), Leaves::new());
        leaves.update(base);
        others.update(tuned);
        (piece.base, piece.tuned) = (leaves.finish(), others.finish());
        self.finite(&*va, base, range.start)?;
        self.finite(&*vb, tuned, range.start)?;
        let alike = a.dtype == b.dtype;
        piece.sums.changed =
            if alike { differing(base, tuned, width(a.dtype.bits())) } else { range.end - range.start };
        match item.kept {
            Kept::Xor => {
                if packer.is_none() {
                    *packer = Some(Packer::new()?);
                }
                let Some(packer) = packer else { return Ok(piece) };
                let mut out = Vec::new();
                pack(packer, base, tuned, a.dtype, &mut out, &mut piece.lengths)?;
                piece.bytes.push((Part::Xor, out));
            }
            Kept::Whole => {
                piece.bytes.push((Part::Whole, tuned.to_vec()));
                if item.old {
                    piece.bytes.push((Part::Old, base.to_vec()));
                }
            }
            Kept::Sparse => {
                subtracted((&*va, base), (&*vb, tuned), range, wide, change)?;
                changes::sums(change, &mut piece.sums.magnitudes, &mut piece.sums.squares);
                let wide = a.elements() > u64::from(u32::MAX);
                let f64s = [a, b].iter().any(|t| t.dtype == Dtype::F64);
                let limit = limit.unwrap_or(Limit { least: 1, ties: u64::MAX });
                let (mut index, mut values) = (Vec::new(), Vec::new());
                let mut left = limit.ties;
                let drawn = Drawn::of(self.options, &self.tuned.name(), &item.name, range);
                for (i, x) in change.iter().enumerate() {
                    let m = magnitude(*x);
                    if m < limit.least || (m == limit.least && left == 0) || drawn.as_ref().is_some_and(|d| !d.has(i)) {
                        continue;
                    }
                    left -= u64::from(m == limit.least);
                    let place = range.start + i as u64;
                    if wide {
                        index.extend_from_slice(&place.to_le_bytes());
                    } else {
                        index.extend_from_slice(&(place as u32).to_le_bytes());
                    }
                    let times = drawn.as_ref().map_or(1.0, |d| d.times);
                    let value = (f64::from(*x) * times) as f32;
                    if f64s {
                        let exact = |v: &dyn Decode, raw: &[u8]| -> Result<f64> {
                            let mut value = [0f64];
                            v.decode_exactly(raw, range, &(place..place + 1), &mut value)?;
                            Ok(value[0])
                        };
                        values.extend_from_slice(&((exact(&*vb, tuned)? - exact(&*va, base)?) * times).to_le_bytes());
                    } else {
                        values.extend_from_slice(&value.to_le_bytes());
                    }
                    piece.sums.kept += 1;
                    // |x|^2 less |x - value|^2: all of it where the value is x.
                    let (x, value) = (f64::from(*x), f64::from(value));
                    piece.sums.held += value * (2.0 * x - value);
                }
                piece.bytes.extend([(Part::Index, index), (Part::Values, values)]);
            }
            Kept::Bits => {
                subtracted((&*va, base), (&*vb, tuned), range, wide, change)?;
                changes::sums(change, &mut piece.sums.magnitudes, &mut piece.sums.squares);
                let mut out = Vec::with_capacity(change.len() / 8 + 1);
                changes::signs(change, &mut out);
                piece.bytes.push((Part::Signs, out));
            }
            Kept::Same | Kept::Left | Kept::Gone | Kept::LowRank => {}
        }
        va.release(range);
        vb.release(range);
        Ok(piece)
    }

    /// A whole tensor as factors.
    fn matrix(&self, task: &Task, own: &mut Own) -> Result<Piece> {
        let item = &self.items[task.item];
        let Some(shape) = item.matrix else { return Err(Error::bug(format!("`{}` is no matrix", item.name))) };
        let (a, b) = self.pair(item)?;
        let (va, vb) = (stored(a, &self.base_files), stored(b, &self.tuned_files));
        let (mut leaves, mut others) = (Leaves::new(), Leaves::new());
        let mut piece = Piece::default();
        let each = shape.rows * shape.columns;
        let mut delta = vec![0f32; each as usize];
        let mut parts: [(Part, Vec<u8>); 3] = [(Part::Left, vec![]), (Part::Middle, vec![]), (Part::Right, vec![])];
        let wanted = Wanted {
            rank: self.options.rank_of(shape.rows, shape.columns) as usize,
            energy: self.options.energy,
            full: self.options.full,
        };
        let key = rng::key(0, "leading", &item.name);
        for number in 0..shape.count {
            let first = number * each;
            for start in (first..first + each).step_by(CHUNK as usize) {
                let range = start..(start + CHUNK).min(first + each);
                let Own { slots: [one, two], wide, change, .. } = own;
                let (base, tuned) = (va.read(&range, one)?, vb.read(&range, two)?);
                leaves.update(base);
                others.update(tuned);
                self.finite(&*va, base, range.start)?;
                self.finite(&*vb, tuned, range.start)?;
                if base != tuned || a.dtype != b.dtype {
                    piece.sums.changed += if a.dtype == b.dtype {
                        differing(base, tuned, width(a.dtype.bits()))
                    } else {
                        range.end - range.start
                    };
                }
                subtracted((&*va, base), (&*vb, tuned), &range, wide, change)?;
                delta[(range.start - first) as usize..(range.end - first) as usize].copy_from_slice(change);
            }
            let (rows, columns) = (shape.rows as usize, shape.columns as usize);
            let work = || leading(&delta, rows, columns, wanted, key.wrapping_add(number));
            let found = match &self.pool {
                Some(pool) => pool.install(work),
                None => work(),
            };
            let found = found.map_err(|p| {
                Error::tensor(&self.tuned.path, &item.name, format!("{p}; leave it out, or give other models"))
            })?;
            piece.sums.squares += found.total;
            piece.sums.held += found.held;
            let rank = if shape.count > 1 { wanted.rank } else { found.values.len() };
            piece.ranks = rank as u64;
            self.factors(&found, rank, (rows, columns), shape.turned, &mut parts);
        }
        (piece.base, piece.tuned) = (leaves.finish(), others.finish());
        let [_, (_, middle), _] = &parts;
        let lora = middle.is_empty();
        piece.bytes = parts.into_iter().filter(|(part, _)| !(lora && *part == Part::Middle)).collect();
        let all = 0..a.elements();
        va.release(&all);
        vb.release(&all);
        Ok(piece)
    }

    /// Appends the factors of a matrix: U, S and V transposed; or, of an adapter, B and A, the roots of S in each.
    fn factors(
        &self,
        found: &Triplets,
        rank: usize,
        (rows, columns): (usize, usize),
        turned: bool,
        parts: &mut [(Part, Vec<u8>); 3],
    ) {
        let dtype = self.options.factor_dtype();
        let have = found.values.len();
        let lora = self.options.form == Form::Lora;
        let root = |k: usize| if lora { found.values[k].sqrt() } else { 1.0 };
        let left = |i: usize, k: usize| if k < have { found.left[i * have + k] * root(k) } else { 0.0 };
        let right = |k: usize, j: usize| if k < have { found.right[k * columns + j] * root(k) } else { 0.0 };
        let [(_, l), (_, m), (_, r)] = parts;
        if turned {
            // W = [in, out] = (B A) transposed: A is of the left vectors, B of the right ones.
            write(dtype, (0..columns * rank).map(|i| right(i % rank, i / rank)), l);
            write(dtype, (0..rank * rows).map(|i| left(i % rows, i / rows)), r);
            return;
        }
        write(dtype, (0..rows * rank).map(|i| left(i / rank, i % rank)), l);
        if !lora {
            write(dtype, (0..rank).map(|k| found.values.get(k).copied().unwrap_or(0.0)), m);
        }
        write(dtype, (0..rank * columns).map(|i| right(i / columns, i % columns)), r);
    }
}

/// Packs the difference of two tensors' bytes, block by block.
pub fn pack(
    packer: &mut Packer,
    a: &[u8],
    b: &[u8],
    dtype: Dtype,
    out: &mut Vec<u8>,
    lengths: &mut Vec<u32>,
) -> Result<()> {
    let block = (PACKED * dtype.bits() / 8) as usize;
    for (a, b) in a.chunks(block).zip(b.chunks(block)) {
        lengths.push(packer.pack(a, b, width(dtype.bits()), out)?);
    }
    Ok(())
}

/// The changes of elements that were read.
fn subtracted(
    (a, base): (&dyn Decode, &[u8]),
    (b, tuned): (&dyn Decode, &[u8]),
    range: &Range<u64>,
    wide: &mut [Vec<f32>; 2],
    out: &mut Vec<f32>,
) -> Result<()> {
    let exact = a.dtype() == Dtype::F64 || b.dtype() == Dtype::F64;
    out.resize((range.end - range.start) as usize, 0.0);
    let [x, y] = wide;
    x.resize(TILE, 0.0);
    y.resize(TILE, 0.0);
    for (out, start) in out.chunks_mut(TILE).zip((range.start..).step_by(TILE)) {
        let piece = start..start + out.len() as u64;
        if exact {
            let (mut x, mut y) = (vec![0f64; out.len()], vec![0f64; out.len()]);
            a.decode_exactly(base, range, &piece, &mut x)?;
            b.decode_exactly(tuned, range, &piece, &mut y)?;
            out.iter_mut().zip(x.iter().zip(&y)).for_each(|(o, (x, y))| *o = (y - x) as f32);
            continue;
        }
        let (x, y) = (&mut x[..out.len()], &mut y[..out.len()]);
        a.decode(base, range, &piece, x)?;
        b.decode(tuned, range, &piece, y)?;
        subtract(y, x, out);
    }
    Ok(())
}

/// Appends numbers in a dtype, each rounded once.
pub fn write(dtype: Dtype, values: impl Iterator<Item = f64>, out: &mut Vec<u8>) {
    if dtype == Dtype::F64 {
        out.extend(values.flat_map(f64::to_le_bytes));
        return;
    }
    let Some(element) = Element::of(dtype) else { return };
    let wide: Vec<f32> = values.map(|v| v as f32).collect();
    let start = out.len();
    out.resize(start + wide.len() * element.bytes(), 0);
    narrow(element, &wide, &mut out[start..]);
}
