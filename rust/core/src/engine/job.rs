//! One output tensor on its way: its kernel, its statistics, its digests, and how much is left to do.

use std::sync::{Mutex, RwLock};

use crate::digest::{self, BLOCK};
use crate::error::{Error, Result};
use crate::kernels::select::BINS;
use crate::methods::{Kernel, Stats, Totals};
use crate::plan::budget::SPAN;
use crate::plan::{Action, Plan};

/// What the threads do with a span of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pass {
    /// Collect statistics; the number counts from 0.
    Scan(usize),
    /// Compute and write.
    Apply,
}

/// A tensor being made.
pub struct Job {
    /// Index in the plan.
    pub tensor: usize,
    /// Number of spans.
    pub spans: u64,
    /// The bound method; `None` for copies.
    pub kernel: RwLock<Option<Box<dyn Kernel>>>,
    state: Mutex<State>,
}

struct State {
    /// Spans of this pass, and chunks on their way to the disk, that are not finished.
    left: u64,
    /// Spans not yet computed.
    unapplied: u64,
    scans: usize,
    sums: Vec<Vec<f64>>,
    counts: Vec<Vec<u64>>,
    ranks: Vec<Vec<u64>>,
    /// Leaf digests: the output's first, then every operand's.
    leaves: Vec<Vec<u128>>,
}

fn poisoned<T>(_: T) -> Error {
    Error::io(std::path::Path::new("suture"), "go on", std::io::Error::other("a thread panicked"))
}

impl Job {
    /// Binds the method of tensor `index`.
    ///
    /// # Errors
    /// [`Error::Recipe`] for parameters the plan should have refused.
    pub fn new(plan: &Plan, index: usize) -> Result<Self> {
        let t = &plan.tensors[index];
        let kernel = match &t.action {
            Action::Copy { .. } => None,
            Action::Merge { method, params, .. } => Some(
                method
                    .bind(params, t.elements())
                    .map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", t.name)))?,
            ),
        };
        let operands = t.action.operands();
        let sizes = std::iter::once(t.nbytes).chain(operands.iter().map(|o| plan.tensor(*o).nbytes));
        let leaves = sizes.map(|n| vec![0; n.div_ceil(BLOCK as u64) as usize]).collect();
        let spans = t.elements().div_ceil(SPAN);
        let state =
            State { left: spans, unapplied: spans, scans: 0, sums: vec![], counts: vec![], ranks: vec![], leaves };
        let job = Self { tensor: index, spans, kernel: RwLock::new(kernel), state: Mutex::new(state) };
        job.prepare()?;
        Ok(job)
    }

    /// The pass that comes next, with room made for its statistics.
    fn prepare(&self) -> Result<Pass> {
        let mut s = self.state.lock().map_err(poisoned)?;
        s.left = self.spans;
        let wants = self.kernel.read().map_err(poisoned)?.as_ref().and_then(|k| k.wants());
        let Some(wants) = wants else { return Ok(Pass::Apply) };
        s.sums = vec![vec![0.0; wants.sums]; self.spans as usize];
        s.counts = vec![vec![0; BINS]; if self.spans > 1 { wants.histograms } else { 0 }];
        if wants.ranks > 0 {
            s.ranks = vec![vec![0; wants.ranks]; self.spans as usize];
        }
        Ok(Pass::Scan(s.scans))
    }

    /// The first pass.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn first_pass(&self) -> Result<Pass> {
        let wants = self.kernel.read().map_err(poisoned)?.as_ref().is_some_and(|k| k.wants().is_some());
        Ok(if wants { Pass::Scan(0) } else { Pass::Apply })
    }

    /// True if the tensor is computed without having been scanned, so that its inputs are not digested yet.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn unscanned(&self) -> Result<bool> {
        Ok(self.state.lock().map_err(poisoned)?.scans == 0)
    }

    /// Adds the statistics of a span. After the last span of a scan, returns the pass that follows.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn scanned(&self, span: u64, stats: &Stats) -> Result<Option<Pass>> {
        let mut guard = self.state.lock().map_err(poisoned)?;
        let s = &mut *guard;
        s.sums[span as usize].copy_from_slice(&stats.sums);
        if self.spans == 1 {
            // Nothing to add up: spares small tensors, of which there may be thousands, a pass over empty bins.
            s.counts = stats.counts.iter().map(|c| c.iter().map(|n| u64::from(*n)).collect()).collect();
        }
        for (total, counts) in s.counts.iter_mut().zip(&stats.counts).filter(|_| self.spans > 1) {
            for (t, c) in total.iter_mut().zip(counts) {
                *t += u64::from(*c);
            }
        }
        if !stats.ranks.is_empty() {
            s.ranks[span as usize].copy_from_slice(&stats.ranks);
        }
        s.left -= 1;
        if s.left > 0 {
            return Ok(None);
        }
        s.scans += 1;
        let totals = Totals {
            // In the order of the spans, whoever finished first.
            sums: columns(&s.sums),
            counts: std::mem::take(&mut s.counts),
            ranks: if stats.ranks.is_empty() { vec![] } else { columns(&s.ranks) },
        };
        drop(guard);
        if let Some(kernel) = self.kernel.write().map_err(poisoned)?.as_mut() {
            kernel.take(totals);
        }
        self.prepare().map(Some)
    }

    /// Totals of the ranks over all spans before `span`.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn ranks_before(&self, span: u64) -> Result<Vec<u64>> {
        let s = self.state.lock().map_err(poisoned)?;
        let mut before = vec![0; s.ranks.first().map_or(0, Vec::len)];
        for row in s.ranks.iter().take(span as usize) {
            before.iter_mut().zip(row).for_each(|(b, r)| *b += r);
        }
        Ok(before)
    }

    /// Records the leaf digests of a span: `which` is 0 for the output, 1 and up for the operands.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn digested(&self, which: usize, span: u64, bits: u64, leaves: &[u128]) -> Result<()> {
        let first = (span * SPAN * bits / 8) as usize / BLOCK;
        let mut s = self.state.lock().map_err(poisoned)?;
        s.leaves[which][first..first + leaves.len()].copy_from_slice(leaves);
        Ok(())
    }

    /// A span is computed; true if it was the last of the tensor.
    pub fn applied_one(&self) -> bool {
        self.state.lock().is_ok_and(|mut s| {
            s.unapplied -= 1;
            s.unapplied == 0
        })
    }

    /// Announces a chunk that is on its way to the disk.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn sent(&self) -> Result<()> {
        self.state.lock().map_err(poisoned)?.left += 1;
        Ok(())
    }

    /// A span is computed or a chunk is on the disk; true if that was the last of the tensor.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn finished_one(&self) -> Result<bool> {
        let mut s = self.state.lock().map_err(poisoned)?;
        s.left -= 1;
        Ok(s.left == 0)
    }

    /// Digests of the output and of every operand, and the number of scans it took.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn close(&self) -> Result<(super::journal::Done, usize)> {
        let s = self.state.lock().map_err(poisoned)?;
        let mut digests = s.leaves.iter().map(|l| digest::hex(digest::combine(l.iter().copied())));
        let output = digests.next().unwrap_or_default();
        Ok((super::journal::Done { tensor: self.tensor, digest: output, inputs: digests.collect() }, s.scans))
    }
}

fn columns<T: Copy + std::ops::AddAssign + Default>(rows: &[Vec<T>]) -> Vec<T> {
    let mut out = vec![T::default(); rows.first().map_or(0, Vec::len)];
    for row in rows {
        for (o, v) in out.iter_mut().zip(row) {
            *o += *v;
        }
    }
    out
}
