//! Tensors whose elements do not lie one behind the other: transposed, cut out of larger ones, one element many times.
//!
//! A range of elements is cut into blocks, each a rectangle in the tensor's own dimensions. A block is read in the order of the
//! file, whatever the order of its elements, so that what lies close together is read once.

use std::ops::Range;

use super::gather::{GAP, MOST, gather};
use crate::checkpoint::Tensor;
use crate::error::Result;
use crate::source::{Buffer, Source};

/// Elements of a piece that are put in their places before it is the next piece's turn.
const TILE: usize = 64;

/// A dimension of a block: how many, the bytes from one to the next in the file, and in what they are put together to.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Dimension {
    len: u64,
    from: u64,
    to: u64,
}

/// A rectangle of elements.
#[derive(Debug, PartialEq)]
struct Block {
    /// First byte in the file, and in what it is put together to.
    from: u64,
    to: u64,
    /// Those that are gone through one by one, then the innermost, which is read at once, so many elements at a time.
    outer: Vec<Dimension>,
    inner: Dimension,
    part: u64,
    width: u64,
}

/// Elements of a block that are read at once, each as far from the last.
#[derive(Debug, Clone, Copy)]
struct Piece {
    from: u64,
    to: u64,
    len: u64,
}

/// Puts `elements` of a tensor that has strides together in `target`.
///
/// # Errors
/// As [`Source::read`].
pub(super) fn fill(
    source: &dyn Source,
    tensor: &Tensor,
    elements: &Range<u64>,
    target: &mut [u8],
    spare: &mut Option<Buffer>,
) -> Result<()> {
    for block in blocks(tensor, elements) {
        let pieces = (0..block.pieces()).map(|i| block.piece(i));
        gather(
            source,
            pieces,
            |piece| block.range(piece),
            spare,
            |pieces, bytes, all| {
                block.put(pieces, bytes, all.start, target);
            },
        )?;
    }
    Ok(())
}

/// The bytes of the file between the first and the last of `elements`, with all that lies between.
pub(super) fn extent(tensor: &Tensor, elements: &Range<u64>) -> Range<u64> {
    let ends = blocks(tensor, elements).into_iter().map(|b| {
        let last: u64 = b.outer.iter().chain([&b.inner]).map(|d| (d.len - 1) * d.from).sum();
        b.from..b.from + last + b.width
    });
    ends.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(tensor.begin..tensor.begin)
}

/// The blocks that `elements` consist of, in their order.
fn blocks(tensor: &Tensor, elements: &Range<u64>) -> Vec<Block> {
    let width = tensor.dtype.bits() / 8;
    let strides = tensor.strides.as_deref().unwrap_or_default();
    // Elements from one to the next along each dimension, were they in order.
    let mut steps = vec![1u64; tensor.shape.len()];
    for i in (1..steps.len()).rev() {
        steps[i - 1] = steps[i] * tensor.shape[i];
    }
    let mut found = Vec::new();
    let mut at = elements.start;
    while at < elements.end {
        let left = elements.end - at;
        // The outermost dimension along which a step is whole: all of those inside it are then taken in full.
        let Some(d) = (0..steps.len()).find(|d| at.is_multiple_of(steps[*d]) && steps[*d] <= left) else { break };
        let index = |d: usize| at / steps[d] % tensor.shape[d];
        let len = (left / steps[d]).min(tensor.shape[d] - index(d));
        let from: u64 = (0..steps.len()).map(|d| index(d) * strides[d]).sum();
        let dimension = |d: usize, len: u64| Dimension { len, from: strides[d] * width, to: steps[d] * width };
        let inside = (d + 1..steps.len()).map(|d| dimension(d, tensor.shape[d]));
        let dimensions = std::iter::once(dimension(d, len)).chain(inside).collect();
        found.push(Block::of(tensor.begin + from * width, (at - elements.start) * width, dimensions, width));
        at += len * steps[d];
    }
    found
}

impl Block {
    fn of(from: u64, to: u64, mut dimensions: Vec<Dimension>, width: u64) -> Self {
        dimensions.retain(|d| d.len > 1);
        dimensions.sort_by_key(|d| std::cmp::Reverse(d.from));
        let mut outer: Vec<Dimension> = Vec::with_capacity(dimensions.len());
        for d in dimensions {
            match outer.last_mut() {
                // The two are one longer one.
                Some(o) if o.from == d.from * d.len && o.to == d.to * d.len => {
                    *o = Dimension { len: o.len * d.len, ..d }
                }
                _ => outer.push(d),
            }
        }
        let inner = outer.pop().unwrap_or(Dimension { len: 1, from: width, to: width });
        let part = match inner.from {
            0 => inner.len,
            // What lies between would be read for nothing.
            step if step > GAP => 1,
            step => (MOST - width) / step + 1,
        };
        Self { from, to, outer, inner, part: part.min(inner.len), width }
    }

    /// How many pieces it is read in.
    fn pieces(&self) -> u64 {
        self.outer.iter().map(|d| d.len).product::<u64>() * self.inner.len.div_ceil(self.part)
    }

    fn piece(&self, index: u64) -> Piece {
        let parts = self.inner.len.div_ceil(self.part);
        let (mut row, first) = (index / parts, index % parts * self.part);
        let (mut from, mut to) = (self.from + first * self.inner.from, self.to + first * self.inner.to);
        for d in self.outer.iter().rev() {
            from += row % d.len * d.from;
            to += row % d.len * d.to;
            row /= d.len;
        }
        Piece { from, to, len: self.part.min(self.inner.len - first) }
    }

    /// The bytes of the file that a piece spans.
    fn range(&self, piece: &Piece) -> Range<u64> {
        piece.from..piece.from + (piece.len - 1) * self.inner.from + self.width
    }

    /// Puts the elements of pieces where they belong; `bytes` begin at `start` in the file and hold all of them.
    fn put(&self, pieces: impl Iterator<Item = Piece> + Clone, bytes: &[u8], start: u64, target: &mut [u8]) {
        let (from, to) = (self.inner.from as usize, self.inner.to as usize);
        if (self.inner.from, self.inner.to) == (self.width, self.width) {
            for piece in pieces {
                let (here, there) = ((piece.from - start) as usize, piece.to as usize);
                let len = (piece.len * self.width) as usize;
                target[there..there + len].copy_from_slice(&bytes[here..here + len]);
            }
            return;
        }
        // A few elements of every piece in turn: what lies side by side in the target is then written while it is in the cache.
        for first in (0..self.part).step_by(TILE) {
            for piece in pieces.clone().filter(|p| p.len > first) {
                let len = (piece.len - first).min(TILE as u64) as usize;
                let bytes = &bytes[(piece.from - start) as usize + first as usize * from..];
                let target = &mut target[piece.to as usize + first as usize * to..];
                match self.width {
                    1 => scatter::<1>(bytes, from, target, to, len),
                    2 => scatter::<2>(bytes, from, target, to, len),
                    4 => scatter::<4>(bytes, from, target, to, len),
                    _ => scatter::<8>(bytes, from, target, to, len),
                }
            }
        }
    }
}

/// Copies `len` elements of `W` bytes, so many bytes apart here and there.
fn scatter<const W: usize>(bytes: &[u8], from: usize, target: &mut [u8], to: usize, len: usize) {
    for i in 0..len {
        target[i * to..i * to + W].copy_from_slice(&bytes[i * from..i * from + W]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::source::MemorySource;

    fn tensor(dtype: Dtype, shape: Vec<u64>, strides: Vec<u64>, begin: u64) -> Tensor {
        let nbytes = shape.iter().product::<u64>() * dtype.bits() / 8;
        Tensor { name: "t".into(), dtype, shape, file: 0, begin, nbytes, strides: Some(strides), made: None }
    }

    proptest::proptest! {
        /// Law: whatever part is asked for, its elements are those that picking them one by one by their strides gives.
        #[test]
        fn elements_are_where_their_strides_say(
            dims in proptest::collection::vec((1u64..6, 0u64..40), 1..5),
            dtype in proptest::sample::select(vec![Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::I64]),
            begin in 0u64..9,
            cut in (0u64..2000, 0u64..2000),
        ) {
            let (shape, strides): (Vec<u64>, Vec<u64>) = dims.into_iter().unzip();
            let tensor = tensor(dtype, shape.clone(), strides.clone(), begin);
            let width = (dtype.bits() / 8) as usize;
            let last: u64 = shape.iter().zip(&strides).map(|(n, s)| (n - 1) * s).sum();
            let stored: Vec<u8> = (0..begin as usize + (last as usize + 1) * width).map(|i| (i * 31 % 251) as u8).collect();
            let mut want = Vec::new();
            for i in 0..tensor.elements() {
                let (mut rest, mut at) = (i, 0);
                for (n, stride) in shape.iter().zip(&strides).rev() {
                    at += rest % n * stride;
                    rest /= n;
                }
                let at = begin as usize + at as usize * width;
                want.extend_from_slice(&stored[at..at + width]);
            }
            let all = tensor.elements();
            let (from, to) = (cut.0.min(cut.1) % (all + 1), cut.0.max(cut.1) % (all + 1));
            let part = from.min(to)..from.max(to);
            let source = MemorySource::new("memory", stored);
            let mut target = vec![0; (part.end - part.start) as usize * width];
            fill(&source, &tensor, &part, &mut target, &mut None).unwrap();
            proptest::prop_assert_eq!(&target[..], &want[part.start as usize * width..part.end as usize * width]);
            let extent = extent(&tensor, &(0..all));
            proptest::prop_assert_eq!(extent, begin..begin + (last + 1) * width as u64);
        }
    }

    /// Law 1: what is read at once is bounded, however far apart the elements lie; a transposed matrix is read by columns.
    #[test]
    fn pieces_are_bounded() {
        let far = tensor(Dtype::F32, vec![1 << 20, 2], vec![1, 1 << 20], 0);
        for block in blocks(&far, &(5..2_000_000)) {
            let longest = (0..block.pieces()).map(|i| block.range(&block.piece(i))).map(|r| r.end - r.start).max();
            assert!(longest.is_some_and(|n| n <= MOST), "{longest:?}");
        }
        let transposed = tensor(Dtype::Bf16, vec![4096, 4096], vec![1, 4096], 0);
        let [block] = &blocks(&transposed, &(0..1 << 20))[..] else { panic!("one block") };
        assert_eq!((block.inner.len, block.pieces()), (256, 4096));
    }
}
