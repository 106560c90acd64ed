//! Reading through tensors span by span, in parallel; the spans of a tensor are joined as soon as all are read.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use super::ahead::{Ahead, ask};
use super::chunks::Buffers;
use super::observer::{Observer, Progress};
use super::threads;
use crate::error::{Error, Result};
use crate::sizes::SPAN;
use crate::view::Decode;

/// Calls `f` for every span of every tensor; `elements` gives each tensor's number of elements, `views` what is read of it.
///
/// `f` gets the tensor's index, the element range, its thread's buffers, and the progress to add to and to heed. Once a
/// tensor's last span is done, `join` makes one result of what `f` gave, in the order of the spans. The results come in
/// the order of the tensors.
///
/// # Errors
/// Whatever `f` returns first, or [`Error::Interrupted`].
pub fn each<'v, T: Send, R: Send>(
    elements: impl Iterator<Item = u64>,
    views: impl Fn(usize) -> Vec<Box<dyn Decode + 'v>> + Sync,
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
    let range = |tensor: usize, span: usize| {
        let start = span as u64 * SPAN;
        start..(start + SPAN).min(sizes[tensor])
    };
    let found: Mutex<Vec<Option<R>>> = Mutex::new((0..sizes.len()).map(empty).collect());
    // What there is of tensors of which something is missing.
    let open: Mutex<HashMap<usize, Vec<(usize, T)>>> = Mutex::default();
    let progress = Progress::default();
    let ask = |i: usize| ask(&views(tasks[i].0), &range(tasks[i].0, tasks[i].1));
    let ahead = Ahead::new(tasks.len(), &ask);
    threads::each(tasks.len(), threads, &progress, observer, |task, buffers: &mut Buffers| {
        let (tensor, span) = tasks[task];
        ahead.took();
        let result = f(tensor, range(tensor, span), buffers, &progress)?;
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
