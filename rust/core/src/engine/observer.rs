//! How a run tells the outside how far it is, and hears that it should stop.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::error::{Error, Result};

/// The outside of a run, asked a few times a second from the thread that started it.
pub trait Observer {
    /// Hears how many of the planned bytes are done; returns false to stop the run.
    fn tick(&self, done: u64) -> bool;
}

/// An observer that never looks and never stops.
pub struct Silent;

impl Observer for Silent {
    fn tick(&self, _done: u64) -> bool {
        true
    }
}

/// Shared by all threads of a run: bytes done, and the first error.
#[derive(Default)]
pub struct Progress {
    done: AtomicU64,
    stop: AtomicBool,
    error: Mutex<Option<Error>>,
}

impl Progress {
    /// Counts finished bytes.
    pub fn add(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes finished.
    pub fn done(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    /// True once the run should end, for an error or because it was asked to.
    pub fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Goes on, unless the run should end.
    ///
    /// # Errors
    /// [`Error::Interrupted`] once it should.
    pub fn alive(&self) -> Result<()> {
        if self.stopped() { Err(Error::Interrupted) } else { Ok(()) }
    }

    /// Ends the run with `error`, unless it has one already.
    pub fn fail(&self, error: Error) {
        self.error.lock().get_or_insert(error);
        self.stop.store(true, Ordering::Relaxed);
    }

    /// The error the run ended with, if any.
    ///
    /// # Errors
    /// That error.
    pub fn finish(&self) -> Result<()> {
        self.error.lock().take().map_or(Ok(()), Err)
    }
}
