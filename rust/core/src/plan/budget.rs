//! The memory law: from a budget to buffer sizes and permits, or to the smallest budget that works.
//!
//! Buffers of a fixed size are shared by all tensors. What a tensor takes besides (statistics, the rows of a method that works
//! by row) it takes a permit for, in bytes: a large one runs alone, small ones side by side.

use super::{Action, Plan, TensorPlan};
use crate::error::{Error, Result};
use crate::kernels::search::{LIST, SPAN_LIST};
use crate::kernels::select::BINS;
use crate::methods::{Cost, Span, larv};
use crate::sizes::{ALIGN, CHUNK, MIN_CHUNK, SPAN, TILE, WRITERS};
use crate::source::ROOM;

/// What the interpreter and the program take before any tensor is touched: 26 MiB measured for the CLI, rounded up.
const PROCESS: u64 = 40 << 20;
/// What the store's client and the threads that fetch take.
const STORE: u64 = 64 << 20;
/// What the tensors at work may take together where nobody says.
const SIDE_BY_SIDE: u64 = 1 << 30;
/// Stack, allocator arenas and channel ends of a thread.
const THREAD: u64 = 1 << 20;
/// Room at the ends of a buffer for whole pages.
const PAGES: u64 = 2 * ALIGN;
/// What a view that is put together ([`crate::view::View::is_gathered`]) is read into.
const SPARE: u64 = (1 << 20) + PAGES;

/// `size` rounded down to whole units, but at least one.
pub fn whole(size: u64, unit: u64) -> u64 {
    (size / unit * unit).max(unit)
}

/// Sizes that keep a run inside its budget.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    /// Elements of a chunk.
    pub chunk: u64,
    /// Bytes of an output buffer.
    pub buffer: u64,
    /// Output buffers in circulation.
    pub buffers: usize,
    /// Most tensors worked on at the same time.
    pub active: usize,
    /// Bytes that the tensors worked on may take together.
    pub permits: u64,
    /// Bytes that each tensor of each plan takes while it is worked on.
    pub needs: Vec<Vec<u64>>,
    /// Bytes that are fetched from stores ahead of what is read.
    pub remote: u64,
    /// Most anonymous memory the run takes, in bytes.
    pub peak: u64,
}

/// Elements of a chunk of a tensor.
fn chunk_of(t: &TensorPlan, chunk: u64) -> u64 {
    whole(chunk, unit(t)).min(t.elements())
}

/// Elements that are worked on together.
pub fn unit(t: &TensorPlan) -> u64 {
    t.action.cost().unit
}

/// Finds the largest chunk, up to `wanted`, with which `plans`, run together, stay inside `memory` bytes on `threads` threads.
///
/// # Errors
/// [`Error::Recipe`] with the smallest budget that works, and the tensor that decides it.
pub fn fit(plans: &[&Plan], memory: Option<u64>, threads: usize, wanted: Option<u64>) -> Result<Budget> {
    if threads == 0 {
        return Err(Error::recipe("threads", "expected at least 1, found 0"));
    }
    let remote = plans.iter().filter(|plan| plan.is_remote());
    let room = ROOM.min(remote.map(|plan| plan.read_bytes()).sum());
    let mut chunk = wanted.unwrap_or(CHUNK).clamp(MIN_CHUNK, SPAN) / MIN_CHUNK * MIN_CHUNK;
    loop {
        let (fixed, buffer, buffers) = fixed(plans, threads, chunk);
        let of = |plan: &&Plan| plan.tensors.iter().map(|t| need(plan, t, threads, chunk)).collect();
        let needs: Vec<Vec<u64>> = plans.iter().map(of).collect();
        let largest = needs.iter().flatten().copied().max().unwrap_or(0);
        let active = threads + 1;
        let all = fixed + largest * active as u64;
        let Some(memory) = memory else {
            // Tensors that take much memory are no faster side by side: what is done to one is done on all threads.
            let permits = largest.max(SIDE_BY_SIDE);
            let peak = all.min(fixed + permits) + room;
            return Ok(Budget { chunk, buffer, buffers, active, permits, needs, remote: room, peak });
        };
        if fixed + largest <= memory {
            // What is fetched ahead gets half of what is left.
            let remote = room.min((memory - fixed - largest) / 2);
            let permits = memory - fixed - remote;
            let peak = (all + remote).min(memory);
            return Ok(Budget { chunk, buffer, buffers, active, permits, needs, remote, peak });
        }
        if chunk == MIN_CHUNK {
            let smallest = (fixed + largest).div_ceil(1 << 20);
            let tensors = plans.iter().flat_map(|plan| plan.tensors.iter());
            let is_whole = |t: &TensorPlan| matches!(t.action.cost().span, Span::Whole { .. });
            let is_measured = |t: &TensorPlan, n: u64| n == measuring(t) && n >> 20 > 0;
            // Where no tensor fits there is none to blame, but for one that takes more than all that is there for any.
            let decides = |n: u64| n == largest && (n > fixed || fixed <= memory);
            let named = tensors.zip(needs.iter().flatten()).find(|(_, n)| decides(**n));
            let whole = named.is_some_and(|(t, _)| is_whole(t));
            let measured = named.is_some_and(|(t, n)| is_measured(t, *n));
            let named = named.map_or(String::new(), |(t, n)| format!(" (`{}` alone takes {} MiB)", t.name, n >> 20));
            let fewer = match (whole, threads > 1) {
                _ if measured => "; without `larv` it takes less",
                (true, _) => "; methods that take no whole matrix, such as task_arithmetic or ties, take less",
                (false, true) => "; fewer threads take less",
                (false, false) => "",
            };
            return Err(Error::recipe(
                "memory",
                format!(
                    "{} MiB is too little for this plan on {threads} threads; the smallest that works is {smallest} \
                     MiB{named}{fewer}",
                    memory >> 20
                ),
            ));
        }
        chunk = (chunk / 2 / MIN_CHUNK * MIN_CHUNK).max(MIN_CHUNK);
    }
}

/// Bytes that are taken whatever tensor is worked on, the size of an output buffer, and their number.
fn fixed(plans: &[&Plan], threads: usize, chunk: u64) -> (u64, u64, usize) {
    let buffers = threads + WRITERS + 2;
    // Buffers are kept per place among the operands, each as large as the largest it has held.
    let mut slots: Vec<(u64, u64)> = Vec::new();
    let (mut tiles, mut out) = (0, 0);
    for (plan, t) in plans.iter().flat_map(|plan| plan.tensors.iter().map(move |t| (plan, t))) {
        let views = t.action.together();
        let elements = chunk_of(t, chunk).min(chunk);
        slots.resize(slots.len().max(views.len()), (0, 0));
        for ((buffer, spare), view) in slots.iter_mut().zip(&views) {
            *buffer = (*buffer).max(elements * view.bits(&plan.models).max(16) / 8);
            let runs = if view.is_gathered(&plan.models) { SPARE } else { 0 };
            *spare = (*spare).max(runs + elements * view.inner_bits(&plan.models) / 8 + PAGES);
        }
        // What is read by itself is read into the first buffer.
        for view in t.action.apart() {
            let elements = chunk.min(view.like().tensor(&plan.models).elements());
            let (buffer, spare) = (elements * view.bits(&plan.models).max(16) / 8, view.inner_bits(&plan.models) / 8);
            slots[0].0 = slots[0].0.max(buffer);
            slots[0].1 = slots[0].1.max(SPARE + elements * spare + PAGES);
        }
        out = out.max(elements * t.dtype.bits().max(16) / 8);
        if let Action::Compute { cost, .. } = &t.action {
            tiles = tiles.max(tile(views.len(), cost, TILE as u64));
        }
    }
    let largest = slots.iter().map(|(buffer, _)| *buffer).max().unwrap_or(0);
    let worker = slots.iter().map(|(buffer, spare)| buffer + spare + PAGES).sum::<u64>() + tiles + THREAD;
    let names = |plan: &Plan| plan.models.iter().map(|m| m.tensors.len()).sum::<usize>() + plan.tensors.len();
    let rows = |plan: &Plan| plan.vocabulary.as_ref().map_or(0, |v| v.bytes());
    // Each thread waits for one answer; two are copied where they belong.
    let store = if plans.iter().any(|plan| plan.is_remote()) { STORE + (threads as u64 + 2) * largest } else { 0 };
    let fixed = PROCESS
        + store
        + plans.iter().map(|plan| rows(plan) + names(plan) as u64 * 1500).sum::<u64>()
        + threads as u64 * worker
        + WRITERS as u64 * THREAD
        + buffers as u64 * (out + PAGES);
    (fixed, out, buffers)
}

/// Bytes that a thread takes for a tile of so many elements: the inputs and the result in f32, and what the method keeps.
fn tile(views: usize, cost: &Cost, elements: u64) -> u64 {
    ((2 * views as u64 + 4) * 4 + cost.scratch) * elements
}

/// Bytes that a tensor takes while it is worked on, beyond what is there for any.
fn need(plan: &Plan, t: &TensorPlan, threads: usize, chunk: u64) -> u64 {
    let views = t.action.together();
    let apart: u64 = t.action.apart().iter().map(|v| v.nbytes(&plan.models) + v.resident(&plan.models)).sum();
    let leaves = (t.nbytes >> 20) * 16 * (views.len() as u64 + 2) + (apart >> 20) * 16;
    let Action::Compute { cost, .. } = &t.action else { return leaves };
    let (unit, workers) = (unit(t), (threads as u64).min(t.spans()));
    let (histograms, sums) = (cost.wants.histograms as u64 * BINS as u64, cost.wants.sums as u64 * 8);
    // Each thread counts for itself; the totals are wider.
    let lists = cost.wants.lists as u64 * 4;
    let (listed, here) = (lists * (LIST as u64).min(t.elements()), lists * (SPAN_LIST as u64).min(t.elements()));
    // Never both in one scan.
    let totals = (histograms * 8).max(listed);
    let statistics = totals + 2 * sums + workers * ((histograms * 4).max(here) + 2 * sums);
    // Units beyond a tile, and chunks that hold one.
    let rows = if unit > TILE as u64 {
        workers * (tile(views.len(), cost, unit) - tile(views.len(), cost, TILE as u64))
    } else {
        0
    };
    let wide = chunk_of(t, chunk).saturating_sub(chunk);
    let bytes = |bits: u64| wide * bits.max(16) / 8;
    let models = &plan.models;
    let read: u64 = views.iter().map(|v| bytes(v.bits(models) + v.inner_bits(models)) + v.resident(models)).sum();
    let keeps = if let Span::Whole { keeps } = cost.span { keeps } else { 0 };
    // Peaks and rates of tiles, and leaves of the output that lie in several spans.
    let torn = if t.encode.is_some() && t.spans() > 1 { (2 * threads as u64 + 2) << 20 } else { 0 };
    let keeps = keeps + torn.min(2 * t.nbytes) + t.encode.as_ref().map_or(0, |e| e.keeps());
    // Layers are measured before anything is made.
    (leaves + statistics + rows + workers * read + keeps).max(measuring(t))
}

/// Bytes that measuring a tensor takes.
fn measuring(t: &TensorPlan) -> u64 {
    if let Action::Compute { params, .. } = &t.action { larv::bytes(params, &t.shape) } else { 0 }
}
