//! Products of thin matrices, and sums with them.

use super::isa::vectorised;

/// Rows that are formed together: each element of the right factor is then fetched once for so many products, and the sums stay
/// in registers. With f32 for f64 a merge of two models with adapters took 1.24 s of processor time, row by row in f64 2.8 s.
const ROWS: usize = 4;
/// Elements of the right factor that all rows are multiplied by before it is the next ones' turn: half a first-level cache.
const TOGETHER: usize = 4096;

/// What products are formed in.
pub trait Real: Copy + Default + Send + std::ops::AddAssign {
    /// Columns of a panel: 64 bytes.
    const WIDTH: usize;

    /// The nearest to an f64.
    fn nearest(value: f64) -> Self;

    /// `self * factor + addend`, rounded once.
    fn mul_add(self, factor: Self, addend: Self) -> Self;

    /// `out = left * right`, or `out += left * right` if `onto`, every product fused into a sum that begins at 0.
    ///
    /// `left` is rows by `rank`, `right` the panels of the first `columns`, `out` rows by `columns`.
    fn form(left: &[Self], rank: usize, right: &[Self], columns: usize, out: &mut [Self], onto: bool);
}

impl Real for f32 {
    const WIDTH: usize = 16;

    #[inline(always)]
    fn nearest(value: f64) -> Self {
        value as f32
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f32::mul_add(self, factor, addend)
    }

    fn form(left: &[Self], rank: usize, right: &[Self], columns: usize, out: &mut [Self], onto: bool) {
        form_f32(left, rank, right, columns, out, onto);
    }
}

impl Real for f64 {
    const WIDTH: usize = 8;

    #[inline(always)]
    fn nearest(value: f64) -> Self {
        value
    }

    #[inline(always)]
    fn mul_add(self, factor: Self, addend: Self) -> Self {
        f64::mul_add(self, factor, addend)
    }

    fn form(left: &[Self], rank: usize, right: &[Self], columns: usize, out: &mut [Self], onto: bool) {
        form_f64(left, rank, right, columns, out, onto);
    }
}

/// A right factor in panels of [`Real::WIDTH`] columns, each rank by rank; what is missing in the last is 0.
pub struct Panels<T> {
    rank: usize,
    values: Vec<T>,
}

impl<T: Real> Panels<T> {
    /// Zeros.
    pub fn new(rank: usize, columns: usize) -> Self {
        Self { rank, values: vec![T::default(); rank * columns.next_multiple_of(T::WIDTH)] }
    }

    /// Puts in an element.
    pub fn put(&mut self, rank: usize, column: usize, value: T) {
        self.values[column / T::WIDTH * T::WIDTH * self.rank + rank * T::WIDTH + column % T::WIDTH] = value;
    }

    /// The panels from a column on, with which one of them begins.
    pub fn from(&self, column: usize) -> &[T] {
        &self.values[column * self.rank..]
    }
}

vectorised! {
    /// `out += values`.
    pub fn add(values: &[f32], out: &mut [f32]) {
        out.iter_mut().zip(values).for_each(|(o, v)| *o += v);
    }
}

vectorised! {
    fn form_f32(left: &[f32], rank: usize, right: &[f32], columns: usize, out: &mut [f32], onto: bool) {
        form::<f32, { f32::WIDTH }>(left, rank, right, columns, out, onto);
    }
}

vectorised! {
    fn form_f64(left: &[f64], rank: usize, right: &[f64], columns: usize, out: &mut [f64], onto: bool) {
        form::<f64, { f64::WIDTH }>(left, rank, right, columns, out, onto);
    }
}

#[inline(always)]
fn form<T: Real, const W: usize>(left: &[T], rank: usize, right: &[T], columns: usize, out: &mut [T], onto: bool) {
    if rank == 0 || columns == 0 {
        if !onto {
            out.fill(T::default());
        }
        return;
    }
    let panels = (TOGETHER / (rank * W)).max(1);
    for first in (0..columns.div_ceil(W)).step_by(panels) {
        let last = (first + panels).min(columns.div_ceil(W));
        for (left, out) in left.chunks(ROWS * rank).zip(out.chunks_mut(ROWS * columns)) {
            for p in first..last {
                let panel = &right[p * rank * W..(p + 1) * rank * W];
                if left.len() == ROWS * rank {
                    tile::<T, W, ROWS>(left, panel, p * W, columns, out, onto);
                } else {
                    for (left, out) in left.chunks(rank).zip(out.chunks_mut(columns)) {
                        tile::<T, W, 1>(left, panel, p * W, columns, out, onto);
                    }
                }
            }
        }
    }
}

/// Forms `R` rows of a panel.
#[inline(always)]
fn tile<T: Real, const W: usize, const R: usize>(
    left: &[T],
    panel: &[T],
    at: usize,
    columns: usize,
    out: &mut [T],
    onto: bool,
) {
    // Slices of one length, so that no index is checked in the loop.
    let (panel, rank) = (panel.as_chunks::<W>().0, panel.len() / W);
    let left: [&[T]; R] = std::array::from_fn(|i| &left[i * rank..(i + 1) * rank]);
    let mut sums = [[T::default(); W]; R];
    for k in 0..rank {
        for (left, sums) in left.iter().zip(&mut sums) {
            let l = left[k];
            for (s, r) in sums.iter_mut().zip(&panel[k]) {
                *s = l.mul_add(*r, *s);
            }
        }
    }
    let width = W.min(columns - at);
    for (i, sums) in sums.iter().enumerate() {
        let out = &mut out[i * columns + at..][..width];
        match (<&mut [T; W]>::try_from(&mut *out), onto) {
            (Ok(out), true) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += *s),
            (Ok(out), false) => *out = *sums,
            (Err(_), true) => out.iter_mut().zip(sums).for_each(|(o, s)| *o += *s),
            (Err(_), false) => out.copy_from_slice(&sums[..width]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check<T: Real + PartialEq + std::fmt::Debug>(rows: usize, rank: usize, columns: usize, onto: bool, seed: u64) {
        let number = |i: u64| (crate::kernels::rng::key(seed, "numbers", &i.to_string()) >> 40) as f64 / 1e7 - 0.8;
        let made = |from: usize, n: usize| (from..from + n).map(|i| T::nearest(number(i as u64))).collect::<Vec<T>>();
        let (left, right) = (made(0, rows * rank), made(1 << 20, rank * columns));
        let mut panels = Panels::new(rank, columns);
        right.iter().enumerate().for_each(|(i, v)| panels.put(i / columns, i % columns, *v));
        let before = made(1 << 30, rows * columns);
        let mut out = before.clone();
        T::form(&left, rank, panels.from(0), columns, &mut out, onto);
        for (i, (got, before)) in out.iter().zip(before).enumerate() {
            let (row, column) = (i / columns, i % columns);
            let product = |sum: T, k: usize| left[row * rank + k].mul_add(right[k * columns + column], sum);
            let mut want = (0..rank).fold(T::default(), product);
            want += if onto { before } else { T::default() };
            assert_eq!(*got, want, "row {row}, column {column}");
        }
    }

    proptest::proptest! {
        /// Law 3: whatever the shape and the instruction set, every element has the bits of the fused sum over the ranks in order.
        #[test]
        fn every_element_is_the_fused_sum_over_the_ranks(
            rows in 1usize..11, rank in 0usize..40, columns in 1usize..90, onto: bool, seed: u64,
        ) {
            check::<f32>(rows, rank, columns, onto, seed);
            check::<f64>(rows, rank, columns, onto, seed);
        }
    }
}
