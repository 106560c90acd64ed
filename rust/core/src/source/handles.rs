//! Open files, no more at a time than the process may have: those used last stay open.
//!
//! A model may have hundreds of shards and a shell allow 256 descriptors. What is closed is opened again by its path when it
//! is needed, and must then be the file it was.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::OFlags;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::Identity;
use crate::error::{Error, Result};

/// A file that is opened when it is used.
pub struct Handle {
    id: u64,
    path: PathBuf,
    write: bool,
    direct: bool,
    identity: Option<Identity>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);
static KEPT: Mutex<VecDeque<(u64, Arc<File>)>> = Mutex::new(VecDeque::new());

impl Handle {
    /// The file at `path`, to be read; it must always be the one that `identity` tells.
    pub fn to_read(path: &Path, identity: Identity) -> Self {
        Self::new(path, false, false, Some(identity))
    }

    /// The file at `path`, which is there, to be written and read.
    pub fn to_write(path: &Path) -> Self {
        Self::new(path, true, false, None)
    }

    fn new(path: &Path, write: bool, direct: bool, identity: Option<Identity>) -> Self {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, path: path.to_owned(), write, direct, identity }
    }

    /// The same file around the page cache; `None` if the file system has no such way.
    pub fn directly(&self) -> Option<Self> {
        let direct = Self::new(&self.path, self.write, true, self.identity);
        direct.file().is_ok().then_some(direct)
    }

    /// The open file. It stays open while the result is held.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be opened, [`Error::Checkpoint`] if it is no longer the file it was.
    pub fn file(&self) -> Result<Arc<File>> {
        {
            let mut kept = KEPT.lock();
            if let Some(at) = kept.iter().rposition(|(id, _)| *id == self.id)
                && let Some(entry) = kept.remove(at)
            {
                let file = entry.1.clone();
                kept.push_back(entry);
                return Ok(file);
            }
        }
        let fail = |e| Error::io(&self.path, "open", e);
        let mut options = OpenOptions::new();
        options.read(true).write(self.write);
        if self.direct {
            options.custom_flags(OFlags::DIRECT.bits() as i32);
        }
        let most = most();
        let file = Arc::new(options.open(&self.path).map_err(fail)?);
        if let Some(identity) = &self.identity {
            identity.same(&self.path, &file.metadata().map_err(fail)?)?;
        }
        let mut kept = KEPT.lock();
        kept.push_back((self.id, file.clone()));
        while kept.len() > most {
            kept.pop_front();
        }
        Ok(file)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        KEPT.lock().retain(|(id, _)| *id != self.id);
    }
}

/// Descriptors that files are kept open with: half of what the process may have, once it has asked for all it can get.
fn most() -> usize {
    static MOST: OnceLock<usize> = OnceLock::new();
    *MOST.get_or_init(|| {
        let limit = getrlimit(Resource::Nofile);
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
        let allowed = getrlimit(Resource::Nofile).current.unwrap_or(4096);
        (allowed / 2).clamp(8, 1024) as usize
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_replaced_behind_a_closed_handle_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"one").unwrap();
        let identity = Identity::of(&path.metadata().unwrap());
        let handle = Handle::to_read(&path, identity);
        assert!(handle.file().is_ok());
        drop(handle);
        std::fs::write(dir.path().join("other"), b"two").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        let error = Handle::to_read(&path, identity).file().unwrap_err().to_string();
        assert!(error.contains("replaced or written to"), "{error}");
    }

    #[test]
    fn dropped_handles_keep_nothing_open() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, b"one").unwrap();
        let handle = Handle::to_write(&path);
        let (id, file) = (handle.id, handle.file().unwrap());
        assert_eq!(Arc::strong_count(&file), 2);
        drop(handle);
        assert!(KEPT.lock().iter().all(|(kept, _)| *kept != id));
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
