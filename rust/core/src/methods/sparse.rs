//! Sparse task arithmetic: one pipeline, of which the named methods are presets.
//!
//! change from base -> sparsify -> rescale -> weight -> elect a sign -> sum or weighted mean -> lambda -> add to base.
//!
//! TIES: Yadav et al., arXiv 2306.01708. DARE: Yu et al., arXiv 2311.03099. Task arithmetic: Ilharco et al.,
//! arXiv 2212.04089. Trimming keeps exactly `max(1, floor(density * n))` elements of a tensor, the largest, equal ones
//! in index order: on bf16 checkpoints a quarter of all elements can equal the threshold.

use super::{
    ANY, Base, Default, Granularity, Kernel, Kind, Method, Parameter, Params, Spec, Stats, Tile, Totals, Wants,
};
use crate::kernels::select::{self, Cut};
use crate::kernels::{arith, reduce, rng};

/// How a change is made sparse.
#[derive(Clone, Copy, PartialEq)]
enum Sparsify {
    None,
    Magnitude,
    Random,
}

pub(super) struct Preset {
    spec: Spec,
    sparsify: Sparsify,
    /// Elect a sign per element and drop what disagrees with it.
    elect: bool,
}

const WEIGHT: Parameter = Parameter {
    name: "weight",
    summary: "weight of the model's change",
    kind: ANY,
    default: Default::Required,
    per_input: true,
};
const DENSITY: Parameter = Parameter {
    name: "density",
    summary: "share of each tensor's changed elements that is kept",
    kind: Kind::Number { min: 0.0, max: 1.0 },
    default: Default::Number(1.0),
    per_input: true,
};
const LAMBDA: Parameter = Parameter {
    name: "lambda",
    summary: "factor on the merged change before it is added to the base",
    kind: ANY,
    default: Default::Number(1.0),
    per_input: false,
};
const INT8_MASK: Parameter = Parameter {
    name: "int8_mask",
    summary: "accepted for mergekit's sake; changes nothing, there or here",
    kind: Kind::Switch,
    default: Default::Switch(false),
    per_input: false,
};
const RESCALES: &[&str] = &["density", "l1", "none"];

const fn normalize(default: bool) -> Parameter {
    Parameter {
        name: "normalize",
        summary: "divide by the sum of the weights (with sign election: of those that agree, element by element)",
        kind: Kind::Switch,
        default: Default::Switch(default),
        per_input: false,
    }
}

const fn rescale(words: &'static [&'static str], default: &'static str) -> Parameter {
    Parameter {
        name: "rescale",
        summary: "make up for dropped elements: divide by the density, or restore the change's L1 norm",
        kind: Kind::Choice { words },
        default: Default::Word(default),
        per_input: false,
    }
}

const SPEC: Spec = Spec {
    name: "",
    summary: "",
    formula: "",
    paper: "",
    departs: "",
    parameters: &[],
    base: Base::Required,
    inputs: (1, usize::MAX),
    granularity: Granularity::Element,
    reads: 1,
    homogeneous: true,
};

pub(super) static TASK_ARITHMETIC: Preset = Preset {
    spec: Spec {
        name: "task_arithmetic",
        summary: "add the weighted changes of the models to the base",
        formula: "base + lambda * sum_i w_i (x_i - base)",
        paper: "Ilharco et al., Editing models with task arithmetic, arXiv 2212.04089",
        departs: "computes in f32 and rounds once, whatever the checkpoints' dtype",
        parameters: &[WEIGHT, LAMBDA, normalize(false), INT8_MASK],
        ..SPEC
    },
    sparsify: Sparsify::None,
    elect: false,
};

pub(super) static TIES: Preset = Preset {
    spec: Spec {
        name: "ties",
        summary: "trim small changes, elect a sign for each element, average what agrees",
        formula: "base + lambda * sum_i w_i m_i d_i / sum_i w_i m_i, d_i = top density of x_i - base, \
                  m_i = [sign(w_i d_i) = sign(sum_j w_j d_j)]",
        paper: "Yadav et al., TIES-Merging, arXiv 2306.01708",
        departs: "keeps exactly the top k, equal magnitudes in index order (mergekit: in the order of an unstable \
                  sort); computes in f32 and rounds once",
        parameters: &[WEIGHT, DENSITY, LAMBDA, normalize(true), rescale(&["l1", "density", "none"], "none"), INT8_MASK],
        granularity: Granularity::Tensor,
        reads: 5,
        ..SPEC
    },
    sparsify: Sparsify::Magnitude,
    elect: true,
};

pub(super) static DARE_LINEAR: Preset = Preset {
    spec: Spec {
        name: "dare_linear",
        summary: "drop changes at random, scale up the rest, add them to the base",
        formula: "base + lambda * sum_i w_i b_i (x_i - base) / density_i, b_i ~ Bernoulli(density_i)",
        paper: "Yu et al., Language models are Super Mario, arXiv 2311.03099",
        departs: "rescales by 1/density as the paper does (mergekit: by the L1 norm; here `rescale: l1`); masks depend on \
                  the seed, the model's folder name, the tensor's name and the element, not on the order of work",
        parameters: &[WEIGHT, DENSITY, LAMBDA, normalize(false), rescale(RESCALES, "density"), INT8_MASK],
        granularity: Granularity::Tensor,
        reads: 2,
        ..SPEC
    },
    sparsify: Sparsify::Random,
    elect: false,
};

pub(super) static DARE_TIES: Preset = Preset {
    spec: Spec {
        name: "dare_ties",
        summary: "drop changes at random, scale up the rest, elect a sign for each element, add what agrees",
        formula: "ties with random instead of magnitude trimming, and rescaled by 1/density",
        ..DARE_LINEAR.spec
    },
    sparsify: Sparsify::Random,
    elect: true,
};

impl Method for Preset {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn bind(&self, params: &Params, elements: u64) -> Result<Box<dyn Kernel>, String> {
        let weights = params.numbers("weight");
        let mut densities = params.numbers("density");
        densities.resize(weights.len(), 1.0);
        if let Some(d) = densities.iter().find(|d| **d <= 0.0) {
            return Err(format!(
                "density must be above 0, found {d}; to leave a model out, remove it or set its weight to 0"
            ));
        }
        let normalize = params.switch("normalize");
        let sum: f64 = weights.iter().sum();
        if normalize && !self.elect && sum.abs() < 1e-12 {
            return Err("the weights sum to zero; change them, or set `normalize: false`".into());
        }
        let inputs = weights
            .iter()
            .zip(&densities)
            .map(|(weight, density)| {
                let sparsify = if *density >= 1.0 { Sparsify::None } else { self.sparsify };
                Input {
                    weight: *weight as f32,
                    density: *density,
                    sparsify,
                    keep: ((density * elements as f64) as u64).max(1),
                    factor: if sparsify != Sparsify::None && params.word("rescale") == "density" {
                        (1.0 / density) as f32
                    } else {
                        1.0
                    },
                    high: (0, 0),
                    cut: None,
                    ranked: false,
                }
            })
            .collect();
        let divide = if normalize && !self.elect { sum } else { 1.0 };
        Ok(Box::new(
            Pipeline {
                inputs,
                elect: self.elect,
                divide_by_agreeing: normalize && self.elect,
                lambda: (params.number("lambda") / divide) as f32,
                l1: params.word("rescale") == "l1",
                step: Step::High,
            }
            .settle(),
        ))
    }
}

/// One model's part in the pipeline, for one tensor.
struct Input {
    weight: f32,
    density: f64,
    sparsify: Sparsify,
    /// Elements kept by magnitude.
    keep: u64,
    /// Rescaling of what is kept.
    factor: f32,
    /// The histogram bin of the threshold, and how many elements lie above it.
    high: (u32, u64),
    cut: Option<Cut>,
    /// True if the elements equal to the threshold have been counted span by span.
    ranked: bool,
}

/// What the next scan finds out.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    High,
    Low,
    Ties,
    Norms,
    Done,
}

struct Pipeline {
    inputs: Vec<Input>,
    elect: bool,
    divide_by_agreeing: bool,
    lambda: f32,
    l1: bool,
    step: Step,
}

/// Elements worked on at a time: small enough for the first-level cache with a few inputs.
const RUN: usize = 1024;

impl Pipeline {
    /// Skips the scans that have nothing to find out.
    fn settle(mut self) -> Self {
        self.skip();
        self
    }

    fn skip(&mut self) {
        let trims = self.inputs.iter().any(|i| i.sparsify == Sparsify::Magnitude);
        if matches!(self.step, Step::High | Step::Low) && !trims {
            self.step = Step::Ties;
        }
        // Ties need counting only where some of them are dropped.
        let unknown = self.inputs.iter().any(|i| !i.ranked && i.cut.is_some_and(|c| c.ties < c.equal));
        if self.step == Step::Ties && !unknown {
            self.step = Step::Norms;
        }
        let drops = self.inputs.iter().any(|i| i.sparsify != Sparsify::None);
        if self.step == Step::Norms && !(self.l1 && drops) {
            self.step = Step::Done;
        }
    }

    /// The sparsified change of input `i` on a stretch of a tile, times `factor`.
    fn sparse(
        &self,
        i: usize,
        tile: &Tile,
        range: std::ops::Range<usize>,
        factor: f32,
        seen: &mut u64,
        out: &mut [f32],
    ) {
        let input = &self.inputs[i];
        delta(tile, i, range.clone(), out);
        match (input.sparsify, &input.cut) {
            (Sparsify::Magnitude, Some(cut)) => cut.apply(out, factor, seen),
            (Sparsify::Random, _) => {
                let mut words = [0u32; RUN];
                let words = &mut words[..out.len()];
                rng::words(tile.keys[i], tile.start + range.start as u64, words);
                keep_below(out, words, (input.density * 4_294_967_296.0) as u32, factor);
            }
            _ => arith::scale_in_place(out, factor),
        }
    }
}

fn delta(tile: &Tile, i: usize, range: std::ops::Range<usize>, out: &mut [f32]) {
    match tile.base {
        Some(base) => arith::sub(&tile.inputs[i][range.clone()], &base[range], out),
        None => out.copy_from_slice(&tile.inputs[i][range]),
    }
}

fn runs(len: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len).step_by(RUN).map(move |at| at..(at + RUN).min(len))
}

impl Kernel for Pipeline {
    fn wants(&self) -> Option<Wants> {
        let n = self.inputs.len();
        let (sums, histograms, ranks) = match self.step {
            Step::High => (0, n, 0),
            Step::Low => (0, n, n),
            Step::Ties => (0, 0, n),
            Step::Norms => (2 * n, 0, 0),
            Step::Done => return None,
        };
        Some(Wants { sums, histograms, ranks })
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let mut buffer = [0f32; RUN];
        for range in runs(tile.inputs[0].len()) {
            let buffer = &mut buffer[..range.len()];
            for (i, input) in self.inputs.iter().enumerate() {
                let trims = input.sparsify == Sparsify::Magnitude;
                match (self.step, &input.cut) {
                    (Step::High, _) if trims => {
                        delta(tile, i, range.clone(), buffer);
                        select::count_high(buffer, &mut stats.counts[i]);
                    }
                    (Step::Low, _) if trims => {
                        delta(tile, i, range.clone(), buffer);
                        stats.ranks[i] += select::count_low(buffer, input.high.0, &mut stats.counts[i]);
                    }
                    (Step::Ties, Some(cut)) => {
                        delta(tile, i, range.clone(), buffer);
                        stats.ranks[i] += cut.count_equal(buffer);
                    }
                    (Step::Norms, _) => {
                        delta(tile, i, range.clone(), buffer);
                        reduce::l1(buffer, &mut stats.sums[2 * i]);
                        // Ties of a span are told apart by index only in `apply`; for the norm, which they all share
                        // equally, counting the first of each run up to the budget would depend on the spans.
                        if let Some(cut) = &input.cut {
                            let strictly = Cut { ties: 0, equal: u64::MAX, threshold: cut.threshold };
                            strictly.apply(buffer, 1.0, &mut 0);
                        } else {
                            self.sparse(i, tile, range.clone(), 1.0, &mut 0, buffer);
                        }
                        reduce::l1(buffer, &mut stats.sums[2 * i + 1]);
                    }
                    _ => {}
                }
            }
        }
    }

    fn take(&mut self, totals: Totals) {
        match self.step {
            Step::High => {
                for (input, counts) in self.inputs.iter_mut().zip(&totals.counts) {
                    input.high = select::kth_bin(counts, input.keep);
                }
                self.step = Step::Low;
            }
            Step::Low => {
                for ((input, counts), inside) in self.inputs.iter_mut().zip(&totals.counts).zip(&totals.ranks) {
                    if input.sparsify == Sparsify::Magnitude {
                        let (bin, above) = input.high;
                        let (low, more) = select::kth_bin(counts, input.keep - above);
                        input.cut = Some(Cut {
                            threshold: select::join(bin, low),
                            ties: input.keep - above - more,
                            equal: counts[low as usize],
                        });
                        // Where the bin holds nothing but ties, this scan has counted them span by span.
                        input.ranked = counts[low as usize] == *inside;
                    }
                }
                self.step = Step::Ties;
            }
            Step::Ties => self.step = Step::Norms,
            Step::Norms => {
                for (input, sums) in self.inputs.iter_mut().zip(totals.sums.chunks_exact(2)) {
                    let tied = input.cut.map_or(0.0, |c| c.ties as f64 * f64::from(f32::from_bits(c.threshold)));
                    let kept = sums[1] + tied;
                    if kept > 0.0 {
                        input.factor = (sums[0] / kept) as f32;
                    }
                }
                self.step = Step::Done;
            }
            Step::Done => {}
        }
        self.skip();
    }

    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) {
        let n = self.inputs.len();
        let mut changes = vec![0f32; n * RUN];
        let mut unused = 0;
        let mut merged = [0f32; RUN];
        for range in runs(out.len()) {
            let len = range.len();
            for (i, change) in changes.chunks_exact_mut(RUN).enumerate() {
                let seen = ranks.get_mut(i).unwrap_or(&mut unused);
                let factor = self.inputs[i].weight * self.inputs[i].factor;
                self.sparse(i, tile, range.clone(), factor, seen, &mut change[..len]);
            }
            let merged = &mut merged[..len];
            if self.elect {
                elect(&changes, &self.inputs, self.divide_by_agreeing, merged);
            } else {
                merged.copy_from_slice(&changes[..len]);
                for change in changes.chunks_exact(RUN).skip(1) {
                    arith::add_scaled(&change[..len], 1.0, merged);
                }
            }
            match tile.base {
                Some(base) => arith::add_delta(&base[range.clone()], self.lambda, merged, &mut out[range]),
                None => arith::scale(merged, self.lambda, &mut out[range]),
            }
        }
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn keep_below(x: &mut [f32], words: &[u32], limit: u32, factor: f32) {
    for (x, w) in x.iter_mut().zip(words) {
        *x = if *w < limit { *x * factor } else { 0.0 };
    }
}

/// Sums, for each element, the weighted changes whose sign is that of their sum (zero counts as positive); divided by
/// the sum of their weights if `divide`.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn elect(changes: &[f32], inputs: &[Input], divide: bool, out: &mut [f32]) {
    let n = out.len();
    let (mut sum, mut sign, mut divisor) = ([0f64; RUN], [0f32; RUN], [0f32; RUN]);
    let (sum, sign, divisor) = (&mut sum[..n], &mut sign[..n], &mut divisor[..n]);
    for change in changes.chunks_exact(RUN) {
        // In f64 the sum of a few f32 values is exact: where changes cancel, which they do on the coarse grid of bf16,
        // the sign must not depend on the order of the models.
        for (s, c) in sum.iter_mut().zip(&change[..n]) {
            *s += f64::from(*c);
        }
    }
    for (sign, sum) in sign.iter_mut().zip(&*sum) {
        // A NaN stays one: it makes the comparison below fail and comes back at the end.
        *sign = if *sum >= 0.0 {
            1.0
        } else if *sum < 0.0 {
            -1.0
        } else {
            f32::NAN
        };
    }
    out.fill(0.0);
    for (change, input) in changes.chunks_exact(RUN).zip(inputs) {
        let weight = input.weight;
        for (((o, d), s), c) in out.iter_mut().zip(divisor.iter_mut()).zip(&*sign).zip(&change[..n]) {
            // One product and one comparison, so that the compiler selects instead of branching: signs are as good
            // as random, and a mispredicted branch an element made this loop ten times slower.
            let agrees = *c * *s > 0.0;
            *o += if agrees { *c } else { 0.0 };
            *d += if agrees { weight } else { 0.0 };
        }
    }
    for (o, s) in out.iter_mut().zip(&*sign) {
        *o += *s * 0.0;
    }
    if divide {
        for (o, d) in out.iter_mut().zip(&*divisor) {
            *o /= if *d == 0.0 { 1.0 } else { *d };
        }
    }
}
