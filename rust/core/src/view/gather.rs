//! Ranges of a file that lie close together, read as one.

use std::iter::Take;
use std::ops::Range;

use crate::error::Result;
use crate::source::{Buffer, Source};

/// Bytes between two ranges of a file up to which they are read as one.
pub(super) const GAP: u64 = 64 << 10;
/// Bytes read as one at most, but for a range that is longer.
pub(super) const MOST: u64 = 1 << 20;

/// Reads the `range` of every item, the items being in the order of the file as far as they lie close together. Gives `put` items
/// that were read as one, with all the bytes and the range these are.
///
/// # Errors
/// As [`Source::read`].
pub(super) fn gather<I: Iterator + Clone>(
    source: &dyn Source,
    items: I,
    range: impl Fn(&I::Item) -> Range<u64>,
    spare: &mut Option<Buffer>,
    mut put: impl FnMut(Take<I>, &[u8], Range<u64>),
) -> Result<()> {
    let mut rest = items;
    loop {
        let mut ahead = rest.clone();
        let Some(first) = ahead.next().map(|item| range(&item)) else { return Ok(()) };
        let (mut all, mut count) = (first.clone(), 1);
        for item in ahead {
            let next = range(&item);
            let end = next.end.max(all.end);
            let near = (all.start..=all.end + GAP).contains(&next.start);
            if !near || end - all.start > MOST.max(first.end - first.start) {
                break;
            }
            all.end = end;
            count += 1;
        }
        let bytes = source.read(all.clone(), spare)?;
        put(rest.clone().take(count), bytes, all);
        rest.by_ref().take(count).for_each(drop);
    }
}
