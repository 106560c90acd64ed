//! What an operand is: places in sources and a decode that makes elements of their bytes.
//!
//! A [`View`] is data, part of a plan. [`View::open`] makes a [`Decode`] of it, which reads. A dtype that no view decodes
//! cannot be computed on.

mod changes;
pub mod codec;
mod exact;
mod factor;
mod gather;
mod plain;
mod products;
mod rows;
mod runs;
mod strided;
mod sum;

use std::ops::Range;
use std::sync::Arc;

use crate::checkpoint::made::Made;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen, narrow};
use crate::sizes::{CHUNK, TILE};
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
    pub fn is_stored(&self, models: &[Arc<Checkpoint>]) -> bool {
        matches!(self, Self::Plain(place) if place.tensor(models).made.is_none())
    }

    /// True if its elements are computed when they are read, so that it has no bytes to move.
    pub fn is_made(&self, models: &[Arc<Checkpoint>]) -> bool {
        self.places().iter().any(|p| !p.tensor(models).moves())
    }

    /// True if it is of a quantised weight, which is decoded.
    pub fn is_coded(&self, models: &[Arc<Checkpoint>]) -> bool {
        self.places().iter().any(|p| matches!(p.tensor(models).made.as_deref(), Some(Made::Coded(_))))
    }

    /// The tensor whose bytes in its file are the view's, in that order.
    pub fn in_place<'a>(&self, models: &'a [Arc<Checkpoint>]) -> Option<&'a Tensor> {
        match self {
            Self::Plain(place) => Some(place.tensor(models)).filter(|t| t.is_contiguous() && t.made.is_none()),
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

    /// Bits that an element takes as it is read.
    pub fn bits(&self, models: &[Arc<Checkpoint>]) -> u64 {
        self.like().tensor(models).read_bits()
    }

    /// Bytes that stay in memory while it is read, besides what is read at a time.
    pub fn resident(&self, models: &[Arc<Checkpoint>]) -> u64 {
        self.places()
            .iter()
            .filter_map(|p| Some((p, p.tensor(models).made.as_ref()?)))
            .map(|(p, m)| m.resident(&p.tensor(models).shape))
            .sum()
    }

    /// Bits an element of what is read into memory of its own, to be put together.
    pub fn inner_bits(&self, models: &[Arc<Checkpoint>]) -> u64 {
        self.places().iter().filter_map(|p| p.tensor(models).made.as_ref()).map(|m| m.inner_bits()).sum()
    }

    /// Bytes that reading all of it takes.
    pub fn nbytes(&self, models: &[Arc<Checkpoint>]) -> u64 {
        self.like().tensor(models).read_bytes()
    }

    /// The view ready to be read.
    pub fn open<'a>(&'a self, models: &'a [Arc<Checkpoint>], sources: &'a Sources) -> Box<dyn Decode + 'a> {
        match self {
            Self::Plain(place) => stored(place.tensor(models), &sources[place.model]),
            Self::Runs(runs) => Box::new(runs.open(models, sources)),
        }
    }
}

/// A tensor of a checkpoint with these files, ready to be read: as it is stored, or made of what is.
pub fn stored<'a>(tensor: &'a Tensor, files: &'a [Box<dyn Source>]) -> Box<dyn Decode + 'a> {
    match tensor.made.as_deref() {
        None => Box::new(Plain { source: &*files[tensor.file], tensor }),
        Some(Made::Sum(sum)) => Box::new(sum::Opened::new(sum, &tensor.shape, files)),
        Some(Made::Rows(rows)) => Box::new(rows::Opened::new(rows, tensor, files)),
        Some(Made::Exact(exact)) => Box::new(exact::Opened::new(exact, files)),
        Some(Made::Coded(coded)) => Box::new(codec::Opened::new(coded, tensor, files)),
    }
}

/// Reads elements of a tensor into `target`, in its own dtype, a chunk at a time; what is made is rounded once.
///
/// # Errors
/// As [`Source::read`].
pub fn read(tensor: &Tensor, files: &[Box<dyn Source>], elements: Range<u64>, target: &mut [u8]) -> Result<()> {
    let (view, mut slot) = (stored(tensor, files), Slot::default());
    let byte = |element: u64| ((element - elements.start) * tensor.dtype.bits()).div_ceil(8) as usize;
    for start in elements.clone().step_by(CHUNK as usize) {
        let part = start..(start + CHUNK).min(elements.end);
        let own = byte(part.start)..byte(part.end);
        read_part(&*view, tensor, &part, &mut slot, &mut target[own])?;
    }
    Ok(())
}

/// Reads elements of a tensor, opened as `view`, into `target`, in its own dtype; what is made is rounded once.
///
/// # Errors
/// As [`Source::read`].
pub fn read_part(
    view: &dyn Decode,
    tensor: &Tensor,
    part: &Range<u64>,
    slot: &mut Slot,
    target: &mut [u8],
) -> Result<()> {
    let raw = view.read(part, slot)?;
    if tensor.moves() {
        target.copy_from_slice(raw);
        return Ok(());
    }
    let element = Element::need(tensor.dtype)?;
    let how = if element.bytes() == 2 { Widen::ToOdd } else { Widen::ToNearest };
    let (mut wide, mut exact) = ([0f32; TILE], [0f64; TILE]);
    for (bytes, start) in target.chunks_mut(TILE * element.bytes()).zip((part.start..).step_by(TILE)) {
        let piece = start..(start + TILE as u64).min(part.end);
        let len = (piece.end - piece.start) as usize;
        if tensor.dtype == Dtype::F64 {
            view.decode_exactly(raw, part, &piece, &mut exact[..len])?;
            bytes.as_chunks_mut::<8>().0.iter_mut().zip(exact).for_each(|(b, v)| *b = v.to_le_bytes());
        } else {
            view.decode_by(how, raw, part, &piece, &mut wide[..len])?;
            narrow(element, &wide[..len], bytes);
        }
    }
    Ok(())
}

/// The error about an element, if it is what is wrong.
fn fault(view: &dyn Decode, element: u64, problem: &str) -> Option<Error> {
    let (range, mut value) = (element..element + 1, [0f64]);
    let mut slot = Slot::default();
    let raw = view.read(&range, &mut slot).ok()?;
    view.decode_exactly(raw, &range, &range, &mut value).ok()?;
    (!value[0].is_finite()).then(|| view.at_fault(element, problem))
}

/// Memory of one operand of one thread, grown on first use and kept.
#[derive(Default)]
pub struct Slot {
    /// What its elements are read into.
    pub buffer: Option<Buffer>,
    /// What they are put together from.
    pub spare: Option<Buffer>,
    /// The same, of each of several.
    pub inner: Vec<Slot>,
}

/// A view that is read: its bytes and the elements they stand for.
pub trait Decode: Send + Sync {
    /// Dtype of the elements.
    fn dtype(&self) -> Dtype;

    /// The smallest number of elements that decode together.
    fn unit(&self) -> u64 {
        1
    }

    /// Bytes that reading `elements` gives.
    fn raw_len(&self, elements: &Range<u64>) -> usize {
        ((elements.end - elements.start) * self.dtype().bits() / 8) as usize
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
        self.decode_by(Widen::ToNearest, raw, of, part, out)
    }

    /// As [`Self::decode`], for another purpose.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()>;

    /// Bytes like `raw`, which holds those of `of`, whose elements are each one step of the quantisation away from what is stored;
    /// `None` where nothing is quantised, or the form has no steps to speak of.
    fn beside(&self, _raw: &[u8], _of: &Range<u64>) -> Option<Vec<u8>> {
        None
    }

    /// As [`Self::decode`], without rounding what is f64.
    ///
    /// # Errors
    /// As [`Self::decode`].
    fn decode_exactly(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        if let (Dtype::F64, Some(bytes)) = (self.dtype(), self.bytes(raw, of, part)) {
            out.iter_mut().zip(bytes.as_chunks::<8>().0).for_each(|(o, b)| *o = f64::from_le_bytes(*b));
            return Ok(());
        }
        const WIDE: usize = 256;
        let mut wide = [0f32; WIDE];
        for (i, out) in out.chunks_mut(WIDE).enumerate() {
            let start = part.start + (i * WIDE) as u64;
            let wide = &mut wide[..out.len()];
            self.decode(raw, of, &(start..start + out.len() as u64), wide)?;
            out.iter_mut().zip(wide).for_each(|(o, w)| *o = f64::from(*w));
        }
        Ok(())
    }

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
