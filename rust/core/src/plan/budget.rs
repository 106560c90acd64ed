//! The memory law: from a budget to buffer sizes, or to the smallest budget that works.

use super::{Action, Plan};
use crate::error::{Error, Result};
use crate::kernels::reduce::BLOCK;
use crate::kernels::select::BINS;

/// Elements that one thread takes at a time; fixed, so that sums have one shape whatever the settings.
pub const SPAN: u64 = 1 << 22;
/// Elements of a chunk, the unit of I/O, when memory allows: 2 MiB of bf16, the size direct I/O likes best.
pub const CHUNK: u64 = 1 << 20;
/// Smallest chunk, in elements.
pub const MIN_CHUNK: u64 = BLOCK as u64;
/// Elements widened to f32 at a time: four inputs and the result fit the second-level cache.
pub const TILE: usize = 4 * BLOCK;
/// Threads that write.
pub const WRITERS: usize = 2;

/// What the interpreter and the program take before any tensor is touched: 26 MiB measured for the CLI, rounded up.
const PROCESS: u64 = 40 << 20;
/// Stack, allocator arenas and channel ends of a thread.
const THREAD: u64 = 1 << 20;

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
    let (mut operands, mut histograms, mut out) = (0, 0, 0);
    let mut slots: Vec<u64> = Vec::new();
    for t in &plan.tensors {
        let inputs = t.action.operands();
        let bytes = |bits: u64| chunk.min(t.elements()) * bits / 8;
        // Buffers are kept per place among the operands, each as large as the largest it has held.
        slots.resize(slots.len().max(inputs.len()), 0);
        for (slot, o) in slots.iter_mut().zip(&inputs) {
            *slot = (*slot).max(bytes(plan.tensor(*o).dtype.bits().max(16)));
        }
        out = out.max(bytes(t.dtype.bits().max(16)));
        if let Action::Merge { inputs, .. } = &t.action {
            operands = operands.max(inputs.len() as u64 + 1);
            // Statistics are counted as if every method took histograms: they are small.
            histograms = histograms.max(inputs.len() as u64);
        }
    }
    let page = 2 * crate::checkpoint::ALIGN;
    let worker =
        slots.iter().sum::<u64>() + operands * (page + 2 * TILE as u64 * 4) + histograms * BINS as u64 * 4 + THREAD;
    let names: u64 = plan.models.iter().map(|m| m.tensors.len() as u64).sum::<u64>() + plan.tensors.len() as u64;
    let leaves: u64 = plan.tensors.iter().map(|t| t.nbytes >> 20).max().unwrap_or(0) * 16 * (operands + 1);
    let peak = PROCESS
        + names * 1500
        + threads as u64 * worker
        + WRITERS as u64 * THREAD
        + buffers as u64 * (out + page)
        + active as u64 * (histograms * BINS as u64 * 8 + leaves);
    Budget { chunk, buffers, active, peak }
}
