//! Objects of a store: read by ranges, and known by what the store says of them.
//!
//! A *stand-in* is a local file of an object's length that holds its header and nothing else. It is planned with as any file is;
//! what is read of it comes from the store. It has the object's [`Identity`], which is the same on every machine.

use std::collections::HashMap;
use std::fs::Metadata;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use parking_lot::RwLock;

use super::Identity;
use crate::digest::of_bytes;
use crate::error::{Error, Result};

/// Bytes that were fetched, in memory of whoever fetched them.
pub type Fetched = Box<dyn AsRef<[u8]> + Send + Sync>;

/// Fetches bytes of one object in one state of it.
pub trait Fetch: Send + Sync {
    /// The bytes of `range`, all of them, or why they are not to be had: tried again as often as makes sense, in words without
    /// the object's name. Called by several threads at once.
    ///
    /// # Errors
    /// Why not.
    fn fetch(&self, range: Range<u64>) -> std::result::Result<Fetched, String>;
}

/// An object that a stand-in stands for.
pub struct Object {
    /// The stand-in.
    pub path: PathBuf,
    /// What it is called: its URL.
    pub url: String,
    /// What the store tells its states apart by; of one that tells no states apart the time of change.
    pub etag: String,
    /// Length in bytes.
    pub size: u64,
    /// Number of the object in this process.
    pub(super) number: u64,
    fetch: Box<dyn Fetch>,
}

/// The device that objects of stores are said to lie on: none has this number.
const DEVICE: u64 = u64::MAX;

/// What tells a stand-in from every other file. Once it is deleted its inode is given to another file, born later; the time of a
/// file's last change would not do, which a link to it changes.
#[derive(PartialEq, Eq, Hash)]
struct Standing {
    device: u64,
    inode: u64,
    size: u64,
    /// `None` on file systems that do not tell.
    born: Option<SystemTime>,
}

impl Standing {
    fn of(meta: &Metadata) -> Self {
        Self { device: meta.dev(), inode: meta.ino(), size: meta.len(), born: meta.created().ok() }
    }
}

#[derive(Default)]
struct Known {
    files: HashMap<Standing, Arc<Object>>,
    objects: HashMap<Identity, Arc<Object>>,
    /// Folders of stand-ins, and what is shown for them.
    folders: Vec<(String, String)>,
}

fn known() -> &'static RwLock<Known> {
    static KNOWN: OnceLock<RwLock<Known>> = OnceLock::new();
    KNOWN.get_or_init(RwLock::default)
}

impl Object {
    /// Makes the file at `path` the stand-in of an object.
    ///
    /// # Errors
    /// [`Error::Io`] if the file is not there, [`Error::Bug`] if it has not the object's length.
    pub fn register(path: &Path, url: &str, size: u64, etag: &str, fetch: Box<dyn Fetch>) -> Result<()> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let meta = path.metadata().map_err(|e| Error::io(path, "look at", e))?;
        if meta.len() != size {
            return Err(Error::bug(format!("{} stands for {size} bytes and has {}", path.display(), meta.len())));
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let own = Self { path: path.to_owned(), url: url.to_owned(), etag: etag.to_owned(), size, number, fetch };
        let (identity, own) = (own.identity(), Arc::new(own));
        let mut known = known().write();
        known.files.insert(Standing::of(&meta), Arc::clone(&own));
        known.objects.insert(identity, own);
        Ok(())
    }

    fn identity(&self) -> Identity {
        let changed = (of_bytes(self.etag.as_bytes()) >> 1) as u64 >> 1;
        let inode = of_bytes(self.url.as_bytes()) as u64;
        Identity { device: DEVICE, inode, size: self.size, changed: changed.cast_signed() }
    }

    /// The object with this identity, if it is one of a store.
    pub fn of(identity: Identity) -> Option<Arc<Self>> {
        if identity.device != DEVICE { None } else { known().read().objects.get(&identity).cloned() }
    }

    /// Fetches a range; what comes has the right length.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] under the object's name.
    pub(super) fn fetch(&self, range: Range<u64>) -> std::result::Result<Fetched, String> {
        let found = self.fetch.fetch(range.clone())?;
        let (want, have) = (range.end - range.start, (*found).as_ref().len() as u64);
        if want == have { Ok(found) } else { Err(format!("asked for {want} bytes, the store sent {have}")) }
    }

    /// An error about it.
    pub(super) fn fail(&self, problem: impl Into<String>) -> Error {
        Error::checkpoint(Path::new(&self.url), problem)
    }
}

/// Whether this is the identity of an object of a store.
pub fn is_remote(identity: Identity) -> bool {
    identity.device == DEVICE
}

/// Whether any file of this process stands for an object of a store.
pub fn any() -> bool {
    !known().read().files.is_empty()
}

/// The identity of the file that `meta` is of; of a stand-in the object's.
pub fn identify(meta: &Metadata) -> Identity {
    let own = known().read().files.get(&Standing::of(meta)).map(|r| r.identity());
    own.unwrap_or_else(|| Identity::of(meta))
}

/// Whether the file that `meta` is of stands for an object of a store, and holds none of its data.
pub fn stands_in(meta: &Metadata) -> bool {
    known().read().files.contains_key(&Standing::of(meta))
}

/// Has `url` shown for what lies in `folder`, which holds stand-ins.
pub fn show(folder: &str, url: &str) {
    let mut known = known().write();
    known.folders.retain(|(f, _)| f != folder);
    known.folders.push((folder.to_owned(), url.to_owned()));
    known.folders.sort_by_key(|(f, _)| std::cmp::Reverse(f.len()));
}

/// A text with URLs for the folders of stand-ins.
pub fn shown(text: &str) -> String {
    known().read().folders.iter().fold(text.to_owned(), |text, (folder, url)| {
        if text.contains(folder.as_str()) { text.replace(folder.as_str(), url) } else { text }
    })
}
