//! Exact selection by magnitude in streaming passes: a radix histogram of the absolute values' bits.
//!
//! The bits of |x| order as |x| does. Pass one counts the high 16 of the 31 bits, pass two the low 15 inside the
//! bin the k-th value falls in; then the k-th magnitude is known to the last bit. Elements equal to it are kept in
//! index order until exactly k are.

use super::isa::vectorised;

/// Bins of a histogram: one per value of the high 16 bits; the low pass uses half of them.
pub const BINS: usize = 1 << 16;
const LOW: u32 = 15;
/// Elements that are cut at a time.
const PART: usize = 1024;

/// Bits of `|x|`: an integer that orders as the magnitude does.
#[inline(always)]
pub fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Whether it is the least magnitude of its bin.
pub fn is_round(x: f32) -> bool {
    magnitude(x) & ((1 << LOW) - 1) == 0
}

/// Counts the high bits of every magnitude.
pub fn count_high(x: &[f32], counts: &mut [u32]) {
    let counts: &mut [u32; BINS] = match counts.try_into() {
        Ok(c) => c,
        Err(_) => return,
    };
    for x in x {
        counts[(magnitude(*x) >> LOW) as usize] += 1;
    }
}

/// Counts the low bits of the magnitudes whose high bits are `bin`; returns how many there are.
pub fn count_low(x: &[f32], bin: u32, counts: &mut [u32]) -> u64 {
    let mut found = 0;
    for x in x.chunks(1024) {
        let (inside, round) = in_bin(x, bin);
        found += u64::from(inside);
        if inside == round {
            // Changes between bf16 checkpoints have few significant bits: here a count of the round ones is all.
            counts[0] += inside;
        } else {
            count_low_each(x, bin, counts);
        }
    }
    found
}

vectorised! {
    /// Magnitudes in `bin`, and those of them whose low bits are zero.
    fn in_bin(x: &[f32], bin: u32) -> (u32, u32) {
        let (mut inside, mut round) = (0u32, 0u32);
        for x in x {
            let m = magnitude(*x);
            inside += u32::from(m >> LOW == bin);
            round += u32::from(m == bin << LOW);
        }
        (inside, round)
    }
}

vectorised! {
    fn count_low_each(x: &[f32], bin: u32, counts: &mut [u32]) {
        for group in x.chunks(16) {
            // Most groups have nothing in the bin; that is found out sixteen at a time.
            if group.iter().fold(false, |any, x| any | (magnitude(*x) >> LOW == bin)) {
                for x in group {
                    let m = magnitude(*x);
                    if m >> LOW == bin {
                        counts[(m & ((1 << LOW) - 1)) as usize] += 1;
                    }
                }
            }
        }
    }
}

/// The bin in which the `k`-th largest value (from 1) falls, and how many values lie in higher bins.
pub fn kth_bin(counts: &[u64], k: u64) -> (u32, u64) {
    let mut above = 0;
    for (bin, n) in counts.iter().enumerate().rev() {
        if above + n >= k {
            return (bin as u32, above);
        }
        above += n;
    }
    (0, above)
}

/// Puts the two halves of a magnitude together.
pub fn join(high: u32, low: u32) -> u32 {
    (high << LOW) | low
}

/// What is kept of a tensor: magnitudes above `threshold`, and the first `ties` elements equal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Magnitude bits of the k-th largest element.
    pub threshold: u32,
    /// Elements equal to the threshold that are kept, the first in index order.
    pub ties: u64,
    /// Elements equal to the threshold, kept or not.
    pub equal: u64,
}

impl Cut {
    /// Keeps no element.
    pub const NOTHING: Self = Self { threshold: 1 << 31, ties: 0, equal: 0 };

    /// Multiplies what is kept by `factor` and the rest by zero. `seen` counts the elements equal to the threshold met so
    /// far in the tensor.
    pub fn apply(&self, x: &mut [f32], factor: f32, seen: &mut u64) {
        for x in x.chunks_mut(PART) {
            match self.least(x, seen) {
                Ok(least) => keep_from(x, least, factor),
                Err(left) => self.keep_first(x, left, factor),
            }
        }
    }

    /// What [`Self::apply`] would leave, less what `inner` would, which keeps fewer.
    pub fn apply_without(&self, inner: &Self, x: &mut [f32], factor: f32, seen: &mut u64, seen_inner: &mut u64) {
        for x in x.chunks_mut(PART) {
            match (self.least(x, seen), inner.least(x, seen_inner)) {
                (Ok(least), Ok(above)) => keep_between(x, least, above, factor),
                (own, inner_own) => {
                    let mut copy = [0f32; PART];
                    let dropped = &mut copy[..x.len()];
                    dropped.copy_from_slice(x);
                    for (cut, own, x) in [(self, own, &mut *x), (inner, inner_own, &mut *dropped)] {
                        match own {
                            Ok(least) => keep_from(x, least, factor),
                            Err(left) => cut.keep_first(x, left, factor),
                        }
                    }
                    // Both come from the same product, so the difference is exact.
                    x.iter_mut().zip(&*dropped).for_each(|(x, d)| *x -= *d);
                }
            }
        }
    }

    /// The least magnitude that is kept of `x`; or, if it is the threshold and not all that equal it are, how many are.
    fn least(&self, x: &[f32], seen: &mut u64) -> Result<u32, u64> {
        if self.ties == self.equal {
            return Ok(self.threshold);
        }
        let before = *seen;
        *seen += equal_to(x, self.threshold);
        match self.ties.saturating_sub(before) {
            0 => Ok(self.threshold + 1),
            left if *seen - before <= left => Ok(self.threshold),
            left => Err(left),
        }
    }

    fn keep_first(&self, x: &mut [f32], mut left: u64, factor: f32) {
        for x in x {
            let m = magnitude(*x);
            let keep = m > self.threshold || (m == self.threshold && left > 0);
            left -= u64::from(keep && m == self.threshold);
            *x *= if keep { factor } else { 0.0 };
        }
    }

    /// Elements of `x` equal to the threshold.
    pub fn count_equal(&self, x: &[f32]) -> u64 {
        equal_to(x, self.threshold)
    }
}

vectorised! {
    fn keep_from(x: &mut [f32], threshold: u32, factor: f32) {
        for x in x {
            // The factor is chosen, not the outcome: were one of them "unchanged", the compiler would store under a mask, and
            // masked stores ran at a tenth of the speed here. A NaN stays one, kept or not.
            *x *= if magnitude(*x) >= threshold { factor } else { 0.0 };
        }
    }
}

vectorised! {
    /// The difference of two products, as if what is kept from the one and from the other were formed apart.
    fn keep_between(x: &mut [f32], least: u32, above: u32, factor: f32) {
        for x in x {
            let m = magnitude(*x);
            let outer = *x * if m >= least { factor } else { 0.0 };
            let inner = *x * if m >= above { factor } else { 0.0 };
            *x = outer - inner;
        }
    }
}

vectorised! {
    fn equal_to(x: &[f32], threshold: u32) -> u64 {
        let mut n = 0u32;
        for x in x {
            n += u32::from(magnitude(*x) == threshold);
        }
        u64::from(n)
    }
}

/// The cut that keeps the `keep` largest of `x`, all of which is here. `keys` is working memory of the same length.
pub fn cut_here(x: &[f32], keep: usize, keys: &mut [f32]) -> Cut {
    if keep == 0 {
        return Cut::NOTHING;
    }
    let n = x.len();
    for (k, x) in keys.iter_mut().zip(x) {
        *k = x.abs();
    }
    let keep = keep.min(n);
    // Magnitudes order as their bits do.
    let (above, kth, _) = keys[..n].select_nth_unstable_by_key(keep - 1, |k| !k.to_bits());
    let threshold = kth.to_bits();
    let strictly = above.iter().filter(|k| k.to_bits() > threshold).count();
    let equal = equal_to(x, threshold);
    Cut { threshold, ties: (keep - strictly) as u64, equal }
}
