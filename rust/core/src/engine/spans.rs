//! Reading through tensors span by span, in parallel; the spans of a tensor are joined as soon as all are read.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use super::chunks::Buffers;
use super::observer::{Observer, Progress};
use super::threads;
use crate::error::{Error, Result};
use crate::sizes::SPAN;

/// Calls `f` for every span of every tensor; `elements` gives each tensor's number of elements.
///
/// `f` gets the tensor's index, the element range, its thread's buffers, and the progress to add to and to heed. Once a
/// tensor's last span is done, `join` makes one result of what `f` gave, in the order of the spans. The results come in
/// the order of the tensors.
///
/// # Errors
/// Whatever `f` returns first, or [`Error::Interrupted`].
pub fn each<T: Send, R: Send>(
    elements: impl Iterator<Item = u64>,
    threads: usize,
    observer: &dyn Observer,
    f: impl Fn(usize, Range<u64>, &mut Buffers, &Progress) -> Result<T> + Sync,
    join: impl Fn(usize, Vec<T>) -> R + Sync,
) -> Result<Vec<R>> {
    let sizes: Vec<u64> = elements.collect();
    let spans = |n: u64| n.div_ceil(SPAN) as usize;
    let tasks: Vec<(usize, usize)> =
        sizes.iter().enumerate().flat_map(|(i, n)| (0..spans(*n)).map(move |s| (i, s))).collect();
    let empty = |i: usize| if sizes[i] == 0 { Some(join(i, Vec::new())) } else { None };
    let found: Mutex<Vec<Option<R>>> = Mutex::new((0..sizes.len()).map(empty).collect());
    // What there is of tensors of which something is missing.
    let open: Mutex<HashMap<usize, Vec<(usize, T)>>> = Mutex::default();
    let progress = Progress::default();
    threads::each(tasks.len(), threads, &progress, observer, |task, buffers: &mut Buffers| {
        let (tensor, span) = tasks[task];
        let (start, end) = (span as u64 * SPAN, ((span as u64 + 1) * SPAN).min(sizes[tensor]));
        let result = f(tensor, start..end, buffers, &progress)?;
        let whole = {
            let mut open = open.lock();
            let parts = open.entry(tensor).or_default();
            parts.push((span, result));
            if parts.len() == spans(sizes[tensor]) { open.remove(&tensor) } else { None }
        };
        if let Some(mut parts) = whole {
            parts.sort_unstable_by_key(|(span, _)| *span);
            let joined = join(tensor, parts.into_iter().map(|(_, part)| part).collect());
            found.lock()[tensor] = Some(joined);
        }
        Ok(())
    })?;
    found.into_inner().into_iter().map(|r| r.ok_or_else(|| Error::bug("a tensor was not looked at"))).collect()
}
