//! Page-aligned memory that byte ranges are read into and written from.

use std::path::Path;

use memmap2::{Advice, MmapMut};

use crate::error::{Error, Result};
use crate::sizes::ALIGN;

/// A reusable, page-aligned piece of anonymous memory.
pub struct Buffer(MmapMut);

impl Buffer {
    /// A buffer that holds `bytes` at any offset within a page, and whole pages around them.
    ///
    /// # Errors
    /// [`Error::Io`] if there is no memory.
    pub fn new(bytes: usize) -> Result<Self> {
        let map = MmapMut::map_anon(bytes + 2 * ALIGN as usize)
            .map_err(|e| Error::io(Path::new("memory"), "take a buffer", e))?;
        // Direct I/O runs two to three times as fast on huge pages; where there are none nothing is lost.
        let _ = map.advise(Advice::HugePage);
        Ok(Self(map))
    }

    /// The buffer in `slot`, replaced by a larger one if it does not hold `bytes`.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn in_slot(slot: &mut Option<Self>, bytes: usize) -> Result<&mut Self> {
        if slot.as_ref().is_none_or(|b| b.0.len() < bytes + 2 * ALIGN as usize) {
            *slot = None;
        }
        match slot {
            Some(buffer) => Ok(buffer),
            None => Ok(slot.insert(Self::new(bytes)?)),
        }
    }

    /// The buffer's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The buffer's bytes, to fill.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
