//! How a change is thinned. Every way works on a stretch of elements that is whole in its own terms: a run, a row or a
//! block.

use multiversion::multiversion;

use crate::kernels::select::cut_here;
use crate::kernels::{rng, scratch};

/// Keeps the elements whose random word is below `limit`, times `factor`.
pub fn random(x: &mut [f32], key: u64, start: u64, density: f64, factor: f32) {
    let mut words = scratch::values(x.len());
    let words = as_words(&mut words);
    rng::words(key, start, words);
    keep_below(x, words, (density * TWO_32) as u32, factor);
}

const TWO_32: f64 = 4_294_967_296.0;

fn as_words(values: &mut [f32]) -> &mut [u32] {
    // SAFETY: f32 and u32 have one size and alignment, and every bit pattern is valid for both.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), values.len()) }
}

/// Random words of `out.len()` elements from `start`, which need not be a multiple of 4.
fn words(key: u64, start: u64, out: &mut [f32]) -> scratch::Scratch {
    let lead = (start % 4) as usize;
    let mut all = scratch::values(out.len() + lead);
    rng::words(key, start - lead as u64, as_words(&mut all));
    all
}

#[multiversion(targets("x86_64+avx2"))]
fn keep_below(x: &mut [f32], words: &[u32], limit: u32, factor: f32) {
    for (x, w) in x.iter_mut().zip(words) {
        *x = if *w < limit { *x * factor } else { 0.0 };
    }
}

/// Keeps the elements of ranks `from..to` of the descending order, times `factor`.
pub fn band(x: &mut [f32], from: usize, to: usize, factor: f32) {
    let mut keys = scratch::values(x.len());
    let outer = cut_here(x, to, &mut keys);
    let inner = cut_here(x, from, &mut keys);
    without(x, |x| inner.apply(x, factor, &mut 0), |x| outer.apply(x, factor, &mut 0));
}

/// What `outer` leaves of `x`, less what `inner` leaves of it.
pub fn without(x: &mut [f32], inner: impl FnOnce(&mut [f32]), outer: impl FnOnce(&mut [f32])) {
    let mut dropped = scratch::values(x.len());
    dropped.copy_from_slice(x);
    inner(&mut dropped);
    outer(x);
    for (x, d) in x.iter_mut().zip(&*dropped) {
        // Both come from the same product, so the difference is exact.
        *x -= *d;
    }
}

/// Keeps the largest `keep` elements of a block that no earlier model kept, times `factor`.
pub fn block(x: &mut [f32], taken: &mut [f32], keep: usize, factor: f32) {
    let mut free = scratch::values(x.len());
    for ((f, x), t) in free.iter_mut().zip(&*x).zip(&*taken) {
        *f = if *t == 0.0 { *x } else { 0.0 };
    }
    let mut keys = scratch::values(x.len());
    let cut = cut_here(&free, keep, &mut keys);
    cut.apply(&mut free, 1.0, &mut 0);
    for ((x, f), t) in x.iter_mut().zip(&*free).zip(taken) {
        *t = if *f != 0.0 { 1.0 } else { *t };
        *x = *f * factor;
    }
}

/// For every rank in a row of `n`, from the smallest element to the largest: the random word below which the element is
/// kept, and what it is multiplied by. Probabilities run evenly from `density - epsilon` to `density + epsilon`; with
/// `inverse`, what is kept is divided by its own.
pub fn chances(n: u64, density: f64, epsilon: f64, inverse: bool) -> Vec<(u32, f32)> {
    let (first, step) = if n > 1 { (density - epsilon, 2.0 * epsilon / (n - 1) as f64) } else { (density, 0.0) };
    let chance = |rank: u64| {
        let p = first + step * rank as f64;
        ((p * TWO_32) as u32, if inverse { (1.0 / p) as f32 } else { 1.0 })
    };
    (0..n).map(chance).collect()
}

/// Keeps the elements of a row by the chances of their ranks. All is multiplied by `factor`.
pub fn by_rank(x: &mut [f32], key: u64, start: u64, chances: &[(u32, f32)], factor: f32) {
    let random = words(key, start, x);
    let random = &random[(start % 4) as usize..];
    let order = ascending(x);
    // First every element gets its chance, then all are decided together: chance would mispredict a branch for each.
    let (mut limits, mut scales) = (scratch::values(x.len()), scratch::values(x.len()));
    for (entry, (limit, scale)) in order.entries().iter().zip(chances) {
        let i = *entry as u32 as usize;
        limits[i] = f32::from_bits(*limit);
        scales[i] = *scale;
    }
    decide(x, random, &limits, &scales, factor);
    order.keep();
}

#[multiversion(targets("x86_64+avx2"))]
fn decide(x: &mut [f32], random: &[f32], limits: &[f32], scales: &[f32], factor: f32) {
    for (((x, r), l), s) in x.iter_mut().zip(random).zip(limits).zip(scales) {
        *x = if r.to_bits() < l.to_bits() { *x * (s * factor) } else { 0.0 };
    }
}

/// The elements of a row by magnitude, the smallest first, of equal ones the last first: a radix sort of the bits in
/// which the row's magnitudes differ, which between bf16 checkpoints are few.
fn ascending(x: &[f32]) -> Order {
    const DIGIT: u32 = 11;
    let n = x.len();
    let mut order = ORDERS.with_borrow_mut(Vec::pop).unwrap_or_default();
    let Order { entries: a, spare: b } = &mut order;
    a.clear();
    let (mut any, mut all) = (0u32, u32::MAX);
    a.extend(x.iter().enumerate().rev().map(|(i, x)| {
        let magnitude = x.to_bits() & 0x7fff_ffff;
        any |= magnitude;
        all &= magnitude;
        (u64::from(magnitude) << 32) | i as u64
    }));
    b.clear();
    b.resize(n, 0);
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
        std::mem::swap(a, b);
    }
    order
}

thread_local! {
    static ORDERS: std::cell::RefCell<Vec<Order>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// The working memory of a sort, kept by its thread.
#[derive(Default)]
struct Order {
    entries: Vec<u64>,
    spare: Vec<u64>,
}

impl Order {
    fn entries(&self) -> &[u64] {
        &self.entries
    }

    fn keep(self) {
        ORDERS.with_borrow_mut(|kept| kept.push(self));
    }
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
            let order = ascending(&x);
            let got: Vec<usize> = order.entries().iter().map(|e| *e as u32 as usize).collect();
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
