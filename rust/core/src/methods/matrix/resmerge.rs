//! ResMerge: what is left of each task beside its first singular direction is averaged on a sphere, the first directions by how far
//! they agree.

use faer::Mat;

use super::stack::{Mix, Of, Stack, Term};
use super::{CUT, Made};
use crate::methods::{Halt, Params};

/// Coherence this near that of chance is chance.
const TIE: f64 = 1e-6;

/// A task: its first right vector, first singular value, and the norm of the rest.
struct Task {
    right: Mat<f64>,
    first: f64,
    rest: f64,
}

/// What there is between two tasks.
struct Between {
    /// The products of the rests, and of the heads.
    rests: Mat<f64>,
    heads: Mat<f64>,
}

fn task(stack: &mut Stack, of: Of) -> Result<Task, Halt> {
    let eigen = stack.eigen(of)?;
    let singular = eigen.singular();
    let first = singular[0];
    let beside = singular.get(1).is_some_and(|s| first > 0.0 && *s >= CUT * first);
    let rest = if beside { singular[1..].iter().map(|s| s * s).sum::<f64>().sqrt() } else { 0.0 };
    Ok(Task { right: eigen.vectors.subcols(0, 1).to_owned(), first, rest })
}

/// The products between tasks, from `A_i v_j` and the sums over elements.
fn between(stack: &mut Stack, tasks: &[Task]) -> Result<Between, Halt> {
    let n = tasks.len();
    let of: Vec<Of> = (0..n).map(|i| stack.model(i)).collect();
    // `A_i v_j` for all i and j.
    let terms: Vec<Term> = (0..n * n).map(|k| Term::one(of[k / n].clone(), tasks[k % n].right.clone())).collect();
    let seen = stack.joint(&terms)?;
    let mut whole = Mat::<f64>::zeros(n, n);
    stack.each(&of, &mut |blocks| {
        for i in 0..n {
            for j in 0..=i {
                let columns = blocks[i].col_iter().zip(blocks[j].col_iter());
                whole[(i, j)] += columns.map(|(a, b)| a.transpose() * b).sum::<f64>();
            }
        }
        Ok(())
    })?;
    let vectors = |i: usize, j: usize| tasks[i].right.col(0).transpose() * tasks[j].right.col(0);
    // (A_i v_a)ᵀ (A_j v_b)
    let product = |i: usize, a: usize, j: usize, b: usize| seen[(i * n + a, j * n + b)];
    let (mut rests, mut heads) = (Mat::zeros(n, n), Mat::zeros(n, n));
    for i in 0..n {
        for j in 0..=i {
            let head = vectors(i, j) * product(i, i, j, j);
            let rest = whole[(i, j)] - product(i, i, j, i) - product(i, j, j, j) + head;
            (heads[(i, j)], heads[(j, i)]) = (head, head);
            (rests[(i, j)], rests[(j, i)]) = (rest, rest);
        }
        rests[(i, i)] = tasks[i].rest * tasks[i].rest;
        heads[(i, i)] = tasks[i].first * tasks[i].first;
    }
    Ok(Between { rests, heads })
}

/// The mean of a cosine over all pairs; of none, 1.
fn over_pairs(of: &[usize], cosine: impl Fn(usize, usize) -> f64) -> f64 {
    let pairs: Vec<f64> =
        (0..of.len()).flat_map(|a| (a + 1..of.len()).map(move |b| (a, b))).map(|(a, b)| cosine(of[a], of[b])).collect();
    if pairs.is_empty() { 1.0 } else { pairs.iter().sum::<f64>() / pairs.len() as f64 }
}

/// The merged change.
pub fn resmerge(stack: &mut Stack, params: &Params) -> Made {
    let (n, short) = (stack.models(), stack.short());
    let mut tasks = Vec::new();
    for i in 0..n {
        tasks.push(task(stack, stack.model(i))?);
    }
    if tasks.iter().all(|t| t.first == 0.0) {
        return Ok((Mix::nothing(), Vec::new()));
    }
    if tasks.iter().all(|t| t.rest == 0.0) {
        return Ok((Mix::sum(vec![(stack.sum(1.0 / n as f64), None)]), Vec::new()));
    }
    let Between { rests, heads } = between(stack, &tasks)?;
    let size = |i: usize| tasks[i].rest;
    let cosine = |i: usize, j: usize| if size(i) * size(j) > 0.0 { rests[(i, j)] / (size(i) * size(j)) } else { 0.0 };
    let all: Vec<usize> = (0..n).collect();
    // The norm of the sum of unit rests.
    let total = all.iter().flat_map(|i| all.iter().map(move |j| cosine(*i, *j))).sum::<f64>().max(0.0).sqrt();
    let along = |i: usize| all.iter().map(|j| cosine(i, *j)).sum::<f64>() / total;
    let coherence =
        if total > CUT { (all.iter().map(|i| along(*i)).sum::<f64>() / n as f64).clamp(0.0, 1.0) } else { 0.0 };
    let mut found = vec![("coherence".to_owned(), coherence)];
    // The factor of each rest in the backbone, and the backbone's norm.
    let (factors, norm) = if coherence <= (1.0 + TIE) / (n as f64).sqrt() {
        let sum = all.iter().flat_map(|i| all.iter().map(|j| rests[(*i, *j)])).sum::<f64>();
        (vec![1.0 / n as f64; n], sum.max(0.0).sqrt() / n as f64)
    } else {
        let (least, most) = (params.number("beta_min"), params.number("beta_max"));
        let score = 0.5 * ((over_pairs(&all, cosine) + 1.0) / 2.0 + (coherence + 1.0) / 2.0);
        let beta = most - (most - least) * score;
        let norm = coherence.powf(beta) * all.iter().map(|i| size(*i)).sum::<f64>() / n as f64;
        found.push(("beta".to_owned(), beta));
        (all.iter().map(|i| if size(*i) > 0.0 { norm / total / size(*i) } else { 0.0 }).collect(), norm)
    };
    let present: Vec<usize> = all.iter().copied().filter(|i| tasks[*i].first > 0.0).collect();
    let agree = |i: usize, j: usize| (heads[(i, j)] / (tasks[i].first * tasks[j].first)).max(0.0);
    let agreement = over_pairs(&present, agree).min(1.0);
    found.push(("agreement".to_owned(), agreement));
    let middle = all.iter().flat_map(|i| all.iter().map(|j| heads[(*i, *j)])).sum::<f64>().max(0.0).sqrt() / n as f64;
    let largest = tasks.iter().map(|t| t.first).fold(0.0, f64::max);
    let head =
        if middle <= CUT * largest { 0.0 } else { params.number("head_ratio") * agreement * norm / middle / n as f64 };
    let parts = all.iter().map(|i| {
        let (v, rest) = (&tasks[*i].right, if size(*i) > 0.0 { factors[*i] } else { 0.0 });
        let by = Mat::from_fn(short, short, |r, c| {
            f64::from(u8::from(r == c)) * rest + (head - rest) * v[(r, 0)] * v[(c, 0)]
        });
        (stack.model(*i), Some(by))
    });
    Ok((Mix::sum(parts.collect()), found))
}
