//! TSV-Merge: the leading singular vectors of every task, made orthogonal between tasks.

use faer::Mat;

use super::stack::{Mix, Stack, Term};
use super::{Found, Of};
use crate::kernels::linalg::{Eigen, product};
use crate::methods::{Halt, Params};

/// Directions of a polar factor below this share of the largest are none.
pub const CUT: f64 = 1e-5;

/// Leading triplets of one combination: `A V / s` are its left vectors.
pub struct Leading {
    /// Which combination.
    pub of: Of,
    /// The right vectors, `short x k`; columns of singular value zero are zero.
    pub right: Mat<f64>,
    /// The singular values.
    pub values: Vec<f64>,
    /// Share of the squared singular values that is kept, `NaN` if there are none.
    pub energy: f64,
}

impl Leading {
    /// The first `k` triplets, by the eigenvectors of `Aᵀ A`.
    pub fn of(of: Of, eigen: &Eigen, k: usize) -> Self {
        let singular = eigen.singular();
        let mut right = eigen.vectors.subcols(0, k).to_owned();
        for (j, s) in singular[..k].iter().enumerate().filter(|(_, s)| **s == 0.0) {
            debug_assert_eq!(*s, 0.0);
            right.col_mut(j).fill(0.0);
        }
        let squares = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
        let energy = squares(&singular[..k]) / squares(&singular);
        Self { of, right, values: singular[..k].to_vec(), energy }
    }

    /// What gives the left vectors.
    pub fn left(&self) -> Term {
        let mut by = self.right.clone();
        for (j, s) in self.values.iter().enumerate().filter(|(_, s)| **s > 0.0) {
            by.col_mut(j).iter_mut().for_each(|v| *v /= s);
        }
        Term { of: self.of.clone(), by }
    }
}

/// The vectors of several sets, side by side.
fn beside(sets: &[Leading]) -> Mat<f64> {
    let width = sets.iter().map(|s| s.right.ncols()).sum();
    let mut out = Mat::zeros(sets[0].right.nrows(), width);
    let mut at = 0;
    for set in sets {
        let k = set.right.ncols();
        out.as_mut().subcols_mut(at, k).copy_from(&set.right);
        at += k;
    }
    out
}

/// `polar(U) diag(values) polar(V)ᵀ`, of the left and right vectors of all sets side by side; and how much they overlap.
pub fn orthogonal(stack: &mut Stack, sets: &[Leading], values: &[f64], robust: bool) -> Result<(Mix, f64), Halt> {
    let terms: Vec<Term> = sets.iter().map(Leading::left).collect();
    let right = beside(sets);
    let left_gram = stack.joint(&terms)?;
    let right_gram = product(right.transpose(), right.as_ref());
    let overlap = interference(&left_gram, values, &right_gram);
    let inverse_root = |gram: Mat<f64>| -> Result<Mat<f64>, Halt> {
        let eigen = Eigen::of(gram.as_ref())?;
        let least = eigen.singular().first().copied().unwrap_or(0.0) * if robust { CUT } else { 0.0 };
        Ok(eigen.function(|s| if s > least { 1.0 / s } else { 0.0 }))
    };
    let (left, mut scaled) = (inverse_root(left_gram)?, inverse_root(right_gram)?);
    for (j, s) in values.iter().enumerate() {
        scaled.row_mut(j).iter_mut().for_each(|v| *v *= s);
    }
    let again = product(product(left.as_ref(), scaled.as_ref()).as_ref(), right.transpose());
    Ok((Mix { terms, again: Some(again) }, overlap))
}

/// `||(UᵀU - I) S (VᵀV - I)||_1`, the sum of the sizes of all elements.
fn interference(left: &Mat<f64>, values: &[f64], right: &Mat<f64>) -> f64 {
    let less = |gram: &Mat<f64>, scale: &dyn Fn(usize) -> f64| {
        let identity = |i, j| f64::from(u8::from(i == j && gram[(i, i)] > 0.0));
        Mat::from_fn(gram.nrows(), gram.ncols(), |i, j| (gram[(i, j)] - identity(i, j)) * scale(j))
    };
    let (left, right) = (less(left, &|j| values[j]), less(right, &|_| 1.0));
    product(left.as_ref(), right.as_ref()).col_iter().flat_map(|c| c.iter()).map(|v| v.abs()).sum()
}

/// The merged change.
pub fn tsvm(stack: &mut Stack, params: &Params) -> Result<(Mix, Found), Halt> {
    let models = stack.models();
    if models == 1 {
        return Ok((Mix::one(stack.model(0), Mat::identity(stack.short(), stack.short())), Vec::new()));
    }
    let k = (stack.short() / models).max(1);
    let mut sets = Vec::new();
    for i in 0..models {
        let of = stack.model(i);
        let eigen = Eigen::of(stack.gram(of.clone())?.as_ref())?;
        sets.push(Leading::of(of, &eigen, k));
    }
    merged(stack, &sets, params)
}

/// What becomes of the triplets of every task.
pub fn merged(stack: &mut Stack, sets: &[Leading], params: &Params) -> Result<(Mix, Found), Halt> {
    let values: Vec<f64> = sets.iter().flat_map(|s| s.values.clone()).collect();
    if values.iter().all(|s| *s == 0.0) {
        return Ok((Mix::nothing(), Vec::new()));
    }
    let (mix, overlap) = orthogonal(stack, sets, &values, !params.switch("official"))?;
    let mut found = vec![("interference".to_owned(), overlap)];
    for (i, set) in sets.iter().enumerate() {
        found.push((format!("rank_{}", i + 1), set.values.iter().filter(|s| **s > 0.0).count() as f64));
        if set.energy.is_finite() {
            found.push((format!("energy_{}", i + 1), set.energy));
        }
    }
    Ok((mix, found))
}
