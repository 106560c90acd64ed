//! What an operand is: places in sources and a decode that makes elements of their bytes.
//!
//! A [`View`] is data, part of a plan. [`View::open`] makes a [`Decode`] of it, which reads. A dtype that no view decodes
//! cannot be computed on.

mod gather;
mod plain;
mod runs;
mod strided;

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, widen};
use crate::source::{Buffer, Source};

pub use plain::Plain;
pub use runs::{Run, Runs};

/// The files of a plan's models, by model and file.
pub type Sources = Vec<Vec<Box<dyn Source>>>;

/// A tensor of one of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// Index of the model.
    pub model: usize,
    /// Index into that checkpoint's tensors.
    pub tensor: usize,
}

impl Place {
    /// The tensor there.
    pub fn tensor(self, models: &[Arc<Checkpoint>]) -> &Tensor {
        &models[self.model].tensors[self.tensor]
    }
}

/// What an operand is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum View {
    /// A stored tensor as it is.
    Plain(Place),
    /// Ranges of elements of several stored tensors of one dtype, one after the other.
    Runs(Runs),
}

impl From<Place> for View {
    fn from(place: Place) -> Self {
        Self::Plain(place)
    }
}

impl View {
    /// Every place it reads, each once.
    pub fn places(&self) -> Vec<Place> {
        match self {
            Self::Plain(place) => vec![*place],
            Self::Runs(runs) => runs.places(),
        }
    }

    /// The tensor whose dtype and shape its elements have.
    pub fn like(&self) -> Place {
        match self {
            Self::Plain(place) => *place,
            Self::Runs(runs) => runs.runs[0].from,
        }
    }

    /// True if its bytes are those of one stored tensor.
    pub fn is_stored(&self) -> bool {
        matches!(self, Self::Plain(_))
    }

    /// The tensor whose bytes in its file are the view's, in that order.
    pub fn in_place<'a>(&self, models: &'a [Arc<Checkpoint>]) -> Option<&'a Tensor> {
        match self {
            Self::Plain(place) => Some(place.tensor(models)).filter(|t| t.is_contiguous()),
            Self::Runs(_) => None,
        }
    }

    /// Whether it is put together from what lies apart, for which [`Slot::spare`] is needed.
    pub fn is_gathered(&self, models: &[Arc<Checkpoint>]) -> bool {
        self.in_place(models).is_none()
    }

    /// Dtype of its elements.
    pub fn dtype(&self, models: &[Arc<Checkpoint>]) -> Dtype {
        self.like().tensor(models).dtype
    }

    /// Bytes that reading all of it takes.
    pub fn nbytes(&self, models: &[Arc<Checkpoint>]) -> u64 {
        self.like().tensor(models).nbytes
    }

    /// The view ready to be read.
    pub fn open<'a>(&'a self, models: &'a [Arc<Checkpoint>], sources: &'a Sources) -> Box<dyn Decode + 'a> {
        match self {
            Self::Plain(place) => Box::new(Plain::at(*place, models, sources)),
            Self::Runs(runs) => Box::new(runs.open(models, sources)),
        }
    }
}

/// Memory of one operand of one thread, grown on first use and kept.
#[derive(Default)]
pub struct Slot {
    /// What its elements are read into.
    pub buffer: Option<Buffer>,
    /// What they are put together from.
    pub spare: Option<Buffer>,
}

/// A way to widen stored elements: [`widen`] or [`crate::kernels::cast::widen_to_odd`].
pub type Widen = fn(Element, &[u8], &mut [f32]);

/// A view that is read: its bytes and the elements they stand for.
pub trait Decode: Send + Sync {
    /// Dtype of the elements.
    fn dtype(&self) -> Dtype;

    /// The smallest number of elements that decode together.
    fn unit(&self) -> u64 {
        1
    }

    /// Bytes that stay in memory while it is open.
    fn resident(&self) -> u64 {
        0
    }

    /// True if its bytes are those of one stored tensor, whose digest is theirs.
    fn stored(&self) -> bool {
        false
    }

    /// The bytes that hold `elements`, in place or in `slot`.
    ///
    /// # Errors
    /// As [`Source::read`].
    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]>;

    /// The bytes of `part` inside `raw`, which holds those of `of`; `None` if bytes do not stand for elements one by one.
    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]>;

    /// Makes numbers of the elements `part` of `raw`, which holds those of `of`.
    ///
    /// # Errors
    /// [`Error::Bug`] for a dtype that nothing decodes; a plan refuses it.
    fn decode(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        self.decode_by(widen, raw, of, part, out)
    }

    /// As [`Self::decode`], with another way to widen stored elements.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()>;

    /// Hears which elements will be wanted next.
    fn ahead(&self, _elements: &Range<u64>) {}

    /// Gives back the memory that holds `elements`, now that they are used.
    fn release(&self, _elements: &Range<u64>) {}

    /// An error about one of its elements.
    fn at_fault(&self, element: u64, problem: &str) -> Error;
}

/// The bytes of `part` in `raw`, which holds those of `of`, both of whole bytes.
fn cut<'r>(raw: &'r [u8], bits: u64, of: &Range<u64>, part: &Range<u64>) -> &'r [u8] {
    let at = |element: u64| ((element - of.start) * bits / 8) as usize;
    &raw[at(part.start)..at(part.end)]
}
