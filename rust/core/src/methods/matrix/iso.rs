//! Isotropic merging: the sum of the changes with all its singular values the same.

use faer::Mat;

use super::stack::{Mix, Stack, Term};
use super::tsvm::{Frame, Leading, beside, diagonal, kept};
use super::{CUT, Made};
use crate::kernels::linalg::{Eigen, product};
use crate::methods::Params;

/// The polar factor of the sum, times the mean of its singular values.
pub fn iso_c(stack: &mut Stack, _params: &Params) -> Made {
    let of = stack.sum(1.0);
    let eigen = stack.eigen(of.clone())?;
    let (singular, largest) = (eigen.singular(), eigen.largest());
    if largest == 0.0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    // Directions that are not there have none to be scaled to, but count in the mean.
    let mean = singular.iter().sum::<f64>() / singular.len() as f64;
    let there: Vec<f64> = singular.iter().copied().filter(|s| *s >= largest * CUT).collect();
    let found = vec![
        ("rank".to_owned(), there.len() as f64),
        ("singular_value".to_owned(), mean),
        ("condition".to_owned(), largest / there[there.len() - 1]),
    ];
    let by = eigen.function(|s| if s >= largest * CUT { mean / s } else { 0.0 });
    Ok((Mix::sum(vec![(of, Some(by))]), found))
}

/// How many directions are common, and how many of its own each task has.
fn split(rank: usize, tasks: usize, common: f64) -> (usize, usize) {
    let shared = (common * rank as f64) as usize;
    let mut own = ((rank - shared) as f64 / tasks as f64).round_ties_even() as usize;
    if own * tasks > rank {
        own = (rank - shared) / tasks;
    }
    (rank - own * tasks, own)
}

/// The leading directions of the sum, and of what they leave of each task, made orthogonal, all of the same size.
pub fn iso_cts(stack: &mut Stack, params: &Params) -> Made {
    let (rank, models) = (stack.short(), stack.models());
    let (shared, own) = split(rank, models, params.number("common_space_fraction"));
    let all = stack.sum(1.0);
    let eigen = stack.eigen(all.clone())?;
    let singular = eigen.singular();
    let common = Leading::of(&eigen, shared, eigen.largest() * CUT);
    drop(eigen);
    let mut sizes: f64 = singular[..shared].iter().sum();
    let (mut sets, mut terms) = (Vec::new(), Vec::new());
    for i in 0..models {
        let of = stack.model(i);
        let gram = stack.gram(of.clone())?;
        let whole = largest(&gram);
        // What is left of the task beside the common left directions; of a matrix taken transposed these are right ones.
        let (rest, less) = if stack.is_tall() {
            let seen = stack.cross(&Term::one(all.clone(), common.to_left()), of.clone())?;
            (gram - product(seen.transpose(), seen.as_ref()), Some(seen))
        } else {
            let out = Mat::<f64>::identity(rank, rank) - common.onto(1.0);
            (product(product(out.as_ref(), gram.as_ref()).as_ref(), out.as_ref()), None)
        };
        let eigen = Eigen::of(rest.as_ref())?;
        sizes += eigen.singular()[..own].iter().sum::<f64>();
        let set = Leading::of(&eigen, own, whole * CUT);
        let left = set.to_left();
        let mut parts = vec![(of, Some(left.clone()))];
        if let Some(seen) = less {
            let by = product(product(common.to_left().as_ref(), seen.as_ref()).as_ref(), left.as_ref());
            parts.push((all.clone(), Some(by * -1.0)));
        }
        terms.push(Term { parts });
        sets.push(set);
    }
    let mut found = kept(&sets);
    found.push(("rank_common".to_owned(), common.values.len() as f64));
    terms.push(Term::one(all, common.to_left()));
    sets.push(common);
    let width = sets.iter().map(|s| s.values.len()).sum();
    if width == 0 {
        return Ok((Mix::nothing(), found));
    }
    let mean = sizes / rank as f64;
    found.push(("singular_value".to_owned(), mean));
    let frame = Frame::new(stack, terms, beside(sets.iter().map(|s| &s.right)), CUT)?;
    Ok((frame.around(&diagonal(&vec![mean; width])), found))
}

/// The largest singular value of a matrix of which this is the Gram matrix, about: enough to tell what is nothing beside it.
fn largest(gram: &Mat<f64>) -> f64 {
    let n = gram.nrows();
    let start = (0..n).max_by(|a, b| gram[(*a, *a)].total_cmp(&gram[(*b, *b)])).unwrap_or(0);
    let mut v = Mat::from_fn(n, 1, |i, _| gram[(i, start)]);
    let mut size = 0.0;
    for _ in 0..16 {
        let norm = v.norm_l2();
        if norm == 0.0 {
            return 0.0;
        }
        v = product(gram.as_ref(), (v * (1.0 / norm)).as_ref());
        size = v.norm_l2();
    }
    f64::sqrt(size)
}
