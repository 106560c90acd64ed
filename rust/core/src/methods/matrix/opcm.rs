//! OPCM: one task after the other, each without what it shares with the merge so far.

use std::slice::from_ref;

use faer::Mat;

use super::stack::{Mix, Of, Stack, Term};
use super::tsvm::Leading;
use super::{CUT, Halt, Made, SLACK};
use crate::kernels::linalg::{Eigen, product, trace};
use crate::methods::Params;

/// The running sum, at the end as large as the tasks are on average.
///
/// The paper's factor of each step cancels: singular vectors and the split do not know it, and the next step multiplies it
/// back.
pub fn opcm(stack: &mut Stack, params: &Params) -> Made {
    let models = stack.models();
    let mut merged = Term::plain(stack.model(0));
    let mut norms = trace(&stack.gram(stack.model(0))?).sqrt();
    let mut found = Vec::new();
    for i in 1..models {
        let of = stack.model(i);
        norms += trace(&stack.gram(of.clone())?).sqrt();
        if !stack.is_vector()
            && let Some((out, split)) = beside(stack, &merged, &of, params.number("alpha"))?
        {
            for (_, by) in &mut merged.parts {
                *by = Some(by.as_ref().map_or(out.clone(), |by| product(by.as_ref(), out.as_ref())));
            }
            found.push((format!("rank_shared_{i}"), split as f64));
        }
        merged.parts.push((of, None));
    }
    let norm = trace(&joint(stack, &merged)?).sqrt();
    if norm == 0.0 {
        return Ok((Mix::nothing(), found));
    }
    let factor = norms / models as f64 / norm;
    found.push(("factor".to_owned(), factor));
    merged.parts.iter_mut().flat_map(|(of, _)| of).for_each(|c| *c *= factor);
    Ok((Mix::sum(merged.parts), found))
}

/// The Gram matrix of the merge so far. The tasks are known to be finite, each by itself.
fn joint(stack: &mut Stack, merged: &Term) -> Result<Mat<f64>, Halt> {
    let gram = stack.joint(from_ref(merged))?;
    if stack.is_vector() || trace(&gram).is_finite() {
        return Ok(gram);
    }
    let problem = "every change is finite, and their merge is not: what the tasks share, with their weights, becomes too large; \
                   merge fewer of them, or with smaller weights";
    Err(Halt::Failed(problem.into()))
}

/// How the columns of the merge so far are mixed, so that with the next task added it holds of that one what it does not share; and
/// how many leading directions are shared as a block. `None` if nothing is merged so far.
fn beside(stack: &mut Stack, merged: &Term, of: &Of, alpha: f64) -> Result<Option<(Mat<f64>, usize)>, Halt> {
    let eigen = Eigen::of(joint(stack, merged)?.as_ref())?;
    let own = Leading::of(&eigen, stack.short(), eigen.largest() * CUT);
    let there = own.values.len();
    if there == 0 {
        return Ok(None);
    }
    let (all, mut sum) = (own.values.iter().sum::<f64>(), 0.0);
    let in_block = own.values.iter().take_while(|s| {
        sum += **s;
        sum <= alpha * all * (1.0 + SLACK)
    });
    let split = in_block.count();
    // Uᵀ task V, cleared of all but what is taken away.
    let to_left = own.to_left();
    let seen = product(to_left.transpose(), stack.cross(merged, of.clone())?.as_ref());
    let mut shared = product(seen.as_ref(), own.right.as_ref());
    for c in 0..there {
        for r in (0..there).filter(|r| *r != c && (*r >= split || c >= split)) {
            shared[(r, c)] = 0.0;
        }
    }
    let less = product(product(to_left.as_ref(), shared.as_ref()).as_ref(), own.right.transpose());
    Ok(Some((Mat::<f64>::identity(stack.short(), stack.short()) - less, split)))
}
