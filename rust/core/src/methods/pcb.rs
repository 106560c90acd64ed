//! PCB: balance the competition between parameters within a model and between models, over the whole model.

use std::ops::Range;

use super::{
    ANY, Base, Class, Cost, Default, Kernel, Kind, LAMBDA, LARV, Method, Parameter, Params, SHARE, Scope, Spec, Stats,
    Tile, Totals, Wants, elements, of_tile,
};
use crate::kernels::arith::moved;
use crate::kernels::isa::vectorised;
use crate::kernels::reduce::BLOCK;
use crate::kernels::search::Search;
use crate::kernels::{exp, scratch};

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
        LARV,
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
        let each = |keep: [u64; 2]| Search::values(&vec![keep.to_vec(); params.inputs]).sampled(d);
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

/// Below it tanh is [`near_zero`].
const NEAR: f64 = 1e-3;

/// tanh, in a form that vectorises for the tiny products that changes have.
fn tanh(z: f64) -> f64 {
    if z.abs() < NEAR { near_zero(z) } else { z.tanh() }
}

#[inline(always)]
fn near_zero(z: f64) -> f64 {
    z * (1.0 - z * z / 3.0)
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
}

/// The changes of a block, model after model, and their sums.
struct Block {
    changes: scratch::Scratch,
    sums: [f64; BLOCK],
    len: usize,
}

impl Block {
    fn new(tile: &Tile, place: Range<usize>) -> Self {
        let len = place.len();
        let (mut changes, mut sums) = (scratch::values(len * tile.inputs.len()), [-0.0; BLOCK]);
        for (i, own) in changes.chunks_exact_mut(len).enumerate() {
            tile.change(i, place.clone(), own);
            add(own, &mut sums[..len]);
        }
        Self { changes, sums, len }
    }

    fn changes(&self) -> impl Iterator<Item = &[f32]> {
        self.changes.chunks_exact(self.len)
    }

    /// The scores of a model whose changes these are.
    fn scores(&self, model: &Model, changes: &[f32], n: f64, out: &mut [f32]) {
        let sums = &self.sums[..self.len];
        if scores(model.limits, changes, sums, n, out) {
            for ((out, d), sum) in out.iter_mut().zip(changes).zip(sums).filter(|((out, _), _)| out.is_nan()) {
                *out = model.score(*d, *sum, n);
            }
        }
    }
}

vectorised! {
    fn add(changes: &[f32], sums: &mut [f64]) {
        for (sum, d) in sums.iter_mut().zip(changes) {
            *sum += f64::from(*d);
        }
    }
}

vectorised! {
    /// The scores of changes, NaN where they have to be computed singly; whether there are such. With the C library's exponential for
    /// each, and no sample before the searches, `pcb` took 25.6 s of CPU instead of 8.1 (0.34 GB a model).
    fn scores(limits: [f32; 2], changes: &[f32], sums: &[f64], n: f64, out: &mut [f32]) -> bool {
        let [least, most] = limits;
        let (low, high) = (f64::from(least), f64::from(most));
        let mut open = 0u32;
        for ((out, d), sum) in out.iter_mut().zip(changes).zip(sums) {
            let size = d.abs().min(most).max(least);
            let place = if high > low { (f64::from(size) - low) / (high - low) } else { 0.0 };
            let (z, power) = (f64::from(*d) * sum, n * place * place);
            let near = (z.abs() < NEAR) & (power <= exp::MOST);
            let score = exp::certain(exp::exp(power) * near_zero(z));
            *out = if near { score } else { f32::NAN };
            open |= u32::from(out.is_nan());
        }
        open != 0
    }
}

vectorised! {
    /// Adds a model's part to what is merged and to the sum of the shares.
    fn merge(model: &Model, changes: &[f32], scores: &[f32], merged: &mut [f64], total: &mut [f64]) {
        let [least, most] = model.limits;
        let [low, high] = model.scores.map(f64::from);
        let weight = model.weight;
        for (((merged, total), d), score) in merged.iter_mut().zip(total).zip(changes).zip(scores) {
            let share = if high > low { ((f64::from(*score) - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
            let size = if *d == 0.0 { 0.0 } else { d.abs().min(most).max(least).copysign(*d) };
            *merged += weight * f64::from(size) * share;
            *total += share;
        }
    }
}

impl Bound {
    /// The search that is under way, or else the last one.
    fn search(&self) -> &Search {
        if self.limits.wants().is_some() { &self.limits } else { &self.scores }
    }
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        // One after the other they search, for as many.
        let wants = Wants::from(self.limits.most());
        let reads = 1 + self.limits.scans() + self.scores.scans();
        // The changes of a block and a model's scores.
        Cost { reads, scratch: of_tile(4 * (self.models.len() + 1), 1), wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        Wants::of(self.search())
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let Some(base) = tile.base else { return };
        let n = self.models.len() as f64;
        let limits = self.limits.wants().is_some();
        for at in (0..base.len()).step_by(BLOCK) {
            let block = Block::new(tile, at..(at + BLOCK).min(base.len()));
            let mut keys = scratch::values(block.len);
            for (i, (model, changes)) in self.models.iter().zip(block.changes()).enumerate() {
                if !self.search().looks_at(i) {
                    continue;
                }
                if limits {
                    self.search().scan(i, changes, stats.into());
                    continue;
                }
                block.scores(model, changes, n, &mut keys);
                keys.iter_mut().for_each(|score| *score = key(*score));
                self.search().scan(i, &keys, stats.into());
            }
        }
    }

    fn take(&mut self, mut totals: Totals) -> Result<(), String> {
        let limits = self.limits.wants().is_some();
        let search = if limits { &mut self.limits } else { &mut self.scores };
        search.take(&totals.counts, &totals.ranks, &mut totals.lists);
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
        for at in (0..base.len()).step_by(BLOCK) {
            let place = at..(at + BLOCK).min(base.len());
            let block = Block::new(tile, place.clone());
            let mut scores = scratch::values(block.len);
            // A NaN in any model stays one.
            let (mut merged, mut total) = (block.sums.map(|sum| sum * 0.0), [0.0; BLOCK]);
            for (model, changes) in self.models.iter().zip(block.changes()) {
                block.scores(model, changes, n, &mut scores);
                merge(model, changes, &scores, &mut merged[..block.len], &mut total[..block.len]);
            }
            for (((o, b), merged), total) in out[place.clone()].iter_mut().zip(&base[place]).zip(merged).zip(total) {
                *o = moved(*b, self.lambda * merged / total.max(1e-12));
            }
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
