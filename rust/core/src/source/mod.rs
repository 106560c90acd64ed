//! Where bytes come from: ranges of objects that have an identity.
//!
//! A [`Source`] answers byte ranges of one object: a local file, an object of a store ([`object`]), bytes at hand
//! ([`MemorySource`]). [`open`] chooses by the identity.

mod blocks;
mod buffer;
mod file;
mod guard;
mod handles;
mod identity;
mod memory;
pub mod object;
mod ranges;
mod rates;
mod remote;
mod shared;

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

pub use blocks::Tally;
pub use buffer::Buffer;
pub use file::{IoMode, ReadMode};
pub use handles::Handle;
pub use identity::Identity;
pub use memory::MemorySource;
pub use ranges::{ROOM, Ranges};
pub use shared::Shared;

use crate::error::Result;
use file::FileSource;

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

/// The file at `path`, or the object of a store that it stands for; it had `identity` when its header was read. Nothing is read yet.
pub fn open(path: &Path, identity: Identity, io: IoMode) -> Box<dyn Source> {
    if object::is_remote(identity) {
        return match remote::RemoteSource::new(path, identity) {
            Ok(source) => Box::new(source),
            // Its reads fail with what is wrong.
            Err(_) => Box::new(FileSource::new(path, identity, io)),
        };
    }
    Box::new(FileSource::new(path, identity, io))
}
