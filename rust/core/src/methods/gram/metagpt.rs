//! MetaGPT: changes weighted by their size in the whole model.

use super::SPEC;
use super::blend::{combine, parts, with_changes};
use crate::kernels::reduce;
use crate::methods::{Class, Cost, Kernel, LARV, Method, Params, Scope, Spec, Stats, Tile, Totals, Wants, of_tile};

pub(in crate::methods) struct Metagpt;

static METAGPT: Spec = Spec {
    name: "metagpt",
    summary: "task arithmetic weighted by the size of each model's whole change",
    formula: "base + sum_i l_i d_i, l_i = |d_i|^2 / sum_j |d_j|^2 over all tensors",
    paper: "Zhou et al., MetaGPT, arXiv 2406.11385",
    departs: "not in mergekit",
    parameters: &[LARV],
    class: Class::Model,
    homogeneous: true,
    ..SPEC
};

impl Method for Metagpt {
    fn spec(&self) -> &Spec {
        &METAGPT
    }

    fn scope(&self, _params: &Params) -> Scope {
        Scope::Model
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Shares { n: params.inputs, found: None }))
    }
}

/// Each model's share of the sum of squared changes.
struct Shares {
    n: usize,
    found: Option<Vec<f64>>,
}

impl Kernel for Shares {
    fn cost(&self) -> Cost {
        let wants = Wants { sums: self.n, ..Wants::default() };
        Cost { reads: 2, scratch: of_tile(4 * self.n, 1), wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        self.found.is_none().then_some(self.cost().wants)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        for range in parts(tile.inputs[0].len(), reduce::BLOCK) {
            with_changes(tile, range, |changes| {
                for (d, sum) in changes.iter().zip(&mut stats.sums) {
                    reduce::dot(d, d, sum);
                }
            });
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        let sum: f64 = totals.sums.iter().sum();
        self.found = Some(totals.sums.iter().map(|s| if sum == 0.0 { 0.0 } else { s / sum }).collect());
        Ok(())
    }

    fn on(&self, _params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Self { n: self.n, found: self.found.clone() }))
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        if let Some(found) = &self.found {
            combine(tile, 0..out.len(), found, out);
        }
    }
}
