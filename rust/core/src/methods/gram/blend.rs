//! The kernel: sum the products of all pairs in one pass, ask the rule, combine in another.

use std::ops::Range;

use super::Gram;
use crate::kernels::{arith, reduce, scratch};
use crate::methods::{Cost, Kernel, Stats, Tile, Totals, Wants, of_tile};

/// How coefficients follow from the dot products.
type Rule = Box<dyn Fn(&Gram) -> Result<Vec<f64>, String> + Send + Sync>;

/// What makes one vector of a tensor.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Vectors {
    /// All of it.
    Tensor,
    /// Each row, of this length.
    Row(u64),
    /// Each column; there are so many.
    Column(u64),
}

/// A combination of the inputs, or, where the method has a base, the base plus one of their changes.
pub(super) struct Blend {
    rule: Rule,
    n: usize,
    vectors: Vectors,
    /// Coefficients of the inputs, once known; for columns those of the first input of every column, then the second's.
    found: Option<Vec<f64>>,
}

impl Blend {
    /// The kernel for `n` inputs.
    pub(super) fn boxed(
        n: usize,
        vectors: Vectors,
        rule: impl Fn(&Gram) -> Result<Vec<f64>, String> + Send + Sync + 'static,
    ) -> Result<Box<dyn Kernel>, String> {
        Ok(Box::new(Self { rule: Box::new(rule), n, vectors, found: None }))
    }

    fn gram(&self, tile: &Tile, range: Range<usize>, sums: &mut [f64]) {
        with_changes(tile, range, |vectors| Gram::add(vectors, sums));
    }
}

/// Calls `f` with the inputs, or their changes from the base.
pub(super) fn with_changes(tile: &Tile, range: Range<usize>, f: impl FnOnce(&[&[f32]])) {
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
pub(super) fn combine(tile: &Tile, range: Range<usize>, coefficients: &[f64], out: &mut [f32]) {
    let mut parts: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[range.clone()]).collect();
    let mut weights = coefficients.to_vec();
    if let Some(base) = tile.base {
        parts.insert(0, &base[range]);
        weights.insert(0, 1.0 - coefficients.iter().sum::<f64>());
    }
    arith::combine(&parts, &weights, out);
}

/// The blocks or units of a tile, the last one shorter where it must be.
pub(super) fn parts(len: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..len).step_by(size).map(move |at| at..(at + size).min(len))
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
            for range in parts(len, reduce::BLOCK) {
                self.gram(tile, range, &mut stats.sums);
            }
            return;
        };
        // A sum for every column, added row by row: its value does not depend on where tiles end.
        for range in parts(len, reduce::BLOCK) {
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
            // One list for all columns, of which there may be millions.
            let mut found = Vec::with_capacity(totals.sums.len() / 3 * 2);
            for sums in totals.sums.chunks_exact(3) {
                found.extend((self.rule)(&Gram::new(2, sums.to_vec()))?);
            }
            found
        } else {
            (self.rule)(&Gram::new(self.n, totals.sums))?
        });
        Ok(())
    }

    fn apply(&self, tile: &Tile, _ranks: &mut [u64], out: &mut [f32]) {
        match (self.vectors, &self.found) {
            (Vectors::Row(length), _) => {
                for range in parts(out.len(), length as usize) {
                    let mut dots = vec![0.0; Gram::sums(self.n)];
                    self.gram(tile, range.clone(), &mut dots);
                    // Only multislerp can fail, and it knows no rows.
                    let coefficients = (self.rule)(&Gram::new(self.n, dots)).unwrap_or_default();
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
