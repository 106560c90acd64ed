//! Which file it is, and in which state: so that an input changed under a run is an error.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// What tells one state of a file from every other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// Device number.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// Size in bytes.
    pub size: u64,
    /// Time of the last change to the file or its attributes, in nanoseconds since 1970; `cp -p` cannot set it back.
    pub changed: i64,
}

impl Identity {
    /// The identity that `meta` tells.
    pub fn of(meta: &Metadata) -> Self {
        let changed = meta.ctime().saturating_mul(1_000_000_000).saturating_add(meta.ctime_nsec());
        Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), changed }
    }

    /// Compares with what `meta` tells of the file at `path` now.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if the file is another or has been changed.
    pub fn same(&self, path: &Path, meta: &Metadata) -> Result<()> {
        let now = Self::of(meta);
        if now == *self {
            return Ok(());
        }
        let problem = if now.size != self.size {
            format!("had {} bytes when its header was read and has {} now", self.size, now.size)
        } else {
            "was replaced or written to since its header was read".to_owned()
        };
        Err(Error::checkpoint(path, format!("{problem}; run this again once nobody writes to it")))
    }
}
