//! The raw bytes of several tensors, side by side, chunk by chunk.

use std::ops::Range;

use crate::checkpoint::{Buffer, Source, Tensor};
use crate::error::Result;

/// Read buffers of one thread, one per operand, grown on first use and kept.
#[derive(Default)]
pub struct Buffers(Vec<Option<Buffer>>);

/// A tensor and the open file it lies in.
#[derive(Clone, Copy)]
pub struct Stored<'a> {
    /// The file.
    pub source: &'a Source,
    /// The tensor.
    pub tensor: &'a Tensor,
}

impl Stored<'_> {
    /// The bytes of `elements` in the file.
    pub fn bytes(&self, elements: &Range<u64>) -> Range<u64> {
        let bits = self.tensor.dtype.bits();
        self.tensor.begin + elements.start * bits / 8..self.tensor.begin + elements.end * bits / 8
    }
}

/// Mapped bytes of a tensor's operands up to which they stay mapped from one pass to the next: unmapping and faulting
/// in again took 9 % of a `ties` merge.
const STAY: u64 = 256 << 20;

/// Whether operands that are read again soon should stay mapped.
pub fn stay_mapped(operands: &[Stored]) -> bool {
    operands.iter().map(|o| o.tensor.nbytes).sum::<u64>() <= STAY
}

/// Calls `f` with the raw bytes of every operand for each chunk of `elements`, then lets the memory go if `release`.
///
/// `f` gets the element range of the chunk and one slice per operand.
///
/// # Errors
/// Whatever reading or `f` returns.
pub fn each(
    operands: &[Stored],
    elements: Range<u64>,
    chunk: u64,
    release: bool,
    buffers: &mut Buffers,
    mut f: impl FnMut(Range<u64>, &[&[u8]]) -> Result<()>,
) -> Result<()> {
    if buffers.0.len() < operands.len() {
        buffers.0.resize_with(operands.len(), || None);
    }
    let mut at = elements.start;
    while at < elements.end {
        let part = at..(at + chunk).min(elements.end);
        let mut raw = Vec::with_capacity(operands.len());
        for (o, buffer) in operands.iter().zip(&mut buffers.0) {
            let bytes = o.bytes(&part);
            raw.push(o.source.read(bytes.start, (bytes.end - bytes.start) as usize, buffer)?);
        }
        f(part.clone(), &raw)?;
        at = part.end;
    }
    for o in operands.iter().filter(|_| release) {
        let bytes = o.bytes(&elements);
        o.source.release(bytes.start, bytes.end - bytes.start);
    }
    Ok(())
}
