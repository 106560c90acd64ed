//! Digests of tensors, computed while the bytes pass.
//!
//! A tensor's digest is the XXH3-128 of the XXH3-128s (little endian) of its consecutive blocks of [`BLOCK`] bytes.
//! The tree form lets threads hash different parts in any order; the value depends on the bytes alone.
//! XXH3 finds accidents, not forgers: it is not a cryptographic hash. It runs at 24 GB/s a core where BLAKE3 reaches
//! 4, and a merge has 1.5 times the time of the bare I/O.

use std::io::Read;
use std::path::Path;

use twox_hash::xxhash3_128::Hasher;

/// Bytes hashed as one leaf.
pub const BLOCK: usize = 1 << 20;

/// Name of the scheme, as written to `suture.json`.
pub const SCHEME: &str = "xxh3-128/1MiB";

/// XXH3-128 of `bytes`.
pub fn of_bytes(bytes: &[u8]) -> u128 {
    Hasher::oneshot(bytes)
}

/// XXH3-128 of what a file holds, as hexadecimal; the file is never in memory as a whole.
///
/// # Errors
/// What reading it gives.
pub fn of_file(path: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(path)?;
    let (mut hasher, mut buffer) = (Hasher::new(), vec![0; 1 << 16]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hasher.finish_128())),
            n => hasher.write(&buffer[..n]),
        }
    }
}

/// A digest as 32 hexadecimal digits.
pub fn hex(digest: u128) -> String {
    format!("{digest:032x}")
}

/// Combines the leaf digests of a tensor, in order.
pub fn combine(leaves: impl Iterator<Item = u128>) -> u128 {
    let mut hasher = Hasher::new();
    for leaf in leaves {
        hasher.write(&leaf.to_le_bytes());
    }
    hasher.finish_128()
}

/// Hashes a run of bytes that starts at a leaf's start, fed in pieces of any size.
pub struct Leaves {
    hasher: Hasher,
    filled: usize,
    done: Vec<u128>,
}

impl Leaves {
    /// Nothing fed yet.
    pub fn new() -> Self {
        Self { hasher: Hasher::new(), filled: 0, done: Vec::new() }
    }

    /// Feeds the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let take = bytes.len().min(BLOCK - self.filled);
            if take == BLOCK {
                self.done.push(of_bytes(&bytes[..take]));
            } else {
                self.hasher.write(&bytes[..take]);
                self.filled += take;
                if self.filled == BLOCK {
                    self.close();
                }
            }
            bytes = &bytes[take..];
        }
    }

    fn close(&mut self) {
        self.done.push(self.hasher.finish_128());
        self.hasher = Hasher::new();
        self.filled = 0;
    }

    /// The leaf digests of everything fed.
    pub fn finish(mut self) -> Vec<u128> {
        if self.filled > 0 {
            self.close();
        }
        self.done
    }
}

impl Default for Leaves {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Law 3: a digest does not depend on how the bytes were cut.
        #[test]
        fn pieces_do_not_matter(cuts in proptest::collection::vec(1usize..700_000, 1..8)) {
            let bytes: Vec<u8> = (0..2_500_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
            let mut whole = Leaves::new();
            whole.update(&bytes);
            let mut pieces = Leaves::new();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                let take = (*cut).min(rest.len());
                pieces.update(&rest[..take]);
                rest = &rest[take..];
                if rest.is_empty() { break; }
            }
            proptest::prop_assert_eq!(whole.finish(), pieces.finish());
        }
    }
}
