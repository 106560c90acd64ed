//! The k largest changes of a whole model, exactly: by magnitude, of equal ones the first in the order of the base's tensors.

use parking_lot::Mutex;

use super::pieces::{Limit, Models, Own, Task};
use crate::engine::observer::{Observer, Progress};
use crate::engine::threads;
use crate::error::Result;
use crate::kernels::changes::count_equal;
use crate::kernels::select::{BINS, count_high, count_low, join, kth_bin};

/// The limit of each task, in their order, that keeps the `keep` largest changes of all; changes of 0 are never kept.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`].
pub fn largest(
    models: &Models,
    tasks: &[Task],
    keep: u64,
    threads: usize,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<Vec<Limit>> {
    // Histograms count in 32 bits, task by task, and add up in 64.
    let pass = |low: Option<u32>| -> Result<(Vec<u64>, Vec<u64>)> {
        let total = Mutex::new((vec![0u64; BINS], vec![0u64; tasks.len()]));
        threads::each(tasks.len(), threads, progress, observer, |i, own: &mut (Own, Vec<u32>)| {
            let (own, counts) = own;
            counts.clear();
            counts.resize(BINS, 0);
            models.change(&models.items[tasks[i].item], &tasks[i].range, own)?;
            match low {
                None => count_high(&own.change, counts),
                Some(bin) => {
                    count_low(&own.change, bin, counts);
                }
            }
            let mut total = total.lock();
            total.1[i] = u64::from(counts[0]);
            total.0.iter_mut().zip(counts).filter(|(_, n)| **n > 0).for_each(|(t, n)| *t += u64::from(*n));
            Ok(())
        })?;
        Ok(total.into_inner())
    };
    let (counts, _) = pass(None)?;
    let all: u64 = counts.iter().sum();
    let everything = vec![Limit { least: 1, ties: u64::MAX }; tasks.len()];
    if keep >= all {
        return Ok(everything);
    }
    let (bin, above) = kth_bin(&counts, keep);
    let (counts, mut equal) = pass(Some(bin))?;
    let (low, more) = kth_bin(&counts, keep - above);
    let least = join(bin, low);
    if least == 0 {
        return Ok(everything);
    }
    let mut left = keep - above - more;
    if left >= counts[low as usize] {
        return Ok(vec![Limit { least, ties: u64::MAX }; tasks.len()]);
    }
    if low != 0 {
        let found = Mutex::new(vec![0u64; tasks.len()]);
        threads::each(tasks.len(), threads, progress, observer, |i, own: &mut Own| {
            models.change(&models.items[tasks[i].item], &tasks[i].range, own)?;
            let count = count_equal(&own.change, least);
            found.lock()[i] = count;
            Ok(())
        })?;
        equal = found.into_inner();
    }
    let mut limits = Vec::with_capacity(tasks.len());
    for equal in equal {
        let ties = equal.min(left);
        left -= ties;
        limits.push(Limit { least, ties });
    }
    Ok(limits)
}
