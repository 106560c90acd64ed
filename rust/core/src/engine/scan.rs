//! Scans over more than one tensor, the first phase of a run: for methods whose statistics are taken over a module, a layer
//! or the whole model.
//!
//! One kernel scans every tensor of a group, pass after pass; what it found then goes to the kernels of the single
//! tensors, which only apply it. A pass may be split among processes: each scans a part, and [`Found::settle`] joins them.

use std::collections::HashMap;

use parking_lot::Mutex;

use super::Means;
use super::ahead::Ahead;
use super::found::{Found, Scales};
use super::settled::Settled;
use super::statistics::{OfTensor, Ordered, Partial};
use super::threads;
use super::tiles::{Inputs, Pass, Scratch};
use super::worker::begun;
use crate::error::Result;
use crate::kernels::cast::Widen;
use crate::kernels::search::sampled;
use crate::kernels::search::{LIST, gather};
use crate::kernels::select::BINS;
use crate::methods::larv::Seen;
use crate::methods::{Kernel, Stats};

/// Finds what there is to find of every group that has a tensor left to make, of changes that are scaled so, and beyond what
/// earlier rounds have `settled`.
///
/// # Errors
/// Input that cannot be read, data that do not allow what was asked, [`crate::error::Error::Interrupted`].
pub fn all(
    inputs: &Inputs,
    means: &Means,
    scales: Scales,
    settled: &Settled,
    left: impl Fn(usize) -> bool,
) -> Result<Found> {
    let mut found = Found::new(scales);
    for (group, tensors) in inputs.plan.groups.iter().map(|g| &g.tensors).enumerate() {
        if tensors.iter().any(|t| left(*t)) {
            settled.replay(inputs.plan, group, &mut found)?;
            while found.scanner(group).is_some() {
                let partial = scan(inputs, means, &found, group, tensors)?;
                found.settle(inputs.plan, group, vec![partial])?;
            }
        }
    }
    Ok(found)
}

/// The sums and the ranks of each span, by tensor.
type Spans = HashMap<usize, (Ordered, Vec<Vec<u64>>)>;

/// One pass over some tensors of a group.
///
/// # Errors
/// As [`all`].
pub fn scan(inputs: &Inputs, means: &Means, found: &Found, group: usize, part: &[usize]) -> Result<Partial> {
    let Some((kernel, wants, pass)) = found.scanner(group) else { return Ok(Partial::default()) };
    let tensors = &inputs.plan.tensors;
    let tasks = inputs.spans(part);
    // Where a sample is taken the pages around it are not wanted yet.
    let (asked, ask) = (if wants.sample { 0 } else { tasks.len() }, |i: usize| inputs.ask(tasks[i]));
    let ahead = Ahead::new(asked, &ask);
    // Histograms of a thread are kept from task to task: adding them up for each of thousands of small tensors would take
    // longer than the tensors.
    let pool: Mutex<Vec<(Stats, Scratch)>> = Mutex::default();
    let counts = Mutex::new(vec![vec![0u64; BINS]; wants.histograms]);
    let lists = Mutex::new(vec![Vec::new(); wants.lists]);
    let each = |t: &usize| (*t, (Ordered::new(wants.sums), vec![Vec::new(); tensors[*t].spans() as usize]));
    let seen: Mutex<Spans> = Mutex::new(part.iter().map(each).collect());
    threads::each(tasks.len(), means.threads, inputs.progress, means.observer, |i, _: &mut ()| {
        let kept = pool.lock().pop();
        let (mut stats, mut scratch) = kept.unwrap_or_else(|| {
            let mut stats = Stats::default();
            stats.reset(wants);
            (stats, Scratch::default())
        });
        ahead.took();
        let (tensor, span) = tasks[i];
        let t = &tensors[tensor];
        stats.before = found.before(inputs.plan, tensor).get(span as usize).cloned().unwrap_or_default();
        let own = t.elements_of(span);
        let check = pass == 0 && !wants.sample;
        let scaled = found.scales(tensor).map(|scales| Seen { kernel, scales });
        let kernel = scaled.as_ref().map_or(kernel, |s| s as &dyn Kernel);
        let pass = |own| Pass { tensor: t, own, release: Some(true), check, digest: false, how: Widen::ToCompute };
        for own in if wants.sample { sampled(&own, inputs.plan.is_remote()) } else { vec![own] } {
            begun(inputs, means.backend, &pass(own), kernel, &mut stats, (&mut scratch.buffers, &mut scratch.wide))?;
        }
        scratch.trim(t);
        if let Some((sums, ranks)) = seen.lock().get_mut(&tensor) {
            sums.put(span, std::mem::replace(&mut stats.sums, vec![0.0; wants.sums]));
            ranks[span as usize] = std::mem::replace(&mut stats.ranks, vec![0; wants.ranks]);
        }
        gather(&mut lists.lock(), &stats.lists, LIST);
        stats.lists.iter_mut().for_each(Vec::clear);
        // Bins are 32 bits wide; a span has 22.
        stats.spans += 1;
        if stats.spans == 1 << 9 {
            empty(&mut stats, &mut counts.lock());
        }
        pool.lock().push((stats, scratch));
        Ok(())
    })?;
    let mut counts = counts.into_inner();
    for (mut stats, _) in pool.into_inner() {
        empty(&mut stats, &mut counts);
    }
    let of =
        |(tensor, (sums, ranks)): (usize, (Ordered, Vec<Vec<u64>>))| OfTensor { tensor, sums: sums.total(), ranks };
    Ok(Partial { counts, lists: lists.into_inner(), tensors: seen.into_inner().into_iter().map(of).collect() })
}

/// Adds a thread's histograms to the totals and empties them.
fn empty(stats: &mut Stats, totals: &mut [Vec<u64>]) {
    for (total, part) in totals.iter_mut().zip(&mut stats.counts) {
        for (t, p) in total.iter_mut().zip(part) {
            *t += u64::from(std::mem::take(p));
        }
    }
    stats.spans = 0;
}
