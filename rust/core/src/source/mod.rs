//! Where bytes come from: ranges of objects that have an identity.
//!
//! A [`Source`] answers byte ranges of one object. [`FileSource`] is a local file, [`MemorySource`] bytes at hand.

mod buffer;
mod file;
mod guard;
mod handles;
mod identity;
mod memory;
mod rates;
mod shared;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use buffer::Buffer;
pub use file::{FileSource, IoMode, ReadMode};
pub use handles::Handle;
pub use identity::Identity;
pub use memory::MemorySource;
pub use shared::Shared;

use crate::error::Result;

/// One object whose bytes can be read by range.
pub trait Source: Send + Sync {
    /// Its path or name, for errors.
    fn path(&self) -> &Path;

    /// The bytes of `range`, in place or in `buffer` (unused if they are in memory; else it grows to hold them).
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] if they cannot be read, [`crate::error::Error::Checkpoint`] if the object has changed.
    fn read<'a>(&'a self, range: Range<u64>, buffer: &'a mut Option<Buffer>) -> Result<&'a [u8]>;

    /// Asks whether the object is still the one whose header was read.
    ///
    /// # Errors
    /// [`crate::error::Error::Checkpoint`] if it has changed.
    fn check(&self) -> Result<()>;

    /// Hears which range will be wanted next.
    fn ahead(&self, _range: Range<u64>) {}

    /// Gives back the memory that holds a range, now that it is used.
    fn release(&self, _range: Range<u64>) {}

    /// The file behind it, for system calls that share ranges between files.
    fn file(&self) -> Option<Arc<File>> {
        None
    }

    /// How it is read; `None` until it has been.
    fn mode(&self) -> Option<ReadMode> {
        None
    }

    /// What was measured of the device it lies on, if that was to decide how it is read: the device's number, and the bytes a second
    /// around the page cache and through it.
    fn rates(&self) -> Option<(u64, [f64; 2])> {
        None
    }
}
