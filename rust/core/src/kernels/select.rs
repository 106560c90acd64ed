//! Exact selection by magnitude in streaming passes: a radix histogram of the absolute values' bits.
//!
//! The bits of |x| order as |x| does. Pass one counts the high 16 of the 31 bits, pass two the low 15 inside the
//! bin the k-th value falls in; then the k-th magnitude is known to the last bit. Elements equal to it are kept in
//! index order until exactly k are.

/// Bins of a histogram: one per value of the high 16 bits; the low pass uses half of them.
pub const BINS: usize = 1 << 16;
const LOW: u32 = 15;

/// Bits of `|x|`: an integer that orders as the magnitude does.
#[inline(always)]
pub fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
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

/// Counts the low bits of the magnitudes whose high bits are `bin`.
pub fn count_low(x: &[f32], bin: u32, counts: &mut [u32]) {
    for x in x {
        let m = magnitude(*x);
        if m >> LOW == bin {
            counts[(m & ((1 << LOW) - 1)) as usize] += 1;
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
    /// Zeroes what is not kept. `seen` counts the elements equal to the threshold met so far in the tensor.
    pub fn apply(&self, x: &mut [f32], seen: &mut u64) {
        if self.ties == self.equal {
            keep_from(x, self.threshold);
        } else {
            for x in x {
                let m = magnitude(*x);
                if m < self.threshold {
                    *x = 0.0;
                } else if m == self.threshold {
                    if *seen >= self.ties {
                        *x = 0.0;
                    }
                    *seen += 1;
                }
            }
        }
    }

    /// Elements of `x` equal to the threshold.
    pub fn count_equal(&self, x: &[f32]) -> u64 {
        equal_to(x, self.threshold)
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn keep_from(x: &mut [f32], threshold: u32) {
    for x in x {
        *x = if magnitude(*x) >= threshold { *x } else { 0.0 };
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn equal_to(x: &[f32], threshold: u32) -> u64 {
    let mut n = 0u32;
    for x in x {
        n += u32::from(magnitude(*x) == threshold);
    }
    u64::from(n)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(x: &[f32], k: u64) -> Cut {
        let mut counts = vec![0u32; BINS];
        count_high(x, &mut counts);
        let wide: Vec<u64> = counts.iter().map(|c| u64::from(*c)).collect();
        let (high, above) = kth_bin(&wide, k);
        counts.fill(0);
        count_low(x, high, &mut counts);
        let wide: Vec<u64> = counts.iter().map(|c| u64::from(*c)).collect();
        let (low, more) = kth_bin(&wide, k - above);
        Cut { threshold: join(high, low), ties: k - above - more, equal: wide[low as usize] }
    }

    proptest::proptest! {
        /// Law 4: exactly k are kept, by magnitude and then by index, as a full sort would keep them.
        #[test]
        fn selection_equals_a_sort(x in proptest::collection::vec(-20i32..20, 1..300), share in 1u64..100) {
            let x: Vec<f32> = x.into_iter().map(|v| v as f32 * 0.37).collect();
            let k = (x.len() as u64 * share / 100).max(1);
            let mut order: Vec<usize> = (0..x.len()).collect();
            order.sort_by(|a, b| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b)));
            let mut want = vec![0f32; x.len()];
            for i in &order[..k as usize] { want[*i] = x[*i]; }
            let cut = cut(&x, k);
            let (mut got, mut seen) = (x.clone(), 0);
            for part in got.chunks_mut(7) { cut.apply(part, &mut seen); }
            proptest::prop_assert_eq!(got, want);
        }
    }
}
