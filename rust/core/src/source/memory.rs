//! Bytes at hand as a source: for tests, and for inputs that are made rather than read.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::{Buffer, Source};
use crate::error::{Error, Result};

/// A source of bytes in memory; it never changes.
pub struct MemorySource {
    name: PathBuf,
    bytes: Vec<u8>,
}

impl MemorySource {
    /// The bytes, under a name for errors.
    pub fn new(name: impl Into<PathBuf>, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), bytes }
    }
}

impl Source for MemorySource {
    fn path(&self) -> &Path {
        &self.name
    }

    fn read<'a>(&'a self, range: Range<u64>, _buffer: &'a mut Option<Buffer>) -> Result<&'a [u8]> {
        let wanted = range.start as usize..range.end as usize;
        self.bytes.get(wanted).ok_or_else(|| Error::io(&self.name, "read", std::io::ErrorKind::UnexpectedEof))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }
}
