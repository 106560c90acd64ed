//! The memory law: from a budget to buffer sizes, or to the smallest budget that works.

use super::{Action, Plan, TensorPlan};
use crate::error::{Error, Result};
use crate::kernels::select::BINS;
use crate::methods::Cost;
use crate::sizes::{CHUNK, MIN_CHUNK, SPAN, TILE, WRITERS};

/// What the interpreter and the program take before any tensor is touched: 26 MiB measured for the CLI, rounded up.
const PROCESS: u64 = 40 << 20;
/// Stack, allocator arenas and channel ends of a thread.
const THREAD: u64 = 1 << 20;

/// `size` rounded down to whole units, but at least one.
pub fn whole(size: u64, unit: u64) -> u64 {
    (size / unit * unit).max(unit)
}

/// Sizes that keep a run inside its budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Elements of a chunk.
    pub chunk: u64,
    /// Output buffers in circulation.
    pub buffers: usize,
    /// Tensors worked on at the same time.
    pub active: usize,
    /// Most anonymous memory the run takes, in bytes.
    pub peak: u64,
}

impl Budget {
    /// Elements of a chunk of a tensor.
    pub fn chunk_of(&self, t: &TensorPlan) -> u64 {
        chunk_of(t, self.chunk)
    }
}

fn chunk_of(t: &TensorPlan, chunk: u64) -> u64 {
    whole(chunk, cost(t).unit).min(t.elements())
}

fn cost(t: &TensorPlan) -> Cost {
    match &t.action {
        Action::Copy { .. } => Cost::ELEMENT,
        Action::Merge { cost, .. } => *cost,
    }
}

/// Finds the largest chunk, up to `wanted`, with which `plan` stays inside `memory` bytes on `threads` threads.
///
/// # Errors
/// [`Error::Recipe`] with the smallest budget that works.
pub fn fit(plan: &Plan, memory: Option<u64>, threads: usize, wanted: Option<u64>) -> Result<Budget> {
    let mut chunk = wanted.unwrap_or(CHUNK).clamp(MIN_CHUNK, SPAN) / MIN_CHUNK * MIN_CHUNK;
    loop {
        let budget = with_chunk(plan, threads, chunk);
        let Some(memory) = memory else { return Ok(budget) };
        if budget.peak <= memory {
            return Ok(budget);
        }
        if chunk == MIN_CHUNK {
            let need = budget.peak.div_ceil(1 << 20);
            return Err(Error::recipe(
                "memory",
                format!(
                    "{} MiB is too little for this plan on {threads} threads; the smallest that works is {need} MiB",
                    memory >> 20
                ),
            ));
        }
        chunk = (chunk / 2 / MIN_CHUNK * MIN_CHUNK).max(MIN_CHUNK);
    }
}

fn with_chunk(plan: &Plan, threads: usize, chunk: u64) -> Budget {
    let buffers = threads + WRITERS + 2;
    let active = threads + 1;
    let (mut tiles, mut leaves, mut out) = (0, 0, 0);
    let (mut histograms, mut sums) = (0, 0);
    let mut slots: Vec<u64> = Vec::new();
    let page = 2 * crate::checkpoint::ALIGN;
    for t in &plan.tensors {
        let operands = t.action.operands();
        let cost = cost(t);
        let bytes = |bits: u64| chunk_of(t, chunk) * bits / 8;
        // Buffers are kept per place among the operands, each as large as the largest it has held.
        slots.resize(slots.len().max(operands.len()), 0);
        for (slot, o) in slots.iter_mut().zip(&operands) {
            *slot = (*slot).max(bytes(plan.tensor(*o).dtype.bits().max(16)));
        }
        out = out.max(bytes(t.dtype.bits().max(16)));
        leaves = leaves.max((t.nbytes >> 20) * 16 * (operands.len() as u64 + 2));
        if let Action::Merge { .. } = &t.action {
            // The inputs and the result in f32, and what a method keeps of a tile besides.
            tiles = tiles.max((2 * operands.len() as u64 + 4) * whole(TILE as u64, cost.unit) * 4);
        }
        histograms = histograms.max(cost.wants.histograms as u64);
        sums = sums.max(cost.wants.sums as u64 * 8);
    }
    let worker = slots.iter().sum::<u64>()
        + slots.len() as u64 * page
        + tiles
        + histograms * BINS as u64 * 4
        + 2 * sums
        + THREAD;
    let names: u64 = plan.models.iter().map(|m| m.tensors.len() as u64).sum::<u64>() + plan.tensors.len() as u64;
    let peak = PROCESS
        + names * 1500
        + threads as u64 * worker
        + WRITERS as u64 * THREAD
        + buffers as u64 * (out + page)
        + active as u64 * (histograms * BINS as u64 * 8 + 2 * sums + leaves);
    Budget { chunk, buffers, active, peak }
}
