//! Figures of changes, and which are kept.

use super::isa::vectorised;
use super::select::magnitude;
use crate::sizes::BLOCK;

/// How many elements of `width` bytes differ.
pub fn differing(a: &[u8], b: &[u8], width: usize) -> u64 {
    match width {
        2 => unlike::<2>(a, b),
        4 => unlike::<4>(a, b),
        8 => unlike::<8>(a, b),
        _ => unlike::<1>(a, b),
    }
}

vectorised! {
    fn unlike[const W: usize][W](a: &[u8], b: &[u8]) -> u64 {
        let pairs = a.as_chunks::<W>().0.iter().zip(b.as_chunks::<W>().0);
        pairs.map(|(a, b)| u64::from(a != b)).sum()
    }
}

/// Sums of magnitudes and of squares, in f64: a block in eight lanes, the blocks in order.
pub fn sums(x: &[f32], magnitudes: &mut f64, squares: &mut f64) {
    for block in x.chunks(BLOCK) {
        let (m, s) = of_block(block);
        *magnitudes += m;
        *squares += s;
    }
}

vectorised! {
    fn of_block(x: &[f32]) -> (f64, f64) {
        let (mut m, mut s) = ([0f64; 8], [0f64; 8]);
        let (whole, rest) = x.as_chunks::<8>();
        for x in whole {
            for i in 0..8 {
                let v = f64::from(x[i]);
                m[i] += v.abs();
                s[i] += v * v;
            }
        }
        for (i, x) in rest.iter().enumerate() {
            let v = f64::from(*x);
            m[i] += v.abs();
            s[i] += v * v;
        }
        (m.iter().sum(), s.iter().sum())
    }
}

vectorised! {
    /// `out = tuned - base`.
    pub fn subtract(tuned: &[f32], base: &[f32], out: &mut [f32]) {
        for ((o, t), b) in out.iter_mut().zip(tuned).zip(base) {
            *o = t - b;
        }
    }
}

vectorised! {
    /// How many magnitudes are these bits.
    pub fn count_equal(x: &[f32], bits: u32) -> u64 {
        x.iter().map(|x| u64::from(magnitude(*x) == bits)).sum()
    }
}

/// Appends the signs of `x`, a bit each, the lowest of a byte first; 1 for all that is not below zero.
pub fn signs(x: &[f32], out: &mut Vec<u8>) {
    out.extend(
        x.chunks(8)
            .map(|x| x.iter().enumerate().fold(0u8, |byte, (i, x)| byte | u8::from(x.is_nan() || *x >= 0.0) << i)),
    );
}
