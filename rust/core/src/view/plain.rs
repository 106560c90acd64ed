//! A stored tensor as it is: its bytes are its elements, put in order where they are not stored so.

use std::ops::Range;
use std::sync::Arc;

use super::strided::{self, extent};
use super::{Decode, Place, Slot, Sources, cut};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::source::{Buffer, Source};

/// A stored tensor and the source it lies in.
#[derive(Clone, Copy)]
pub struct Plain<'a> {
    /// The file.
    pub source: &'a dyn Source,
    /// The tensor.
    pub tensor: &'a Tensor,
}

impl<'a> Plain<'a> {
    /// The tensor at `place`.
    pub fn at(place: Place, models: &'a [Arc<Checkpoint>], sources: &'a Sources) -> Self {
        let tensor = place.tensor(models);
        Self { source: &*sources[place.model][tensor.file], tensor }
    }

    /// The bytes of `elements` in the file, of a tensor whose elements lie there in order.
    pub fn range(&self, elements: &Range<u64>) -> Range<u64> {
        let bits = self.tensor.dtype.bits();
        self.tensor.begin + elements.start * bits / 8..self.tensor.begin + elements.end * bits / 8
    }

    /// Puts `elements` of a tensor that has strides together in `target`.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn fill(&self, elements: &Range<u64>, target: &mut [u8], spare: &mut Option<Buffer>) -> Result<()> {
        strided::fill(self.source, self.tensor, elements, target, spare)
    }
}

impl Decode for Plain<'_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    fn stored(&self) -> bool {
        true
    }

    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]> {
        if self.tensor.is_contiguous() {
            return self.source.read(self.range(elements), &mut slot.buffer);
        }
        let len = ((elements.end - elements.start) * self.tensor.dtype.bits() / 8) as usize;
        let target = Buffer::in_slot(&mut slot.buffer, len)?;
        self.fill(elements, &mut target.bytes_mut()[..len], &mut slot.spare)?;
        Ok(&target.bytes()[..len])
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        Some(cut(raw, self.tensor.dtype.bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        how.widen(Element::need(self.tensor.dtype)?, cut(raw, self.tensor.dtype.bits(), of, part), out);
        Ok(())
    }

    fn ahead(&self, elements: &Range<u64>) {
        if self.tensor.is_contiguous() {
            self.source.ahead(self.range(elements));
        }
    }

    fn release(&self, elements: &Range<u64>) {
        let range = if self.tensor.is_contiguous() { self.range(elements) } else { extent(self.tensor, elements) };
        self.source.release(range);
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        Error::tensor(self.source.path(), &self.tensor.name, format!("element {element} {problem}"))
    }
}
