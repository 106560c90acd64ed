//! One output tensor on its way: its kernel, its statistics, its digests, and how much is left to do.

use std::collections::BTreeMap;
use std::sync::{Mutex, RwLock};

use super::survey::Survey;
use crate::digest::{self, BLOCK};
use crate::error::{Error, Result};
use crate::kernels::select::BINS;
use crate::methods::{Kernel, Stats, Totals};
use crate::plan::{Action, Plan};
use crate::sizes::SPAN;

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
    name: String,
    /// Passes a survey has made over the tensor before.
    surveyed: usize,
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
    sums: Ordered,
    counts: Vec<Vec<u64>>,
    ranks: Vec<Vec<u64>>,
    /// Running ranks before each span, where a survey has counted them.
    before: Vec<Vec<u64>>,
    /// Leaf digests: the output's first, then every operand's.
    leaves: Vec<Vec<u128>>,
}

fn poisoned<T>(_: T) -> Error {
    Error::io(std::path::Path::new("suture"), "go on", std::io::Error::other("a thread panicked"))
}

impl Job {
    /// Binds the method of tensor `index`, or takes what `survey` found for it.
    ///
    /// # Errors
    /// [`Error::Recipe`] for parameters the plan should have refused.
    pub fn new(plan: &Plan, index: usize, survey: &Survey) -> Result<Self> {
        let t = &plan.tensors[index];
        let surveyed = survey.kernel(plan, index)?;
        let passes = surveyed.as_ref().map_or(0, |(_, passes)| *passes);
        let kernel = match (&t.action, surveyed) {
            (Action::Copy { .. }, _) => None,
            (_, Some((kernel, _))) => Some(kernel),
            (Action::Merge { method, params, .. }, None) => Some(
                method.bind(params, &t.shape).map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", t.name)))?,
            ),
        };
        let operands = t.action.operands();
        let sizes = std::iter::once(t.nbytes).chain(operands.iter().map(|o| plan.tensor(*o).nbytes));
        let leaves = sizes.map(|n| vec![0; n.div_ceil(BLOCK as u64) as usize]).collect();
        let spans = t.elements().div_ceil(SPAN);
        let state = State {
            left: spans,
            unapplied: spans,
            scans: 0,
            sums: Ordered::new(0),
            counts: vec![],
            ranks: vec![],
            before: survey.before(index),
            leaves,
        };
        let job = Self {
            tensor: index,
            name: t.name.clone(),
            surveyed: passes,
            spans,
            kernel: RwLock::new(kernel),
            state: Mutex::new(state),
        };
        job.prepare()?;
        Ok(job)
    }

    /// The pass that comes next, with room made for its statistics.
    fn prepare(&self) -> Result<Pass> {
        let mut s = self.state.lock().map_err(poisoned)?;
        s.left = self.spans;
        let wants = self.kernel.read().map_err(poisoned)?.as_ref().and_then(|k| k.wants());
        let Some(wants) = wants else { return Ok(Pass::Apply) };
        s.sums = Ordered::new(wants.sums);
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
        s.sums.put(span, stats.sums.clone());
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
            sums: std::mem::replace(&mut s.sums, Ordered::new(0)).total(),
            counts: std::mem::take(&mut s.counts),
            ranks: if stats.ranks.is_empty() { vec![] } else { columns(&s.ranks) },
        };
        drop(guard);
        if let Some(kernel) = self.kernel.write().map_err(poisoned)?.as_mut() {
            kernel.take(totals).map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", self.name)))?;
        }
        self.prepare().map(Some)
    }

    /// Totals of the ranks over all spans before `span`.
    ///
    /// # Errors
    /// Only after a panic elsewhere.
    pub fn ranks_before(&self, span: u64) -> Result<Vec<u64>> {
        let s = self.state.lock().map_err(poisoned)?;
        if let Some(before) = s.before.get(span as usize) {
            return Ok(before.clone());
        }
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
        let found = self.kernel.read().map_err(poisoned)?.iter().flat_map(|k| k.found()).collect();
        let s = self.state.lock().map_err(poisoned)?;
        let mut digests = s.leaves.iter().map(|l| digest::hex(digest::combine(l.iter().copied())));
        let output = digests.next().unwrap_or_default();
        Ok((
            super::journal::Done { tensor: self.tensor, digest: output, inputs: digests.collect(), found },
            s.scans + self.surveyed,
        ))
    }
}

fn columns(rows: &[Vec<u64>]) -> Vec<u64> {
    let mut out = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += *v);
    }
    out
}

/// Sums added in the order of their index, whoever finishes first.
pub struct Ordered {
    total: Vec<f64>,
    next: u64,
    early: BTreeMap<u64, Vec<f64>>,
}

impl Ordered {
    /// `width` sums of nothing.
    pub fn new(width: usize) -> Self {
        Self { total: vec![0.0; width], next: 0, early: BTreeMap::new() }
    }

    /// Takes the sums with number `index`; every number comes once.
    pub fn put(&mut self, index: u64, sums: Vec<f64>) {
        self.early.insert(index, sums);
        while let Some(sums) = self.early.remove(&self.next) {
            self.total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
            self.next += 1;
        }
    }

    /// The totals.
    pub fn total(self) -> Vec<f64> {
        self.total
    }
}
