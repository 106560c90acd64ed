//! The memory that an extraction takes, from headers.

use super::options::Options;
use super::tensors::{Item, task};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::delta::Kept;
use crate::error::{Error, Result};
use crate::kernels::leading;
use crate::kernels::select::BINS;

/// What the interpreter and the program take before any tensor is touched.
pub const PROCESS: u64 = 40 << 20;
/// Stack and arenas of a thread.
const THREAD: u64 = 2 << 20;
/// What is packed of a piece may wait for its turn: so many pieces a thread.
const WAITING: u64 = 3;

/// Bytes that an extraction takes at most, and the tensor that decides it, if one does.
pub fn most(base: &Checkpoint, tuned: &Checkpoint, items: &[Item], options: &Options, threads: usize) -> (u64, String) {
    let names = (base.tensors.len() + tuned.tensors.len()) as u64 * 2500;
    let (mut most, mut whose) = (0, String::new());
    for item in items {
        let of = |model: &Checkpoint, i: Option<usize>| i.map(|i| (task(&model.tensors[i]), model.tensors[i].clone()));
        let both = [of(base, item.base), of(tuned, item.tuned)];
        let mut need = 0;
        for (step, t) in both.iter().flatten() {
            let elements = (*step).min(t.elements());
            let raw = elements * t.dtype.bits().div_ceil(8);
            // What is read, and what is kept of it; changes in f32, places and values.
            need += 2 * raw + WAITING * if item.kept == Kept::Sparse { elements * 8 } else { raw };
            need += 4 * elements;
        }
        if let (Some(m), Kept::LowRank) = (item.matrix, item.kept) {
            let rank = options.rank_of(m.rows, m.columns);
            let all = options.full || options.energy.is_some();
            let factors = m.count * rank * (m.rows + m.columns) * options.factor_dtype().bits() / 8;
            need += m.rows * m.columns * 4 + leading::bytes(m.rows, m.columns, rank, all) + (1 + WAITING) * factors;
        }
        if need > most {
            (most, whose) = (need, item.name.clone());
        }
    }
    let histograms = if options.density.or(options.keep.map(|_| 1.0)).is_some() { 8 * BINS as u64 } else { 0 };
    let threads = threads as u64;
    // What is there for any tensor may be more than what one takes: then none decides.
    let fixed = PROCESS + names + threads * (THREAD + histograms);
    let whose = if threads * most > fixed { whose } else { String::new() };
    (fixed + threads * most, whose)
}

/// How many of so many threads keep the budget.
///
/// # Errors
/// [`Error::Recipe`] if one does not, with the smallest that works, and the tensor that decides it.
pub fn fitting(
    base: &Checkpoint,
    tuned: &Checkpoint,
    items: &[Item],
    options: &Options,
    threads: usize,
) -> Result<usize> {
    let Some(memory) = options.memory else { return Ok(threads) };
    let need = |threads: usize| most(base, tuned, items, options, threads);
    if let Some(threads) = (1..=threads).rev().find(|n| need(*n).0 <= memory) {
        return Ok(threads);
    }
    let (need, whose) = need(1);
    let others = if options.form.factors() { "; the forms sparse, bits and xor take less" } else { "" };
    Err(too_little(memory, need, &whose, "this delta", others))
}

/// The error of a budget that is not enough.
pub fn too_little(memory: u64, need: u64, whose: &str, what: &str, others: &str) -> Error {
    let named = if whose.is_empty() { String::new() } else { format!(" (`{whose}`)") };
    let least = need.div_ceil(1 << 20);
    let problem =
        format!("{} MiB is too little for {what}; the smallest that works is {least} MiB{named}{others}", memory >> 20);
    Error::recipe("memory", problem)
}
