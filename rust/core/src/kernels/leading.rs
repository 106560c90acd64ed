//! The leading singular triplets of a matrix, and what they leave.
//!
//! Few of many: a block Krylov space from random signs (Musco and Musco, arXiv 1504.05477), products with the matrix in f32, all that is
//! thin in f64, and at the end one product in f64. It ends when an iteration adds less than [`GROWTH`] of what is left. The
//! error told is that of what is returned, to rounding. All, or on request: the Gram matrix of the smaller side in f64.

use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::{Accum, Mat, MatRef};

use super::linalg::{Eigen, cut, product};
use super::rng;

/// Share of what is left, in squares, that an iteration must add to be followed by another.
const GROWTH: f64 = 5e-5;
/// Most iterations; the vectors of all are kept.
const MOST: usize = 12;
/// Columns that are turned into f64 at a time.
const PANEL: usize = 1024;
/// Smaller sides up to which the Gram matrix is the fast way.
const SMALL: usize = 384;
/// How many times as many vectors as are iterated on the smaller side has at least, or the Gram matrix is faster: of 2048 x 5632 flat noise
/// 64 triplets took 4.5 s by iteration and 6.7 by the Gram matrix, 128 took 10.4 and 5.9, 204 took 13.7 and 6.0.
const FEW: u64 = 16;

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

/// Bytes that [`leading`] takes besides the matrix.
pub fn bytes(rows: u64, columns: u64, rank: u64, all: bool) -> u64 {
    let small = rows.min(columns);
    let over = oversampled(rank.min(small) as usize) as u64;
    if all || small <= SMALL as u64 || FEW * over > small {
        let scratch = self_adjoint_evd_scratch::<f64>(
            small as usize,
            ComputeEigenvectors::Yes,
            cut(small as usize),
            Default::default(),
        );
        let panel = PANEL as u64 * small * 8;
        return 4 * 8 * small * small
            + panel
            + scratch.unaligned_bytes_required() as u64
            + 8 * rank.min(small) * (rows + columns);
    }
    (rows + columns) * over * 8 * (MOST as u64 + 4) + PANEL as u64 * rows * 8 + 5 * 8 * (over * MOST as u64).pow(2)
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
    let all = wanted.full || wanted.energy.is_some() || small <= SMALL || FEW as usize * over > small;
    if all { by_gram(x, wanted) } else { by_iteration(x, wanted.rank, over, key) }
}

fn total(x: MatRef<f32>) -> f64 {
    (0..x.nrows()).map(|i| x.row(i).iter().map(|v| f64::from(*v) * f64::from(*v)).sum::<f64>()).sum()
}

/// Eigenvalues and eigenvectors of a symmetric matrix, largest first.
fn eigen(a: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>), String> {
    Eigen::of(a.as_ref()).map(|e| (e.values, e.vectors))
}

/// `x a` with the products in f32.
fn times(x: MatRef<f32>, a: &Mat<f64>) -> Mat<f64> {
    let narrow = Mat::<f32>::from_fn(a.nrows(), a.ncols(), |i, j| a[(i, j)] as f32);
    let mut out = Mat::<f32>::zeros(x.nrows(), a.ncols());
    matmul(out.as_mut(), Accum::Replace, x, narrow.as_ref(), 1.0, cut(x.nrows().max(x.ncols())));
    Mat::from_fn(out.nrows(), out.ncols(), |i, j| f64::from(out[(i, j)]))
}

/// Columns of `x` from `begin` on, a panel of them, in f64.
fn panel(x: MatRef<f32>, begin: usize) -> Mat<f64> {
    Mat::from_fn(x.nrows(), PANEL.min(x.ncols() - begin), |i, j| f64::from(x[(i, begin + j)]))
}

/// `x p` in f64.
fn exactly(x: MatRef<f32>, p: &Mat<f64>) -> Mat<f64> {
    let mut y = Mat::<f64>::zeros(x.nrows(), p.ncols());
    for begin in (0..x.ncols()).step_by(PANEL) {
        let part = panel(x, begin);
        matmul(y.as_mut(), Accum::Add, part.as_ref(), p.subrows(begin, part.ncols()), 1.0, cut(x.nrows()));
    }
    y
}

/// An orthonormal basis of the columns of `y`; what is rounding alone is left out.
fn basis(y: Mat<f64>) -> Result<Mat<f64>, String> {
    let mut q = y;
    for _ in 0..2 {
        let (values, vectors) = eigen(&product(q.transpose(), q.as_ref()))?;
        let least = values.first().copied().unwrap_or(0.0) * 1e-13;
        let rank = values.iter().take_while(|v| **v > least && **v > 0.0).count();
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
    let sign =
        |i: usize, j: usize| if words[(i * over + j) / 32] >> ((i * over + j) % 32) & 1 == 1 { 1.0 } else { -1.0 };
    let mut q = Mat::from_fn(rows, over, sign);
    // Right vectors of every iteration, orthonormal, and what the matrix makes of them.
    let (mut known, mut have) = (Mat::<f64>::zeros(columns, over * MOST), 0);
    let mut made: Vec<Mat<f64>> = Vec::new();
    let mut gram = Mat::<f64>::zeros(0, 0);
    let mut before = 0.0;
    let vectors = loop {
        let mut w = times(x.transpose(), &q);
        for _ in 0..2 {
            let p = known.subcols(0, have);
            let shared = product(p.transpose(), w.as_ref());
            matmul(w.as_mut(), Accum::Add, p, shared.as_ref(), -1.0, cut(columns));
        }
        let p = basis(w)?;
        let y = times(x, &p);
        gram = extended(&gram, &made, &y);
        q = basis(y.clone())?;
        let end = p.ncols() == 0;
        known.as_mut().subcols_mut(have, p.ncols()).copy_from(&p);
        have += p.ncols();
        made.push(y);
        let (values, vectors) = eigen(&gram)?;
        let held: f64 = values.iter().take(rank).sum();
        let grown = held - before;
        before = held;
        if end || made.len() == MOST || grown <= GROWTH * (total - held) || grown <= 1e-12 * total {
            break vectors;
        }
    };
    drop(made);
    let width = over.min(vectors.ncols());
    let best = product(known.subcols(0, have), vectors.subcols(0, width));
    drop(known);
    // Once in f64: what is large would else leave its rounding in what is small.
    let p = basis(best)?;
    let y = exactly(x, &p);
    let (values, vectors) = eigen(&product(y.transpose(), y.as_ref()))?;
    let kept = numerical(&values, rank.min(values.len()));
    let vectors = vectors.subcols(0, kept);
    let (left, right) = (product(y.as_ref(), vectors), product(p.as_ref(), vectors));
    let singular: Vec<f64> = values[..kept].iter().map(|v| v.sqrt()).collect();
    let inverse: Vec<f64> = singular.iter().map(|s| if *s > 0.0 { 1.0 / s } else { 0.0 }).collect();
    Ok(Triplets {
        left: (0..rows * kept).map(|k| left[(k / kept, k % kept)] * inverse[k % kept]).collect(),
        right: (0..kept * columns).map(|k| right[(k % columns, k / columns)]).collect(),
        held: values[..kept].iter().sum(),
        values: singular,
        total,
    })
}

/// The Gram matrix of the columns of `made` and of `y` behind them; `gram` is that of `made`.
fn extended(gram: &Mat<f64>, made: &[Mat<f64>], y: &Mat<f64>) -> Mat<f64> {
    let (old, new) = (gram.nrows(), y.ncols());
    let mut out = Mat::<f64>::zeros(old + new, old + new);
    out.as_mut().submatrix_mut(0, 0, old, old).copy_from(gram);
    let mut at = 0;
    for part in made.iter().chain([y]) {
        let shared = product(part.transpose(), y.as_ref());
        out.as_mut().submatrix_mut(at, old, part.ncols(), new).copy_from(&shared);
        out.as_mut().submatrix_mut(old, at, new, part.ncols()).copy_from(shared.transpose());
        at += part.ncols();
    }
    out
}

/// How many of `rank` values are more than rounding; one at least.
fn numerical(values: &[f64], rank: usize) -> usize {
    let least = values.first().copied().unwrap_or(0.0) * 1e-13;
    values.iter().take(rank).take_while(|v| **v > least).count().max(1)
}

fn by_gram(x: MatRef<f32>, wanted: Wanted) -> Result<Triplets, String> {
    let turned = x.nrows() > x.ncols();
    let x = if turned { x.transpose() } else { x };
    let (small, large) = (x.nrows(), x.ncols());
    let mut gram = Mat::<f64>::zeros(small, small);
    for begin in (0..large).step_by(PANEL) {
        let panel = panel(x, begin);
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
        let panel = panel(x, begin);
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
