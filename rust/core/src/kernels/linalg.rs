//! Matrices in f64: products, Gram matrices, eigenvectors. The arithmetic is the crate `faer`'s; here is what of it is needed, and
//! how it is called so that the same bytes come out whatever the number of threads.
//!
//! Singular vectors are had from the Gram matrix of the smaller side: of a 4096 x 11008 matrix that took 15 s where LAPACK's decomposition
//! (in f32, on as many threads) took 39. In f64 that loses singular values below about 1e-7 of the largest, which f32 results
//! do not show.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack, StackReq};
use faer::linalg::cholesky::llt::{factor, inverse};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use faer::linalg::matmul::matmul;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, Mat, MatMut, MatRef, Par};

/// Into how many parts faer cuts its work, whatever the number of threads: where it cuts decides how sums are rounded.
const PARTS: usize = 8;
/// Rows and columns up to which it cuts nothing: handing parts over would take longer.
const SMALL: usize = 192;

/// Singular values below this share of the largest are taken for zeros: their vectors are whatever rounding left.
pub const NOTHING: f64 = 1e-7;

/// The complaint about values that are not finite.
pub const NOT_FINITE: &str = "holds NaN or infinite values, or changes that their weights make too large to be \
                              squared; no singular vectors can be had";

/// How work on matrices of this size is cut.
pub fn cut(size: usize) -> Par {
    if size <= SMALL { Par::Seq } else { Par::rayon(PARTS) }
}

/// `a b`.
pub fn product(a: MatRef<f64>, b: MatRef<f64>) -> Mat<f64> {
    let mut out = Mat::zeros(a.nrows(), b.ncols());
    let par = cut(a.nrows().max(b.ncols()).max(a.ncols()));
    matmul(out.as_mut(), Accum::Replace, a, b, 1.0, par);
    out
}

/// Adds `a b` to `out`.
pub fn add_product(out: MatMut<f64>, a: MatRef<f64>, b: MatRef<f64>) {
    let par = cut(a.nrows().max(b.ncols()).max(a.ncols()));
    matmul(out, Accum::Add, a, b, 1.0, par);
}

/// Adds the lower triangle of `aᵀ a` to `out`.
pub fn add_gram(out: &mut Mat<f64>, a: MatRef<f64>) {
    let (lower, full) = (BlockStructure::TriangularLower, BlockStructure::Rectangular);
    let par = cut(a.nrows().max(a.ncols()));
    triangular::matmul(out.as_mut(), lower, Accum::Add, a.transpose(), full, a, full, 1.0, par);
}

/// The sum of the diagonal: of a Gram matrix the square of the Frobenius norm.
pub fn trace(a: &Mat<f64>) -> f64 {
    (0..a.ncols()).map(|j| a[(j, j)]).sum()
}

/// Writes the lower triangle over the upper.
pub fn mirror(a: &mut Mat<f64>) {
    for j in 0..a.ncols() {
        for i in 0..j {
            a[(i, j)] = a[(j, i)];
        }
    }
}

/// Eigenvalues of a symmetric matrix, largest first, and the eigenvectors as columns in the same order.
pub struct Eigen {
    /// The values; those of Gram matrices are not below zero.
    pub values: Vec<f64>,
    /// The vectors.
    pub vectors: Mat<f64>,
}

impl Eigen {
    /// Of a matrix that is the same mirrored at its diagonal and has no negative eigenvalue, of which the lower triangle is read.
    ///
    /// # Errors
    /// If the matrix holds NaN or infinities, or the algorithm does not converge.
    pub fn of(a: MatRef<f64>) -> Result<Self, String> {
        let n = a.nrows();
        let scale = scale(a)?;
        if scale == 0.0 {
            return Ok(Self { values: vec![0.0; n], vectors: Mat::identity(n, n) });
        }
        let scaled = faer::Scale(1.0 / scale) * a;
        let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::zeros(n, n));
        decompose(scaled.as_ref(), &mut values, Some(vectors.as_mut()))?;
        for j in 0..n / 2 {
            let (left, right) = vectors.as_mut().split_at_col_mut(n - 1 - j);
            left.col_mut(j).iter_mut().zip(right.col_mut(0).iter_mut()).for_each(|(a, b)| std::mem::swap(a, b));
        }
        let values = values.column_vector().iter().rev().map(|v| v.max(0.0) * scale).collect();
        Ok(Self { values, vectors })
    }

    /// The eigenvalues alone of such a matrix, largest first, in less time and memory than with the vectors.
    ///
    /// # Errors
    /// As [`Self::of`].
    pub fn values(mut a: Mat<f64>) -> Result<Vec<f64>, String> {
        let n = a.nrows();
        let scale = scale(a.as_ref())?;
        if scale == 0.0 {
            return Ok(vec![0.0; n]);
        }
        a.col_iter_mut().for_each(|c| c.iter_mut().for_each(|v| *v /= scale));
        let mut values = Diag::<f64>::zeros(n);
        decompose(a.as_ref(), &mut values, None)?;
        Ok(values.column_vector().iter().rev().map(|v| v.max(0.0) * scale).collect())
    }

    /// The largest singular value of a matrix whose Gram matrix this is of; 0 if it has no columns.
    pub fn largest(&self) -> f64 {
        self.values.first().map_or(0.0, |v| v.sqrt())
    }

    /// The singular values of a matrix whose Gram matrix this is of; those that are rounding alone are zeros.
    pub fn singular(&self) -> Vec<f64> {
        let values: Vec<f64> = self.values.iter().map(|v| v.sqrt()).collect();
        let least = self.largest() * NOTHING;
        values.into_iter().map(|v| if v > least { v } else { 0.0 }).collect()
    }

    /// `V f(S) Vᵀ`, of the singular values `S`.
    pub fn function(&self, f: impl Fn(f64) -> f64) -> Mat<f64> {
        let singular = self.singular();
        let mut scaled = self.vectors.clone();
        for (j, s) in singular.iter().enumerate() {
            let factor = f(*s);
            scaled.col_mut(j).iter_mut().for_each(|v| *v *= factor);
        }
        product(scaled.as_ref(), self.vectors.transpose())
    }
}

/// What to divide such a matrix by to bring it to about one, so that squares of the smallest and largest changes go through.
fn scale(a: MatRef<f64>) -> Result<f64, String> {
    let n = a.nrows();
    if (0..n).any(|j| (j..n).any(|i| !a[(i, j)].is_finite())) {
        return Err(NOT_FINITE.into());
    }
    Ok((0..n).map(|i| a[(i, i)].abs()).fold(0.0, f64::max))
}

fn decompose(a: MatRef<f64>, values: &mut Diag<f64>, vectors: Option<MatMut<f64>>) -> Result<(), String> {
    let (n, par) = (a.nrows(), cut(a.nrows()));
    let wanted = if vectors.is_some() { ComputeEigenvectors::Yes } else { ComputeEigenvectors::No };
    let scratch = self_adjoint_evd_scratch::<f64>(n, wanted, par, Default::default());
    let mut memory = MemBuffer::try_new(scratch).map_err(|_| "takes more memory than there is".to_owned())?;
    let stack = MemStack::new(&mut memory);
    self_adjoint_evd(a, values.as_mut(), vectors, par, stack, Default::default())
        .map_err(|_| "its eigenvalues do not converge".to_owned())
}

/// The inverse of a symmetric matrix, by Cholesky's factors, and what its condition is at most; `None` where the matrix has no such
/// factors, or its smallest eigenvalue might be less than the share `least` of the largest. Two more matrices of its size are needed
/// on the way.
pub fn inverse_of(a: &Mat<f64>, least: f64) -> Option<(Mat<f64>, f64)> {
    let (n, par) = (a.nrows(), cut(a.nrows()));
    let mut factors = a.clone();
    let scratch = StackReq::any_of(&[
        factor::cholesky_in_place_scratch::<f64>(n, par, Default::default()),
        inverse::inverse_scratch::<f64>(n, par),
    ]);
    let mut memory = MemBuffer::try_new(scratch).ok()?;
    let stack = MemStack::new(&mut memory);
    factor::cholesky_in_place(factors.as_mut(), Default::default(), par, stack, Default::default()).ok()?;
    let mut out = Mat::zeros(n, n);
    inverse::inverse(out.as_mut(), factors.as_ref(), par, stack);
    mirror(&mut out);
    // Of symmetric matrices the largest sum of a row bounds the eigenvalues.
    let bound = norm_of_rows(a) * norm_of_rows(&out);
    (bound * least <= 1.0).then_some((out, bound))
}

/// The largest sum of magnitudes of a column, which of a symmetric matrix is that of a row.
fn norm_of_rows(a: &Mat<f64>) -> f64 {
    a.col_iter().map(|c| c.iter().map(|v| v.abs()).sum()).fold(0.0, f64::max)
}

/// Bytes that [`Eigen::of`] takes of an `n x n` matrix at most, the matrix itself not counted: a copy, the vectors, and what
/// the algorithm keeps.
pub fn eigen_bytes(n: u64) -> u64 {
    let scratch =
        self_adjoint_evd_scratch::<f64>(n as usize, ComputeEigenvectors::Yes, cut(n as usize), Default::default());
    2 * 8 * n * n + scratch.unaligned_bytes_required() as u64
}

/// Bytes that [`Eigen::values`] takes besides the matrix.
pub fn values_bytes(n: u64) -> u64 {
    let (n, par) = (n as usize, cut(n as usize));
    let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::No, par, Default::default());
    scratch.unaligned_bytes_required() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A symmetric matrix of this size with ones on its diagonal, and eigenvalues below zero if `far`.
    fn symmetric(n: usize, far: bool) -> Mat<f64> {
        let own = |i: usize, j: usize| ((i * 7 + j * 13 + i * j) % 101) as f64 / 101.0 - 0.5;
        let factor = if far { 0.9 } else { 0.9 / n as f64 };
        Mat::from_fn(n, n, |i, j| if i == j { 1.0 } else { factor * own(i.min(j), i.max(j)) })
    }

    /// Law: the inverse is one, and there is none of what has eigenvalues below zero or too near to it.
    #[test]
    fn inverses_of_symmetric_matrices() {
        for n in [1, 5, 130, 400] {
            let a = symmetric(n, false);
            let (inverse, bound) = inverse_of(&a, 1e-7).unwrap();
            let rest = product(a.as_ref(), inverse.as_ref()) - Mat::<f64>::identity(n, n);
            assert!(rest.norm_max() < 1e-12 && bound >= 1.0);
            assert!(n == 1 || inverse_of(&a, 1.0).is_none());
            assert!(n < 100 || inverse_of(&symmetric(n, true), 0.0).is_none());
        }
    }
}
