//! VaRM: weigh models by how much they changed, at a chosen granularity.

use super::{
    Base, Class, Cost, Default, Kernel, Kind, LARV, Method, Parameter, Params, Scope, Spec, Stats, Tile, Totals, Wants,
    of_tile,
};
use crate::kernels::arith::{moved, of_changes, weighted};
use crate::kernels::reduce::{self, BLOCK};
use crate::kernels::{arith, scratch};

pub(super) struct Varm;

static SPEC: Spec = Spec {
    name: "varm",
    summary: "average models weighted by their squared changes, at the granularity asked for",
    formula: "base + sum_i w_i d_i, w_i ~ mean d_i^2 over the element, tensor, module, layer or model",
    paper: "Wan et al., FuseChat (VaRM), arXiv 2402.16107",
    departs: "not in mergekit; a model that changed nothing has weight 0, and only if none changed anything are weights even \
              (the published code: even as soon as one did not change)",
    parameters: &[
        Parameter::shared(
            "granularity",
            "what a weight is for; outside the layers `module` goes by tensor and `layer` has even weights",
            Kind::Choice { words: &["param", "item", "module", "layer", "model"] },
            Default::Word("param"),
        ),
        LARV,
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Model,
    reads: 2,
    homogeneous: true,
};

impl Method for Varm {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn scope(&self, params: &Params) -> Scope {
        match params.word("granularity") {
            "model" => Scope::Model,
            "layer" => Scope::Layer,
            "module" => Scope::Module,
            _ => Scope::Tensor,
        }
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let n = params.inputs;
        let granularity = params.word("granularity");
        let even = granularity == "layer" && !params.layered;
        Ok(Box::new(Bound {
            n,
            by_element: granularity == "item",
            // In a layer or module every tensor counts by its mean, in the model every element alike.
            by_tensor: granularity == "layer" || granularity == "module",
            weights: even.then(|| vec![1.0 / n as f64; n]),
        }))
    }
}

#[derive(Clone)]
struct Bound {
    n: usize,
    by_element: bool,
    by_tensor: bool,
    weights: Option<Vec<f64>>,
}

fn shares(squares: &[f64]) -> Vec<f64> {
    let sum: f64 = squares.iter().sum();
    squares.iter().map(|s| if sum == 0.0 { 1.0 / squares.len() as f64 } else { s / sum }).collect()
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        let sums = if self.by_element { 0 } else { self.n };
        let wants = Wants { sums, ..Wants::default() };
        Cost { reads: 1 + usize::from(sums > 0), scratch: of_tile(4, 1), wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        (!self.by_element && self.weights.is_none()).then_some(self.cost().wants)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let Some(base) = tile.base else { return };
        let count = if self.by_tensor { tile.of as f64 } else { 1.0 };
        for at in (0..base.len()).step_by(BLOCK) {
            let block = at..(at + BLOCK).min(base.len());
            let mut change = scratch::values(block.len());
            for (x, total) in tile.inputs.iter().zip(&mut stats.sums) {
                let mut sum = 0.0;
                arith::sub(&x[block.clone()], &base[block.clone()], &mut change);
                reduce::dot(&change, &change, &mut sum);
                *total += sum / count;
            }
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        self.weights = Some(shares(&totals.sums));
        Ok(())
    }

    fn on(&self, _params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(self.clone()))
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        let Some(base) = tile.base else { return };
        match &self.weights {
            Some(weights) => {
                of_changes(base, tile.inputs, weights, out, |b, changes, weights| moved(b, weighted(weights, changes)));
            }
            None => of_changes(base, tile.inputs, &[], out, |b, changes, _| {
                let sum: f64 = changes.iter().map(|d| d * d).sum();
                // If none has changed there is nothing to share.
                let merged = changes.iter().map(|d| d * d / if sum == 0.0 { 1.0 } else { sum } * d).sum();
                moved(b, merged)
            }),
        }
    }
}
