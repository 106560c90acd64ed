//! WUDI-Merging: the change that does to every task's inputs what the task's own does, as far as its change tells what they are.
//!
//! With `C = sum_i T_iᵀ T_i / |T_i|²` and `D = sum_i T_i T_iᵀ T_i / |T_i|²` the answer is `X = D C⁺`. Of a matrix that is wider than it is
//! tall `C` would be as large as the longer side; there `Xᵀ = B (Bᵀ B)⁺ S`, with `B = [T_1ᵀ/|T_1| | ..]` and `S` the blocks `T_i T_iᵀ/|T_i|`
//! one under the other.

use faer::Mat;

use super::stack::{Mix, Of, Part, Stack, Term};
use super::{CUT, Found, Made, SLACK};
use crate::kernels::linalg::{Eigen, product, trace};
use crate::methods::Params;

/// What becomes of a direction in which the inputs have the share `value` of all: how much of the start is taken away, and how
/// much of what the tasks do is put in its place.
type Filter<'f> = &'f dyn Fn(usize, f64) -> f64;

/// What is held at most; see [`super::Matrix`].
pub fn most(models: u64, wide: bool) -> (u64, u64) {
    if wide { (3 * models * models + 7 * models, models) } else { (6 + 2 * models, 1) }
}

/// The solution of least norm.
pub fn wudi(stack: &mut Stack, _params: &Params) -> Made {
    solve(stack, None, &|_, _| 1.0, CUT)
}

/// Its spectrally filtered form: from a start, as far along every direction as `time` allows.
pub fn swudi(stack: &mut Stack, params: &Params) -> Made {
    let (time, floor, ratio) = (params.number("time"), params.number("floor"), params.number("rank_ratio"));
    // Of all columns as they are stored, of which a matrix taken transposed has as many as it is long.
    let columns = if stack.is_tall() { stack.short() } else { stack.long() };
    let kept = ((ratio * columns as f64 - SLACK).ceil() as usize).clamp(1, columns);
    let factor = if params.word("start") == "sum" { 1.0 } else { 1.0 / stack.models() as f64 };
    solve(stack, Some(factor), &|i, value| if i < kept { -(-value.max(floor) * time).exp_m1() } else { 0.0 }, 0.0)
}

fn solve(stack: &mut Stack, start: Option<f64>, filter: Filter, cut: f64) -> Made {
    let mut grams: Vec<(Of, Mat<f64>, f64)> = Vec::new();
    for i in 0..stack.models() {
        let of = stack.model(i);
        let gram = stack.gram(of.clone())?;
        let square = trace(&gram);
        if square > 0.0 {
            grams.push((of, gram, square));
        }
    }
    if grams.is_empty() {
        return Ok((Mix::nothing(), Vec::new()));
    }
    if stack.is_tall() { tall(stack, grams, start, filter, cut) } else { wide(stack, grams, start, filter, cut) }
}

/// How many directions count, and what is found of them.
fn told(eigen: &Eigen, cut: f64) -> (Vec<f64>, Found) {
    let singular = eigen.singular();
    let least = eigen.largest() * cut;
    let values: Vec<f64> = singular.iter().take_while(|s| **s > 0.0 && **s >= least).map(|s| s * s).collect();
    let condition = values[0] / values[values.len() - 1];
    let found = vec![("rank".to_owned(), values.len() as f64), ("condition".to_owned(), condition)];
    (values, found)
}

fn scaled(vectors: &Mat<f64>, count: usize, factor: impl Fn(usize) -> f64) -> Mat<f64> {
    Mat::from_fn(vectors.nrows(), count, |i, j| vectors[(i, j)] * factor(j))
}

fn tall(stack: &Stack, grams: Vec<(Of, Mat<f64>, f64)>, start: Option<f64>, filter: Filter, cut: f64) -> Made {
    let n = stack.short();
    let mut all = Mat::<f64>::zeros(n, n);
    grams.iter().for_each(|(_, gram, square)| all += gram * (1.0 / square));
    let eigen = Eigen::of(all.as_ref())?;
    let (values, found) = told(&eigen, cut);
    let vectors = &eigen.vectors;
    let f = |i: usize| filter(i, values[i]);
    // As the start has it floored, a value that is none does nothing: the tasks do nothing there either.
    let plain = vectors.subcols(0, values.len());
    let onto = product(scaled(vectors, values.len(), |i| f(i) / values[i]).as_ref(), plain.transpose());
    let mut parts: Vec<Part> = grams
        .iter()
        .map(|(of, gram, square)| (of.clone(), Some(product(gram.as_ref(), onto.as_ref()) * (1.0 / square))))
        .collect();
    if let Some(factor) = start {
        let gone = product(scaled(vectors, values.len(), f).as_ref(), plain.transpose());
        parts.push((stack.sum(factor), Some(Mat::<f64>::identity(n, n) - gone)));
    }
    Ok((Mix::sum(parts), found))
}

fn wide(stack: &mut Stack, grams: Vec<(Of, Mat<f64>, f64)>, start: Option<f64>, filter: Filter, cut: f64) -> Made {
    let short = stack.short();
    let terms: Vec<Term> =
        grams.iter().map(|(of, _, square)| Term::plain(of.iter().map(|c| c / square.sqrt()).collect())).collect();
    let joint = stack.joint(&terms)?;
    let eigen = Eigen::of(joint.as_ref())?;
    let (values, found) = told(&eigen, cut);
    let width = joint.nrows();
    // `S`, and the start as a mix of `B`'s columns.
    let mut under = Mat::<f64>::zeros(width, short);
    let mut first = Mat::<f64>::zeros(width, short);
    for (i, (_, gram, square)) in grams.iter().enumerate() {
        let at = i * short;
        for c in 0..short {
            for r in 0..short {
                under[(at + r, c)] = gram[(r, c)] / square.sqrt();
            }
            first[(at + c, c)] = start.unwrap_or(0.0) * square.sqrt();
        }
    }
    let vectors = &eigen.vectors;
    let f = |i: usize| filter(i, values[i]);
    let plain = vectors.subcols(0, values.len());
    let towards = product(plain.transpose(), under.as_ref());
    let mut again = product(scaled(vectors, values.len(), |i| f(i) / values[i]).as_ref(), towards.as_ref());
    if start.is_some() {
        let seen = product(plain.transpose(), first.as_ref());
        again += &first - product(scaled(vectors, values.len(), f).as_ref(), seen.as_ref());
    }
    Ok((Mix::Of { terms, again: Some(again) }, found))
}
