//! Bringing the weighted changes of several models together: a sign elected or not, a sum or a mean.

use crate::kernels::arith;
use crate::kernels::isa::vectorised;
use crate::sizes::BLOCK;

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

/// Joins the changes of a block, or of what there is of one, into `out`: what disagrees with the elected sign is dropped, and with `mean` the sum is
/// divided by the weights of what is left of each element.
pub fn join(changes: &[&[f32]], weights: &[f32], consensus: Consensus, mean: bool, out: &mut [f32]) {
    match (consensus, mean) {
        (Consensus::None, false) => arith::combine(changes, &vec![1.0; changes.len()], out),
        (Consensus::None, true) => mean_of_kept(changes, weights, out),
        (Consensus::Sum, _) => elect::<false>(changes, weights, mean, out),
        (Consensus::Count, _) => elect::<true>(changes, weights, mean, out),
    }
}

vectorised! {
    fn mean_of_kept(changes: &[&[f32]], weights: &[f32], out: &mut [f32]) {
        let mut sums = [(0f64, 0f64); BLOCK];
        let sums = &mut sums[..out.len()];
        for (change, weight) in changes.iter().zip(weights) {
            let weight = f64::from(*weight);
            for ((sum, divisor), c) in sums.iter_mut().zip(*change) {
                *sum += f64::from(*c);
                *divisor += if *c != 0.0 { weight } else { 0.0 };
            }
        }
        for (o, (sum, divisor)) in out.iter_mut().zip(&*sums) {
            *o = (sum / if *divisor == 0.0 { 1.0 } else { *divisor }) as f32;
        }
    }
}

/// Sums, for each element, the changes whose sign is that of the sum of their votes (zero counts as positive).
fn elect<const COUNT: bool>(changes: &[&[f32]], weights: &[f32], mean: bool, out: &mut [f32]) {
    match (changes, weights) {
        ([a, b], [v, w]) => elect_n::<2, COUNT>(&[a, b], &[*v, *w], mean, out),
        ([a, b, c], [u, v, w]) => elect_n::<3, COUNT>(&[a, b, c], &[*u, *v, *w], mean, out),
        ([a, b, c, d], [t, u, v, w]) => elect_n::<4, COUNT>(&[a, b, c, d], &[*t, *u, *v, *w], mean, out),
        _ => elect_any::<COUNT>(changes, weights, mean, out),
    }
}

/// What a change adds to the election: itself, or its sign. A zero has no vote; a NaN stays one.
///
/// In f64 the sum of a few f32 values is exact: where changes cancel, which they do on the coarse grid of bf16, the sign
/// must not depend on the order of the models.
#[inline(always)]
fn vote<const COUNT: bool>(c: f32) -> f64 {
    if COUNT { f64::from(if c == 0.0 || c.is_nan() { c * 0.0 } else { 1f32.copysign(c) }) } else { f64::from(c) }
}

#[inline(always)]
fn sign(votes: f64) -> f32 {
    if votes >= 0.0 { 1.0 } else { -1.0 }
}

vectorised! {
    /// For a number of models known to the compiler nothing but the result is written: a third faster than with arrays.
    fn elect_n[const N: usize, const COUNT: bool][N, COUNT](changes: &[&&[f32]; N], weights: &[f32; N], mean: bool, out: &mut [f32]) {
        let n = out.len();
        let changes: [&[f32]; N] = std::array::from_fn(|i| &changes[i][..n]);
        let weights = *weights;
        for (j, out) in out.iter_mut().enumerate() {
            let mut votes = 0.0;
            for c in changes {
                votes += vote::<COUNT>(c[j]);
            }
            let sign = sign(votes);
            // What agrees has one sign: nothing cancels, and f32 is enough. In f64 this loop took twice as long.
            let (mut sum, mut divisor) = (0f32, 0f32);
            for i in 0..N {
                let c = changes[i][j];
                // One product and one comparison, so that the compiler selects instead of branching: signs are as good
                // as random, and a mispredicted branch an element made this loop ten times slower.
                let agrees = c * sign > 0.0;
                sum += if agrees { c } else { 0.0 };
                divisor += if agrees { weights[i] } else { 0.0 };
            }
            let divisor = if mean && divisor != 0.0 { divisor } else { 1.0 };
            // A NaN in any model agrees with nothing and comes back here.
            *out = sum / divisor + (votes * 0.0) as f32;
        }
    }
}

vectorised! {
    fn elect_any[const COUNT: bool][COUNT](changes: &[&[f32]], weights: &[f32], mean: bool, out: &mut [f32]) {
        let n = out.len();
        let (mut votes, mut sums) = ([0f64; BLOCK], [(0f32, 0f32); BLOCK]);
        let (votes, sums) = (&mut votes[..n], &mut sums[..n]);
        for change in changes {
            for (v, c) in votes.iter_mut().zip(*change) {
                *v += vote::<COUNT>(*c);
            }
        }
        for (change, weight) in changes.iter().zip(weights) {
            // A copy: behind a reference the compiler would load it for each element, and not select.
            let weight = *weight;
            for (((sum, divisor), v), c) in sums.iter_mut().zip(&*votes).zip(*change) {
                let agrees = *c * sign(*v) > 0.0;
                *sum += if agrees { *c } else { 0.0 };
                *divisor += if agrees { weight } else { 0.0 };
            }
        }
        for ((o, (sum, divisor)), v) in out.iter_mut().zip(&*sums).zip(&*votes) {
            let divisor = if mean && *divisor != 0.0 { *divisor } else { 1.0 };
            *o = sum / divisor + (*v * 0.0) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// However many models there are, an election comes out the same.
        #[test]
        fn elections_do_not_depend_on_the_way(grid in proptest::collection::vec(-3i32..4, 40), mean: bool) {
            let values: Vec<f32> = grid.iter().map(|v| *v as f32 * 0.25).collect();
            let weights = [0.5, -0.25, 1.0, 0.75];
            for n in 2..=4 {
                let changes: Vec<&[f32]> = values.chunks_exact(10).take(n).collect();
                let mut found = [[0f32; 10]; 4];
                let [a, b, c, d] = &mut found;
                elect::<false>(&changes, &weights[..n], mean, a);
                elect_any::<false>(&changes, &weights[..n], mean, b);
                elect::<true>(&changes, &weights[..n], mean, c);
                elect_any::<true>(&changes, &weights[..n], mean, d);
                proptest::prop_assert_eq!(found[0], found[1]);
                proptest::prop_assert_eq!(found[2], found[3]);
            }
        }
    }
}
