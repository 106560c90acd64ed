//! By what a tensor is known again without being read whole: a digest of some of its bytes.

use crate::checkpoint::{Checkpoint, Tensor};
use crate::digest;
use crate::error::Result;
use crate::source::{self, IoMode, Source, object};

/// So many places, evenly spread, of so many bytes each: another training changes nearly every byte of nearly every tensor.
const PLACES: u64 = 8;
const BYTES: u64 = 512;

/// The files of a model, opened for samples of it.
pub struct Sampled<'a> {
    model: &'a Checkpoint,
    files: Vec<Option<Box<dyn Source>>>,
}

impl<'a> Sampled<'a> {
    /// Of a model.
    pub fn new(model: &'a Checkpoint) -> Self {
        Self { model, files: model.files.iter().map(|_| None).collect() }
    }

    /// The sample of a tensor; `None` if its bytes do not lie in order.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] if it cannot be read.
    pub fn of(&mut self, tensor: &Tensor) -> Result<Option<String>> {
        if !tensor.is_contiguous() || tensor.made.is_some() {
            return Ok(None);
        }
        let file = &self.model.files[tensor.file];
        let source =
            self.files[tensor.file].get_or_insert_with(|| source::open(&file.path, file.identity, IoMode::Pread));
        let (mut bytes, mut room) = (Vec::new(), None);
        let places = (0..PLACES).map(|place| {
            let at = tensor.nbytes.saturating_sub(BYTES) / (PLACES - 1) * place;
            tensor.begin + at..tensor.begin + tensor.nbytes.min(at + BYTES)
        });
        let far = object::is_remote(file.identity);
        if far {
            places.clone().for_each(|place| source.ahead(place));
        }
        for place in places {
            bytes.extend_from_slice(source.read(place, &mut room)?);
        }
        if far {
            source.release(tensor.begin..tensor.begin + tensor.nbytes);
        }
        Ok(Some(digest::hex(digest::of_bytes(&bytes))))
    }
}
