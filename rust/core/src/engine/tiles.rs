//! The operands of a computation, tile by tile: read, digested, checked for NaN, widened to f32.

use std::ops::Range;

use super::ahead::ask;
use super::chunks::{self, Buffers};
use super::observer::Progress;
use crate::digest::Leaves;
use crate::error::{Error, Result};
use crate::kernels::cast::{Widen, any_nonfinite, first_nonfinite};
use crate::kernels::rng;
use crate::methods::{Stats, Tile};
use crate::plan::budget::{self, whole};
use crate::plan::{Action, Plan, TensorPlan};
use crate::sizes::TILE;
use crate::view::{Decode, Sources, View};

/// Elements handled together from digest to rounding, so that each is fetched into the cache once.
const TOGETHER: u64 = 4 * TILE as u64;
/// Mapped bytes of a tensor's operands up to which they stay mapped from one pass to the next: unmapping and faulting
/// in again took 9 % of a `ties` merge.
const STAY: u64 = 256 << 20;

/// What reading the inputs of a plan takes, shared by all threads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The input files.
    pub sources: &'a Sources,
    /// Elements of a chunk.
    pub chunk: u64,
    /// Let NaN and infinities through.
    pub allow_nonfinite: bool,
    /// Progress and errors.
    pub progress: &'a Progress,
}

/// A thread's own memory.
#[derive(Default)]
pub struct Scratch {
    /// What is read.
    pub buffers: Buffers,
    /// The operands in f32.
    pub wide: Vec<Vec<f32>>,
    /// The result in f32.
    pub out: Vec<f32>,
    /// The statistics of a span.
    pub stats: Stats,
}

impl Scratch {
    /// Lets go what a tensor with units beyond a tile has left: others may need the memory.
    pub fn trim(&mut self, t: &TensorPlan) {
        if budget::unit(t) > TILE as u64 {
            self.buffers.clear();
            (self.wide, self.out) = (Vec::new(), Vec::new());
            crate::kernels::scratch::clear();
        }
    }
}

/// A range of elements of a computed tensor, and how to go through it.
pub struct Pass<'t> {
    /// The tensor.
    pub tensor: &'t TensorPlan,
    /// The elements.
    pub own: Range<u64>,
    /// Whether to let the mapped pages go; `None` if that depends on the tensor's size, since it is read again.
    pub release: Option<bool>,
    /// Whether to check the operands for NaN, which the first pass over the data does.
    pub check: bool,
    /// Whether to digest the operands.
    pub digest: bool,
    /// What the elements are widened for.
    pub how: Widen,
}

/// Leaf digests of each view, empty for those that are no stored tensor.
pub type Digests = Vec<Vec<u128>>;

impl Inputs<'_> {
    /// Opens the views of an action.
    pub fn open<'v>(&'v self, views: &'v [View]) -> Vec<Box<dyn Decode + 'v>> {
        views.iter().map(|v| v.open(&self.plan.models, self.sources)).collect()
    }

    /// The spans of tensors, in order.
    pub fn spans(&self, part: &[usize]) -> Vec<(usize, u64)> {
        part.iter().flat_map(|t| (0..self.plan.tensors[*t].spans()).map(move |span| (*t, span))).collect()
    }

    /// A random key for every model merged into a tensor; none for moves.
    pub fn keys(&self, t: &TensorPlan) -> Vec<u64> {
        let Action::Compute { inputs, params, .. } = &t.action else { return Vec::new() };
        let label = |v: &View| &self.plan.labels[v.like().model];
        let name = params.twin.as_deref().unwrap_or(t.weight());
        inputs.iter().map(|v| rng::key(params.seed, label(v), name)).collect()
    }

    /// Tells the sources that a span of a tensor will be read; returns how many bytes that is.
    pub fn ask(&self, (tensor, span): (usize, u64)) -> u64 {
        let t = &self.plan.tensors[tensor];
        let apart = |v: &View| {
            let own = 0..v.like().tensor(&self.plan.models).elements();
            ask(&self.open(std::slice::from_ref(v)), &own)
        };
        ask(&self.open(&t.action.together()), &t.elements_of(span)) + t.action.apart().iter().map(apart).sum::<u64>()
    }

    /// Widens the operands of a computation tile by tile, every unit that lies in the range or reaches into it, and calls
    /// `f` with each tile and its length. Returns the digests, if these were asked for.
    ///
    /// # Errors
    /// Input that cannot be read or is not finite, whatever `f` returns, [`Error::Interrupted`] when the run is stopped.
    pub fn tiles(
        &self,
        pass: &Pass,
        scratch: (&mut Buffers, &mut Vec<Vec<f32>>),
        mut f: impl FnMut(&Tile, usize) -> Result<()>,
    ) -> Result<Digests> {
        let t = pass.tensor;
        let Action::Compute { base, .. } = &t.action else {
            return Err(Error::bug(format!("`{}` is moved and was to be computed", t.name)));
        };
        let own = &pass.own;
        let (views, unit) = (t.action.together(), budget::unit(t));
        let opened = self.open(&views);
        let operands: Vec<&dyn Decode> = opened.iter().map(|o| &**o).collect();
        let keys = self.keys(t);
        let elements = own.start / unit * unit..own.end.next_multiple_of(unit).min(t.elements());
        let (tile_len, chunk) = (whole(TILE as u64, unit), whole(self.chunk, unit));
        let (buffers, wide) = scratch;
        wide.resize_with(wide.len().max(operands.len()), Vec::new);
        for wide in &mut wide[..operands.len()] {
            wide.resize(wide.len().max(tile_len.min(elements.end - elements.start) as usize), 0.0);
        }
        let mut leaves: Vec<Leaves> = operands.iter().map(|_| Leaves::new()).collect();
        let release = pass.release.unwrap_or_else(|| self.plan.input_bytes(t) > STAY);
        chunks::each(&operands, elements, chunk, release, buffers, |part, raw| {
            self.progress.alive()?;
            let mut at = part.start;
            while at < part.end {
                let together = at..(at + whole(TOGETHER, tile_len)).min(part.end);
                let ours = overlap(&together, own);
                if pass.check && !ours.is_empty() {
                    for ((o, raw), leaves) in operands.iter().zip(raw).zip(&mut leaves) {
                        let Some(bytes) = o.bytes(raw, &part, &ours) else { continue };
                        if pass.digest && o.stored() {
                            leaves.update(bytes);
                        }
                        self.finite(*o, bytes, ours.start)?;
                    }
                }
                while at < together.end {
                    let piece = at..(at + tile_len).min(together.end);
                    let len = (piece.end - piece.start) as usize;
                    for ((o, raw), wide) in operands.iter().zip(raw).zip(wide.iter_mut()) {
                        o.decode_by(pass.how, raw, &part, &piece, &mut wide[..len])?;
                        if pass.check && o.bytes(raw, &part, &piece).is_none() {
                            self.finite_values(*o, &wide[..len], piece.start)?;
                        }
                    }
                    let all: Vec<&[f32]> = wide[..operands.len()].iter().map(|w| &w[..len]).collect();
                    let (base, inputs) = match base {
                        Some(_) => (Some(all[0]), &all[1..]),
                        None => (None, &all[..]),
                    };
                    f(&Tile { base, inputs, keys: &keys, start: piece.start, of: t.elements() }, len)?;
                    at = piece.end;
                }
            }
            self.progress.add(raw.iter().map(|r| r.len() as u64).sum());
            Ok(())
        })?;
        Ok(if pass.digest { leaves.into_iter().map(Leaves::finish).collect() } else { Vec::new() })
    }

    /// Complains about the first NaN or infinite element, unless these are let through.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming the element.
    pub fn finite(&self, operand: &dyn Decode, bytes: &[u8], start: u64) -> Result<()> {
        if self.allow_nonfinite {
            return Ok(());
        }
        first_nonfinite(operand.dtype(), bytes).map_or(Ok(()), |i| Err(at_fault(operand, start + i as u64)))
    }

    /// The same of elements that have no bytes of their own.
    pub(super) fn finite_values(&self, operand: &dyn Decode, values: &[f32], start: u64) -> Result<()> {
        if self.allow_nonfinite || !any_nonfinite(values) {
            return Ok(());
        }
        let at = values.iter().position(|v| !v.is_finite());
        at.map_or(Ok(()), |i| Err(at_fault(operand, start + i as u64)))
    }
}

fn at_fault(operand: &dyn Decode, element: u64) -> Error {
    operand.at_fault(element, "is NaN or infinite; mend the checkpoint, or pass --nan allow")
}

/// What two ranges share.
pub fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}
