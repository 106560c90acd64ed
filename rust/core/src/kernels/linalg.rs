//! Matrices in f64: products, Gram matrices, eigenvectors. The arithmetic is the crate `faer`'s; here is what of it is needed, and
//! how it is called so that the same bytes come out whatever the number of threads.
//!
//! Singular vectors are had from the Gram matrix of the smaller side: of a 4096 x 11008 matrix that took 15 s where LAPACK's decomposition
//! (in f32, on as many threads) took 39. In f64 that loses singular values below about 1e-7 of the largest, which f32 results
//! do not show.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
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
pub const NOT_FINITE: &str = "holds NaN or infinite values, of which no singular vectors can be had";

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
        if (0..n).any(|j| (j..n).any(|i| !a[(i, j)].is_finite())) {
            return Err(NOT_FINITE.into());
        }
        // To about one, so that squares of the smallest and largest changes go through.
        let scale = (0..n).map(|i| a[(i, i)].abs()).fold(0.0, f64::max);
        if scale == 0.0 {
            return Ok(Self { values: vec![0.0; n], vectors: Mat::identity(n, n) });
        }
        let scaled = faer::Scale(1.0 / scale) * a;
        let (mut values, mut vectors) = (Diag::<f64>::zeros(n), Mat::zeros(n, n));
        let par = cut(n);
        let scratch = self_adjoint_evd_scratch::<f64>(n, ComputeEigenvectors::Yes, par, Default::default());
        let mut memory = MemBuffer::try_new(scratch).map_err(|_| "takes more memory than there is".to_owned())?;
        let stack = MemStack::new(&mut memory);
        self_adjoint_evd(scaled.as_ref(), values.as_mut(), Some(vectors.as_mut()), par, stack, Default::default())
            .map_err(|_| "its eigenvalues do not converge".to_owned())?;
        for j in 0..n / 2 {
            let (left, right) = vectors.as_mut().split_at_col_mut(n - 1 - j);
            left.col_mut(j).iter_mut().zip(right.col_mut(0).iter_mut()).for_each(|(a, b)| std::mem::swap(a, b));
        }
        let values = values.column_vector().iter().rev().map(|v| v.max(0.0) * scale).collect();
        Ok(Self { values, vectors })
    }

    /// The singular values of a matrix whose Gram matrix this is of; those that are rounding alone are zeros.
    pub fn singular(&self) -> Vec<f64> {
        let values: Vec<f64> = self.values.iter().map(|v| v.sqrt()).collect();
        let least = values.first().copied().unwrap_or(0.0) * NOTHING;
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

/// Bytes that [`Eigen::of`] takes of an `n x n` matrix at most, the matrix itself not counted: a copy, the vectors, and what
/// the algorithm keeps.
pub fn eigen_bytes(n: u64) -> u64 {
    let scratch =
        self_adjoint_evd_scratch::<f64>(n as usize, ComputeEigenvectors::Yes, cut(n as usize), Default::default());
    2 * 8 * n * n + scratch.unaligned_bytes_required() as u64
}
