//! TSV-Merge: the leading singular vectors of every task, made orthogonal between tasks.

use faer::Mat;

use super::stack::{Mix, Of, Stack, Term};
use super::{CUT, Found, Made, SLACK};
use crate::kernels::linalg::{Eigen, product};
use crate::methods::{Halt, Params};

/// Leading triplets of a change: `A V / s` are its left vectors.
pub struct Leading {
    /// The right vectors, `short x k`.
    pub right: Mat<f64>,
    /// The singular values, none of them zero.
    pub values: Vec<f64>,
    /// Share of the squared singular values that is kept; NaN where there is nothing.
    pub energy: f64,
}

impl Leading {
    /// At most the first `k` triplets, by the eigenvectors of `Aᵀ A`; those below `least` are not there.
    pub fn of(eigen: &Eigen, k: usize, least: f64) -> Self {
        let singular = eigen.singular();
        let there = singular.iter().take(k).take_while(|s| **s > 0.0 && **s >= least).count();
        let squares = |values: &[f64]| values.iter().map(|s| s * s).sum::<f64>();
        let energy = squares(&singular[..there]) / squares(&singular);
        Self { right: eigen.vectors.subcols(0, there).to_owned(), values: singular[..there].to_vec(), energy }
    }

    /// What takes the columns of the change to their part in these directions, times a factor.
    pub fn onto(&self, factor: f64) -> Mat<f64> {
        product(self.right.as_ref(), self.right.transpose()) * factor
    }

    /// How the columns of the change are mixed to its left vectors.
    pub fn to_left(&self) -> Mat<f64> {
        Mat::from_fn(self.right.nrows(), self.values.len(), |i, j| self.right[(i, j)] / self.values[j])
    }
}

/// Vectors side by side.
pub fn beside<'a>(sets: impl Iterator<Item = &'a Mat<f64>> + Clone) -> Mat<f64> {
    let (width, height) = (sets.clone().map(Mat::ncols).sum(), sets.clone().map(Mat::nrows).max().unwrap_or(0));
    let mut out = Mat::zeros(height, width);
    let mut at = 0;
    for set in sets {
        out.as_mut().subcols_mut(at, set.ncols()).copy_from(set);
        at += set.ncols();
    }
    out
}

/// Left and right vectors side by side, and what makes them orthogonal.
pub struct Frame {
    /// What gives the left vectors `U`.
    terms: Vec<Term>,
    /// The right vectors `V`, `short x K`.
    right: Mat<f64>,
    /// `Uᵀ U`.
    pub left_gram: Mat<f64>,
    /// `Vᵀ V`.
    pub right_gram: Mat<f64>,
    /// `(Uᵀ U)^(-1/2)`, so that `U` times it is the polar factor of `U`.
    pub left: Mat<f64>,
    /// `(Vᵀ V)^(-1/2)`.
    pub right_root: Mat<f64>,
}

impl Frame {
    /// Of left vectors, each set from what gives it, and right ones; directions below `cut` of the largest are none.
    pub fn new(stack: &mut Stack, terms: Vec<Term>, right: Mat<f64>, cut: f64) -> Result<Self, Halt> {
        let left_gram = stack.joint(&terms)?;
        let right_gram = product(right.transpose(), right.as_ref());
        let root = |gram: &Mat<f64>| -> Result<Mat<f64>, Halt> {
            let eigen = Eigen::of(gram.as_ref())?;
            let least = eigen.largest() * cut;
            Ok(eigen.function(|s| if s > 0.0 && s >= least { 1.0 / s } else { 0.0 }))
        };
        let (left, right_root) = (root(&left_gram)?, root(&right_gram)?);
        Ok(Self { terms, right, left_gram, right_gram, left, right_root })
    }

    /// `polar(U) M polar(V)ᵀ`.
    pub fn around(self, middle: &Mat<f64>) -> Mix {
        let left = product(self.left.as_ref(), middle.as_ref());
        let right = product(self.right_root.as_ref(), self.right.transpose());
        Mix::Of { terms: self.terms, again: Some(product(left.as_ref(), right.as_ref())) }
    }

    /// `||(Uᵀ U - I) S (Vᵀ V - I)||_1`, the sum of the sizes of all elements.
    pub fn interference(&self, values: &[f64]) -> f64 {
        let less = |gram: &Mat<f64>, i, j| gram[(i, j)] - f64::from(u8::from(i == j));
        let n = values.len();
        let left = Mat::from_fn(n, n, |i, j| less(&self.left_gram, i, j) * values[j]);
        let right = Mat::from_fn(n, n, |i, j| less(&self.right_gram, i, j));
        product(left.as_ref(), right.as_ref()).col_iter().flat_map(|c| c.iter()).map(|v| v.abs()).sum()
    }
}

/// A diagonal matrix.
pub fn diagonal(values: &[f64]) -> Mat<f64> {
    Mat::from_fn(values.len(), values.len(), |i, j| if i == j { values[i] } else { 0.0 })
}

/// The rank that a task may keep.
pub fn share(stack: &Stack) -> usize {
    (stack.short() / stack.models()).max(1)
}

/// The leading triplets of every task, of each at most so many.
pub fn leading(stack: &mut Stack, ranks: &[usize], cut: f64) -> Result<Vec<Leading>, Halt> {
    let mut sets = Vec::new();
    for (i, k) in ranks.iter().enumerate() {
        let eigen = stack.eigen(stack.model(i))?;
        sets.push(Leading::of(&eigen, *k, eigen.largest() * cut));
    }
    Ok(sets)
}

/// What gives the left vectors of every task.
pub fn lefts(stack: &Stack, sets: &[Leading]) -> Vec<Term> {
    sets.iter().enumerate().map(|(i, set)| Term::one(stack.model(i), set.to_left())).collect()
}

/// The ranks and energies that were kept of every task.
pub fn kept(sets: &[Leading]) -> Found {
    let mut found = Vec::new();
    for (i, set) in sets.iter().enumerate() {
        found.push((format!("rank_{}", i + 1), set.values.len() as f64));
        if set.energy.is_finite() {
            found.push((format!("energy_{}", i + 1), set.energy));
        }
    }
    found
}

/// TSV-Merge of the first `short / T` triplets of every task.
pub fn tsvm(stack: &mut Stack, params: &Params) -> Made {
    if stack.models() == 1 {
        return Ok((Mix::sum(vec![(stack.model(0), None)]), Vec::new()));
    }
    let cut = if params.switch("official") { 0.0 } else { CUT };
    let sets = leading(stack, &vec![share(stack); stack.models()], cut)?;
    decorrelated(stack, &sets, &vec![1.0; sets.len()], cut)
}

/// `polar(U) S polar(V)ᵀ` of the triplets of every task, the values of each times its factor.
fn decorrelated(stack: &mut Stack, sets: &[Leading], factors: &[f64], cut: f64) -> Made {
    let scaled = sets.iter().zip(factors).flat_map(|(set, f)| set.values.iter().map(move |s| f * s));
    let values: Vec<f64> = scaled.collect();
    let mut found = kept(sets);
    if values.is_empty() {
        return Ok((Mix::nothing(), found));
    }
    let (terms, right) = (lefts(stack, sets), beside(sets.iter().map(|s| &s.right)));
    let frame = Frame::new(stack, terms, right, cut)?;
    found.push(("interference".to_owned(), frame.interference(&values)));
    Ok((frame.around(&diagonal(&values)), found))
}

/// What the reweighted form goes by, of one change.
#[derive(Clone, Copy, Default)]
struct Sizes {
    /// Sums of the sizes and of the squares of the elements.
    sum: f64,
    squares: f64,
    /// Sum of the sizes that are outliers.
    outliers: f64,
    /// Elements that are not small.
    dense: f64,
}

/// A reconstruction of the reweighted form: singular values times `T` times the task's share of all outliers, ranks by how dense
/// the tasks' changes are.
pub fn reweighted(stack: &mut Stack, params: &Params) -> Made {
    let models = stack.models();
    let of: Vec<Of> = (0..models).map(|i| stack.model(i)).collect();
    let count = stack.elements_count();
    let mut sizes = vec![Sizes::default(); models];
    stack.each_plain(&of, &mut |blocks| {
        for (own, block) in sizes.iter_mut().zip(blocks) {
            own.sum += block.col_iter().flat_map(|c| c.iter()).map(|v| v.abs()).sum::<f64>();
            own.squares += block.col_iter().flat_map(|c| c.iter()).map(|v| v * v).sum::<f64>();
        }
        Ok(())
    })?;
    let (sigmas, small) = (params.number("sigmas"), params.number("small"));
    let borders: Vec<(f64, f64)> = sizes
        .iter()
        .map(|own| {
            let (mean, square) = (own.sum / count, own.squares / count);
            (mean + sigmas * (square - mean * mean).max(0.0).sqrt(), small * square.sqrt())
        })
        .collect();
    stack.each_plain(&of, &mut |blocks| {
        for ((own, block), (far, near)) in sizes.iter_mut().zip(blocks).zip(&borders) {
            for size in block.col_iter().flat_map(|c| c.iter()).map(|v| v.abs()) {
                own.outliers += if size > *far { size } else { 0.0 };
                own.dense += f64::from(u8::from(size >= *near && own.squares > 0.0)) / count;
            }
        }
        Ok(())
    })?;
    let all: f64 = sizes.iter().map(|s| s.outliers).sum();
    let share_of = |s: &Sizes| if all > 0.0 { models as f64 * s.outliers / all } else { 1.0 };
    let factors: Vec<f64> = sizes.iter().map(share_of).collect();
    let dense = sizes.iter().map(|s| s.dense).sum::<f64>() / models as f64;
    if dense == 0.0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    let rank = |s: &Sizes| ((share(stack) as f64 * s.dense / dense + SLACK) as usize).clamp(1, stack.short());
    let ranks: Vec<usize> = sizes.iter().map(rank).collect();
    let sets = leading(stack, &ranks, CUT)?;
    let (mix, mut found) = decorrelated(stack, &sets, &factors, CUT)?;
    found.extend(factors.iter().enumerate().map(|(i, f)| (format!("factor_{}", i + 1), *f)));
    Ok((mix, found))
}
