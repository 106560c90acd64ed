//! How the changes of two fine-tunes relate, which tells how much they would get in each other's way in a merge.

use std::ops::AddAssign;

use serde_json::{Map, Value, json};

use super::metrics::ratio;
use super::tiles::Changes;
use crate::kernels::isa::vectorised;
use crate::kernels::reduce;

/// Sums over the changes of two fine-tunes of one base.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Pair {
    /// Number of elements.
    pub elements: u64,
    /// Elements that both changed.
    pub both: u64,
    /// Elements that both changed in the same direction.
    pub agree: u64,
    /// Sum of the products of the changes.
    pub product: f64,
    /// Sums of the squares of each.
    pub squares: (f64, f64),
    /// Of the elements each changed most: how many the first has, the second, both.
    pub top: Option<(u64, u64, u64)>,
}

impl AddAssign for Pair {
    fn add_assign(&mut self, o: Self) {
        self.elements += o.elements;
        self.both += o.both;
        self.agree += o.agree;
        self.product += o.product;
        self.squares = (self.squares.0 + o.squares.0, self.squares.1 + o.squares.1);
        if let Some((a, b, both)) = o.top {
            let old = self.top.unwrap_or_default();
            self.top = Some((old.0 + a, old.1 + b, old.2 + both));
        }
    }
}

impl Pair {
    /// The sums over a tile of changes; elements that are NaN or infinite in base or fine-tune are in none.
    pub fn of(a: &Changes, b: &Changes) -> Self {
        if a.holes.is_empty() && b.holes.is_empty() {
            return Self::sums((&a.all, a.square), (&b.all, b.square));
        }
        let [mut x, mut y] = [a.all.clone(), b.all.clone()];
        for e in a.holes.iter().chain(&b.holes) {
            (x[*e], y[*e]) = (0.0, 0.0);
        }
        Self::sums((&x, dot(&x, &x)), (&y, dot(&y, &y)))
    }

    /// The sums over changes, each given with the sum of its squares.
    fn sums((a, a_square): (&[f32], f64), (b, b_square): (&[f32], f64)) -> Self {
        let (both, agree) = directions(a, b);
        let (product, squares) = (dot(a, b), (a_square, b_square));
        Self { elements: a.len() as u64, both, agree, product, squares, top: None }
    }

    /// The figures, as the keys of a row.
    pub fn row(&self) -> Map<String, Value> {
        let share = |n: u64, of: u64| ratio(n as f64, of as f64);
        let mut row = Map::new();
        row.insert("elements".into(), self.elements.into());
        let norms = self.squares.0.sqrt() * self.squares.1.sqrt();
        let cosine = if norms == 0.0 { 0.0 } else { (self.product / norms).clamp(-1.0, 1.0) };
        row.insert("cosine".into(), json!(cosine));
        row.insert("both".into(), json!(share(self.both, self.elements)));
        row.insert("agree".into(), json!(share(self.agree, self.both)));
        if let Some((a, b, both)) = self.top {
            row.insert("overlap".into(), json!(share(both, a.min(b))));
        }
        row
    }
}

/// The sum of products. Eight f32 lanes add 16 steps, then f64, which is exact to 1e-7 of the norms, as
/// [`super::moments`]; where the range of f32 does not do, f64 throughout.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f64 {
    const LEAST: f64 = 1e-30;
    let fast = lanes(a, b);
    if fast.is_finite() && fast.abs() > LEAST {
        return fast;
    }
    let mut careful = 0.0;
    reduce::dot(a, b, &mut careful);
    careful
}

vectorised! {
    fn lanes(a: &[f32], b: &[f32]) -> f64 {
        let (a_chunks, a_tail) = a.as_chunks::<8>();
        let (b_chunks, b_tail) = b.as_chunks::<8>();
        let mut total = [0f64; 8];
        for (a_run, b_run) in a_chunks.chunks(16).zip(b_chunks.chunks(16)) {
            let mut sum = [0f32; 8];
            for (a, b) in a_run.iter().zip(b_run) {
                for i in 0..8 {
                    sum[i] = a[i].mul_add(b[i], sum[i]);
                }
            }
            total.iter_mut().zip(sum).for_each(|(t, s)| *t += f64::from(s));
        }
        let tail: f64 = a_tail.iter().zip(b_tail).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        total.iter().sum::<f64>() + tail
    }
}

vectorised! {
    /// Elements that both change, and those of them that both change in the same direction.
    fn directions(a: &[f32], b: &[f32]) -> (u64, u64) {
        let (mut both, mut agree) = (0u32, 0u32);
        for (a, b) in a.iter().zip(b) {
            let moved = u32::from(*a != 0.0) & u32::from(*b != 0.0);
            both += moved;
            agree += moved & !((a.to_bits() ^ b.to_bits()) >> 31);
        }
        (u64::from(both), u64::from(agree))
    }
}

/// Of the elements whose change reaches the model's threshold: how many the first has, the second, both. Each comes with
/// its changes, which may be none at all, and its threshold.
pub fn overlap(a: (&[f32], f32), b: (&[f32], f32)) -> (u64, u64, u64) {
    (reaching(a.0, a.1), reaching(b.0, b.1), both_reaching(a.0, b.0, (a.1, b.1)))
}

vectorised! {
    fn reaching(x: &[f32], least: f32) -> u64 {
        let mut found = 0u32;
        for x in x {
            found += u32::from(x.abs() >= least) & u32::from(*x != 0.0);
        }
        u64::from(found)
    }
}

vectorised! {
    fn both_reaching(a: &[f32], b: &[f32], least: (f32, f32)) -> u64 {
        let mut both = 0u32;
        for (a, b) in a.iter().zip(b) {
            let x = u32::from(a.abs() >= least.0) & u32::from(*a != 0.0);
            both += x & u32::from(b.abs() >= least.1) & u32::from(*b != 0.0);
        }
        u64::from(both)
    }
}
