//! Bytes of the output on their way to the disk, through a fixed set of buffers.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use super::job::Job;
use super::observer::Progress;
use crate::error::{Error, Result};
use crate::plan::TensorPlan;
use crate::sizes::ALIGN;
use crate::source::Buffer;

/// A full buffer on its way to the disk. Its bytes start at `offset % ALIGN` in the buffer.
pub struct Write {
    /// The tensor it belongs to.
    pub job: Arc<Job>,
    /// Shard index.
    pub shard: usize,
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: usize,
    /// The bytes.
    pub buffer: Buffer,
}

/// The buffers of a run: empty ones come, full ones go.
#[derive(Clone)]
pub struct Pool {
    /// Empty buffers.
    pub free: Receiver<Buffer>,
    /// Full ones.
    pub full: Sender<Write>,
    /// Bytes that a buffer holds.
    pub capacity: usize,
}

impl Pool {
    /// An empty buffer. A buffer that a thread took with it when it failed never comes back, so this looks whether the run
    /// still goes on.
    fn take(&self, progress: &Progress) -> Result<Buffer> {
        loop {
            match self.free.recv_timeout(Duration::from_millis(50)) {
                Ok(buffer) => return Ok(buffer),
                Err(RecvTimeoutError::Timeout) => progress.alive()?,
                Err(RecvTimeoutError::Disconnected) => return Err(Error::Interrupted),
            }
        }
    }
}

/// Takes the bytes of a span of a tensor in order.
pub struct Output<'a> {
    pool: &'a Pool,
    progress: &'a Progress,
    job: &'a Arc<Job>,
    tensor: &'a TensorPlan,
    /// Bytes of the tensor that need no writing: a reflink brought them.
    shared: &'a Range<u64>,
    /// The next byte of the tensor.
    at: u64,
    /// What is being filled: the first byte of the tensor in it, how many there are, and the buffer.
    filling: Option<(u64, usize, Buffer)>,
}

impl<'a> Output<'a> {
    /// Starts at byte `at` of a tensor.
    pub fn new(
        pool: &'a Pool,
        progress: &'a Progress,
        job: &'a Arc<Job>,
        tensor: &'a TensorPlan,
        shared: &'a Range<u64>,
        at: u64,
    ) -> Self {
        Self { pool, progress, job, tensor, shared, at, filling: None }
    }

    /// The tensor being made.
    pub fn job(&self) -> &'a Job {
        self.job
    }

    /// Has `fill` write the next bytes, at most `most` of them and a whole number of `width`. Returns how many.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the run is stopped, or what `fill` returns.
    pub fn next(&mut self, most: usize, width: usize, fill: impl FnOnce(&mut [u8]) -> Result<()>) -> Result<usize> {
        let (start, filled, mut buffer) = match self.filling.take() {
            Some(filling) => filling,
            None => (self.at, 0, self.pool.take(self.progress)?),
        };
        let skip = ((self.tensor.offset + start) % ALIGN) as usize;
        let len = most.min((self.pool.capacity - filled) / width * width);
        fill(&mut buffer.bytes_mut()[skip + filled..skip + filled + len])?;
        self.at += len as u64;
        self.filling = Some((start, filled + len, buffer));
        if self.pool.capacity - filled - len < width {
            self.send()?;
        }
        Ok(len)
    }

    /// Takes bytes as they are; those that are shared already are only counted.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when the run is stopped.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let inside = self.shared.contains(&self.at);
            let border = if inside { self.shared.end } else { self.shared.start };
            let to_border = if border > self.at { border - self.at } else { u64::MAX };
            let len = to_border.min(bytes.len() as u64) as usize;
            let taken = if inside {
                self.send()?;
                self.at += len as u64;
                len
            } else {
                self.next(len, 1, |target| {
                    target.copy_from_slice(&bytes[..target.len()]);
                    Ok(())
                })?
            };
            bytes = &bytes[taken..];
        }
        Ok(())
    }

    /// Sends what is there on its way.
    ///
    /// # Errors
    /// [`Error::Interrupted`] when nobody takes it any more.
    pub fn send(&mut self) -> Result<()> {
        let Some((start, len, buffer)) = self.filling.take() else { return Ok(()) };
        self.job.sent();
        let (shard, offset) = (self.tensor.shard, self.tensor.offset + start);
        let write = Write { job: self.job.clone(), shard, offset, len, buffer };
        self.pool.full.send(write).map_err(|_| Error::Interrupted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A thread that fails keeps the buffers it had; whoever waits for one must hear of it, not wait for ever.
    #[test]
    fn waiting_for_a_buffer_ends_when_the_run_does() {
        let (_give, free) = crossbeam_channel::unbounded::<Buffer>();
        let (full, _written) = crossbeam_channel::unbounded::<Write>();
        let pool = Pool { free, full, capacity: 4096 };
        let progress = Progress::default();
        progress.fail(Error::bug("both writers are gone"));
        assert!(matches!(pool.take(&progress), Err(Error::Interrupted)));
    }
}
