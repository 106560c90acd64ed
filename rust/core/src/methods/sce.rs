//! SCE: select the elements on which the models disagree most, weigh the models by their changes there, drop minority
//! signs.

use super::{
    Base, Class, Cost, Default, Kernel, Kind, LARV, Method, Parameter, Params, SHARE, SVC, Spec, Stats, Tile, Totals,
    Wants, elements, of_tile,
};
use crate::kernels::arith::moved;
use crate::kernels::isa::vectorised;
use crate::kernels::search::Search;
use crate::kernels::{reduce, scratch};
use crate::sizes::BLOCK;

pub(super) struct Sce;

static SPEC: Spec = Spec {
    name: "sce",
    summary: "weigh models by their changes where they disagree most, drop minority signs",
    formula: "base + sum_i h_i m_i e_i / sum_i h_i m_i; M = top select_topk of the variance over models, h_i ~ sum (M d_i)^2, \
              m_i = [sign(e_i) = sign(sum_j e_j)], e = M d or d",
    paper: "Wan et al., FuseChat, arXiv 2408.07990",
    departs: "mergekit gives all models the same weight when the mean squared changes add up to less than 1e-6, as they do \
              for most fine-tunes; here only when they are all zero. `mask: weights` is what FuseChat's own code does",
    parameters: &[
        SVC,
        LARV,
        Parameter::shared(
            "select_topk",
            "share of the elements with a variance that is selected, above 0; at 1 `mask: deltas` leaves out none, as in mergekit",
            SHARE,
            Default::Number(1.0),
        ),
        Parameter::shared(
            "mask",
            "what the selection enters: the merged changes and the weights, or the weights alone",
            Kind::Choice { words: &["deltas", "weights"] },
            Default::Word("deltas"),
        ),
        Parameter::shared(
            "int8_mask",
            "accepted for mergekit's sake; changes nothing, there or here",
            Kind::Switch,
            Default::Switch(false),
        ),
    ],
    base: Base::Required,
    inputs: (1, usize::MAX),
    class: Class::Order,
    reads: 5,
    homogeneous: true,
};

impl Method for Sce {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let share = params.number("select_topk");
        if share <= 0.0 {
            return Err("select_topk must be above 0".into());
        }
        Ok(Box::new(Bound {
            n: params.inputs,
            elements: elements(shape),
            share,
            masks_changes: params.word("mask") == "deltas",
            // How many are selected is known once those with a variance are counted.
            search: Search::cuts(&[if share < 1.0 { vec![elements(shape)] } else { vec![] }]).sampled(elements(shape)),
            counted: false,
            weights: None,
        }))
    }
}

struct Bound {
    n: usize,
    elements: u64,
    share: f64,
    masks_changes: bool,
    search: Search,
    /// Whether the elements with a variance have been counted.
    counted: bool,
    weights: Option<Vec<f64>>,
}

/// The changes of a block, one after the other, and their variance over the models.
struct Block {
    changes: scratch::Scratch,
    variance: scratch::Scratch,
    len: usize,
}

impl Block {
    fn of(tile: &Tile, at: usize) -> Self {
        let len = BLOCK.min(tile.inputs[0].len() - at);
        let mut changes = scratch::values(len * tile.inputs.len());
        for (i, change) in changes.chunks_exact_mut(len).enumerate() {
            tile.change(i, at..at + len, change);
        }
        Self { changes, variance: scratch::values(len), len }
    }

    fn changes(&self) -> impl Iterator<Item = &[f32]> {
        self.changes.chunks_exact(self.len)
    }

    fn measure(&mut self) -> &[f32] {
        let parts: Vec<&[f32]> = self.changes.chunks_exact(self.len).collect();
        variance(&parts, &mut self.variance);
        &self.variance
    }
}

/// Population variance of each element over the models.
fn variance(changes: &[&[f32]], out: &mut [f32]) {
    match changes {
        [a, b] => variance_n(&[a, b], out),
        [a, b, c] => variance_n(&[a, b, c], out),
        [a, b, c, d] => variance_n(&[a, b, c, d], out),
        _ => variance_any(changes, out),
    }
}

vectorised! {
    fn variance_n[const N: usize][N](changes: &[&&[f32]; N], out: &mut [f32]) {
        let len = out.len();
        let changes: [&[f32]; N] = std::array::from_fn(|i| &changes[i][..len]);
        let n = N as f64;
        for (e, out) in out.iter_mut().enumerate() {
            let mut mean = 0.0;
            for c in changes {
                mean += f64::from(c[e]);
            }
            mean /= n;
            let mut square = 0.0;
            for c in changes {
                let off = f64::from(c[e]) - mean;
                square += off * off;
            }
            *out = (square / n) as f32;
        }
    }
}

vectorised! {
    fn variance_any(changes: &[&[f32]], out: &mut [f32]) {
        let n = changes.len() as f64;
        for (e, out) in out.iter_mut().enumerate() {
            let mean = changes.iter().map(|c| f64::from(c[e])).sum::<f64>() / n;
            let square: f64 = changes.iter().map(|c| (f64::from(c[e]) - mean) * (f64::from(c[e]) - mean)).sum();
            *out = (square / n) as f32;
        }
    }
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        let most = Wants::from(self.search.most());
        let wants = Wants { sums: self.n, ranks: most.ranks + 1, ..most };
        // The changes of a block and their variance.
        Cost { reads: 2 + self.search.scans(), scratch: of_tile(4 * (self.n + 1), 1), wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        match Wants::of(&self.search) {
            // Those with a variance are counted last.
            Some(wants) => Some(Wants { ranks: wants.ranks + usize::from(self.counts()), ..wants }),
            None => self.weights.is_none().then_some(Wants { sums: self.n, ..Wants::default() }),
        }
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        if stats.before.is_empty() {
            stats.before.push(0);
        }
        for at in (0..tile.inputs[0].len()).step_by(BLOCK) {
            let mut block = Block::of(tile, at);
            if self.search.wants().is_some() {
                let variance = block.measure();
                self.search.scan(0, variance, stats.into());
                if let Some(count) = stats.ranks.last_mut().filter(|_| self.counts()) {
                    *count += variance.iter().filter(|v| **v != 0.0).count() as u64;
                }
                continue;
            }
            self.mask(&mut block, &mut stats.before);
            for (change, sum) in block.changes().zip(&mut stats.sums) {
                reduce::dot(change, change, sum);
            }
        }
    }

    fn take(&mut self, mut totals: Totals) -> Result<(), String> {
        if self.search.wants().is_none() {
            let sum: f64 = totals.sums.iter().sum();
            let even = 1.0 / self.n as f64;
            self.weights = Some(totals.sums.iter().map(|s| if sum == 0.0 { even } else { s / sum }).collect());
            return Ok(());
        }
        if self.search.samples() {
            // Of a sample it is an estimate.
            let (all, none) = totals.counts.first().map_or((0, 0), |c| (c.iter().sum(), c[0]));
            let varies = (all - none) as f64 / f64::max(all as f64, 1.0);
            self.search.keep(0, ((varies * self.share * self.elements as f64) as u64).max(1));
        } else if self.counts() {
            let varying = totals.ranks.pop().unwrap_or(0);
            // mergekit multiplies in f32.
            let keep = (varying as f32 * self.share as f32) as u64;
            self.search.keep(0, keep.min(self.elements));
            self.counted = true;
        }
        self.search.take(&totals.counts, &totals.ranks, &mut totals.lists);
        Ok(())
    }

    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) {
        let (Some(base), Some(weights)) = (tile.base, &self.weights) else { return };
        if !self.masks_changes || self.share >= 1.0 {
            return elect(tile.inputs, None, weights, base, out);
        }
        let mut none = [0];
        let ranks = if ranks.is_empty() { &mut none[..] } else { ranks };
        for at in (0..out.len()).step_by(BLOCK) {
            let mut block = Block::of(tile, at);
            self.select(&mut block, ranks);
            let place = at..at + block.len;
            let inputs: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[place.clone()]).collect();
            elect(&inputs, Some(&block.variance), weights, &base[place.clone()], &mut out[place]);
        }
    }
}

impl Bound {
    /// Whether the scan under way counts the elements with a variance: the first of all of them.
    fn counts(&self) -> bool {
        !self.counted && !self.search.samples()
    }

    /// Measures the variance and zeroes it where an element is not selected.
    fn select(&self, block: &mut Block, seen: &mut [u64]) {
        block.measure();
        if let ([selection], Some(at)) = (self.search.group(0), self.search.ranks(0).next()) {
            selection.cut().apply(&mut block.variance, 1.0, &mut seen[at]);
        }
    }

    /// Zeroes the changes that are not selected.
    fn mask(&self, block: &mut Block, seen: &mut [u64]) {
        // A share of one has mergekit mask nothing. FuseChat's code still selects what varies.
        if self.masks_changes && self.share >= 1.0 {
            return;
        }
        self.select(block, seen);
        let Block { changes, variance, len } = block;
        for change in changes.chunks_exact_mut(*len) {
            for (d, v) in change.iter_mut().zip(&**variance) {
                *d = if *v == 0.0 { 0.0 } else { *d };
            }
        }
    }
}

/// Adds to the base the weighted mean of the changes whose sign is that of their sum, where `selected` is not zero.
fn elect(inputs: &[&[f32]], selected: Option<&[f32]>, weights: &[f64], base: &[f32], out: &mut [f32]) {
    match (inputs, weights) {
        ([a, b], [v, w]) => elect_n(&[a, b], selected, &[*v, *w], base, out),
        ([a, b, c], [u, v, w]) => elect_n(&[a, b, c], selected, &[*u, *v, *w], base, out),
        ([a, b, c, d], [t, u, v, w]) => elect_n(&[a, b, c, d], selected, &[*t, *u, *v, *w], base, out),
        _ => {
            for (e, (o, b)) in out.iter_mut().zip(base).enumerate() {
                *o = elected(inputs.iter().map(|x| x[e]), selected.is_none_or(|s| s[e] != 0.0), weights, *b);
            }
        }
    }
}

/// Over arrays, not by [`crate::kernels::arith::of_changes`], which takes a quarter longer here.
fn elect_n<const N: usize>(
    inputs: &[&&[f32]; N],
    selected: Option<&[f32]>,
    weights: &[f64; N],
    base: &[f32],
    out: &mut [f32],
) {
    match selected {
        Some(selected) => elect_of::<N, true>(inputs, selected, weights, base, out),
        None => elect_of::<N, false>(inputs, base, weights, base, out),
    }
}

vectorised! {
    fn elect_of[const N: usize, const SELECTS: bool][N, SELECTS](
        inputs: &[&&[f32]; N],
        selected: &[f32],
        weights: &[f64; N],
        base: &[f32],
        out: &mut [f32],
    ) {
        let len = out.len();
        let inputs: [&[f32]; N] = std::array::from_fn(|i| &inputs[i][..len]);
        let weights = *weights;
        for (e, ((o, b), s)) in out.iter_mut().zip(base).zip(selected).enumerate() {
            *o = elected(inputs.map(|x| x[e]).into_iter(), !SELECTS || *s != 0.0, &weights, *b);
        }
    }
}

#[inline(always)]
fn elected(inputs: impl Iterator<Item = f32> + Clone, selected: bool, weights: &[f64], base: f32) -> f32 {
    let changes = inputs.map(|x| f64::from(x) - f64::from(base));
    let total: f64 = changes.clone().sum();
    let sign = if total >= 0.0 { 1.0 } else { -1.0 };
    let (mut sum, mut divisor) = (0.0, 0.0);
    for (d, weight) in changes.zip(weights) {
        let agrees = d * sign > 0.0;
        sum += if agrees { weight * d } else { 0.0 };
        divisor += if agrees { *weight } else { 0.0 };
    }
    // A NaN in any model agrees with nothing and comes back here.
    let mean = sum / if divisor == 0.0 { 1.0 } else { divisor };
    moved(base, if selected { mean } else { 0.0 } + total * 0.0)
}
