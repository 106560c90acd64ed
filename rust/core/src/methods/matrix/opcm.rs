//! OPCM: one task after the other, each without what it shares with the merge so far.

use faer::Mat;

use super::stack::{Mix, Of, Stack, Term};
use super::{CUT, Made};
use crate::kernels::linalg::{Eigen, product};
use crate::methods::Params;

/// The running sum, at the end as large as the tasks are on average.
///
/// The paper's factor of each step cancels: singular vectors and the split do not know it, and the next step multiplies it
/// back.
pub fn opcm(stack: &mut Stack, params: &Params) -> Made {
    let (short, models, alpha) = (stack.short(), stack.models(), params.number("alpha"));
    let mut parts: Vec<(Of, Mat<f64>)> = vec![(stack.model(0), Mat::identity(short, short))];
    let mut norms = vec![norm(&stack.gram(stack.model(0))?)];
    let mut found = Vec::new();
    for i in 1..models {
        let of = stack.model(i);
        norms.push(norm(&stack.gram(of.clone())?));
        if !stack.is_vector() {
            let so_far = Term { parts: parts.clone() };
            let eigen = Eigen::of(stack.joint(std::slice::from_ref(&so_far))?.as_ref())?;
            let singular = eigen.singular();
            let there = singular.iter().take_while(|s| **s > 0.0 && **s >= singular[0] * CUT).count();
            if there > 0 {
                let all: f64 = singular[..there].iter().sum();
                let mut sum = 0.0;
                let split = singular[..there].iter().take_while(|s| {
                    sum += **s;
                    sum <= alpha * all * (1.0 + 1e-9)
                });
                let split = split.count();
                let right = eigen.vectors.subcols(0, there);
                let to_left = Mat::from_fn(short, there, |r, c| right[(r, c)] / singular[c]);
                // Uᵀ task V, cleared of all but what is taken away.
                let seen = product(to_left.transpose(), stack.cross(&so_far, of.clone())?.as_ref());
                let mut shared = product(seen.as_ref(), right);
                for c in 0..there {
                    for r in (0..there).filter(|r| *r != c && (*r >= split || c >= split)) {
                        shared[(r, c)] = 0.0;
                    }
                }
                let less = product(product(to_left.as_ref(), shared.as_ref()).as_ref(), right.transpose());
                let out = Mat::<f64>::identity(short, short) - less;
                parts.iter_mut().for_each(|(_, by)| *by = product(by.as_ref(), out.as_ref()));
                found.push((format!("rank_shared_{i}"), split as f64));
            }
        }
        parts.push((of, Mat::identity(short, short)));
    }
    let merged = norm(&stack.joint(&[Term { parts: parts.clone() }])?);
    if merged == 0.0 {
        return Ok((Mix::nothing(), found));
    }
    let factor = norms.iter().sum::<f64>() / models as f64 / merged;
    found.push(("factor".to_owned(), factor));
    parts.iter_mut().for_each(|(_, by)| *by *= faer::Scale(factor));
    Ok((Mix::sum(parts), found))
}

/// The Frobenius norm of a matrix of which this is the Gram matrix.
fn norm(gram: &Mat<f64>) -> f64 {
    (0..gram.nrows()).map(|j| gram[(j, j)]).sum::<f64>().sqrt()
}
