//! The two factors of a low-rank product, read as they are needed: rows of the left one, a block of the right one.

use std::ops::Range;
use std::sync::OnceLock;

use super::{Decode, Slot, fault, stored};
use crate::checkpoint::made::{Factor, GATHERED, Product};
use crate::error::{Error, Result};
use crate::kernels::low_rank::{Panels, Real};
use crate::source::Source;

/// The left factor, times the scale.
pub struct Left<'a> {
    of: &'a Product,
    view: Box<dyn Decode + 'a>,
    /// What its ranks are multiplied by, once read.
    middle: Option<Middle<'a>>,
}

/// What ranks are multiplied by, and the numbers once they are read.
type Middle<'a> = (Box<dyn Decode + 'a>, OnceLock<Vec<f64>>);

/// The right factor.
pub struct Right<'a> {
    of: &'a Product,
    view: Box<dyn Decode + 'a>,
}

impl<'a> Left<'a> {
    /// Opens it.
    pub fn new(of: &'a Product, files: &'a [Box<dyn Source>]) -> Self {
        let middle = of.middle.as_ref().map(|m| (stored(m, files), OnceLock::new()));
        Self { of, view: stored(&of.left.tensor, files), middle }
    }

    /// What each rank of each block is multiplied by; empty if it is 1.
    fn middle(&self) -> Result<&[f64]> {
        let (Some((view, read)), Some(tensor)) = (&self.middle, &self.of.middle) else { return Ok(&[]) };
        if let Some(values) = read.get() {
            return Ok(values);
        }
        let (all, mut slot) = (0..tensor.elements(), Slot::default());
        let mut values = vec![0f64; all.end as usize];
        view.decode_exactly(view.read(&all, &mut slot)?, &all, &all, &mut values)?;
        Ok(read.get_or_init(|| values))
    }

    /// Reads `rows`, of any blocks, each with all its ranks.
    pub fn read<T: Real>(&self, rows: &Range<u64>, out: &mut Vec<T>) -> Result<()> {
        let (p, rank) = (self.of, self.of.rank as usize);
        let middle = self.middle()?;
        out.clear();
        out.resize((rows.end - rows.start) as usize * rank, T::default());
        for (block, own) in p.blocks(rows) {
            let inside = own.start - block * p.rows..own.end - block * p.rows;
            let place = (own.start - rows.start) as usize;
            gather(&*self.view, &p.left, block, p.rank, &inside, |k, i, v| {
                let v = middle.get(block as usize * rank + k).map_or(v, |m| v * m);
                out[(place + i) * rank + k] = T::nearest(v * p.scale);
            })?;
        }
        Ok(())
    }

    /// The error about an element of a row that is what is wrong with it.
    pub fn fault(&self, row: u64, problem: &str) -> Option<Error> {
        let (factor, block) = (&self.of.left, row / self.of.rows);
        let first = block * factor.block + (row - block * self.of.rows) * factor.step;
        (0..self.of.rank).find_map(|k| fault(&*self.view, first + k * factor.rank, problem))
    }
}

impl<'a> Right<'a> {
    /// Opens it.
    pub fn new(of: &'a Product, files: &'a [Box<dyn Source>]) -> Self {
        Self { of, view: stored(&of.right.tensor, files) }
    }

    /// Reads the factor of a block.
    pub fn read<T: Real>(&self, block: u64) -> Result<Panels<T>> {
        let p = self.of;
        let mut panels = Panels::new(p.rank as usize, p.columns as usize);
        gather(&*self.view, &p.right, block, p.rank, &(0..p.columns), |k, j, v| panels.put(k, j, T::nearest(v)))?;
        Ok(panels)
    }

    /// The error about an element of a column that is what is wrong with it.
    pub fn fault(&self, row: u64, column: u64, problem: &str) -> Option<Error> {
        let (factor, block) = (&self.of.right, row / self.of.rows);
        let first = block * factor.block + column * factor.step;
        (0..self.of.rank).find_map(|k| fault(&*self.view, first + k * factor.rank, problem))
    }
}

/// Calls `put` with every element of a block's factor, rank by rank: rank, place in `across`, value.
fn gather(
    view: &dyn Decode,
    factor: &Factor,
    block: u64,
    rank: u64,
    across: &Range<u64>,
    mut put: impl FnMut(usize, usize, f64),
) -> Result<()> {
    let n = across.end - across.start;
    if n == 0 || rank == 0 {
        return Ok(());
    }
    let mut slot = Slot::default();
    let mut values = Vec::new();
    let first = block * factor.block + across.start * factor.step;
    let mut read = |from: u64, to: u64, values: &mut Vec<f64>| -> Result<()> {
        let range = from..to;
        values.resize((to - from) as usize, 0.0);
        let raw = view.read(&range, &mut slot)?;
        view.decode_exactly(raw, &range, &range, values)
    };
    // Lines of one rank where they lie together, else all there is between the first and the last.
    if factor.step == 1 {
        for k in 0..rank {
            let from = first + k * factor.rank;
            read(from, from + n, &mut values)?;
            values.iter().enumerate().for_each(|(i, v)| put(k as usize, i, *v));
        }
        return Ok(());
    }
    // Rows of a factor may lie far apart: so many at a time that what is read fits the memory that is counted for it.
    let ranks = factor.apart(rank);
    let rows = (GATHERED.saturating_sub(ranks) / factor.step).max(1);
    for begin in (0..n).step_by(rows as usize) {
        let count = rows.min(n - begin);
        let from = first + begin * factor.step;
        read(from, from + (count - 1) * factor.step + ranks, &mut values)?;
        for k in 0..rank {
            for i in 0..count {
                put(k as usize, (begin + i) as usize, values[(k * factor.rank + i * factor.step) as usize]);
            }
        }
    }
    Ok(())
}
