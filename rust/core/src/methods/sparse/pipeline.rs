//! The pipeline bound to a tensor, or to all tensors where the trimming is over the whole model.

use std::ops::Range;

use super::consensus::{Consensus, join};
use super::sparsify::{self, Chances};
use super::trims_model;
use crate::kernels::search::Search;
use crate::kernels::{arith, reduce, scratch};
use crate::methods::{Cost, Kernel, Params, Stats, Tile, Totals, Wants, elements, of_tile, row};
use crate::sizes::{BLOCK, TILE};

/// How a change is made sparse.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Sparsify {
    None,
    /// By order of magnitude over the tensor or more, which takes scans.
    Order,
    /// The same by row.
    RowOrder,
    Random,
    ByRank,
    Blocks,
}

impl Sparsify {
    /// Bytes of working memory for each element of what is thinned at a time.
    fn scratch(self) -> usize {
        match self {
            Self::None => 0,
            Self::Order | Self::Random => 4,
            Self::RowOrder => 8,
            // With the marks of what earlier models have kept.
            Self::Blocks => 12,
            Self::ByRank => 20,
        }
    }
}

/// What is restored of what was dropped.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Rescale {
    None,
    Density,
    L1,
    L2,
}

/// One model's part in the pipeline.
#[derive(Debug, Clone)]
struct Input {
    weight: f64,
    density: f64,
    sparsify: Sparsify,
    /// Of the ranks of a row.
    chances: Chances,
    /// Ranks of the descending order that are kept, of a tensor or a row.
    kept: Range<u64>,
    /// Rescaling of what is kept.
    factor: f32,
}

#[derive(Clone)]
pub struct Pipeline {
    inputs: Vec<Input>,
    /// For every input what is kept of the whole tensor: up to the end of [`Input::kept`], and up to its start if that is
    /// not 0.
    search: Search,
    /// Elements of a row or block, for ways of thinning that need all of one at once.
    unit: Option<u64>,
    block: u64,
    rescale: Rescale,
    consensus: Consensus,
    mean: bool,
    lambda: f64,
    /// True while norms are to be taken.
    norms: bool,
}

/// What thinning keeps from unit to unit and from model to model.
struct Marks<'m> {
    /// Elements equal to thresholds met so far; see [`Search::ranks`].
    ranks: &'m mut [u64],
    /// Elements of the unit that earlier models have kept.
    taken: &'m mut [f32],
}

impl Pipeline {
    pub fn new(params: &Params, shape: &[u64]) -> Result<Self, String> {
        let weights = params.numbers("weight");
        let densities = params.numbers("density");
        if let Some(d) = densities.iter().find(|d| **d <= 0.0) {
            return Err(format!(
                "density must be above 0, found {d}; to leave a model out, remove it or set its weight to 0"
            ));
        }
        let by_row = params.word("scope") == "row";
        let (gammas, epsilons) = (params.numbers("gamma"), params.numbers("epsilon"));
        let rescale = match params.word("rescale") {
            "density" => Rescale::Density,
            "l1" => Rescale::L1,
            "l2" => Rescale::L2,
            _ => Rescale::None,
        };
        let consensus = match params.word("consensus") {
            "sum" => Consensus::Sum,
            "count" => Consensus::Count,
            _ => Consensus::None,
        };
        let reduce = match (params.word("reduce"), params.switch("normalize")) {
            ("auto", true) if consensus == Consensus::None => "normalized",
            ("auto", true) => "mean",
            ("auto", false) => "sum",
            (reduce, _) => reduce,
        };
        let sum: f64 = weights.iter().sum();
        if reduce == "normalized" && sum.abs() < 1e-12 {
            return Err("the weights sum to zero; change them, or set `normalize: false`".into());
        }
        let n = if by_row { row(shape) } else { elements(shape) };
        // A tensor that fits a tile is one row, cut where it stands: histograms would take longer than its elements.
        let at_once = by_row || (n <= TILE as u64 && params.word("scope") == "tensor");
        let mut inputs = Vec::new();
        for (i, weight) in weights.iter().enumerate() {
            let density = densities[i];
            let sparsify = match params.word("sparsify") {
                "magnitude" if density >= 1.0 => Sparsify::None,
                "magnitude" | "breadcrumbs" if at_once => Sparsify::RowOrder,
                "magnitude" | "breadcrumbs" => Sparsify::Order,
                "random" if density < 1.0 => Sparsify::Random,
                "della" if density < 1.0 => Sparsify::ByRank,
                "cabs" => Sparsify::Blocks,
                _ => Sparsify::None,
            };
            if sparsify == Sparsify::ByRank && (density - epsilons[i] <= 0.0 || density + epsilons[i] >= 1.0) {
                return Err(format!(
                    "density {density} with epsilon {} gives probabilities outside (0, 1); bring epsilon below {:.4}",
                    epsilons[i],
                    density.min(1.0 - density)
                ));
            }
            let share = |s: f64| (s * n as f64) as u64;
            let kept = if params.word("sparsify") == "breadcrumbs" {
                let (keep, top) = (share(density), share(gammas[i]));
                let bottom = n.saturating_sub(keep + top);
                n - bottom - keep..n - bottom
            } else {
                0..share(density).max(1)
            };
            let divides = rescale == Rescale::Density && !matches!(sparsify, Sparsify::None | Sparsify::ByRank);
            inputs.push(Input {
                weight: *weight,
                density,
                sparsify,
                chances: Chances::new(row(shape), density, epsilons[i], rescale == Rescale::Density),
                kept,
                factor: if divides { (1.0 / density) as f32 } else { 1.0 },
            });
        }
        let unit = match () {
            () if inputs.iter().any(|i| i.sparsify == Sparsify::RowOrder) => Some(n.max(1)),
            () if inputs.iter().any(|i| i.sparsify == Sparsify::ByRank) => Some(row(shape)),
            () if inputs.iter().any(|i| i.sparsify == Sparsify::Blocks) => Some(params.integer("block").max(1)),
            () => None,
        };
        let divide = if reduce == "normalized" { sum } else { 1.0 };
        let depth = params.number("alpha") + params.number("beta") * params.depth.unwrap_or(0.0);
        let cuts = |i: &Input| match (i.sparsify, &i.kept) {
            (Sparsify::Order, Range { start: 0, end }) => vec![*end],
            (Sparsify::Order, Range { start, end }) => vec![*end, *start],
            _ => vec![],
        };
        let search = Search::cuts(&inputs.iter().map(cuts).collect::<Vec<_>>()).sampled(n);
        let pipeline = Self {
            inputs,
            search,
            unit,
            block: params.integer("block").max(1),
            rescale,
            consensus,
            mean: reduce == "mean",
            lambda: params.number("lambda") * depth / divide,
            norms: false,
        };
        // Norms are of single tensors.
        Ok(Self { norms: !trims_model(params) && pipeline.restores(), ..pipeline })
    }

    /// Whether all is a weighted sum of the changes, which takes no working memory and no rounding on the way.
    fn plain(&self) -> bool {
        self.consensus == Consensus::None && !self.mean && self.inputs.iter().all(|i| i.sparsify == Sparsify::None)
    }

    /// Whether what was dropped is made up for by a norm.
    fn restores(&self) -> bool {
        let drops = self.inputs.iter().any(|i| i.sparsify != Sparsify::None);
        drops && matches!(self.rescale, Rescale::L1 | Rescale::L2)
    }

    /// Thins the change of input `i`, times `factor`, on the unit that starts at `at` of a tile.
    fn sparsify(&self, i: usize, tile: &Tile, at: usize, factor: f32, marks: &mut Marks, x: &mut [f32]) {
        let (key, start) = (tile.keys[i], tile.start + at as u64);
        let input = &self.inputs[i];
        match input.sparsify {
            Sparsify::None => arith::scale_in_place(x, factor),
            Sparsify::Order => {
                let mut seen = self.search.ranks(i).map(|at| marks.ranks[at]).collect::<Vec<_>>();
                match (self.search.group(i), &mut seen[..]) {
                    ([outer], [seen]) => outer.cut().apply(x, factor, seen),
                    ([outer, inner], [seen, before]) => {
                        outer.cut().apply_without(inner.cut(), x, factor, seen, before);
                    }
                    _ => {}
                }
                self.search.ranks(i).zip(seen).for_each(|(at, n)| marks.ranks[at] = n);
            }
            Sparsify::RowOrder => sparsify::band(x, input.kept.start as usize, input.kept.end as usize, factor),
            Sparsify::Random => sparsify::random(x, key, start, input.density, factor),
            Sparsify::ByRank => sparsify::by_rank(x, key, start, input.chances, factor),
            Sparsify::Blocks => {
                let size = self.block as usize;
                for (x, taken) in x.chunks_mut(size).zip(marks.taken.chunks_mut(size)) {
                    let keep = ((input.density * x.len() as f64) as usize).max(1);
                    sparsify::block(x, taken, keep, factor);
                }
            }
        }
    }

    /// The units of a tile, or, where these are single elements, its blocks, which stand for units from here on.
    fn units(&self, len: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let step = self.unit.map_or(BLOCK, |unit| unit as usize);
        (0..len).step_by(step).map(move |at| at..(at + step).min(len))
    }

    /// Marks of a unit of which no model has kept anything yet; empty where models do not look at one another.
    fn none_taken(&self, len: usize) -> scratch::Scratch {
        let blocks = self.inputs.iter().any(|i| i.sparsify == Sparsify::Blocks);
        let mut taken = scratch::values(if blocks { len } else { 0 });
        taken.fill(0.0);
        taken
    }

    fn norm(&self, x: &[f32], total: &mut f64) {
        match self.rescale {
            Rescale::L2 => reduce::dot(x, x, total),
            _ => reduce::l1(x, total),
        }
    }
}

impl Kernel for Pipeline {
    fn cost(&self) -> Cost {
        let norms = matches!(self.rescale, Rescale::L1 | Rescale::L2);
        let sums = if norms { 2 * self.inputs.len() } else { 0 };
        let unit = self.unit.unwrap_or(1);
        let thinning = self.inputs.iter().map(|i| i.sparsify.scratch()).max().unwrap_or(0);
        Cost {
            // What is not used of them is taken off the bar at the end.
            reads: 1 + self.search.scans() + usize::from(norms),
            unit,
            // The changes and what thinning one of them takes; what becomes of a block of them together.
            scratch: if self.plain() { 0 } else { of_tile(4 * self.inputs.len() + thinning, unit) + of_tile(4, 1) },
            wants: Wants { sums, ..self.search.most().into() },
            ..Cost::ELEMENT
        }
    }

    fn wants(&self) -> Option<Wants> {
        let norms = || self.norms.then_some(Wants { sums: 2 * self.inputs.len(), ..Wants::default() });
        Wants::of(&self.search).or_else(norms)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let searches = self.search.wants().is_some();
        if stats.before.is_empty() {
            stats.before.resize(self.search.slots(), 0);
        }
        for range in self.units(tile.inputs[0].len()) {
            let mut taken = self.none_taken(range.len());
            let mut x = scratch::values(range.len());
            for i in 0..self.inputs.len() {
                if searches && !self.search.looks_at(i) {
                    continue;
                }
                tile.change(i, range.clone(), &mut x);
                if searches {
                    self.search.scan(i, &x, stats.into());
                    continue;
                }
                self.norm(&x, &mut stats.sums[2 * i]);
                let mut marks = Marks { ranks: &mut stats.before, taken: &mut taken };
                self.sparsify(i, tile, range.start, 1.0, &mut marks, &mut x);
                self.norm(&x, &mut stats.sums[2 * i + 1]);
            }
        }
    }

    fn take(&mut self, mut totals: Totals) -> Result<(), String> {
        if self.search.wants().is_some() {
            self.search.take(&totals.counts, &totals.ranks, &mut totals.lists);
            return Ok(());
        }
        for (input, sums) in self.inputs.iter_mut().zip(totals.sums.chunks_exact(2)) {
            if sums[1] != 0.0 && input.sparsify != Sparsify::None {
                let ratio = sums[0] / sums[1];
                input.factor = if self.rescale == Rescale::L2 { ratio.sqrt() } else { ratio } as f32;
            }
        }
        self.norms = false;
        Ok(())
    }

    fn on(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let mut own = Self::new(params, shape)?;
        for (own, found) in own.inputs.iter_mut().zip(&self.inputs) {
            *own = Input { weight: own.weight, ..found.clone() };
        }
        own.search = self.search.clone();
        own.norms = own.restores();
        Ok(Box::new(own))
    }

    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) {
        let (Some(base), n) = (tile.base, self.inputs.len()) else { return };
        if self.plain() {
            let weights: Vec<f64> = self.inputs.iter().map(|i| i.weight).collect();
            return arith::of_changes(base, tile.inputs, &weights, out, |b, changes, weights| {
                arith::moved(b, self.lambda * arith::weighted(weights, changes))
            });
        }
        let weights: Vec<f32> = self.inputs.iter().map(|i| i.weight as f32).collect();
        let mut merged = scratch::values(BLOCK);
        // Without a scan that ranked them there are no ties to drop.
        let mut none = vec![0; if ranks.is_empty() { self.search.slots() } else { 0 }];
        let ranks = if ranks.is_empty() { &mut none[..] } else { ranks };
        for range in self.units(out.len()) {
            let len = range.len();
            let mut changes = scratch::values(n * len);
            let mut taken = self.none_taken(len);
            for (i, x) in changes.chunks_exact_mut(len).enumerate() {
                let input = &self.inputs[i];
                tile.change(i, range.clone(), x);
                let factor = weights[i] * input.factor;
                let mut marks = Marks { ranks: &mut *ranks, taken: &mut taken };
                self.sparsify(i, tile, range.start, factor, &mut marks, x);
            }
            for at in (0..len).step_by(BLOCK) {
                let block = at..(at + BLOCK).min(len);
                let parts: Vec<&[f32]> = changes.chunks_exact(len).map(|c| &c[block.clone()]).collect();
                let merged = &mut merged[..block.len()];
                join(&parts, &weights, self.consensus, self.mean, merged);
                let place = range.start + block.start..range.start + block.end;
                arith::add_delta(&base[place.clone()], self.lambda as f32, merged, &mut out[place]);
            }
        }
    }
}
