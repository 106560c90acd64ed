//! A quantised weight ready to be read.

use std::ops::Range;

use super::{Codec, Piece, beside, codec};
use crate::checkpoint::Tensor;
use crate::checkpoint::made::Coded;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::Widen;
use crate::model::coding::Coding;
use crate::source::{Buffer, Source};
use crate::view::gather::gather;
use crate::view::{Decode, Slot, stored};

/// A quantised weight and the files its parts lie in.
pub struct Opened<'a> {
    tensor: &'a Tensor,
    parts: &'a [Tensor],
    views: Vec<Box<dyn Decode + 'a>>,
    files: &'a [Box<dyn Source>],
    codec: Box<dyn Codec>,
    coding: &'a Coding,
}

impl<'a> Opened<'a> {
    /// Opens the parts of `tensor`.
    pub fn new(coded: &'a Coded, tensor: &'a Tensor, files: &'a [Box<dyn Source>]) -> Self {
        let views = coded.parts.iter().map(|t| stored(t, files)).collect();
        Self { tensor, parts: &coded.parts, views, files, codec: codec(&coded.coding), coding: &coded.coding }
    }

    fn len_of(&self, piece: &Piece) -> usize {
        (piece.elements() * self.parts[piece.part].dtype.bits() / 8) as usize
    }

    /// Puts the bytes of a piece into `target`.
    fn fill(&self, piece: &Piece, slot: &mut Slot, target: &mut [u8]) -> Result<()> {
        let (part, view) = (&self.parts[piece.part], &self.views[piece.part]);
        let starts = (0..piece.count).map(|i| piece.first + i * piece.pitch);
        let bits = part.dtype.bits();
        let width = (piece.width * bits / 8) as usize;
        // Puts some ranges in their places, the first of them the range `index`.
        let mut put = |index: usize, ranges: &[&[u8]]| match (piece.turned, bits) {
            (false, _) => {
                let places = target[index * width..].chunks_exact_mut(width.max(1));
                places.zip(ranges).for_each(|(t, r)| t.copy_from_slice(r));
            }
            (true, 32) => turn::<4>(ranges, index, piece.count as usize, target),
            (true, 16) => turn::<2>(ranges, index, piece.count as usize, target),
            (true, _) => turn::<1>(ranges, index, piece.count as usize, target),
        };
        if piece.count == 1 || !part.is_contiguous() || part.made.is_some() {
            for (index, start) in starts.enumerate() {
                put(index, &[view.read(&(start..start + piece.width), slot)?]);
            }
            return Ok(());
        }
        let place = |start: &u64| part.begin + start * bits / 8..part.begin + (start + piece.width) * bits / 8;
        let mut index = 0;
        gather(&*self.files[part.file], starts, place, &mut slot.spare, |some, bytes, all| {
            let mut ranges: [&[u8]; TOGETHER] = [&[]; TOGETHER];
            let mut n = 0;
            for start in some {
                let own = place(&start);
                ranges[n] = &bytes[(own.start - all.start) as usize..(own.end - all.start) as usize];
                n += 1;
                if n == TOGETHER {
                    put(index, &ranges);
                    (index, n) = (index + n, 0);
                }
            }
            put(index, &ranges[..n]);
            index += n;
        })
    }

    /// The range of elements of each piece, from the first to the last.
    fn extents(&self, elements: &Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let end = |p: &Piece| p.first + p.count.saturating_sub(1) * p.pitch + p.width;
        self.codec.pieces(elements).into_iter().filter(|p| p.elements() > 0).map(move |p| (p.part, p.first..end(&p)))
    }
}

/// Ranges that are turned together: what they put side by side is written at once. One by one, blocks of gpt-oss took 3.3 ns an
/// element, lines of the cache driving each other out.
const TOGETHER: usize = 16;

/// The transpose of a square of bytes: four times, row `i` and row `i + 8` are zipped. Byte by byte, lines were written in pieces and
/// then read whole, for which processors wait.
fn square(mut rows: [[u8; TOGETHER]; TOGETHER]) -> [[u8; TOGETHER]; TOGETHER] {
    const HALF: usize = TOGETHER / 2;
    for _ in 0..TOGETHER.ilog2() {
        let before = rows;
        for k in 0..TOGETHER {
            let (a, b, from) = (before[k / 2], before[k / 2 + HALF], k % 2 * HALF);
            for i in 0..HALF {
                (rows[k][2 * i], rows[k][2 * i + 1]) = (a[from + i], b[from + i]);
            }
        }
    }
    rows
}

/// Puts the elements of some ranges, of `N` bytes each, where they belong among those of `count` ranges that are turned; the first is
/// the range `index`.
fn turn<const N: usize>(ranges: &[&[u8]], index: usize, count: usize, target: &mut [u8]) {
    let Some(width) = ranges.iter().map(|r| r.len() / N).min() else { return };
    let target = target.as_chunks_mut::<N>().0;
    let mut done = 0;
    // Squares of which both sides are known: one byte at a time took 1 ns.
    if let Ok(ranges) = <&[&[u8]; TOGETHER]>::try_from(ranges) {
        let wide = ranges.map(|r| r.as_chunks::<N>().0.as_chunks::<TOGETHER>().0);
        while done + TOGETHER <= width {
            if N == 1 {
                let mut rows = [[0; TOGETHER]; TOGETHER];
                rows.iter_mut().zip(ranges).for_each(|(row, r)| row.copy_from_slice(&r[done..done + TOGETHER]));
                for (element, line) in square(rows).iter().enumerate() {
                    let at = (done + element) * count + index;
                    target[at..at + TOGETHER].as_flattened_mut().copy_from_slice(line);
                }
            } else {
                let rows = wide.map(|r| &r[done / TOGETHER]);
                for element in 0..TOGETHER {
                    let at = (done + element) * count + index;
                    let line = &mut target[at..at + TOGETHER];
                    line.iter_mut().zip(rows).for_each(|(t, row)| *t = row[element]);
                }
            }
            done += TOGETHER;
        }
    }
    for element in done..width {
        let line = &mut target[element * count + index..][..ranges.len()];
        for (t, r) in line.iter_mut().zip(ranges) {
            *t = r.as_chunks::<N>().0[element];
        }
    }
}

impl Decode for Opened<'_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    fn raw_len(&self, elements: &Range<u64>) -> usize {
        self.codec.pieces(elements).iter().map(|p| self.len_of(p)).sum()
    }

    fn read<'r>(&'r self, elements: &Range<u64>, slot: &'r mut Slot) -> Result<&'r [u8]> {
        let pieces = self.codec.pieces(elements);
        // Codes with their scales inside are decoded where they lie.
        if let [only] = pieces.as_slice()
            && only.count == 1
        {
            return self.views[only.part].read(&(only.first..only.first + only.width), slot);
        }
        let Slot { buffer, inner, .. } = slot;
        inner.resize_with(inner.len().max(1), Slot::default);
        let len = pieces.iter().map(|p| self.len_of(p)).sum();
        let target = &mut Buffer::in_slot(buffer, len)?.bytes_mut()[..len];
        let mut at = 0;
        for piece in &pieces {
            let n = self.len_of(piece);
            self.fill(piece, &mut inner[0], &mut target[at..at + n])?;
            at += n;
        }
        Ok(target)
    }

    fn bytes<'r>(&self, _: &'r [u8], _: &Range<u64>, _: &Range<u64>) -> Option<&'r [u8]> {
        None
    }

    fn decode_by(&self, _: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        let mut rest = raw;
        let mut raws = Vec::new();
        for piece in self.codec.pieces(of) {
            let own = rest.split_at_checked(self.len_of(&piece));
            let (own, later) = own.ok_or_else(|| Error::bug("a quantised weight was read in part"))?;
            raws.push(own);
            rest = later;
        }
        self.codec.decode(&raws, of, part, out);
        Ok(())
    }

    fn beside(&self, raw: &[u8], of: &Range<u64>) -> Option<Vec<u8>> {
        let (mut out, mut at) = (raw.to_vec(), 0);
        for piece in self.codec.pieces(of) {
            let end = at + self.len_of(&piece);
            if !beside::turn(self.coding, piece.part, out.get_mut(at..end)?) {
                return None;
            }
            at = end;
        }
        Some(out)
    }

    fn ahead(&self, elements: &Range<u64>) {
        self.extents(elements).for_each(|(part, own)| self.views[part].ahead(&own));
    }

    fn release(&self, elements: &Range<u64>) {
        // What is kept the other way round is read again by what comes after.
        let pieces = self.codec.pieces(elements);
        for p in pieces.iter().filter(|p| p.count == 1 && p.width > 0) {
            self.views[p.part].release(&(p.first..p.first + p.width));
        }
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        let file = self.files[self.tensor.file].path();
        Error::tensor(file, &self.tensor.name, format!("element {element}, decoded, {problem}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_is_turned() {
        let rows: [[u8; TOGETHER]; TOGETHER] = std::array::from_fn(|i| std::array::from_fn(|k| (16 * i + k) as u8));
        let turned = square(rows);
        assert!((0..TOGETHER).all(|i| (0..TOGETHER).all(|k| turned[k][i] == rows[i][k])));
    }
}
