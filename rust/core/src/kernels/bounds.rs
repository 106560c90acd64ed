//! Where a k-th magnitude probably lies, from a sample: a window of magnitudes, of which the few that are frequent are counted and
//! the others listed.

use super::isa::vectorised;
use super::select::{Cut, join, kth_bin, magnitude};

/// Most elements of a window that are listed of a tensor.
pub const LIST: usize = 1 << 19;
/// The same of a span.
pub const SPAN_LIST: usize = LIST / 2;
/// Standard deviations of a sample's quantile, were its elements independent, between it and each end of a window: the first for which
/// the list has room. A sample is of neighbours, which are not quite independent. Where values are frequent the narrower ones are
/// enough: with the widest the lists took a quarter of the time of `breadcrumbs_ties`. Elsewhere fewer than [`LEAST_WIDE`] are not
/// worth a pass.
const WIDE: [f64; 5] = [10.0, 5.0, LEAST_WIDE, 1.0, 0.0];
const LEAST_WIDE: f64 = 2.5;
/// Frequent values that a sample proposes for each k-th: the likeliest, and its neighbours.
const GUESSES: usize = 3;
/// Counts of a window: what is not below it, what is above it, and what equals each guess.
pub const SIDES: usize = 2 + GUESSES;
/// A value that holds a smaller share of a sample is one of very many, which are listed.
const FREQUENT: f64 = 1.0 / 256.0;
/// Share of a sample's values whose low bits are zero from which on bins of it stand for single values.
const ROUND: f64 = 0.9;
/// Stands for no guess: no magnitude equals it.
const NONE: u32 = u32::MAX;

/// Appends to lists what others hold. A list that had to hold more than `most` is left with fewer than were counted.
pub fn gather(lists: &mut [Vec<u32>], more: &[Vec<u32>], most: usize) {
    for (list, more) in lists.iter_mut().zip(more) {
        list.extend(&more[..more.len().min(most.saturating_sub(list.len()))]);
    }
}

/// A range of magnitudes, the second not one of them, and guesses in it, the largest first.
#[derive(Debug, Clone, Copy)]
pub struct Window {
    from: u32,
    to: u32,
    guesses: [u32; GUESSES],
}

impl Window {
    /// The window of the `keep`-th largest of `of` magnitudes, by the histogram of a sample, `round` of whose values that are not
    /// zero have no low bits; `None` if there is nothing to go by.
    pub fn new(counts: &[u64], round: u64, keep: u64, of: u64) -> Option<Self> {
        let total: u64 = counts.iter().sum();
        if keep == 0 || total == 0 {
            return None;
        }
        let k = ((keep as f64 / of as f64 * total as f64).ceil() as u64).clamp(1, total);
        let at = kth_bin(counts, k).0 as usize;
        let frequent = |n: &u64| *n as f64 >= FREQUENT * total as f64;
        let guesses = if round as f64 >= ROUND * (total - counts[0]) as f64 {
            let above = counts[at + 1..].iter().position(frequent).map(|i| at + 1 + i);
            let own = Some(at).filter(|at| frequent(&counts[*at]));
            let below = counts[..at].iter().rposition(frequent);
            [above, own, below].map(|bin| bin.map_or(NONE, |bin| join(bin as u32, 0)))
        } else {
            [NONE; GUESSES]
        };
        let room = 0.7 * LIST as f64 / of as f64 * total as f64;
        let (k, total) = (k as f64, total as f64);
        let deviation = (k * (total - k) / total).sqrt().max(1.0);
        let fits = |wide: &f64| {
            let (window, listed) = Self::around(counts, k, wide * deviation, guesses);
            let fitting = if guesses == [NONE; GUESSES] { *wide >= LEAST_WIDE } else { *wide <= LEAST_WIDE };
            (listed <= room && fitting).then_some(window)
        };
        WIDE.iter().find_map(fits)
    }

    /// The window that reaches `apart` places of the sample to both sides, and how many of the sample's elements it would list.
    fn around(counts: &[u64], k: f64, apart: f64, guesses: [u32; GUESSES]) -> (Self, f64) {
        // As if the values of a bin were evenly spread in it, or else all its least.
        let single = guesses != [NONE; GUESSES];
        let place = |k: f64| {
            let (bin, above) = kth_bin(counts, k as u64);
            let share = (k - above as f64) / f64::max(counts[bin as usize] as f64, 1.0);
            let inside = ((1.0 - share.clamp(0.0, 1.0)) * f64::from(join(1, 0))) as u32;
            (bin, join(bin, 0) + if single { 0 } else { inside })
        };
        let (first, mut from) = place(k + apart);
        // Zeros are many: they are a guess, or what is left when all others are counted.
        if first == 0 {
            from = if guesses.contains(&0) { 0 } else { 1 };
        }
        // The largest of all is none of a sample.
        let (last, to) = if k - apart < 1.0 { (counts.len() as u32 - 1, 1 << 31) } else { place(k - apart) };
        let to = to.saturating_add(1).min(1 << 31);
        let guesses = guesses.map(|g| if from <= g && g < to { g } else { NONE });
        let listed = if single {
            let whole = |bin: &u32| *bin > 0 && !guesses.contains(&join(*bin, 0));
            (first..=last).filter(whole).map(|bin| counts[bin as usize]).sum::<u64>() as f64
        } else {
            2.0 * apart
        };
        (Self { from, to, guesses }, listed)
    }

    /// Adds values to the counts of the window and its list.
    pub fn scan(&self, x: &[f32], sides: &mut [u64], list: &mut Vec<u32>) {
        let [a, b, c] = self.guesses;
        for x in x.chunks(1024) {
            let (ends, equal) = sides.split_at_mut(2);
            let inside = not_below(x, &[self.from, self.to]);
            let mut known = 0;
            if self.guesses != [NONE; GUESSES] {
                let counted = equal_to(x, &[a, b, c]);
                equal.iter_mut().zip(counted).for_each(|(sum, n)| *sum += u64::from(n));
                known = counted.iter().sum();
            }
            ends.iter_mut().zip(inside).for_each(|(sum, n)| *sum += u64::from(n));
            if inside[0] - inside[1] > known && list.len() < SPAN_LIST {
                between(x, self.from, self.to, &[a, b, c], list);
            }
        }
    }

    /// The cut of the `keep` largest of `of`, if it lies in the window; and which guess it is, if it is one.
    pub fn find(&self, keep: u64, of: u64, sides: &[u64], list: &mut [u32]) -> Option<(Cut, Option<usize>)> {
        let &[from, mut above, ref equal @ ..] = sides else { return None };
        if keep > from {
            // Only zeros are left.
            let (ties, equal) = (keep - from, of.checked_sub(from)?);
            return (self.from == 1 && ties <= equal).then_some((Cut { threshold: 0, ties, equal }, None));
        }
        if above >= keep || list.len() as u64 != from - above - equal.iter().sum::<u64>() {
            return None;
        }
        // From the largest guess on: either it is what is sought, or that is listed between it and the one before, or lies below.
        for (i, (guess, equal)) in self.guesses.iter().zip(equal).enumerate().filter(|(_, (g, _))| **g != NONE) {
            let larger = list.iter().filter(|m| *m > guess).count() as u64;
            if above + larger >= keep {
                break;
            }
            if above + larger + equal >= keep {
                let cut = Cut { threshold: *guess, ties: keep - above - larger, equal: *equal };
                return Some((cut, Some(i)));
            }
            above += equal;
        }
        let at = list.len() - (keep - above) as usize;
        let (_, threshold, larger) = list.select_nth_unstable(at);
        let threshold = *threshold;
        let above = above + larger.iter().filter(|m| **m > threshold).count() as u64;
        let equal = list.iter().filter(|m| **m == threshold).count() as u64;
        Some((Cut { threshold, ties: keep - above, equal }, None))
    }
}

vectorised! {
    /// Counts, for each limit, the magnitudes that are not below it.
    fn not_below[const LIMITS: usize][LIMITS](x: &[f32], limits: &[u32; LIMITS]) -> [u32; LIMITS] {
        // A limit at a time: the values stay in the first-level cache, and the compiler keeps one sum in a register.
        let mut counts = [0; LIMITS];
        for (count, limit) in counts.iter_mut().zip(*limits) {
            let mut n = 0u32;
            for x in x {
                n += u32::from(magnitude(*x) >= limit);
            }
            *count = n;
        }
        counts
    }
}

vectorised! {
    /// Counts the magnitudes that equal each value.
    fn equal_to[const VALUES: usize][VALUES](x: &[f32], values: &[u32; VALUES]) -> [u32; VALUES] {
        let mut counts = [0; VALUES];
        for (count, value) in counts.iter_mut().zip(*values) {
            let mut n = 0u32;
            for x in x {
                n += u32::from(magnitude(*x) == value);
            }
            *count = n;
        }
        counts
    }
}

vectorised! {
    /// Lists the magnitudes that lie in a range and are none of the guesses.
    fn between(x: &[f32], from: u32, to: u32, guesses: &[u32; GUESSES], list: &mut Vec<u32>) {
        let [a, b, c] = *guesses;
        for group in x.chunks(16) {
            // Many groups have none; that is found out sixteen at a time.
            let inside = |m: u32| (m.wrapping_sub(from) < to - from) & (m != a) & (m != b) & (m != c);
            if group.iter().fold(false, |any, x| any | inside(magnitude(*x))) {
                // Each is written and the place moves on for those inside: a branch would be mispredicted.
                let (mut found, mut n) = ([0; 16], 0);
                for x in group {
                    let m = magnitude(*x);
                    found[n & 15] = m;
                    n += usize::from(inside(m));
                }
                list.extend_from_slice(&found[..n]);
            }
        }
    }
}
