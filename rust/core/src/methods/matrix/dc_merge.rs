//! DC-Merge: in the space that the leading directions of all tasks span, the largest entries of each, as far as their signs agree.

use faer::Mat;

use super::stack::{Mix, Stack};
use super::tsvm::{Frame, beside, kept, leading, lefts, share};
use super::{CUT, Made, SLACK};
use crate::kernels::linalg::product;
use crate::methods::Params;

/// Sets to zero what is below the k-th magnitude (in rows and columns all entries of a task are equal in pairs: those near it stay), and what is rounding beside the largest, or it would vote on signs.
fn keep_largest(entries: &mut Mat<f64>, fraction: f64) {
    let mut sizes: Vec<f64> = entries.col_iter().flat_map(|c| c.iter()).map(|v| v.abs()).collect();
    let k = if fraction >= 1.0 { sizes.len() } else { ((fraction * sizes.len() as f64) as usize).max(1) };
    let largest = sizes.iter().copied().fold(0.0, f64::max);
    let (_, kth, _) = sizes.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a));
    let threshold = (*kth * (1.0 - SLACK)).max(CUT * largest);
    for column in entries.col_iter_mut() {
        column.iter_mut().filter(|v| v.abs() < threshold).for_each(|v| *v = 0.0);
    }
}

/// The merged change.
pub fn dc_merge(stack: &mut Stack, params: &Params) -> Made {
    let sets = leading(stack, &vec![share(stack); stack.models()], CUT)?;
    let mut found = kept(&sets);
    let width: usize = sets.iter().map(|s| s.values.len()).sum();
    if width == 0 {
        return Ok((Mix::nothing(), found));
    }
    let terms = lefts(stack, &sets);
    let frame = Frame::new(stack, terms, beside(sets.iter().map(|s| &s.right)), CUT)?;
    // Each task in that space: left root, its part of Uᵀ U, its values, its part of Vᵀ V, right root.
    let left = product(frame.left.as_ref(), frame.left_gram.as_ref());
    let right = product(frame.right_gram.as_ref(), frame.right_root.as_ref());
    let (mut sum, mut votes) = (Mat::<f64>::zeros(width, width), Vec::new());
    let mut at = 0;
    for set in &sets {
        let own = at..at + set.values.len();
        at = own.end;
        let scaled = Mat::from_fn(width, own.len(), |r, c| left[(r, own.start + c)] * set.values[c]);
        let mut entries = product(scaled.as_ref(), right.subrows(own.start, own.len()));
        if !own.is_empty() {
            keep_largest(&mut entries, params.number("k_frac"));
        }
        sum += &entries;
        votes.push((own, entries));
    }
    let agreed = |r: usize, c: usize| {
        let agree = votes.iter().map(|(_, e)| e[(r, c)]).filter(|v| *v != 0.0 && (*v > 0.0) == (sum[(r, c)] > 0.0));
        let (total, count) = agree.fold((0.0, 0.0), |(total, count), v| (total + v, count + 1.0));
        if sum[(r, c)] == 0.0 || count == 0.0 { 0.0 } else { total / count }
    };
    let together = |r: usize, c: usize| votes.iter().any(|(own, _)| own.contains(&r) && own.contains(&c));
    let middle = Mat::from_fn(width, width, |r, c| if together(r, c) { agreed(r, c) } else { 0.0 });
    let entries = middle.col_iter().flat_map(|c| c.iter()).filter(|v| **v != 0.0).count();
    found.push(("entries".to_owned(), entries as f64));
    Ok((frame.around(&middle), found))
}
