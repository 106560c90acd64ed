//! PCB: balance the competition between parameters within a model and between models, over the whole model.

use super::{
    ANY, Base, Class, Cost, Default, Kernel, Kind, LAMBDA, Method, Parameter, Params, SHARE, Scope, Spec, Stats, Tile,
    Totals, Wants, elements, of_tile,
};
use crate::kernels::arith::moved;
use crate::kernels::reduce::BLOCK;
use crate::kernels::scratch;
use crate::kernels::search::Search;

pub(super) struct Pcb;

static SPEC: Spec = Spec {
    name: "pcb",
    summary: "keep the changes that are large in their model and in step with the others, weighted by how much so",
    formula: "base + lambda sum_i w_i c_i S_i / sum_i S_i; c = d clipped to its quantiles, S = top ratio of exp(N minmax(|c_i|)^2) \
              tanh(d_i sum_j d_j), scaled to 0..1",
    paper: "Du et al., Parameter competition balancing (PCB-Merging), arXiv 2410.02396",
    departs: "not in mergekit",
    parameters: &[
        Parameter::each("weight", "weight of the model's change", ANY, Default::Number(1.0)).late(),
        Parameter::shared("ratio", "share of the scores that is kept, above 0", SHARE, Default::Number(0.1)),
        Parameter::shared(
            "clip",
            "share of the smallest and of the largest changes that is clipped",
            Kind::Number { min: 0.0, max: 0.49 },
            Default::Number(1e-4),
        ),
        LAMBDA,
        Parameter::shared(
            "scope",
            "what quantiles and scores are taken over; the paper has the model",
            Kind::Choice { words: &["model", "tensor"] },
            Default::Word("model"),
        ),
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Model,
    reads: 5,
    homogeneous: false,
};

impl Method for Pcb {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn scope(&self, params: &Params) -> Scope {
        if params.word("scope") == "model" { Scope::Model } else { Scope::Tensor }
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (ratio, clip) = (params.number("ratio"), params.number("clip"));
        if ratio <= 0.0 {
            return Err("ratio must be above 0".into());
        }
        let d = elements(shape);
        // From a place in the ascending order to one from the top.
        let from_top = |place: f64| d.saturating_sub(place.max(0.0) as u64).max(1).min(d);
        let of = d as f64;
        let each = |keep: [u64; 2]| Search::values(&vec![keep.to_vec(); params.inputs]);
        let own = |weight: &f64| Model { weight: *weight, limits: [0.0; 2], scores: [0.0; 2] };
        Ok(Box::new(Bound {
            models: params.numbers("weight").iter().map(own).collect(),
            lambda: params.number("lambda"),
            limits: each([from_top(of * clip), from_top(of * (1.0 - clip) - 1.0)]),
            scores: each([from_top(of * (1.0 - ratio)), d.min(1)]),
        }))
    }
}

#[derive(Clone)]
struct Model {
    weight: f64,
    /// Least and largest size of a change after clipping.
    limits: [f32; 2],
    /// The least score that is kept, and the largest.
    scores: [f32; 2],
}

#[derive(Clone)]
struct Bound {
    models: Vec<Model>,
    lambda: f64,
    /// First the limits of every model are searched for, then, by them, its scores.
    limits: Search,
    scores: Search,
}

/// tanh, in a form that vectorises for the tiny products that changes have.
fn tanh(z: f64) -> f64 {
    if z.abs() < 1e-3 { z * (1.0 - z * z / 3.0) } else { z.tanh() }
}

/// Bits of 2^-96. From there to 2^32, past which no score of up to 22 models comes, lie 2^30 numbers.
const LEAST: u32 = (127 - 96) << 23;
const ZERO: u32 = 1 << 30;

/// A number whose magnitude orders as `score` does, negative ones below positive. Scores below 2^-96 count as zero.
fn key(score: f32) -> f32 {
    let size = (score.to_bits() & 0x7fff_ffff).saturating_sub(LEAST - 1).min(ZERO - 1);
    f32::from_bits(if score < 0.0 { ZERO - size } else { ZERO + size })
}

/// The score that [`key`] made a key of.
fn signed(key: f32) -> f32 {
    let ordered = key.to_bits();
    let size = ordered.abs_diff(ZERO);
    let score = f32::from_bits(if size == 0 { 0 } else { size + LEAST - 1 });
    if ordered < ZERO { -score } else { score }
}

impl Model {
    /// The clipped size of a change.
    fn size(&self, d: f32) -> f32 {
        d.abs().min(self.limits[1]).max(self.limits[0])
    }

    /// The score of change `d` where the changes of all `n` models add up to `sum`; below 0 if it is against them.
    fn score(&self, d: f32, sum: f64, n: f64) -> f32 {
        let (low, high) = (f64::from(self.limits[0]), f64::from(self.limits[1]));
        let place = if high > low { (f64::from(self.size(d)) - low) / (high - low) } else { 0.0 };
        ((n * place * place).exp() * tanh(f64::from(d) * sum)) as f32
    }

    /// A score between the least that is kept and the largest, as a share of the way.
    fn share(&self, score: f32) -> f64 {
        let [low, high] = self.scores.map(f64::from);
        if high > low { ((f64::from(score) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 }
    }
}

impl Bound {
    fn sum(tile: &Tile, base: &[f32], e: usize) -> f64 {
        tile.inputs.iter().map(|x| f64::from(x[e] - base[e])).sum()
    }

    /// The search that is under way, or else the last one.
    fn search(&self) -> &Search {
        if self.limits.wants().is_some() { &self.limits } else { &self.scores }
    }
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        let slots = 2 * self.models.len();
        let wants = Wants { sums: 0, histograms: slots, ranks: slots, ..Wants::default() };
        Cost { reads: 5, scratch: of_tile(4, 1), wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        Wants::of(self.search())
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let Some(base) = tile.base else { return };
        let n = self.models.len() as f64;
        let limits = self.limits.wants().is_some();
        for at in (0..base.len()).step_by(BLOCK) {
            let block = at..(at + BLOCK).min(base.len());
            let mut values = scratch::values(block.len());
            for (i, (model, x)) in self.models.iter().zip(tile.inputs).enumerate() {
                for (v, e) in values.iter_mut().zip(block.clone()) {
                    let change = x[e] - base[e];
                    *v = if limits { change } else { key(model.score(change, Self::sum(tile, base, e), n)) };
                }
                self.search().scan(i, &values, stats.into());
            }
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        let limits = self.limits.wants().is_some();
        let search = if limits { &mut self.limits } else { &mut self.scores };
        search.take(&totals.counts, &totals.ranks, &mut []);
        for (i, model) in self.models.iter_mut().enumerate() {
            let [a, b] = search.group(i) else { continue };
            if limits {
                model.limits = [a.value(), b.value()];
            } else {
                model.scores = [a, b].map(|s| signed(s.value()));
            }
        }
        Ok(())
    }

    fn on(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let mut own = self.clone();
        own.lambda = params.number("lambda");
        own.models.iter_mut().zip(params.numbers("weight")).for_each(|(m, w)| m.weight = w);
        Ok(Box::new(own))
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        let Some(base) = tile.base else { return };
        let n = self.models.len() as f64;
        for (e, o) in out.iter_mut().enumerate() {
            let sum = Self::sum(tile, base, e);
            let (mut merged, mut total) = (sum * 0.0, 0.0);
            for (model, x) in self.models.iter().zip(tile.inputs) {
                let d = x[e] - base[e];
                let share = model.share(model.score(d, sum, n));
                let size = if d == 0.0 { 0.0 } else { model.size(d).copysign(d) };
                merged += model.weight * f64::from(size) * share;
                total += share;
            }
            let change = self.lambda * merged / total.max(1e-12);
            *o = moved(base[e], change);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_as_scores_do() {
        let scores = [-7e8, -3.0, -1e-20, -0.0, 0.0, 1e-40, 1e-20, 0.5, 0.500_000_06, 3.0, 3e9];
        assert!(scores.windows(2).all(|p| key(p[0]).to_bits() <= key(p[1]).to_bits()));
        assert!(scores.iter().all(|s| signed(key(*s)) == if s.abs() < 1e-29 { 0.0 } else { *s }));
    }
}
