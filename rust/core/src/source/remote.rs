//! Objects of a store as sources.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::object::Object;
use super::ranges::Ranges;
use super::{Buffer, Identity, Source};
use crate::error::{Error, Result};

/// An object of a store, whose ranges are fetched.
pub struct RemoteSource {
    remote: Arc<Object>,
    path: PathBuf,
}

impl RemoteSource {
    /// The object that the stand-in at `path` stands for, which had this identity when it was opened.
    ///
    /// # Errors
    /// [`Error::Bug`] if there is none.
    pub fn new(path: &Path, identity: Identity) -> Result<Self> {
        let none = || Error::bug(format!("{} stands for an object that nobody knows", path.display()));
        let remote = Object::of(identity).ok_or_else(none)?;
        let path = PathBuf::from(&remote.url);
        Ok(Self { remote, path })
    }
}

impl Source for RemoteSource {
    fn path(&self) -> &Path {
        &self.path
    }

    fn read<'a>(&'a self, range: Range<u64>, buffer: &'a mut Option<Buffer>) -> Result<&'a [u8]> {
        if range.end > self.remote.size || range.start > range.end {
            return Err(Error::io(&self.path, "read", std::io::ErrorKind::UnexpectedEof));
        }
        let len = (range.end - range.start) as usize;
        let buffer = Buffer::in_slot(buffer, len)?;
        Ranges::all().read(&self.remote, range, &mut buffer.bytes_mut()[..len])?;
        Ok(&buffer.bytes()[..len])
    }

    /// Every answer is held against the state that the object was in when its header was read; nothing is left to ask.
    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn ahead(&self, range: Range<u64>) {
        Ranges::all().ahead(&self.remote, range.start..range.end.min(self.remote.size));
    }

    fn release(&self, range: Range<u64>) {
        Ranges::all().release(&self.remote, range);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::super::object::{self, Fetch, Fetched};
    use super::*;

    const SIZE: u64 = 40 << 20;

    fn byte(at: u64) -> u8 {
        (at.wrapping_mul(2_654_435_761) >> 24) as u8
    }

    /// Bytes by their place; every so many requests break.
    struct Made(AtomicUsize);

    impl Fetch for Made {
        fn fetch(&self, range: Range<u64>) -> std::result::Result<Fetched, String> {
            self.0.fetch_add(1, Ordering::Relaxed);
            std::thread::sleep(std::time::Duration::from_millis(range.start % 7));
            if range.contains(&(SIZE - 1)) {
                Err("no".into())
            } else {
                Ok(Box::new(range.map(byte).collect::<Vec<u8>>()))
            }
        }
    }

    /// A stand-in of [`SIZE`] bytes, as a source and as the identity that files are opened by.
    fn source(dir: &Path, url: &str) -> RemoteSource {
        let path = dir.join("hollow");
        std::fs::File::create(&path).unwrap().set_len(SIZE).unwrap();
        Object::register(&path, url, SIZE, "\"1\"", Box::new(Made(AtomicUsize::new(0)))).unwrap();
        let identity = object::identify(&path.metadata().unwrap());
        assert!(object::is_remote(identity) && object::stands_in(&path.metadata().unwrap()));
        RemoteSource::new(&path, identity).unwrap()
    }

    /// Law: a file that gets the inode of a stand-in that is gone stands for nothing, and a stand-in that is linked still stands.
    #[test]
    fn a_file_in_the_place_of_a_stand_in_is_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let held = source(dir.path(), "s3://bucket/gone");
        let (path, link) = (dir.path().join("hollow"), dir.path().join("link"));
        std::fs::hard_link(&path, &link).unwrap();
        assert!(object::stands_in(&link.metadata().unwrap()));
        std::fs::remove_file(&path).unwrap();
        std::fs::remove_file(&link).unwrap();
        for i in 0..64 {
            let other = dir.path().join(format!("other-{i}"));
            std::fs::write(&other, "a file of its own").unwrap();
            assert!(!object::stands_in(&other.metadata().unwrap()));
        }
        drop(held);
    }

    /// Law: what is read is what is there, announced or not, whole or in pieces, by several threads, let go or not.
    #[test]
    fn ranges_are_the_bytes_of_the_object() {
        let dir = tempfile::tempdir().unwrap();
        let source = &source(dir.path(), "s3://bucket/read");
        for round in 0..2u64 {
            std::thread::scope(|scope| {
                for thread in 0..4u64 {
                    scope.spawn(move || {
                        let mut buffer = None;
                        for i in 0..40u64 {
                            let start = (thread * 40 + i) * 200_003 % (SIZE - 3_000_000);
                            let range = start..start + (i * 70_001) % 2_000_000;
                            if i % 3 != round {
                                source.ahead(range.clone());
                            }
                            let found = source.read(range.clone(), &mut buffer).unwrap();
                            assert!(found.iter().zip(range.clone()).all(|(b, at)| *b == byte(at)), "{range:?}");
                            if i % 2 == 0 {
                                source.release(range);
                            }
                        }
                    });
                }
            });
        }
    }

    /// Law: a range that is not to be had is an error under the object's URL, of all who wait for it, and later again.
    #[test]
    fn what_is_not_to_be_had_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let source = &source(dir.path(), "s3://bucket/broken");
        source.ahead(SIZE - 100..SIZE);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let error = source.read(SIZE - 10..SIZE, &mut None).unwrap_err().to_string();
                    assert_eq!(error, "s3://bucket/broken: no");
                });
            }
        });
        assert!(source.read(SIZE - 10..SIZE, &mut None).is_err());
        assert!(source.read(0..SIZE + 1, &mut None).is_err());
        assert!(source.read(0..10, &mut None).is_ok());
    }
}
