//! Rows of several tables, one after the other; some the mean or a weighted sum of others, some zeros.
//!
//! What is read are the bytes of the rows as they are stored; means and sums are formed in f64 and stand among them as such. Where what
//! is asked for are rows of one table that lie together, they are read in place.

use std::ops::Range;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Decode, Slot, cut, stored};
use crate::checkpoint::Tensor;
use crate::checkpoint::rows::{Formed, Rows, Segment};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::kernels::rng;
use crate::source::{Buffer, Source};

/// A table ready to be read.
pub struct Opened<'a> {
    rows: &'a Rows,
    dtype: Dtype,
    moves: bool,
    tables: Vec<Option<Box<dyn Decode + 'a>>>,
    last: Mutex<Last>,
}

/// Where the last tile ended: the next one begins there and does not look from the beginning of a chunk. With `bytes` decoded at
/// once a merge of rows in another order took 0.68 s of user time and not 0.78 (medians of three, `benches/made.py`).
#[derive(Default)]
struct Last {
    /// What was read.
    of: Range<u64>,
    /// The segment.
    index: usize,
    /// Where its bytes begin in what was read.
    at: usize,
}

/// Elements that come from one place.
struct Piece<'s> {
    segment: &'s Segment,
    index: usize,
    /// The elements they are.
    elements: Range<u64>,
    /// The first row of the segment.
    first: u64,
}

impl<'a> Opened<'a> {
    /// Opens the tables that `own` is made of.
    pub fn new(rows: &'a Rows, own: &Tensor, files: &'a [Box<dyn Source>]) -> Self {
        let tables = rows.tables.iter().map(|t| t.as_ref().map(|t| stored(t, files))).collect();
        Self { rows, dtype: own.dtype, moves: rows.moves(own), tables, last: Mutex::default() }
    }

    fn table(&self, model: usize) -> Result<&dyn Decode> {
        let found = self.tables.get(model).and_then(Option::as_deref);
        found.ok_or_else(|| Error::bug(format!("model {model} has no table that a row is from")))
    }

    /// The places that `elements` come from, in order.
    fn pieces(&self, elements: &Range<u64>) -> impl Iterator<Item = Piece<'_>> {
        let columns = self.rows.columns;
        let from = self.rows.layout.starts.partition_point(|s| s * columns <= elements.start).saturating_sub(1);
        self.pieces_from(from, elements)
    }

    /// The same from a segment on.
    fn pieces_from(&self, from: usize, elements: &Range<u64>) -> impl Iterator<Item = Piece<'_>> {
        let (layout, columns) = (&self.rows.layout, self.rows.columns);
        let elements = elements.clone();
        (from..layout.segments.len())
            .map(move |i| {
                let (segment, first) = (&layout.segments[i], layout.starts[i]);
                let own = first * columns..(first + segment.count()) * columns;
                Piece { segment, index: i, first, elements: own.start.max(elements.start)..own.end.min(elements.end) }
            })
            .take_while({
                let end = elements.end;
                move |p| p.first * columns < end
            })
            .filter(|p| !p.elements.is_empty())
    }

    /// The elements of a model's table that a piece of its rows is.
    fn there(&self, piece: &Piece, row: u64) -> Range<u64> {
        let columns = self.rows.columns;
        let shift = |e: u64| e - piece.first * columns + row * columns;
        shift(piece.elements.start)..shift(piece.elements.end)
    }

    fn len_of(&self, piece: &Piece) -> usize {
        let n = piece.elements.end - piece.elements.start;
        match piece.segment {
            Segment::Rows(_, model, row) => self.table(*model).map_or(0, |t| t.raw_len(&self.there(piece, *row))),
            Segment::Zero { .. } => (n * self.dtype.bits() / 8) as usize,
            Segment::Mean { .. } | Segment::Mix { .. } | Segment::Pad { .. } => (n * 8) as usize,
        }
    }

    /// Puts the bytes of a piece into `target`.
    fn fill(&self, piece: &Piece, slot: &mut Slot, target: &mut [u8]) -> Result<()> {
        let columns = self.rows.columns;
        match piece.segment {
            Segment::Rows(_, model, row) => {
                target.copy_from_slice(self.table(*model)?.read(&self.there(piece, *row), slot)?);
            }
            Segment::Zero { .. } => target.fill(0),
            Segment::Mean { mean } => {
                let mut sum = vec![0f64; target.len() / 8];
                for (model, row) in mean {
                    self.add(*model, &self.there(piece, *row), slot, &mut sum)?;
                }
                put(sum.iter().map(|s| s / mean.len() as f64), target);
            }
            Segment::Mix { .. } | Segment::Pad { .. } => {
                let row = match piece.segment {
                    Segment::Mix { mix } => self.mixed(*mix, slot)?,
                    _ => self.mean(slot)?,
                };
                put(piece.elements.clone().map(|e| row[(e % columns) as usize]), target);
            }
        }
        Ok(())
    }

    /// Adds elements of a model's table to a sum.
    fn add(&self, model: usize, elements: &Range<u64>, slot: &mut Slot, sum: &mut [f64]) -> Result<()> {
        let table = self.table(model)?;
        let mut values = vec![0f64; sum.len()];
        let raw = table.read(elements, slot)?;
        table.decode_exactly(raw, elements, elements, &mut values)?;
        sum.iter_mut().zip(values).for_each(|(s, v)| *s += v);
        Ok(())
    }

    /// A row that is formed of many; whoever asks first forms it, and the others wait.
    fn formed(&self, what: Formed, make: impl FnOnce() -> Result<Vec<f64>>) -> Result<Arc<Vec<f64>>> {
        let mut known = self.rows.formed.lock();
        if let Some((_, row)) = known.as_ref().filter(|(have, _)| *have == what) {
            return Ok(Arc::clone(row));
        }
        let row = Arc::new(make()?);
        *known = Some((what, Arc::clone(&row)));
        Ok(row)
    }

    /// A mix of rows.
    fn mixed(&self, mix: usize, slot: &mut Slot) -> Result<Arc<Vec<f64>>> {
        // A new token often is the mean of all; others are formed side by side.
        if self.rows.layout.mixes.entries(mix).count() >= SHARED {
            return self.formed(Formed::Mix(mix), || self.mix(mix, slot));
        }
        self.mix(mix, slot).map(Arc::new)
    }

    /// Forms a mix.
    fn mix(&self, mix: usize, slot: &mut Slot) -> Result<Vec<f64>> {
        let (mixes, columns, table) = (&self.rows.layout.mixes, self.rows.columns, self.table(0)?);
        let (mut sum, mut values) = (vec![0f64; columns as usize], vec![0f64; columns as usize]);
        for (row, weight) in mixes.entries(mix) {
            let elements = row * columns..(row + 1) * columns;
            let raw = table.read(&elements, slot)?;
            table.decode_exactly(raw, &elements, &elements, &mut values)?;
            sum.iter_mut().zip(&values).for_each(|(s, v)| *s += weight * v);
            // They lie anywhere: of a mapped file all would stay.
            table.release(&elements);
        }
        let noise = mixes.noise.get(mix).copied().unwrap_or(0.0);
        if noise > 0.0 {
            let size = (sum.iter().map(|v| v * v).sum::<f64>() / columns.max(1) as f64).sqrt();
            let drawn = rng::normal(rng::key(mixes.seed, "mix", &mix.to_string()), sum.len());
            sum.iter_mut().zip(drawn).for_each(|(s, z)| *s += noise * size * z);
        }
        Ok(sum)
    }

    /// The mean of all rows that are tokens.
    fn mean(&self, slot: &mut Slot) -> Result<Arc<Vec<f64>>> {
        self.formed(Formed::Mean, || self.mean_of_all(slot))
    }

    fn mean_of_all(&self, slot: &mut Slot) -> Result<Vec<f64>> {
        let (layout, columns) = (&self.rows.layout, self.rows.columns);
        let mut sum = vec![0f64; columns as usize];
        let mut values = Vec::new();
        for (index, (segment, first)) in layout.segments.iter().zip(&layout.starts).enumerate() {
            if matches!(segment, Segment::Pad { .. } | Segment::Zero { .. }) {
                continue;
            }
            // A few rows at a time.
            let step = (BLOCK / columns).max(1);
            for row in (*first..first + segment.count()).step_by(step as usize) {
                let end = (row + step).min(first + segment.count());
                let part = row * columns..end * columns;
                values.resize((part.end - part.start) as usize, 0f64);
                let piece = Piece { segment, index, first: *first, elements: part };
                let mut raw = vec![0u8; self.len_of(&piece)];
                self.fill(&piece, slot, &mut raw)?;
                self.numbers(&piece, &raw, &piece.elements, &mut values)?;
                for row in values.chunks(columns as usize) {
                    sum.iter_mut().zip(row).for_each(|(s, v)| *s += v);
                }
            }
        }
        Ok(sum.iter().map(|s| s / layout.real.max(1) as f64).collect())
    }

    /// The numbers of the elements `part` of a piece, of which `raw` are the bytes.
    fn numbers(&self, piece: &Piece, raw: &[u8], part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        let inside = part.start - piece.elements.start..part.end - piece.elements.start;
        match piece.segment {
            Segment::Rows(_, model, row) => {
                let of = self.there(piece, *row);
                self.table(*model)?.decode_exactly(raw, &of, &(of.start + inside.start..of.start + inside.end), out)?;
            }
            Segment::Zero { .. } => out.fill(0.0),
            Segment::Mean { .. } | Segment::Mix { .. } | Segment::Pad { .. } => {
                let bytes = &raw.as_chunks::<8>().0[inside.start as usize..inside.end as usize];
                out.iter_mut().zip(bytes).for_each(|(o, b)| *o = f64::from_le_bytes(*b));
            }
        }
        Ok(())
    }

    /// Calls `f` with every piece of `part`: its bytes, the elements asked for, and their place in what is asked for.
    fn each(
        &self,
        raw: &[u8],
        of: &Range<u64>,
        part: &Range<u64>,
        mut f: impl FnMut(&Piece, &[u8], &Range<u64>, Range<usize>) -> Result<()>,
    ) -> Result<()> {
        let begins = |index: usize| self.rows.layout.starts[index] * self.rows.columns;
        let known = std::mem::take(&mut *self.last.lock());
        let follows = known.of == *of && begins(known.index) <= part.start;
        let first = || self.pieces(of).next().map_or(0, |p| p.index);
        let (from, mut at) = if follows { (known.index, known.at) } else { (first(), 0) };
        for piece in self.pieces_from(from, of) {
            let own = &raw[at..at + self.len_of(&piece)];
            let asked = piece.elements.start.max(part.start)..piece.elements.end.min(part.end);
            if !asked.is_empty() {
                let place = (asked.start - part.start) as usize..(asked.end - part.start) as usize;
                f(&piece, own, &asked, place)?;
            }
            if piece.elements.end >= part.end {
                *self.last.lock() = Last { of: of.clone(), index: piece.index, at };
                break;
            }
            at += own.len();
        }
        Ok(())
    }
}

/// Entries from which on a mix is kept for the next row, which may be the same.
const SHARED: usize = 1 << 12;
/// Elements of a table that are summed up at a time.
const BLOCK: u64 = 1 << 16;

fn put(values: impl Iterator<Item = f64>, bytes: &mut [u8]) {
    for (b, v) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(values) {
        *b = v.to_le_bytes();
    }
}

impl Decode for Opened<'_> {
    fn dtype(&self) -> Dtype {
        self.dtype
    }

    fn raw_len(&self, elements: &Range<u64>) -> usize {
        self.pieces(elements).map(|p| self.len_of(&p)).sum()
    }

    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]> {
        let mut pieces = self.pieces(elements);
        if let (Some(only), None) = (pieces.next(), pieces.next())
            && let Segment::Rows(_, model, row) = only.segment
        {
            return self.table(*model)?.read(&self.there(&only, *row), slot);
        }
        let len = self.raw_len(elements);
        let Slot { buffer, inner, .. } = slot;
        inner.resize_with(inner.len().max(1), Slot::default);
        let target = Buffer::in_slot(buffer, len)?;
        let mut at = 0;
        for piece in self.pieces(elements) {
            let n = self.len_of(&piece);
            self.fill(&piece, &mut inner[0], &mut target.bytes_mut()[at..at + n])?;
            at += n;
        }
        Ok(&target.bytes()[..len])
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        self.moves.then(|| cut(raw, self.dtype.bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        if let Some(bytes) = self.bytes(raw, of, part) {
            how.widen(Element::need(self.dtype)?, bytes, out);
            return Ok(());
        }
        self.each(raw, of, part, |piece, own, asked, place| {
            let out = &mut out[place];
            let inside = asked.start - piece.elements.start..asked.end - piece.elements.start;
            match piece.segment {
                Segment::Rows(_, model, row) => {
                    let there = self.there(piece, *row);
                    let asked = there.start + inside.start..there.start + inside.end;
                    self.table(*model)?.decode_by(how, own, &there, &asked, out)?;
                }
                Segment::Zero { .. } => out.fill(0.0),
                Segment::Mean { .. } | Segment::Mix { .. } | Segment::Pad { .. } => {
                    how.widen(Element::F64, &own[inside.start as usize * 8..inside.end as usize * 8], out);
                }
            }
            Ok(())
        })
    }

    fn decode_exactly(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        self.each(raw, of, part, |piece, own, asked, place| self.numbers(piece, own, asked, &mut out[place]))
    }

    fn ahead(&self, elements: &Range<u64>) {
        for piece in self.pieces(elements) {
            if let Segment::Rows(_, model, row) = piece.segment
                && let Ok(table) = self.table(*model)
            {
                table.ahead(&self.there(&piece, *row));
            }
        }
    }

    fn release(&self, elements: &Range<u64>) {
        for piece in self.pieces(elements) {
            if let Segment::Rows(_, model, row) = piece.segment
                && let Ok(table) = self.table(*model)
            {
                table.release(&self.there(&piece, *row));
            }
        }
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        let row = element / self.rows.columns;
        let from = self.pieces(&(element..element + 1)).find_map(|p| match p.segment {
            Segment::Rows(_, model, first) => Some((*model, self.there(&p, *first).start)),
            Segment::Mean { mean } => mean.first().map(|(model, first)| (*model, self.there(&p, *first).start)),
            Segment::Mix { mix } => {
                self.rows.layout.mixes.entries(*mix).next().map(|(first, _)| (0, self.there(&p, first).start))
            }
            _ => None,
        });
        match from.map(|(model, at)| (self.table(model), at)) {
            Some((Ok(table), at)) => table.at_fault(at, problem),
            _ => Error::bug(format!("row {row} of a table of zeros and padding {problem}")),
        }
    }
}
