//! The two factors of a low-rank product, read as they are needed: rows of the left one, a block of the right one.

use std::ops::Range;

use parking_lot::Mutex;

use super::{Decode, Slot, fault, stored};
use crate::checkpoint::made::{Factor, GATHERED, Product};
use crate::error::{Error, Result};
use crate::source::Source;

/// The left factor, times the scale.
pub struct Left<'a> {
    of: &'a Product,
    view: Box<dyn Decode + 'a>,
    /// The rows that were read last, each with all its ranks.
    kept: Mutex<(Range<u64>, Vec<f64>)>,
}

/// The right factor.
pub struct Right<'a> {
    of: &'a Product,
    view: Box<dyn Decode + 'a>,
    /// The block that was read last, rank by rank.
    kept: Mutex<Option<(u64, Vec<f64>)>>,
}

impl<'a> Left<'a> {
    /// Opens it.
    pub fn new(of: &'a Product, files: &'a [Box<dyn Source>]) -> Self {
        Self { of, view: stored(&of.left.tensor, files), kept: Mutex::default() }
    }

    /// Reads `rows`, of any blocks.
    pub fn fetch(&self, rows: &Range<u64>) -> Result<()> {
        let mut kept = self.kept.lock();
        if kept.0.start <= rows.start && rows.end <= kept.0.end {
            return Ok(());
        }
        let (p, rank) = (self.of, self.of.rank as usize);
        let mut out = std::mem::take(&mut kept.1);
        out.clear();
        out.resize((rows.end - rows.start) as usize * rank, 0.0);
        let mut at = rows.start;
        while at < rows.end {
            let block = at / p.rows;
            let end = ((block + 1) * p.rows).min(rows.end);
            let inside = at - block * p.rows..end - block * p.rows;
            let place = (at - rows.start) as usize;
            gather(&*self.view, &p.left, block, p.rank, &inside, |k, i, v| out[(place + i) * rank + k] = v * p.scale)?;
            at = end;
        }
        *kept = (rows.clone(), out);
        Ok(())
    }

    /// The error about an element of a row that is what is wrong with it.
    pub fn fault(&self, row: u64, problem: &str) -> Option<Error> {
        let (factor, block) = (&self.of.left, row / self.of.rows);
        let first = block * factor.block + (row - block * self.of.rows) * factor.step;
        (0..self.of.rank).find_map(|k| fault(&*self.view, first + k * factor.rank, problem))
    }

    /// Calls `f` with all ranks of a row that was fetched.
    pub fn with<T>(&self, row: u64, f: impl FnOnce(&[f64]) -> T) -> Result<T> {
        let kept = self.kept.lock();
        let rank = self.of.rank as usize;
        let at = (row - kept.0.start) as usize * rank;
        Ok(f(&kept.1[at..at + rank]))
    }
}

impl<'a> Right<'a> {
    /// Opens it.
    pub fn new(of: &'a Product, files: &'a [Box<dyn Source>]) -> Self {
        Self { of, view: stored(&of.right.tensor, files), kept: Mutex::new(None) }
    }

    /// The error about an element of a column that is what is wrong with it.
    pub fn fault(&self, row: u64, column: u64, problem: &str) -> Option<Error> {
        let (factor, block) = (&self.of.right, row / self.of.rows);
        let first = block * factor.block + column * factor.step;
        (0..self.of.rank).find_map(|k| fault(&*self.view, first + k * factor.rank, problem))
    }

    /// Calls `f` with the factor of the block that a row is in, rank by rank.
    pub fn with<T>(&self, row: u64, f: impl FnOnce(&[f64]) -> T) -> Result<T> {
        let (p, block) = (self.of, row / self.of.rows);
        let mut kept = self.kept.lock();
        let found = match kept.take() {
            Some((own, right)) if own == block => right,
            _ => {
                let columns = p.columns as usize;
                let mut right = vec![0f64; p.rank as usize * columns];
                gather(&*self.view, &p.right, block, p.rank, &(0..p.columns), |k, j, v| right[k * columns + j] = v)?;
                right
            }
        };
        let made = f(&found);
        *kept = Some((block, found));
        Ok(made)
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
