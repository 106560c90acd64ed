//! The Riemannian mean of models on the sphere.

use super::{Blend, Gram, SPEC, Vectors};
use crate::methods::{Base, Default, Kernel, Kind, Method, POSITIVE, Parameter, Params, Spec};

pub(in crate::methods) struct Karcher;

static KARCHER: Spec = Spec {
    name: "karcher",
    summary: "the Riemannian (Karcher) mean of models on the sphere",
    formula: "the direction with the least sum of squared angles to all x_i, at their mean norm",
    paper: "Karcher, Riemannian center of mass, 1977; as in mergekit",
    departs: "iterates on coefficients of the Gram matrix in f64, so that no tensor is held in memory; tensors of a small norm \
              have a direction like any other (mergekit drops those below tol)",
    parameters: &[
        Parameter::shared("max_iter", "most steps", Kind::Integer { min: 0, max: 10_000 }, Default::Number(10.0)),
        Parameter::shared("tol", "length of a step and angle that count as zero", POSITIVE, Default::Number(1e-5)),
    ],
    base: Base::Input,
    ..SPEC
};

impl Method for Karcher {
    fn spec(&self) -> &Spec {
        &KARCHER
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (most, tolerance) = (params.integer("max_iter"), params.number("tol"));
        Blend::boxed(params.inputs, Vectors::Tensor, move |gram| Ok(karcher(gram, most, tolerance)))
    }
}

/// The Riemannian (Karcher) mean of the directions, found in the space of coefficients, at the mean of the norms.
fn karcher(gram: &Gram, most: u64, tolerance: f64) -> Vec<f64> {
    let n = gram.n;
    if n == 1 {
        return vec![1.0];
    }
    let live: Vec<usize> = (0..n).filter(|i| gram.norm(*i) != 0.0).collect();
    if live.is_empty() {
        return vec![0.0; n];
    }
    let share = 1.0 / live.len() as f64;
    let length = |v: &[f64]| gram.length(v, &live);
    let mut mean = vec![0.0; n];
    live.iter().for_each(|i| mean[*i] = share);
    let size = length(&mean);
    if size == 0.0 || size < tolerance {
        mean.fill(0.0);
        mean[live[0]] = 1.0;
    } else {
        mean.iter_mut().for_each(|m| *m /= size);
    }
    for _ in 0..most {
        let mut tangent = vec![0.0; n];
        for i in &live {
            let cosine = live.iter().map(|j| mean[*j] * gram.unit(*i, *j)).sum::<f64>().clamp(-1.0, 1.0);
            let angle = cosine.acos();
            // What coincides with the mean or lies opposite has no direction from it.
            if angle == 0.0 || angle < tolerance || angle > std::f64::consts::PI - tolerance {
                continue;
            }
            let scale = share * angle / angle.sin();
            tangent[*i] += scale;
            tangent.iter_mut().zip(&mean).for_each(|(t, m)| *t -= scale * cosine * m);
        }
        let step = length(&tangent);
        if step == 0.0 || step < tolerance {
            break;
        }
        mean.iter_mut().zip(&tangent).for_each(|(m, t)| *m = step.cos() * *m + step.sin() * t / step);
        let size = length(&mean);
        mean.iter_mut().for_each(|m| *m /= size);
    }
    // The mean norm is over all models, also those too small to have a direction.
    let size = (0..n).map(|i| gram.norm(i)).sum::<f64>() / n as f64;
    mean.iter().enumerate().map(|(i, m)| if *m == 0.0 { 0.0 } else { size * m / gram.norm(i) }).collect()
}
