//! The weighted spherical mean of any number of models.

use super::{Blend, Gram, SPEC, Vectors, ZERO};
use crate::methods::{ANY, Base, Default, Kernel, Kind, Method, Parameter, Params, Spec, WEIGHT, adds_up, normalised};

pub(in crate::methods) struct Multislerp;

impl Multislerp {
    /// The weights as they are used.
    fn weights(&self, params: &Params) -> Result<Vec<f64>, String> {
        let weights = params.numbers("weight");
        if params.switch("normalize_weights") { normalised(weights, "normalize_weights") } else { Ok(weights) }
    }
}

static MULTISLERP: Spec = Spec {
    name: "multislerp",
    summary: "weighted spherical mean of models, or of their changes from a base",
    formula: "the normalised sum of w_i u_i / |u_i|, times the weighted mean of |u_i|; u = x or x - base",
    paper: "as in mergekit, in closed form: its tangent step starts at the mean, where it is zero",
    departs: "without the 1e-8 that mergekit adds to norms",
    parameters: &[
        WEIGHT,
        Parameter::shared("normalize_weights", "divide the weights by their sum", Kind::Switch, Default::Switch(true)),
        Parameter::shared("eps", "accepted for mergekit's sake; not needed", ANY, Default::Number(1e-8)),
    ],
    base: Base::Optional,
    ..SPEC
};

impl Method for Multislerp {
    fn spec(&self) -> &Spec {
        &MULTISLERP
    }

    fn identity(&self, params: &Params) -> bool {
        params.based || params.inputs == 1 || self.weights(params).is_ok_and(|weights| adds_up(&weights))
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let weights = self.weights(params)?;
        Blend::boxed(weights.len(), Vectors::Tensor, move |gram| multislerp(gram, &weights))
    }
}

/// The normalised weighted mean of the directions, at the weighted mean of the norms. The tangent step of the published
/// algorithm starts at that mean, where it is zero.
fn multislerp(gram: &Gram, weights: &[f64]) -> Result<Vec<f64>, String> {
    let n = gram.n;
    let norms: Vec<f64> = (0..n).map(|i| gram.norm(i)).collect();
    if n == 1 {
        return Ok(vec![1.0]);
    }
    if norms.iter().all(|n| *n == 0.0) {
        return Ok(vec![0.0; n]);
    }
    let length = gram.length(weights, &(0..n).collect::<Vec<_>>());
    if length < ZERO {
        return match n {
            2 => Ok(weights.to_vec()),
            _ => Err("the weighted directions of the models cancel; change the weights, or use linear".into()),
        };
    }
    let size: f64 = weights.iter().zip(&norms).map(|(w, n)| w * n).sum();
    Ok(weights.iter().zip(&norms).map(|(w, n)| if *n == 0.0 { 0.0 } else { w / n * size / length }).collect())
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::gram;
    use super::*;

    #[test]
    fn cancelling_directions_are_an_error_only_for_three() {
        let three = gram(&[vec![1.0, 0.0], vec![-1.0, 0.0], vec![0.0, 0.0]]);
        assert!(multislerp(&three, &[0.5, 0.5, 0.0]).is_err());
        let two = gram(&[vec![1.0, 0.0], vec![-1.0, 0.0]]);
        assert_eq!(multislerp(&two, &[0.5, 0.5]).unwrap(), vec![0.5, 0.5]);
    }
}
