//! Methods whose result is a linear combination with coefficients from dot products: one pass to sum the products of
//! all pairs (their Gram matrix), one to combine. No tensor is ever held in memory.

use super::{
    ANY, Base, Class, Cost, Default, Kernel, Kind, Method, Parameter, Params, Scope, Spec, Stats, Tile, Totals, WEIGHT,
    Wants, adds_up, elements, normalised, of_tile, row,
};
use crate::kernels::{arith, reduce, scratch};

/// Cosine beyond which slerp's models count as collinear, and norm up to which a tensor counts as zero; as in mergekit.
const COLLINEAR: f64 = 0.9995;
const ZERO: f64 = 1e-8;
/// Squared sine up to which directions cannot be told from parallel or opposite: dot products are exact to about 1e-13.
const ROUNDING: f64 = 1e-12;

/// Dot products of all pairs of vectors.
struct Gram {
    n: usize,
    dots: Vec<f64>,
}

impl Gram {
    /// Number of sums for `n` vectors: pairs in the order (0,0) (0,1) ... (1,1) ...
    fn sums(n: usize) -> usize {
        n * (n + 1) / 2
    }

    fn add(vectors: &[&[f32]], sums: &mut [f64]) {
        let mut sums = sums.iter_mut();
        for (i, a) in vectors.iter().enumerate() {
            for (b, sum) in vectors[i..].iter().zip(&mut sums) {
                reduce::dot(a, b, sum);
            }
        }
    }

    fn dot(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.dots[i * self.n - i * (i + 1) / 2 + j]
    }

    fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// Cosine of the angle between two vectors; 0 if one of them is zero.
    fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms == 0.0 { 0.0 } else { (self.dot(i, j) / norms).clamp(-1.0, 1.0) }
    }
}

/// How coefficients follow from the dot products.
#[derive(Debug, Clone)]
enum Rule {
    Slerp { t: f64 },
    Nuslerp { t: f64 },
    Multislerp { weights: Vec<f64> },
    Karcher { most: u64, tolerance: f64 },
    Stock,
}

impl Rule {
    fn coefficients(&self, gram: &Gram) -> Result<Vec<f64>, String> {
        Ok(match self {
            Self::Slerp { t } => {
                let norm = |i| if gram.norm(i) > ZERO { gram.norm(i) } else { 1.0 };
                let cosine = (gram.dot(0, 1) / (norm(0) * norm(1))).clamp(-1.0, 1.0);
                if cosine.abs() > COLLINEAR { vec![1.0 - t, *t] } else { arc(cosine, *t) }
            }
            Self::Nuslerp { t } => {
                let cosine = gram.cosine(0, 1);
                let zero = gram.norm(0) == 0.0 || gram.norm(1) == 0.0;
                if zero || 1.0 - cosine * cosine <= ROUNDING { vec![1.0 - t, *t] } else { arc(cosine, *t) }
            }
            Self::Multislerp { weights } => multislerp(gram, weights)?,
            Self::Karcher { most, tolerance } => karcher(gram, *most, *tolerance),
            Self::Stock => stock(gram),
        })
    }
}

/// Weights on the great circle at share `t` between two directions.
fn arc(cosine: f64, t: f64) -> Vec<f64> {
    let angle = cosine.acos();
    vec![((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()]
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
    let direction = |w: &[f64]| {
        let squared: f64 = (0..n).map(|i| (0..n).map(|j| w[i] * w[j] * unit(gram, i, j)).sum::<f64>()).sum();
        root(squared)
    };
    let length = direction(weights);
    if length < ZERO {
        return match n {
            2 => Ok(weights.to_vec()),
            _ => Err("the weighted directions of the models cancel; change the weights, or use linear".into()),
        };
    }
    let size: f64 = weights.iter().zip(&norms).map(|(w, n)| w * n).sum();
    Ok(weights.iter().zip(&norms).map(|(w, n)| if *n == 0.0 { 0.0 } else { w / n * size / length }).collect())
}

/// Square root of what is at least 0 but for rounding; a NaN stays one.
fn root(squared: f64) -> f64 {
    if squared < 0.0 { 0.0 } else { squared.sqrt() }
}

/// Dot product of two directions; 0 if one of the vectors is zero.
fn unit(gram: &Gram, i: usize, j: usize) -> f64 {
    if i == j { f64::from(gram.norm(i) > 0.0) } else { gram.cosine(i, j) }
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
    let length = |v: &[f64]| {
        let squared: f64 =
            live.iter().map(|i| live.iter().map(|j| v[*i] * v[*j] * unit(gram, *i, *j)).sum::<f64>()).sum();
        root(squared)
    };
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
            let cosine = live.iter().map(|j| mean[*j] * unit(gram, *i, *j)).sum::<f64>().clamp(-1.0, 1.0);
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

fn stock(gram: &Gram) -> Vec<f64> {
    let n = gram.n;
    let pairs = (n * (n - 1) / 2) as f64;
    let cosine = (0..n).map(|i| (i + 1..n).map(|j| gram.cosine(i, j)).sum::<f64>()).sum::<f64>() / pairs;
    let divisor = 1.0 + (n as f64 - 1.0) * cosine;
    let t = if divisor.abs() < 1e-6 { 0.0 } else { n as f64 * cosine / divisor };
    vec![t / n as f64; n]
}

/// What makes one vector of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Vectors {
    /// All of it.
    Tensor,
    /// Each row, of this length.
    Row(u64),
    /// Each column; there are so many.
    Column(u64),
}

/// A combination of the inputs, or, where the method has a base, the base plus one of their changes.
struct Blend {
    rule: Rule,
    n: usize,
    vectors: Vectors,
    /// Coefficients of the inputs, once known; for columns those of the first input of every column, then the second's.
    found: Option<Vec<f64>>,
}

impl Blend {
    fn boxed(rule: Rule, n: usize, vectors: Vectors) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Self { rule, n, vectors, found: None }))
    }

    fn gram(&self, tile: &Tile, range: std::ops::Range<usize>, sums: &mut [f64]) {
        with_changes(tile, range, |vectors| Gram::add(vectors, sums));
    }
}

/// Calls `f` with the inputs, or their changes from the base.
fn with_changes(tile: &Tile, range: std::ops::Range<usize>, f: impl FnOnce(&[&[f32]])) {
    if tile.base.is_none() {
        let parts: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[range.clone()]).collect();
        return f(&parts);
    }
    let len = range.len();
    let mut changes = scratch::values(len * tile.inputs.len());
    for (i, change) in changes.chunks_exact_mut(len).enumerate() {
        tile.change(i, range.clone(), change);
    }
    f(&changes.chunks_exact(len).collect::<Vec<_>>());
}

/// `base + sum c_i (x_i - base)`, or `sum c_i x_i`, in f64.
fn combine(tile: &Tile, range: std::ops::Range<usize>, coefficients: &[f64], out: &mut [f32]) {
    let mut parts: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[range.clone()]).collect();
    let mut weights = coefficients.to_vec();
    if let Some(base) = tile.base {
        parts.insert(0, &base[range]);
        weights.insert(0, 1.0 - coefficients.iter().sum::<f64>());
    }
    arith::combine(&parts, &weights, out);
}

fn stretches(len: usize, step: usize) -> impl Iterator<Item = std::ops::Range<usize>> {
    (0..len).step_by(step).map(move |at| at..(at + step).min(len))
}

impl Kernel for Blend {
    fn cost(&self) -> Cost {
        let (reads, unit, sums) = match self.vectors {
            Vectors::Tensor => (2, 1, Gram::sums(self.n)),
            Vectors::Row(length) => (1, length, 0),
            Vectors::Column(count) => (2, 1, 3 * count as usize),
        };
        // The changes of a block, or of a row.
        let scratch = of_tile(4 * self.n, unit);
        Cost { reads, unit, scratch, wants: Wants { sums, ..Wants::default() }, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        let scans = self.found.is_none() && !matches!(self.vectors, Vectors::Row(_));
        scans.then_some(self.cost().wants)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        let len = tile.inputs[0].len();
        let Vectors::Column(count) = self.vectors else {
            for range in stretches(len, reduce::BLOCK) {
                self.gram(tile, range, &mut stats.sums);
            }
            return;
        };
        // A sum for every column, added row by row: its value does not depend on where tiles end.
        for range in stretches(len, reduce::BLOCK) {
            let start = tile.start + range.start as u64;
            with_changes(tile, range, |vectors| {
                for (e, (a, b)) in vectors[0].iter().zip(vectors[1]).enumerate() {
                    let column = ((start + e as u64) % count) as usize;
                    let (a, b) = (f64::from(*a), f64::from(*b));
                    let sums = &mut stats.sums[3 * column..3 * column + 3];
                    sums[0] += a * a;
                    sums[1] += a * b;
                    sums[2] += b * b;
                }
            });
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        self.found = Some(if let Vectors::Column(_) = self.vectors {
            let each = totals.sums.chunks_exact(3).map(|s| self.rule.coefficients(&Gram { n: 2, dots: s.to_vec() }));
            each.collect::<Result<Vec<_>, _>>()?.concat()
        } else {
            self.rule.coefficients(&Gram { n: self.n, dots: totals.sums })?
        });
        Ok(())
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        match (self.vectors, &self.found) {
            (Vectors::Row(length), _) => {
                for range in stretches(out.len(), length as usize) {
                    let mut dots = vec![0.0; Gram::sums(self.n)];
                    self.gram(tile, range.clone(), &mut dots);
                    // Only multislerp can fail, and it knows no rows.
                    let coefficients = self.rule.coefficients(&Gram { n: self.n, dots }).unwrap_or_default();
                    combine(tile, range.clone(), &coefficients, &mut out[range]);
                }
            }
            (Vectors::Column(count), Some(found)) => {
                for (e, out) in out.iter_mut().enumerate() {
                    let column = ((tile.start + e as u64) % count) as usize;
                    let (c, d) = (found[2 * column], found[2 * column + 1]);
                    let (a, b) = (f64::from(tile.inputs[0][e]), f64::from(tile.inputs[1][e]));
                    let base = tile.base.map_or(0.0, |base| (1.0 - c - d) * f64::from(base[e]));
                    *out = (base + c * a + d * b) as f32;
                }
            }
            (_, Some(found)) => combine(tile, 0..out.len(), found, out),
            (_, None) => {}
        }
    }
}

const SPEC: Spec = Spec {
    departs: "dot products are summed in f64",
    class: Class::Gram,
    reads: 2,
    homogeneous: false,
    ..Spec::COMMON
};

pub(super) struct Slerp;

static SLERP: Spec = Spec {
    name: "slerp",
    summary: "spherical interpolation between the base and one other model",
    formula: "(sin((1-t) a) x0 + sin(t a) x1) / sin a, a = angle(x0, x1); linear when |cos a| > 0.9995",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985",
    parameters: &[Parameter::shared("t", "0 gives the base, 1 the other model", ANY, Default::Required)],
    base: Base::First,
    inputs: (2, 2),
    ..SPEC
};

impl Method for Slerp {
    fn spec(&self) -> &Spec {
        &SLERP
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        Blend::boxed(Rule::Slerp { t: params.number("t") }, 2, Vectors::Tensor)
    }
}

pub(super) struct Nuslerp;

static NUSLERP: Spec = Spec {
    name: "nuslerp",
    summary: "spherical interpolation by weights, of two models or of their changes from a base",
    formula: "(sin((1-t) a) u1 + sin(t a) u2) / sin a, t = w2 / (w1 + w2), u = x or x - base (then added to the base)",
    paper: "Shoemake, Animating rotation with quaternion curves, SIGGRAPH 1985; as in mergekit",
    parameters: &[
        WEIGHT,
        Parameter::shared("nuslerp_flatten", "take each tensor as one vector", Kind::Switch, Default::Switch(true)),
        Parameter::shared(
            "nuslerp_row_wise",
            "if not flattened: along the first dimension instead of the last",
            Kind::Switch,
            Default::Switch(false),
        ),
    ],
    base: Base::Optional,
    inputs: (2, 2),
    ..SPEC
};

impl Method for Nuslerp {
    fn spec(&self) -> &Spec {
        &NUSLERP
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let weights = params.numbers("weight");
        let sum = weights[0] + weights[1];
        let t = if sum.abs() < 1e-6 { 0.5 } else { weights[1] / sum };
        let columns = elements(shape) / shape.first().copied().unwrap_or(1).max(1);
        let vectors = match (params.switch("nuslerp_flatten"), params.switch("nuslerp_row_wise")) {
            (true, _) => Vectors::Tensor,
            (false, true) if columns <= 1 => Vectors::Tensor,
            (false, true) => Vectors::Column(columns),
            (false, false) => Vectors::Row(row(shape)),
        };
        Blend::boxed(Rule::Nuslerp { t }, 2, vectors)
    }
}

pub(super) struct Multislerp;

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
        let n = weights.len();
        Blend::boxed(Rule::Multislerp { weights }, n, Vectors::Tensor)
    }
}

pub(super) struct Karcher;

static KARCHER: Spec = Spec {
    name: "karcher",
    summary: "the Riemannian (Karcher) mean of models on the sphere",
    formula: "the direction with the least sum of squared angles to all x_i, at their mean norm",
    paper: "Karcher, Riemannian center of mass, 1977; as in mergekit",
    departs: "iterates on coefficients of the Gram matrix in f64, so that no tensor is held in memory; tensors of a small norm \
              have a direction like any other (mergekit drops those below tol)",
    parameters: &[
        Parameter::shared("max_iter", "most steps", Kind::Integer { min: 0, max: 10_000 }, Default::Number(10.0)),
        Parameter::shared(
            "tol",
            "length of a step and angle that count as zero",
            super::POSITIVE,
            Default::Number(1e-5),
        ),
    ],
    base: Base::None,
    ..SPEC
};

impl Method for Karcher {
    fn spec(&self) -> &Spec {
        &KARCHER
    }

    fn bind(&self, params: &Params, _shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let rule = Rule::Karcher { most: params.integer("max_iter"), tolerance: params.number("tol") };
        Blend::boxed(rule, params.inputs, Vectors::Tensor)
    }
}

pub(super) struct ModelStock;

static STOCK: Spec = Spec {
    name: "model_stock",
    summary: "average of fine-tunes, pulled to the base as far as their changes disagree in direction",
    formula: "t mean(x) + (1-t) base, t = N c / (1 + (N-1) c), c = mean cosine of the changes",
    paper: "Jang et al., Model Stock, arXiv 2403.19522",
    departs: "cosines of small changes are exact (mergekit bounds the product of norms from below by 1e-6)",
    parameters: &[Parameter::shared(
        "filter_wise",
        "take each row by itself instead of the tensor",
        Kind::Switch,
        Default::Switch(false),
    )],
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
        Blend::boxed(Rule::Stock, params.inputs, vectors)
    }
}

pub(super) struct Metagpt;

static METAGPT: Spec = Spec {
    name: "metagpt",
    summary: "task arithmetic weighted by the size of each model's whole change",
    formula: "base + sum_i l_i d_i, l_i = |d_i|^2 / sum_j |d_j|^2 over all tensors",
    paper: "Zhou et al., MetaGPT, arXiv 2406.11385",
    departs: "not in mergekit",
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
        for range in stretches(tile.inputs[0].len(), reduce::BLOCK) {
            with_changes(tile, range, |changes| {
                for (d, sum) in changes.iter().zip(&mut stats.sums) {
                    reduce::dot(d, d, sum);
                }
            });
        }
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        let sum: f64 = totals.sums.iter().sum();
        self.found = Some(totals.sums.iter().map(|s| if sum > 0.0 { s / sum } else { 0.0 }).collect());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn gram(vectors: &[Vec<f32>]) -> Gram {
        let parts: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let mut dots = vec![0.0; Gram::sums(vectors.len())];
        Gram::add(&parts, &mut dots);
        Gram { n: vectors.len(), dots }
    }

    #[test]
    fn pairs_are_found_in_either_order() {
        let g = gram(&[vec![1.0, 0.0], vec![2.0, 3.0], vec![-1.0, 4.0]]);
        assert_eq!((g.dot(0, 0), g.dot(0, 1), g.dot(2, 0), g.dot(1, 2), g.dot(2, 2)), (1.0, 2.0, -1.0, 10.0, 17.0));
    }

    /// Law: identical models give the model, orthogonal changes the base.
    #[test]
    fn stock_of_the_same_and_of_orthogonal() {
        let same = stock(&gram(&[vec![1.0, 2.0], vec![1.0, 2.0]]));
        assert!((same.iter().sum::<f64>() - 1.0).abs() < 1e-12);
        assert_eq!(stock(&gram(&[vec![1.0, 0.0], vec![0.0, 1.0]])), vec![0.0, 0.0]);
    }

    #[test]
    fn cancelling_directions_are_an_error_only_for_three() {
        let three = gram(&[vec![1.0, 0.0], vec![-1.0, 0.0], vec![0.0, 0.0]]);
        assert!(multislerp(&three, &[0.5, 0.5, 0.0]).is_err());
        let two = gram(&[vec![1.0, 0.0], vec![-1.0, 0.0]]);
        assert_eq!(multislerp(&two, &[0.5, 0.5]).unwrap(), vec![0.5, 0.5]);
    }
}
