//! A tensor that is a sum: a stored weight and the change that adapters make, put together in f64 as it is read.

use std::ops::Range;

use parking_lot::Mutex;

use super::{Decode, Slot, Widen, cut, exactly, stored};
use crate::checkpoint::made::{Factor, Product, Sum};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::Element;
use crate::kernels::low_rank::add_row;
use crate::source::{Buffer, Source};

/// Columns of a tile: of 16 ranks in f64 they fit the first-level cache.
const COLUMNS: usize = 256;
/// Bytes of a number of the sum.
const WIDTH: usize = 8;

/// A sum ready to be read. Its bytes are f64.
pub struct Opened<'a> {
    parts: Vec<(Box<dyn Decode + 'a>, f64)>,
    products: Vec<OpenProduct<'a>>,
    magnitude: Option<Box<dyn Decode + 'a>>,
    /// Elements of a row.
    columns: u64,
    /// Elements in all.
    elements: u64,
}

struct OpenProduct<'a> {
    of: &'a Product,
    left: Box<dyn Decode + 'a>,
    right: Box<dyn Decode + 'a>,
    /// The right factor of the block that was read last, times the scale.
    kept: Mutex<Option<(u64, Vec<f64>)>>,
}

impl<'a> Opened<'a> {
    /// Opens what `sum`, of this shape, is made of.
    pub fn new(sum: &'a Sum, shape: &[u64], files: &'a [Box<dyn Source>]) -> Self {
        let elements: u64 = shape.iter().product();
        let of = |p: &'a Product| OpenProduct {
            of: p,
            left: stored(&p.left.tensor, files),
            right: stored(&p.right.tensor, files),
            kept: Mutex::new(None),
        };
        let products: Vec<_> = sum.products.iter().map(of).collect();
        // Of an array with more dimensions a row is all behind the first.
        let row = products.first().map_or_else(|| shape.get(1..).map_or(1, |s| s.iter().product()), |p| p.of.columns);
        Self {
            parts: sum.parts.iter().map(|(t, c)| (stored(t, files), *c)).collect(),
            products,
            magnitude: sum.magnitude.as_ref().map(|m| stored(m, files)),
            columns: row.max(1),
            elements,
        }
    }

    /// The numbers of `elements`, without magnitudes, as bytes in `target`.
    fn sums(&self, elements: &Range<u64>, target: &mut [u8], inner: &mut Vec<Slot>) -> Result<()> {
        inner.resize_with(inner.len().max(self.parts.len()), Slot::default);
        let mut raw = Vec::with_capacity(self.parts.len());
        for ((part, _), slot) in self.parts.iter().zip(inner) {
            raw.push(part.read(elements, slot)?);
        }
        let whole = (elements.end - elements.start) as usize;
        let mut tile = [0f64; COLUMNS];
        let mut one = [0f64; COLUMNS];
        let lefts: Vec<Vec<f64>> = self.products.iter().map(|p| p.left(elements)).collect::<Result<_>>()?;
        let first_row = elements.start / self.columns;
        let rows = first_row..elements.end.div_ceil(self.columns);
        // A tile of columns down all rows, so that the right factor's part of it stays in the cache.
        for begin in (0..self.columns).step_by(COLUMNS) {
            let end = (begin + COLUMNS as u64).min(self.columns);
            for row in rows.clone() {
                let start = (row * self.columns + begin).max(elements.start);
                let stop = (row * self.columns + end).min(elements.end);
                if start >= stop {
                    continue;
                }
                let piece = start..stop;
                let tile = &mut tile[..(stop - start) as usize];
                for (i, ((part, c), raw)) in self.parts.iter().zip(&raw).enumerate() {
                    let one = &mut one[..tile.len()];
                    exactly(&**part, raw, elements, &piece, one)?;
                    match (i, *c == 1.0) {
                        (0, true) => tile.copy_from_slice(one),
                        (0, false) => tile.iter_mut().zip(one).for_each(|(t, o)| *t = c * *o),
                        _ => tile.iter_mut().zip(one).for_each(|(t, o)| *t = c.mul_add(*o, *t)),
                    }
                }
                if self.parts.is_empty() {
                    tile.fill(0.0);
                }
                for (p, left) in self.products.iter().zip(&lefts) {
                    let rank = p.of.rank as usize;
                    let at = (row - first_row) as usize * rank;
                    p.with_right(row / p.of.rows, |right| {
                        let first = (start - row * self.columns) as usize;
                        add_row(&left[at..at + rank], &right[first..], self.columns as usize, tile);
                    })?;
                }
                let at = (start - elements.start) as usize;
                put(tile, &mut target[at * WIDTH..(at + tile.len()) * WIDTH]);
            }
        }
        debug_assert_eq!(whole * WIDTH, target.len());
        Ok(())
    }

    /// The numbers of `elements`, whose rows are given the lengths that `magnitude` has.
    fn scaled(&self, magnitude: &dyn Decode, elements: &Range<u64>, slot: &mut Slot) -> Result<()> {
        let rows = elements.start / self.columns..elements.end.div_ceil(self.columns);
        let whole = rows.start * self.columns..(rows.end * self.columns).min(self.elements);
        let spare = Buffer::in_slot(&mut slot.spare, (whole.end - whole.start) as usize * WIDTH)?;
        let all = &mut spare.bytes_mut()[..(whole.end - whole.start) as usize * WIDTH];
        self.sums(&whole, all, &mut slot.inner)?;
        let mut lengths = vec![0f64; (rows.end - rows.start) as usize];
        let mut small = Slot::default();
        let raw = magnitude.read(&rows, &mut small)?;
        exactly(magnitude, raw, &rows, &rows, &mut lengths)?;
        for (row, length) in all.chunks_mut(self.columns as usize * WIDTH).zip(lengths) {
            let norm = row.as_chunks::<WIDTH>().0.iter().map(|b| f64::from_le_bytes(*b).powi(2)).sum::<f64>().sqrt();
            let factor = if norm > 0.0 { length / norm } else { 0.0 };
            for b in row.as_chunks_mut::<WIDTH>().0 {
                *b = (f64::from_le_bytes(*b) * factor).to_le_bytes();
            }
        }
        let from = (elements.start - whole.start) as usize * WIDTH;
        let len = (elements.end - elements.start) as usize * WIDTH;
        let target = Buffer::in_slot(&mut slot.buffer, len)?;
        target.bytes_mut()[..len].copy_from_slice(&all[from..from + len]);
        Ok(())
    }
}

fn put(values: &[f64], bytes: &mut [u8]) {
    for (b, v) in bytes.as_chunks_mut::<WIDTH>().0.iter_mut().zip(values) {
        *b = v.to_le_bytes();
    }
}

impl OpenProduct<'_> {
    /// The left factor's rows that `elements` lie in, each with all its ranks.
    fn left(&self, elements: &Range<u64>) -> Result<Vec<f64>> {
        let p = self.of;
        let rank = p.rank as usize;
        let rows = elements.start / p.columns..elements.end.div_ceil(p.columns);
        let mut out = vec![0f64; (rows.end - rows.start) as usize * rank];
        let mut at = rows.start;
        while at < rows.end {
            let block = at / p.rows;
            let end = ((block + 1) * p.rows).min(rows.end);
            let inside = at - block * p.rows..end - block * p.rows;
            let place = (at - rows.start) as usize;
            gather(&*self.left, &p.left, block, p.rank, &inside, |k, i, v| out[(place + i) * rank + k] = v * p.scale)?;
            at = end;
        }
        Ok(out)
    }

    /// Calls `f` with the right factor of a block, rank by rank.
    fn with_right(&self, block: u64, f: impl FnOnce(&[f64])) -> Result<()> {
        let mut kept = self.kept.lock();
        if kept.as_ref().is_none_or(|(own, _)| *own != block) {
            let p = self.of;
            let columns = p.columns as usize;
            let mut right = vec![0f64; p.rank as usize * columns];
            gather(&*self.right, &p.right, block, p.rank, &(0..p.columns), |k, j, v| right[k * columns + j] = v)?;
            *kept = Some((block, right));
        }
        if let Some((_, right)) = kept.as_ref() {
            f(right);
        }
        Ok(())
    }
}

/// Calls `put` with every element of a block's factor, rank by rank: rank, place in `across`, value.
fn gather(
    opened: &dyn Decode,
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
        let raw = opened.read(&range, &mut slot)?;
        exactly(opened, raw, &range, &range, values)
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
    let last = first + (rank - 1) * factor.rank + (n - 1) * factor.step;
    read(first, last + 1, &mut values)?;
    for k in 0..rank {
        for i in 0..n {
            put(k as usize, i as usize, values[(k * factor.rank + i * factor.step) as usize]);
        }
    }
    Ok(())
}

impl Decode for Opened<'_> {
    fn dtype(&self) -> Dtype {
        Dtype::F64
    }

    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]> {
        let len = (elements.end - elements.start) as usize * WIDTH;
        match &self.magnitude {
            Some(magnitude) => self.scaled(&**magnitude, elements, slot)?,
            None => {
                let target = Buffer::in_slot(&mut slot.buffer, len)?;
                self.sums(elements, &mut target.bytes_mut()[..len], &mut slot.inner)?;
            }
        }
        slot.buffer.as_ref().map(|b| &b.bytes()[..len]).ok_or_else(|| Error::bug("a sum was read into nothing"))
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        Some(cut(raw, Dtype::F64.bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        how(Element::F64, cut(raw, Dtype::F64.bits(), of, part), out);
        Ok(())
    }

    fn ahead(&self, elements: &Range<u64>) {
        self.parts.iter().for_each(|(p, _)| p.ahead(elements));
    }

    fn release(&self, elements: &Range<u64>) {
        self.parts.iter().for_each(|(p, _)| p.release(elements));
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        match self.parts.first() {
            Some((part, _)) => part.at_fault(element, &format!("(with its adapters) {problem}")),
            None => Error::bug(format!("element {element} of a sum of nothing {problem}")),
        }
    }
}
