//! What an adapter tells of the model it was trained on: PEFT writes the tables it is on top of beside its factors; and layers that it
//! does not reach may be of another model.

use std::collections::BTreeSet;

use super::{Checkpoint, Tensor};
use crate::error::Result;
use crate::model::names::{ranges, split_layer};
use crate::source::{self, IoMode};

/// So many places of a table are compared, of so many bytes each: a table that was not trained is the same everywhere, and of
/// another model nowhere.
const PLACES: u64 = 64;
const BYTES: u64 = 4096;

impl Checkpoint {
    /// Whether two of its tensors hold the same, as far as a sample tells. What has another dtype, or does not lie in one piece,
    /// is taken to be the same.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] if it cannot be read.
    pub(super) fn hold_alike(&self, own: &Tensor, theirs: &Tensor) -> Result<bool> {
        if own.dtype != theirs.dtype || !own.is_contiguous() || !theirs.is_contiguous() || own.made.is_some() {
            return Ok(true);
        }
        let source = |t: &Tensor| {
            let file = &self.files[t.file];
            source::open(&file.path, file.identity, IoMode::Pread)
        };
        let (a, b) = (source(own), source(theirs));
        let (mut room, mut other_room) = (None, None);
        for place in 0..PLACES {
            let at = own.nbytes.saturating_sub(BYTES) / (PLACES - 1) * place;
            let end = own.nbytes.min(at + BYTES);
            let found = a.read(own.begin + at..own.begin + end, &mut room)?;
            if found != b.read(theirs.begin + at..theirs.begin + end, &mut other_room)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Which layers of the main stack modules are in, if not in all, for people.
    pub(super) fn some_layers<'a>(&self, modules: impl Iterator<Item = &'a String>) -> Option<String> {
        let stack = self.anatomy().main()?;
        let found: BTreeSet<usize> = modules.filter_map(|m| Some(split_layer(&format!("{m}."))?.layer)).collect();
        let of = stack.layers;
        (!found.is_empty() && found.len() < of).then(|| format!(", in layers {} of {of}", ranges(found.into_iter())))
    }
}
