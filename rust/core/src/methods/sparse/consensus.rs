//! Bringing the weighted changes of several models together: a sign elected or not, a sum or a mean.

use multiversion::multiversion;

use crate::kernels::arith;

/// Elements worked on at a time: small enough for the first-level cache with a few inputs.
pub const RUN: usize = 1024;

/// How a sign is elected for an element.
#[derive(Clone, Copy, PartialEq)]
pub enum Consensus {
    /// It is not; nothing is dropped.
    None,
    /// That of the sum of the changes.
    Sum,
    /// That most changes have.
    Count,
}

/// Joins the changes of a run into `out`: what disagrees with the elected sign is dropped, and with `mean` the sum is
/// divided by the weights of what is left of each element.
pub fn join(changes: &[&[f32]], weights: &[f32], consensus: Consensus, mean: bool, out: &mut [f32]) {
    match (consensus, mean) {
        (Consensus::None, false) => {
            out.copy_from_slice(changes[0]);
            for change in &changes[1..] {
                arith::add_scaled(change, 1.0, out);
            }
        }
        (Consensus::None, true) => mean_of_kept(changes, weights, out),
        (Consensus::Sum, _) => elect(changes, weights, f64::from, mean, out),
        (Consensus::Count, _) => elect(changes, weights, |c| f64::from(signum(c)), mean, out),
    }
}

fn signum(c: f32) -> f32 {
    if c > 0.0 {
        1.0
    } else if c < 0.0 {
        -1.0
    } else {
        // A zero has no vote; a NaN stays one.
        c * 0.0
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn mean_of_kept(changes: &[&[f32]], weights: &[f32], out: &mut [f32]) {
    let mut divisor = [0f32; RUN];
    let divisor = &mut divisor[..out.len()];
    out.fill(0.0);
    for (change, weight) in changes.iter().zip(weights) {
        for ((o, d), c) in out.iter_mut().zip(divisor.iter_mut()).zip(*change) {
            *o += *c;
            *d += if *c != 0.0 { *weight } else { 0.0 };
        }
    }
    divide(out, divisor);
}

/// Sums, for each element, the changes whose sign is that of the sum of their votes (zero counts as positive).
#[inline(always)]
fn elect(changes: &[&[f32]], weights: &[f32], vote: impl Fn(f32) -> f64, mean: bool, out: &mut [f32]) {
    let n = out.len();
    let (mut sum, mut sign) = ([0f64; RUN], [0f32; RUN]);
    let (sum, sign) = (&mut sum[..n], &mut sign[..n]);
    for change in changes {
        // In f64 the sum of a few f32 values is exact: where changes cancel, which they do on the coarse grid of bf16,
        // the sign must not depend on the order of the models.
        for (s, c) in sum.iter_mut().zip(*change) {
            *s += vote(*c);
        }
    }
    signs(sum, sign);
    agreeing(changes, weights, sign, mean, out);
}

#[multiversion(targets("x86_64+avx2"))]
fn signs(sum: &[f64], sign: &mut [f32]) {
    for (sign, sum) in sign.iter_mut().zip(sum) {
        // A NaN stays one: it makes the comparisons that follow fail and comes back at the end.
        *sign = if *sum >= 0.0 {
            1.0
        } else if *sum < 0.0 {
            -1.0
        } else {
            f32::NAN
        };
    }
}

#[multiversion(targets("x86_64+avx2"))]
fn agreeing(changes: &[&[f32]], weights: &[f32], sign: &[f32], mean: bool, out: &mut [f32]) {
    let mut divisor = [0f32; RUN];
    let divisor = &mut divisor[..out.len()];
    out.fill(0.0);
    for (change, weight) in changes.iter().zip(weights) {
        for (((o, d), s), c) in out.iter_mut().zip(divisor.iter_mut()).zip(sign).zip(*change) {
            // One product and one comparison, so that the compiler selects instead of branching: signs are as good
            // as random, and a mispredicted branch an element made this loop ten times slower.
            let agrees = *c * *s > 0.0;
            *o += if agrees { *c } else { 0.0 };
            *d += if agrees { *weight } else { 0.0 };
        }
    }
    for (o, s) in out.iter_mut().zip(sign) {
        *o += *s * 0.0;
    }
    if mean {
        divide(out, divisor);
    }
}

#[inline(always)]
fn divide(out: &mut [f32], divisor: &[f32]) {
    for (o, d) in out.iter_mut().zip(divisor) {
        *o /= if *d == 0.0 { 1.0 } else { *d };
    }
}
