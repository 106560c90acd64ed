//! Model Stock: the average of fine-tunes, pulled to the base.

use super::{Blend, Gram, SPEC, Vectors};
use crate::methods::{Default, Kernel, Kind, LARV, Method, Parameter, Params, Spec, row};

pub(in crate::methods) struct ModelStock;

static STOCK: Spec = Spec {
    name: "model_stock",
    summary: "average of fine-tunes, pulled to the base as far as their changes disagree in direction",
    formula: "t mean(x) + (1-t) base, t = N c / (1 + (N-1) c), c = mean cosine of the changes",
    paper: "Jang et al., Model Stock, arXiv 2403.19522",
    departs: "cosines of small changes are exact (mergekit bounds the product of norms from below by 1e-6)",
    parameters: &[
        Parameter::shared(
            "filter_wise",
            "take each row by itself instead of the tensor",
            Kind::Switch,
            Default::Switch(false),
        ),
        LARV,
    ],
    inputs: (2, usize::MAX),
    homogeneous: true,
    ..SPEC
};

impl Method for ModelStock {
    fn spec(&self) -> &Spec {
        &STOCK
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let vectors = if params.switch("filter_wise") { Vectors::Row(row(shape)) } else { Vectors::Tensor };
        Blend::boxed(params.inputs, vectors, |gram| Ok(stock(gram)))
    }
}

fn stock(gram: &Gram) -> Vec<f64> {
    let n = gram.n;
    let pairs = (n * (n - 1) / 2) as f64;
    let cosine = (0..n).map(|i| (i + 1..n).map(|j| gram.cosine(i, j)).sum::<f64>()).sum::<f64>() / pairs;
    let divisor = 1.0 + (n as f64 - 1.0) * cosine;
    let t = if divisor.abs() < 1e-6 { 0.0 } else { n as f64 * cosine / divisor };
    vec![t / n as f64; n]
}

#[cfg(test)]
mod tests {
    use super::super::matrix::tests::gram;
    use super::*;

    /// Law: identical models give the model, orthogonal changes the base.
    #[test]
    fn stock_of_the_same_and_of_orthogonal() {
        let same = stock(&gram(&[vec![1.0, 2.0], vec![1.0, 2.0]]));
        assert!((same.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(stock(&gram(&[vec![1.0, 0.0], vec![0.0, 1.0]])), vec![0.0, 0.0]);
    }
}
