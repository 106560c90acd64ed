//! The raw bytes of several operands, side by side, chunk by chunk.

use std::ops::Range;

use crate::error::Result;
use crate::view::{Decode, Slot};

/// Read buffers of one thread, one per operand, grown on first use and kept.
#[derive(Default)]
pub struct Buffers(Vec<Slot>);

impl Buffers {
    /// Lets the memory go.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Calls `f` with the raw bytes of every operand for each chunk of `elements`, then lets the memory go if `release`.
///
/// `f` gets the element range of the chunk and one slice per operand.
///
/// # Errors
/// Whatever reading or `f` returns.
pub fn each(
    operands: &[&dyn Decode],
    elements: Range<u64>,
    chunk: u64,
    release: bool,
    buffers: &mut Buffers,
    mut f: impl FnMut(Range<u64>, &[&[u8]]) -> Result<()>,
) -> Result<()> {
    if buffers.0.len() < operands.len() {
        buffers.0.resize_with(operands.len(), Slot::default);
    }
    let mut at = elements.start;
    while at < elements.end {
        let part = at..(at + chunk).min(elements.end);
        let mut raw = Vec::with_capacity(operands.len());
        for (o, slot) in operands.iter().zip(&mut buffers.0) {
            raw.push(o.read(&part, slot)?);
        }
        f(part.clone(), &raw)?;
        at = part.end;
    }
    operands.iter().filter(|_| release).for_each(|o| o.release(&elements));
    Ok(())
}
