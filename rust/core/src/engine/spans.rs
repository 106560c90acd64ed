//! Reading through tensors span by span, in parallel, with a result for each span in order.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Mutex;

use super::chunks::Buffers;
use super::observer::{Observer, Progress};
use super::threads;
use crate::error::{Error, Result};
use crate::plan::budget::SPAN;

/// Results by tensor and span.
pub struct Spans<T>(BTreeMap<(usize, u64), T>);

impl<T> Spans<T> {
    /// The results of a tensor, in the order of its spans.
    pub fn of(&self, tensor: usize) -> impl Iterator<Item = &T> {
        self.0.range((tensor, 0)..(tensor + 1, 0)).map(|(_, result)| result)
    }
}

/// Calls `f` for every span of every tensor; `elements` gives each tensor's number of elements.
///
/// `f` gets the tensor's index, the element range, its thread's buffers, and the progress to add to and to heed.
///
/// # Errors
/// Whatever `f` returns first, or [`Error::Interrupted`].
pub fn each<T: Send>(
    elements: impl Iterator<Item = u64>,
    threads: usize,
    observer: &dyn Observer,
    f: impl Fn(usize, Range<u64>, &mut Buffers, &Progress) -> Result<T> + Sync,
) -> Result<Spans<T>> {
    let tasks: Vec<(usize, u64, u64)> =
        elements.enumerate().flat_map(|(i, n)| (0..n.div_ceil(SPAN)).map(move |s| (i, s, n))).collect();
    let found: Mutex<BTreeMap<(usize, u64), T>> = Mutex::new(BTreeMap::new());
    let progress = Progress::default();
    threads::each(tasks.len(), threads, &progress, observer, |task, buffers: &mut Buffers| {
        let (tensor, span, n) = tasks[task];
        let result = f(tensor, span * SPAN..((span + 1) * SPAN).min(n), buffers, &progress)?;
        if let Ok(mut found) = found.lock() {
            found.insert((tensor, span), result);
        }
        Ok(())
    })?;
    found.into_inner().map(Spans).map_err(|_| Error::Interrupted)
}
