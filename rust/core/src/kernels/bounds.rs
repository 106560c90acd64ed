//! Two bounds of a k-th magnitude, from a sample, and lists of what lies between them.

use super::isa::vectorised;
use super::select::{join, kth_bin, magnitude};

/// Most elements between two bounds that are listed of a tensor.
pub const LIST: usize = 1 << 19;
/// The same of a span.
pub const SPAN_LIST: usize = LIST / 2;
/// Standard deviations of a sample's quantile, were its elements independent, between it and each bound; with fewer than the least
/// it is not worth a pass. A sample is of neighbours, which are not quite so.
const WIDE: f64 = 10.0;
const LEAST_WIDE: f64 = 2.5;

/// Appends to lists what others hold. A list that had to hold more than `most` is left with fewer than were counted.
pub fn gather(lists: &mut [Vec<u32>], more: &[Vec<u32>], most: usize) {
    for (list, more) in lists.iter_mut().zip(more) {
        list.extend(&more[..more.len().min(most.saturating_sub(list.len()))]);
    }
}

vectorised! {
    /// Lists the magnitudes that lie in a range.
    pub(super) fn between(x: &[f32], from: u32, to: u32, list: &mut Vec<u32>) {
        for group in x.chunks(16) {
            // Most groups have none; that is found out sixteen at a time.
            let inside = |x: &f32| magnitude(*x).wrapping_sub(from) < to - from;
            if group.iter().fold(false, |any, x| any | inside(x)) && list.len() < SPAN_LIST {
                list.extend(group.iter().filter(|x| inside(x)).map(|x| magnitude(*x)));
            }
        }
    }
}

/// Bounds of the `k`-th largest of a sample's magnitudes, the sample having `total` of `of` elements; as far apart as a list allows.
pub(super) fn bounds(counts: &[u64], k: u64, total: u64, of: u64) -> Option<(u32, u32)> {
    let (total, k) = (total as f64, k as f64);
    let deviation = (k * (total - k) / total).sqrt().max(1.0);
    let room = 0.35 * LIST as f64 / of as f64 * total;
    let apart = (WIDE * deviation).min(room);
    if apart < LEAST_WIDE * deviation {
        return None;
    }
    // As if the values of a bin were evenly spread in it.
    let place = |k: f64| {
        let (bin, above) = kth_bin(counts, k as u64);
        let share = (k - above as f64) / f64::max(counts[bin as usize] as f64, 1.0);
        join(bin, 0) + ((1.0 - share.clamp(0.0, 1.0)) * f64::from(join(1, 0))) as u32
    };
    let (from, to) = (place((k + apart).min(total)), place((k - apart).max(1.0)) + 1);
    // Zeros are many.
    (from >= join(1, 0)).then_some((from, to))
}

vectorised! {
    /// Counts, for each limit, the magnitudes that are not below it.
    pub(super) fn not_below[const LIMITS: usize][LIMITS](x: &[f32], limits: &[u32; LIMITS], counts: &mut [u64]) {
        for x in x.chunks(1024) {
            // A limit at a time: the values stay in the first-level cache, and the compiler keeps one sum in a register.
            for (limit, count) in limits.iter().zip(counts.iter_mut()) {
                let mut n = 0u32;
                for x in x {
                    n += u32::from(magnitude(*x) >= *limit);
                }
                *count += u64::from(n);
            }
        }
    }
}
