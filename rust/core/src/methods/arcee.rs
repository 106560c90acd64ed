//! Arcee fusion: take from the other model the elements that matter most, by how far they moved and how much their row's
//! distribution changed.

use super::{Base, Class, Cost, Kernel, Method, Params, Spec, Stats, Tile, Totals, Wants, elements, row};
use crate::kernels::scratch;
use crate::kernels::search::Search;

pub(super) struct ArceeFusion;

static SPEC: Spec = Spec {
    name: "arcee_fusion",
    summary: "take the other model's elements whose importance stands out in their tensor",
    formula: "base + [s >= median + 1.5 (q3 - q1)] (x - base), s = |x - base| KL(softmax(row of x) || softmax(row of base))",
    paper: "Arcee AI, mergekit's documentation",
    departs: "exact quartiles by histogram (mergekit: of a million random elements in larger tensors, so that no two runs \
              agree); writes the checkpoint's dtype (mergekit: f32)",
    parameters: &[],
    base: Base::Required,
    inputs: (1, 1),
    class: Class::Order,
    reads: 4,
    homogeneous: false,
};

impl Method for ArceeFusion {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn bind(&self, _params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let n = elements(shape);
        // The element that stands at share q of the ascending order is this many from the top.
        let quartile = |q: f64| n - (q * n.saturating_sub(1) as f64) as u64;
        Ok(Box::new(Bound {
            row: row(shape),
            rows: n / row(shape),
            divergences: None,
            // Not of a sample: it would be of whole rows, which long ones make most of a pass.
            quartiles: Search::values(&[vec![quartile(0.25), quartile(0.5), quartile(0.75)]]),
            threshold: 0.0,
        }))
    }
}

struct Bound {
    row: u64,
    rows: u64,
    /// Of every row, once known.
    divergences: Option<Vec<f64>>,
    quartiles: Search,
    threshold: f32,
}

/// Kullback-Leibler divergence of the softmax of `x` from that of `base`, each probability raised by 1e-8.
fn divergence(x: &[f32], base: &[f32]) -> f64 {
    let prepare = |v: &[f32]| {
        let max = v.iter().fold(f32::NEG_INFINITY, |a, b| a.max(*b));
        let total: f64 = v.iter().map(|v| f64::from(v - max).exp()).sum();
        (max, total)
    };
    let ((max_x, sum_x), (max_b, sum_b)) = (prepare(x), prepare(base));
    x.iter()
        .zip(base)
        .map(|(x, b)| {
            let p = f64::from(x - max_x).exp() / sum_x + 1e-8;
            let q = f64::from(b - max_b).exp() / sum_b + 1e-8;
            p * (p / q).ln()
        })
        .sum()
}

impl Bound {
    fn rows<'t>(&self, tile: &'t Tile) -> impl Iterator<Item = (usize, &'t [f32], &'t [f32])> {
        let first = (tile.start / self.row) as usize;
        let base = tile.base.unwrap_or(tile.inputs[0]);
        let rows = tile.inputs[0].chunks(self.row as usize).zip(base.chunks(self.row as usize));
        rows.enumerate().map(move |(i, (x, b))| (first + i, x, b))
    }

    fn importance(&self, row: usize, x: &[f32], base: &[f32], out: &mut [f32]) {
        let divergence = self.divergences.as_ref().map_or(0.0, |d| d[row]);
        for ((o, x), b) in out.iter_mut().zip(x).zip(base) {
            *o = (f64::from((x - b).abs()) * divergence) as f32;
        }
    }
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        let wants = Wants { sums: self.rows as usize, ..self.quartiles.most().into() };
        // A row's importance.
        Cost { reads: 2 + self.quartiles.scans(), unit: self.row, scratch: 4, wants, ..Cost::ELEMENT }
    }

    fn wants(&self) -> Option<Wants> {
        if self.divergences.is_none() {
            return Some(Wants { sums: self.rows as usize, ..Wants::default() });
        }
        Wants::of(&self.quartiles)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        for (row, x, base) in self.rows(tile) {
            if self.divergences.is_none() {
                stats.sums[row] = divergence(x, base);
                continue;
            }
            let mut importance = scratch::values(x.len());
            self.importance(row, x, base, &mut importance);
            self.quartiles.scan(0, &importance, stats.into());
        }
    }

    fn take(&mut self, mut totals: Totals) -> Result<(), String> {
        if self.divergences.is_none() {
            self.divergences = Some(totals.sums);
            return Ok(());
        }
        self.quartiles.take(&totals.counts, &totals.ranks, &mut totals.lists);
        if let [q1, median, q3] = self.quartiles.group(0) {
            self.threshold = median.value() + 1.5 * (q3.value() - q1.value());
        }
        Ok(())
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        for ((row, x, base), out) in self.rows(tile).zip(out.chunks_mut(self.row as usize)) {
            let mut importance = scratch::values(x.len());
            self.importance(row, x, base, &mut importance);
            for (((o, x), b), s) in out.iter_mut().zip(x).zip(base).zip(&*importance) {
                // A NaN, of the element or of what it is measured by, is neither and comes through.
                *o = if *s < self.threshold {
                    *b
                } else if *s >= self.threshold {
                    *x
                } else {
                    f32::NAN
                };
            }
        }
    }
}
