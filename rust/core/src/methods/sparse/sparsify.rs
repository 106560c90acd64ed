//! How a change is thinned. Every way works on a unit: a row, a block of its own, or any elements where each is for itself.

use crate::kernels::isa::vectorised;
use crate::kernels::select::cut_here;
use crate::kernels::{rng, scratch};

/// Keeps the elements whose draw is below `density`, times `factor`.
pub fn random(x: &mut [f32], key: u64, start: u64, density: f64, factor: f32) {
    let limit = (density * TWO_32) as u32;
    let (mut draws, lead) = drawn(key, start, x.len());
    let draws = &mut as_bytes(&mut draws)[lead..lead + x.len()];
    below(draws, (limit >> 24) as u8);
    undecided(draws, |i| rng::low(key, start + i as u64) < limit & 0xff_ffff);
    keep_marked(x, draws, factor);
}

const TWO_32: f64 = 4_294_967_296.0;

/// The high bits of the draws of elements `start..start + len`, and before how many others they lie: blocks of words begin where
/// they will, a row may begin anywhere.
fn drawn(key: u64, start: u64, len: usize) -> (scratch::Scratch, usize) {
    let lead = (start % rng::TOGETHER) as usize;
    let mut memory = scratch::values((lead + len).div_ceil(4));
    rng::high(key, start - lead as u64, &mut as_bytes(&mut memory)[..lead + len]);
    (memory, lead)
}

/// What is decided of an element by the high bits of its draw.
const DROPPED: u8 = 0;
const KEPT: u8 = 1;
const UNDECIDED: u8 = 2;

vectorised! {
    fn below(draws: &mut [u8], limit: u8) {
        for d in draws {
            let kept = if *d < limit { KEPT } else { DROPPED };
            *d = if *d == limit { UNDECIDED } else { kept };
        }
    }
}

/// Decides what the high bits have left open.
fn undecided(marks: &mut [u8], keeps: impl Fn(usize) -> bool) {
    for (i, marks) in marks.chunks_mut(64).enumerate() {
        if marks.iter().fold(0, |any, m| any | m) < UNDECIDED {
            continue;
        }
        for (j, marks) in marks.chunks_mut(8).enumerate() {
            let mut eight = [0; 8];
            eight[..marks.len()].copy_from_slice(marks);
            let mut open = u64::from_le_bytes(eight) & u64::from_le_bytes([UNDECIDED; 8]);
            while open != 0 {
                let at = open.trailing_zeros() as usize / 8;
                marks[at] = if keeps(64 * i + 8 * j + at) { KEPT } else { DROPPED };
                open &= open - 1;
            }
        }
    }
}

vectorised! {
    fn keep_marked(x: &mut [f32], marks: &[u8], factor: f32) {
        for (x, m) in x.iter_mut().zip(marks) {
            // A NaN stays one, kept or not.
            *x *= if *m == KEPT { factor } else { 0.0 };
        }
    }
}

fn as_words(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: f32 and u32 have one size and alignment, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

fn as_bytes(values: &mut [f32]) -> &mut [u8] {
    // SAFETY: bytes need no alignment, and every bit pattern is valid for them and for f32.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), 4 * values.len()) }
}

/// Keeps the elements of ranks `from..to` of the descending order, times `factor`.
pub fn band(x: &mut [f32], from: usize, to: usize, factor: f32) {
    let mut keys = scratch::values(x.len());
    let outer = cut_here(x, to, &mut keys);
    let inner = cut_here(x, from, &mut keys);
    outer.apply_without(&inner, x, factor, &mut 0, &mut 0);
}

/// Keeps the largest `keep` elements of a block that no earlier model kept, times `factor`.
pub fn block(x: &mut [f32], taken: &mut [f32], keep: usize, factor: f32) {
    let mut free = scratch::values(x.len());
    for ((f, x), t) in free.iter_mut().zip(&*x).zip(&*taken) {
        *f = *x * (1.0 - *t);
    }
    let mut keys = scratch::values(x.len());
    let cut = cut_here(&free, keep, &mut keys);
    cut.apply(&mut free, 1.0, &mut 0);
    for ((x, f), t) in x.iter_mut().zip(&*free).zip(taken) {
        *t = if *f != 0.0 { 1.0 } else { *t };
        *x = *f * factor;
    }
}

/// With what probability the elements of a row are kept: evenly from `density - epsilon`, for the smallest element, to
/// `density + epsilon`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Chances {
    first: f64,
    step: f64,
    /// Whether what is kept is divided by its own probability.
    inverse: bool,
}

impl Chances {
    /// Those of a row of `n` elements.
    pub fn new(n: u64, density: f64, epsilon: f64, inverse: bool) -> Self {
        let (first, step) = if n > 1 { (density - epsilon, 2.0 * epsilon / (n - 1) as f64) } else { (density, 0.0) };
        Self { first, step, inverse }
    }

    /// The chance of a rank.
    #[inline(always)]
    fn of(self, rank: u32) -> f64 {
        self.first + self.step * f64::from(rank)
    }

    /// Where in the low 24 bits of a draw its limit lies, if the high ones are those of the limit.
    fn rest(self, rank: u32) -> f64 {
        let limit = self.of(rank) * TWO_32;
        limit - (limit / 16_777_216.0).floor() * 16_777_216.0
    }
}

/// Keeps the elements of a row by the chances of their ranks. All is multiplied by `factor`.
pub fn by_rank(x: &mut [f32], key: u64, start: u64, chances: Chances, factor: f32) {
    let mut ranks = scratch::values(x.len());
    let ranks = as_words(&mut ranks);
    for (rank, entry) in ascending(x).iter().enumerate() {
        ranks[*entry as u32 as usize] = rank as u32;
    }
    let (mut draws, lead) = drawn(key, start, x.len());
    let marks = &mut as_bytes(&mut draws)[lead..lead + x.len()];
    decide(marks, ranks, chances);
    undecided(marks, |i| f64::from(rng::low(key, start + i as u64)) + 1.0 <= chances.rest(ranks[i]));
    if chances.inverse {
        return keep_inverse(x, marks, ranks, chances, factor);
    }
    keep_marked(x, marks, factor);
}

vectorised! {
    /// All elements together: chance would mispredict a branch for each.
    fn decide(draws: &mut [u8], ranks: &[u32], chances: Chances) {
        for (draw, rank) in draws.iter_mut().zip(ranks) {
            // The draw is below the whole part of its limit if its high bits are below those of the limit.
            let (limit, d) = (chances.of(*rank) * 256.0, f64::from(*draw));
            let kept = if d + 1.0 <= limit { KEPT } else { UNDECIDED };
            *draw = if d < limit { kept } else { DROPPED };
        }
    }
}

vectorised! {
    fn keep_inverse(x: &mut [f32], marks: &[u8], ranks: &[u32], chances: Chances, factor: f32) {
        for ((x, m), rank) in x.iter_mut().zip(marks).zip(ranks) {
            let scale = (1.0 / chances.of(*rank)) as f32;
            *x *= if *m == KEPT { scale * factor } else { 0.0 };
        }
    }
}

/// The elements of a row by magnitude, the smallest first, of equal ones the last first; each is its magnitude and its
/// index. A radix sort of the bits in which the row's magnitudes differ, which between bf16 checkpoints are few.
fn ascending(x: &[f32]) -> scratch::Scratch<u64> {
    const DIGIT: u32 = 11;
    let n = x.len();
    let (mut order, mut spare) = (scratch::entries(n), scratch::entries(n));
    let (mut a, mut b) = (&mut order[..], &mut spare[..]);
    let (mut any, mut all) = (0u32, u32::MAX);
    for (entry, (i, x)) in a.iter_mut().zip(x.iter().enumerate().rev()) {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        any |= magnitude;
        all &= magnitude;
        *entry = (u64::from(magnitude) << 32) | i as u64;
    }
    let differ = any & !all;
    let low = differ.trailing_zeros();
    let bits = (32 - differ.leading_zeros()).saturating_sub(low);
    let passes = bits.div_ceil(DIGIT);
    let width = bits.div_ceil(passes.max(1));
    let digit = |e: u64, pass: u32| ((e >> (32 + low + pass * width)) as usize) & ((1 << width) - 1);
    let mut all_counts = [[0u32; 1 << DIGIT]; 31u32.div_ceil(DIGIT) as usize];
    for e in a.iter() {
        for (pass, counts) in all_counts[..passes as usize].iter_mut().enumerate() {
            counts[digit(*e, pass as u32)] += 1;
        }
    }
    for pass in 0..passes {
        let counts = &mut all_counts[pass as usize];
        let mut at = 0;
        for c in counts[..1 << width].iter_mut() {
            at += std::mem::replace(c, at);
        }
        for e in a.iter() {
            let place = &mut counts[digit(*e, pass)];
            b[*place as usize] = *e;
            *place += 1;
        }
        std::mem::swap(&mut a, &mut b);
    }
    if passes % 2 == 0 { order } else { spare }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Law 4: ranks are those of a full sort by magnitude, of equal ones the last first.
        #[test]
        fn ranks_are_those_of_a_sort(x in proptest::collection::vec(-9i32..9, 1..300), scale in 0.01f32..1.0, near: bool) {
            // Near one another they differ in their lowest bits alone; apart in all of them.
            let value = |v: i32| if near { 1.0 + v as f32 * f32::EPSILON } else { v as f32 * scale };
            let x: Vec<f32> = x.into_iter().map(value).chain([if near { 1e-20 } else { 0.0 }]).collect();
            let mut want: Vec<usize> = (0..x.len()).rev().collect();
            want.sort_by(|a, b| x[*a].abs().total_cmp(&x[*b].abs()));
            let got: Vec<usize> = ascending(&x).iter().map(|e| *e as u32 as usize).collect();
            proptest::prop_assert_eq!(got, want);
        }

        /// A band is what a sort would leave.
        #[test]
        fn bands_are_those_of_a_sort(x in proptest::collection::vec(-9i32..9, 1..200), a in 0usize..200, b in 0usize..200) {
            let x: Vec<f32> = x.into_iter().map(|v| v as f32 * 0.37).collect();
            let (from, to) = (a.min(b).min(x.len()), a.max(b).min(x.len()));
            let mut order: Vec<usize> = (0..x.len()).collect();
            order.sort_by(|a, b| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b)));
            let mut want = vec![0f32; x.len()];
            for i in &order[from..to] { want[*i] = x[*i]; }
            let mut got = x.clone();
            band(&mut got, from, to, 1.0);
            proptest::prop_assert_eq!(got, want);
        }
    }
}
