//! Methods that cut the spectrum of every task by itself.

use super::stack::{Mix, Of, Stack};
use super::tsvm::Leading;
use super::{Made, SLACK};
use crate::methods::Params;

/// The fewest singular values whose sum is that share of the sum of all.
fn kept_rank(singular: &[f64], share: f64) -> usize {
    let all: f64 = singular.iter().sum();
    if share >= 1.0 {
        return singular.len();
    }
    let mut sum = 0.0;
    let reached = singular.iter().position(|s| {
        sum += s;
        sum >= share * all * (1.0 - SLACK)
    });
    reached.map_or(singular.len(), |i| i + 1)
}

/// STAR: every task cut to the rank that holds `eta` percent of its nuclear norm, and rescaled to that norm.
pub fn star(stack: &mut Stack, params: &Params) -> Made {
    let (models, eta) = (stack.models(), params.number("eta"));
    let factor = if params.word("reduce") == "sum" { 1.0 } else { 1.0 / models as f64 };
    let (mut parts, mut found) = (Vec::new(), Vec::new());
    for i in 0..models {
        let of = stack.model(i);
        let eigen = stack.eigen(of.clone())?;
        let singular = eigen.singular();
        let all: f64 = singular.iter().sum();
        if all == 0.0 {
            continue;
        }
        let k = kept_rank(&singular, eta / 100.0);
        let scale = all / singular[..k].iter().sum::<f64>();
        found.push((format!("rank_{}", i + 1), k as f64));
        found.push((format!("scale_{}", i + 1), scale));
        if k == singular.len() {
            parts.push((of.iter().map(|c| c * factor).collect(), None));
        } else {
            parts.push((of, Some(Leading::of(&eigen, k, 0.0).onto(scale * factor))));
        }
    }
    Ok((if parts.is_empty() { Mix::nothing() } else { Mix::sum(parts) }, found))
}

/// CART: the mean of the tasks, and of what each has beside it the leading directions.
pub fn cart(stack: &mut Stack, params: &Params) -> Made {
    let (models, short, ratio) = (stack.models(), stack.short(), params.number("rank_ratio"));
    let mean: Of = stack.sum(1.0 / models as f64);
    let mut parts = vec![(mean.clone(), None)];
    let mut found = Vec::new();
    let k = ((ratio * short as f64) as usize).clamp(1, short);
    for i in (0..models).filter(|_| ratio > 0.0 && k < short) {
        let of: Of = stack.model(i).iter().zip(&mean).map(|(own, mean)| own - mean).collect();
        let eigen = stack.eigen(of.clone())?;
        let own = Leading::of(&eigen, k, 0.0);
        if !own.values.is_empty() {
            found.push((format!("energy_{}", i + 1), own.energy));
            parts.push((of, Some(own.onto(params.number("scale")))));
        }
    }
    Ok((Mix::sum(parts), found))
}
