//! The bytes of a header, read as far as they are asked for; whatever a file claims, no more memory is taken than it has bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;

use crate::checkpoint::header::MAX_HEADER;

/// Bytes that are read at once.
const STEP: u64 = 1 << 20;

/// A file that is read from its first byte on.
pub(super) struct Bytes<'a> {
    file: &'a File,
    size: u64,
    bytes: Vec<u8>,
    at: usize,
}

impl<'a> Bytes<'a> {
    /// Of a file of `size` bytes.
    pub fn of(file: &'a File, size: u64) -> Self {
        Self { file, size, bytes: Vec::new(), at: 0 }
    }

    /// Bytes read so far.
    pub fn at(&self) -> u64 {
        self.at as u64
    }

    /// Bytes left.
    pub fn left(&self) -> u64 {
        self.size - self.at()
    }

    /// What was read so far.
    pub fn read(&self) -> &[u8] {
        &self.bytes[..self.at]
    }

    /// The next bytes.
    ///
    /// # Errors
    /// If there are not as many, or the header is too long, in words without the path.
    pub fn take(&mut self, count: u64) -> Result<&[u8], String> {
        if count > self.left() {
            let at = self.at();
            return Err(format!(
                "the header needs {count} bytes at byte {at}, the file holds {}; it is truncated or damaged, fetch it again",
                self.left()
            ));
        }
        let end = self.at() + count;
        if end > MAX_HEADER {
            return Err(format!("the header is longer than the {MAX_HEADER} bytes allowed"));
        }
        let (begin, end) = (self.at, end as usize);
        if end > self.bytes.len() {
            let known = self.bytes.len();
            let more = (end as u64).max(known as u64 + STEP).min(self.size) as usize;
            self.bytes.resize(more, 0);
            self.file
                .read_exact_at(&mut self.bytes[known..], known as u64)
                .map_err(|e| format!("cannot be read: {e}"))?;
        }
        self.at = end;
        Ok(&self.bytes[begin..end])
    }

    /// The next bytes as an array.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    /// A number of 32 bits.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    /// A number of 64 bits.
    ///
    /// # Errors
    /// As [`Self::take`].
    pub fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A text, with its length before it.
    ///
    /// # Errors
    /// As [`Self::take`]; and if it is not UTF-8. `what` it is is said then.
    pub fn text(&mut self, what: impl Fn() -> String) -> Result<&str, String> {
        let len = self.u64()?;
        let bytes = self.take(len).map_err(|e| format!("{}: {e}", what()))?;
        std::str::from_utf8(bytes).map_err(|e| format!("{}: is not UTF-8: {e}", what()))
    }

    /// How many of something follow, each of `least` bytes at least.
    ///
    /// # Errors
    /// If the file cannot hold as many.
    pub fn count(&mut self, what: &str, least: u64) -> Result<u64, String> {
        let count = self.u64()?;
        if count.checked_mul(least).is_none_or(|n| n > self.left()) {
            let left = self.left();
            return Err(format!(
                "claims {count} {what}, the {left} bytes that are left cannot hold them; it is truncated or damaged"
            ));
        }
        Ok(count)
    }
}
