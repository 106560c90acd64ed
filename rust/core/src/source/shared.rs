//! A source that several plans read, each all of it: what is released is let go when the last of them has done with it.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{Buffer, ReadMode, Source};
use crate::error::Result;

/// A source and who has done with what of it.
#[derive(Clone)]
pub struct Shared(Arc<State>);

struct State {
    source: Box<dyn Source>,
    users: usize,
    /// How often each range has been released. Where plans differ some stay: they are few, and the system takes back what it needs.
    released: Mutex<HashMap<Range<u64>, usize>>,
}

impl Shared {
    /// `source`, which so many read.
    pub fn new(source: Box<dyn Source>, users: usize) -> Self {
        Self(Arc::new(State { source, users, released: Mutex::default() }))
    }
}

impl Source for Shared {
    fn path(&self) -> &Path {
        self.0.source.path()
    }

    fn read<'a>(&'a self, range: Range<u64>, buffer: &'a mut Option<Buffer>) -> Result<&'a [u8]> {
        self.0.source.read(range, buffer)
    }

    fn check(&self) -> Result<()> {
        self.0.source.check()
    }

    fn ahead(&self, range: Range<u64>) {
        self.0.source.ahead(range);
    }

    fn release(&self, range: Range<u64>) {
        let mut released = self.0.released.lock();
        let count = released.entry(range.clone()).or_default();
        *count += 1;
        if *count >= self.0.users {
            released.remove(&range);
            drop(released);
            self.0.source.release(range);
        }
    }

    fn file(&self) -> Option<Arc<File>> {
        self.0.source.file()
    }

    fn mode(&self) -> Option<ReadMode> {
        self.0.source.mode()
    }

    fn rates(&self) -> Option<(u64, [f64; 2])> {
        self.0.source.rates()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts what is released of it.
    struct Counting(Arc<Mutex<Vec<Range<u64>>>>);

    impl Source for Counting {
        fn path(&self) -> &Path {
            Path::new("x")
        }

        fn read<'a>(&'a self, _: Range<u64>, _: &'a mut Option<Buffer>) -> Result<&'a [u8]> {
            Ok(&[])
        }

        fn check(&self) -> Result<()> {
            Ok(())
        }

        fn release(&self, range: Range<u64>) {
            self.0.lock().push(range);
        }
    }

    /// Law: a range is let go once, by the last of those who read it.
    #[test]
    fn the_last_one_lets_go() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let source = Shared::new(Box::new(Counting(seen.clone())), 3);
        for user in 0..3 {
            assert_eq!(seen.lock().len(), 0, "{user}");
            source.clone().release(0..5);
            source.clone().release(5..9);
        }
        assert_eq!(*seen.lock(), [0..5, 5..9]);
        source.release(0..5);
        assert_eq!(seen.lock().len(), 2);
    }
}
