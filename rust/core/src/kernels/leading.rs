//! The leading singular triplets of a matrix, and what they leave.
//!
//! Few of many: subspace iteration from random signs (Halko, Martinsson and Tropp, arXiv 0909.4061), products with the matrix in f32,
//! all that is thin in f64. It ends when an iteration adds less than [`GROWTH`] of what is left. The error told is that of
//! what is returned, to rounding. All, or on request: the Gram matrix of the smaller side in f64.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef, Par};

use super::rng;

/// Into how many parts work is cut, whatever the number of threads: where it is cut decides how sums are rounded.
const PARTS: usize = 8;
/// Share of what is left, in squares, that an iteration must add to be followed by another.
const GROWTH: f64 = 2e-5;
/// Most iterations.
const MOST: usize = 16;
/// Columns that are turned into f64 at a time.
const PANEL: usize = 1024;
/// Smaller sides up to which the Gram matrix is the fast way.
const SMALL: usize = 384;

/// What is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Most triplets.
    pub rank: usize,
    /// As many as hold this share of the squares.
    pub energy: Option<f64>,
    /// By the Gram matrix, whatever the size.
    pub full: bool,
}

/// Leading triplets.
pub struct Triplets {
    /// Rows by rank, row after row.
    pub left: Vec<f64>,
    /// The singular values, largest first.
    pub values: Vec<f64>,
    /// Rank by columns, row after row.
    pub right: Vec<f64>,
    /// Sum of the squares of the matrix.
    pub total: f64,
    /// Of what the triplets hold.
    pub held: f64,
}

/// How work on matrices of this size is cut.
fn cut(size: usize) -> Par {
    if size <= 192 { Par::Seq } else { Par::rayon(PARTS) }
}

/// Bytes that [`leading`] takes besides the matrix.
pub fn bytes(rows: u64, columns: u64, rank: u64, all: bool) -> u64 {
    let small = rows.min(columns);
    let over = oversampled(rank.min(small) as usize) as u64;
    if all || small <= SMALL as u64 || 2 * over > small {
        let scratch = self_adjoint_evd_scratch::<f64>(small as usize, ComputeEigenvectors::Yes, cut(small as usize), Default::default());
        let panel = PANEL as u64 * small * 8;
        return 4 * 8 * small * small + panel + scratch.unaligned_bytes_required() as u64 + 8 * rank.min(small) * (rows + columns);
    }
    (rows + columns) * over * 40
}

fn oversampled(rank: usize) -> usize {
    rank + (rank / 4).max(12)
}

/// The leading triplets of a matrix, given row by row. `key` decides where the iteration starts.
///
/// # Errors
/// In words, if eigenvalues do not converge or there is no memory.
pub fn leading(x: &[f32], rows: usize, columns: usize, wanted: Wanted, key: u64) -> Result<Triplets, String> {
    let x = MatRef::from_row_major_slice(x, rows, columns);
    let small = rows.min(columns);
    let over = oversampled(wanted.rank.min(small));
    let all = wanted.full || wanted.energy.is_some() || small <= SMALL || 2 * over > small;
    if all { by_gram(x, wanted) } else { by_iteration(x, wanted.rank, over, key) }
}

fn total(x: MatRef<f32>) -> f64 {
    (0..x.nrows()).map(|i| x.row(i).iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()).sum()
}

/// Eigenvalues of a symmetric matrix, largest first and none below zero, and eigenvectors as columns.
fn eigen(a: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), String> {
    let n = a.nrows();
    let scale = (0..n).map(|i| a[(i, i)].abs()).fold(0.0, f64::max);
    if scale == 0.0 || !scale.is_finite() {
        return if scale == 0.0 { Ok((vec![0.0; n], Mat::identity(n, n))) } else { Err("overflows".into()) };
    }
    let scaled = faer::Scale(1.0 / scale) * a;
    let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::zeros(n, n));
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, cut(n), Default::default());
    let mut memory = MemBuffer::try_new(scratch).map_err(|_| "takes more memory than there is".to_owned())?;
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(scaled.as_ref(), values.as_mut(), Some(vectors.as_mut()), cut(n), stack, Default::default())
        .map_err(|_| "its singular values do not converge".to_owned())?;
    // They come smallest first.
    let vectors = vectors.as_ref().reverse_cols().to_owned();
    Ok((values.column_vector().iter().rev().map(|v| v.max(0.0) * scale).collect(), vectors))
}

fn product(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, cut(a.nrows().max(a.ncols())));
    out
}

/// `x a` with the products in f32.
fn times(x: MatRef<f32>, a: &Mat<f64>) -> Mat<f64> {
    let narrow = Mat::<f32>::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] as f32);
    let mut out = Mat::<f32>::zeros(x.nrows(), a.ncols());
    matmul(out.as_mut(), Accum::Replace, x, narrow.as_ref(), 1.0, cut(x.nrows().max(x.ncols())));
    Mat::from_fn(out.nrows(), out.ncols(), |i, j| f64::from(out[(i, j)]))
}

/// An orthonormal basis of the columns of `y`; what is rounding alone is left out.
fn basis(y: Mat<f64>) -> Result<Mat<f64>, String> {
    let mut q = y;
    for _ in 0..2 {
        let (values, vectors) = eigen(&product(q.transpose(), q.as_ref()))?;
        let rank = values.iter().take_while(|v| **v > values[0] * 1e-13 && **v > 0.0).count();
        let scaled = Mat::from_fn(vectors.nrows(), rank, |i, j| vectors[(i, j)] / values[j].sqrt());
        q = product(q.as_ref(), scaled.as_ref());
    }
    Ok(q)
}

fn by_iteration(x: MatRef<f32>, rank: usize, over: usize, key: u64) -> Result<Triplets, String> {
    let (rows, columns) = (x.nrows(), x.ncols());
    let total = total(x);
    let mut words = vec![0u32; (rows * over).div_ceil(32).next_multiple_of(4)];
    rng::words(key, 0, &mut words);
    let sign = |i: usize, j: usize| if words[(i * over + j) / 32] >> ((i * over + j) % 32) & 1 == 1 { 1.0 } else { -1.0 };
    let mut q = Mat::from_fn(rows, over, sign);
    let mut before = 0.0;
    for iteration in 0..MOST {
        let p = basis(times(x.transpose(), &q))?;
        let y = times(x, &p);
        let (values, vectors) = eigen(&product(y.transpose(), y.as_ref()))?;
        let held: f64 = values.iter().take(rank).sum();
        let grown = held - before;
        before = held;
        let done = grown <= GROWTH * (total - held) || grown <= 1e-12 * total;
        if iteration + 1 < MOST && !done {
            q = basis(y)?;
            continue;
        }
        let kept = numerical(&values, rank);
        let vectors = vectors.subcols(0, kept);
        let (left, right) = (product(y.as_ref(), vectors), product(p.as_ref(), vectors));
        let singular: Vec<f64> = values[..kept].iter().map(|v| v.sqrt()).collect();
        return Ok(Triplets {
            left: (0..rows * kept).map(|k| left[(k / kept, k % kept)] / singular[k % kept]).collect(),
            right: (0..kept * columns).map(|k| right[(k % columns, k / columns)]).collect(),
            held: values[..kept].iter().sum(),
            values: singular,
            total,
        });
    }
    Err("its singular values do not converge".into())
}

/// How many of `rank` values are more than rounding; one at least.
fn numerical(values: &[f64], rank: usize) -> usize {
    let least = values[0] * 1e-13;
    values.iter().take(rank).take_while(|v| **v > least).count().max(1)
}

fn by_gram(x: MatRef<f32>, wanted: Wanted) -> Result<Triplets, String> {
    let turned = x.nrows() > x.ncols();
    let x = if turned { x.transpose() } else { x };
    let (small, large) = (x.nrows(), x.ncols());
    let wide = |begin: usize| {
        let count = PANEL.min(large - begin);
        Mat::<f64>::from_fn(small, count, |i, j| f64::from(x[(i, begin + j)]))
    };
    let mut gram = Mat::<f64>::zeros(small, small);
    for begin in (0..large).step_by(PANEL) {
        let panel = wide(begin);
        matmul(gram.as_mut(), Accum::Add, panel.as_ref(), panel.transpose(), 1.0, cut(small.max(PANEL)));
    }
    let (values, vectors) = eigen(&gram)?;
    drop(gram);
    let total: f64 = total(x);
    let mut kept = numerical(&values, wanted.rank.min(small));
    if let Some(energy) = wanted.energy {
        let mut held = 0.0;
        let enough = values.iter().take_while(|v| {
            let more = held < energy * total;
            held += **v;
            more
        });
        kept = kept.min(enough.count().max(1));
    }
    let singular: Vec<f64> = values[..kept].iter().map(|v| v.sqrt()).collect();
    let near = vectors.subcols(0, kept);
    let mut far = Mat::<f64>::zeros(kept, large);
    for begin in (0..large).step_by(PANEL) {
        let panel = wide(begin);
        let part = product(near.transpose(), panel.as_ref());
        for j in 0..part.ncols() {
            for (i, s) in singular.iter().enumerate() {
                far[(i, begin + j)] = if *s > 0.0 { part[(i, j)] / s } else { 0.0 };
            }
        }
    }
    let (left, right) = if turned {
        let left = (0..large * kept).map(|k| far[(k % kept, k / kept)]).collect();
        (left, (0..kept * small).map(|k| near[(k % small, k / small)]).collect())
    } else {
        let left = (0..small * kept).map(|k| near[(k / kept, k % kept)]).collect();
        (left, (0..kept * large).map(|k| far[(k / large, k % large)]).collect())
    };
    Ok(Triplets { left, right, held: values[..kept].iter().sum(), values: singular, total })
}
