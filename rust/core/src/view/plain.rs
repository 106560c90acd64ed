//! A stored tensor as it is: its bytes are its elements.

use std::ops::Range;
use std::sync::Arc;

use super::{Decode, Place, Slot, Sources, Widen, cut};
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::Element;
use crate::source::Source;

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

    /// The bytes of `elements` in the file.
    pub fn range(&self, elements: &Range<u64>) -> Range<u64> {
        let bits = self.tensor.dtype.bits();
        self.tensor.begin + elements.start * bits / 8..self.tensor.begin + elements.end * bits / 8
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
        self.source.read(self.range(elements), &mut slot.buffer)
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        Some(cut(raw, self.tensor.dtype.bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        how(Element::need(self.tensor.dtype)?, cut(raw, self.tensor.dtype.bits(), of, part), out);
        Ok(())
    }

    fn ahead(&self, elements: &Range<u64>) {
        self.source.ahead(self.range(elements));
    }

    fn release(&self, elements: &Range<u64>) {
        self.source.release(self.range(elements));
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        Error::tensor(self.source.path(), &self.tensor.name, format!("element {element} {problem}"))
    }
}
