//! Element-wise building blocks of the merge methods.

use super::isa::vectorised;

vectorised! {
    /// `out = x - base`.
    pub fn sub(x: &[f32], base: &[f32], out: &mut [f32]) {
        for ((o, x), b) in out.iter_mut().zip(x).zip(base) {
            *o = x - b;
        }
    }
}

vectorised! {
    /// `out = w * x`.
    pub fn scale(x: &[f32], w: f32, out: &mut [f32]) {
        for (o, x) in out.iter_mut().zip(x) {
            *o = w * x;
        }
    }
}

vectorised! {
    /// `x = w * x`.
    pub fn scale_in_place(x: &mut [f32], w: f32) {
        for x in x {
            *x *= w;
        }
    }
}

/// `base + change`, rounded once; where nothing changes, the base to the last bit, a negative zero too.
#[inline(always)]
pub fn moved(base: f32, change: f64) -> f32 {
    if change == 0.0 { base } else { (f64::from(base) + change) as f32 }
}

/// A scaled change.
#[inline(always)]
pub fn scaled(scale: f64, x: f32, base: f32) -> f32 {
    (scale * (f64::from(x) - f64::from(base))) as f32
}

/// The sum of changes, each times its weight.
#[inline(always)]
pub fn weighted(weights: &[f64], changes: &[f64]) -> f64 {
    weights.iter().zip(changes).map(|(w, d)| w * d).sum()
}

vectorised! {
    /// `out = base + factor * delta`; where nothing changes, the base to the last bit. In f64, which would gain the rounding of
    /// the product and nothing else, it takes 0.15 ns an element longer, a twentieth of a `ties` merge.
    pub fn add_delta(base: &[f32], factor: f32, delta: &[f32], out: &mut [f32]) {
        for ((o, b), d) in out.iter_mut().zip(base).zip(delta) {
            let change = factor * d;
            *o = if change == 0.0 { *b } else { b + change };
        }
    }
}

/// Computes every element by `f` from the base's, the inputs' changes, which are formed in f64, and the inputs' weights.
///
/// Where the compiler knows how many inputs there are it computes several elements at once, as long as `f` chooses between
/// values and never branches, and takes nothing of an input but what it is given: five times as fast for `emr`.
#[inline(always)]
pub fn of_changes(
    base: &[f32],
    inputs: &[&[f32]],
    weights: &[f64],
    out: &mut [f32],
    f: impl Fn(f32, &[f64], &[f64]) -> f32,
) {
    match inputs {
        [a] => of_changes_n(base, &[a], weights, out, f),
        [a, b] => of_changes_n(base, &[a, b], weights, out, f),
        [a, b, c] => of_changes_n(base, &[a, b, c], weights, out, f),
        [a, b, c, d] => of_changes_n(base, &[a, b, c, d], weights, out, f),
        _ => {
            let mut changes = vec![0.0; inputs.len()];
            for (j, (o, b)) in out.iter_mut().zip(base).enumerate() {
                changes.iter_mut().zip(inputs).for_each(|(d, x)| *d = f64::from(x[j]) - f64::from(*b));
                *o = f(*b, &changes, weights);
            }
        }
    }
}

vectorised! {
    fn of_changes_n[const N: usize, F: Fn(f32, &[f64], &[f64]) -> f32][N, F](
        base: &[f32],
        inputs: &[&&[f32]; N],
        weights: &[f64],
        out: &mut [f32],
        f: F,
    ) {
        let n = out.len();
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i][..n]);
        let weights: [f64; N] = std::array::from_fn(|i| weights.get(i).copied().unwrap_or(1.0));
        for (j, (o, b)) in out.iter_mut().zip(base).enumerate() {
            let changes = inputs.map(|x| f64::from(x[j]) - f64::from(*b));
            *o = f(*b, &changes, &weights);
        }
    }
}

/// Weights of [`of_changes`] for [`of_one`]: one for a single input, zero for the `n - 1` others.
pub fn one(input: usize, n: usize) -> Vec<f64> {
    (0..n).map(|i| f64::from(u8::from(i == input))).collect()
}

/// The change of the input whose weight is not zero. Asked for by its place the compiler would compute one element after the other:
/// `emr` with a task took three times
/// as long, `tall_mask` twice.
#[inline(always)]
pub fn of_one(changes: &[f64], which: &[f64]) -> f64 {
    changes.iter().zip(which).fold(0.0, |own, (d, w)| if *w != 0.0 { *d } else { own })
}

/// `out = sum_i weights[i] * inputs[i]`, accumulated in f64 and rounded once to f32.
pub fn combine(inputs: &[&[f32]], weights: &[f64], out: &mut [f32]) {
    match inputs {
        [a] => combine_n(&[a], weights, out),
        [a, b] => combine_n(&[a, b], weights, out),
        [a, b, c] => combine_n(&[a, b, c], weights, out),
        [a, b, c, d] => combine_n(&[a, b, c, d], weights, out),
        _ => combine_any(inputs, weights, out),
    }
}

vectorised! {
    fn combine_n[const N: usize][N](inputs: &[&&[f32]; N], weights: &[f64], out: &mut [f32]) {
        let n = out.len();
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i][..n]);
        let weights: [f64; N] = std::array::from_fn(|i| weights[i]);
        for (j, o) in out.iter_mut().enumerate() {
            // From the first product, not from zero, which would turn a negative zero positive.
            let mut sum = weights[0] * f64::from(inputs[0][j]);
            for i in 1..N {
                sum += weights[i] * f64::from(inputs[i][j]);
            }
            *o = sum as f32;
        }
    }
}

vectorised! {
    fn combine_any(inputs: &[&[f32]], weights: &[f64], out: &mut [f32]) {
        const SUMS: usize = 256;
        let mut sums = [0f64; SUMS];
        for (r, out) in out.chunks_mut(SUMS).enumerate() {
            let sums = &mut sums[..out.len()];
            sums.fill(-0.0);
            for (x, w) in inputs.iter().zip(weights) {
                for (s, x) in sums.iter_mut().zip(&x[r * SUMS..]) {
                    *s += w * f64::from(*x);
                }
            }
            for (o, s) in out.iter_mut().zip(&*sums) {
                *o = *s as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn combine_is_the_same_for_any_number_of_inputs() {
        let xs: Vec<Vec<f32>> =
            (0..6).map(|k| (0..1000).map(|i| ((i * (k + 3)) % 17) as f32 * 0.1 - 0.7).collect()).collect();
        let ws = [0.3, -0.2, 0.5, 0.125, 0.7, -0.1];
        for n in 1..=6 {
            let inputs: Vec<&[f32]> = xs[..n].iter().map(Vec::as_slice).collect();
            let (mut a, mut b) = (vec![0f32; 1000], vec![0f32; 1000]);
            combine(&inputs, &ws[..n], &mut a);
            combine_any(&inputs, &ws[..n], &mut b);
            assert_eq!(a, b);
        }
    }
}
