//! A tensor whose bits are those of another but for what packed blocks change: what a lossless delta makes of its base.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::Tensor;
use crate::sizes::PACKED;

/// A tensor that is changed bit by bit.
#[derive(Debug, Clone)]
pub struct Exact {
    /// What is changed; of what is computed the rounded values.
    pub under: Tensor,
    /// The changes, U8: blocks of [`PACKED`] elements packed by [`crate::kernels::packed`], and behind them the length of each as
    /// 32 bits, little endian; 0 where nothing changes.
    pub blocks: Tensor,
    /// Where each block begins, and the last ends, once read.
    pub starts: Arc<OnceLock<Vec<u64>>>,
    /// The digest of what comes out, if what is under it is what it was.
    pub promise: Option<String>,
    /// The delta it is of, for errors.
    pub delta: PathBuf,
    /// What is expected to lie under it, for errors.
    pub of: String,
}

impl Exact {
    /// Number of blocks.
    pub fn count(&self) -> u64 {
        self.under.elements().div_ceil(PACKED)
    }

    /// Bytes that stay in memory while it is read.
    pub fn resident(&self) -> u64 {
        let under = self.under.made.as_ref().map_or(0, |m| m.resident(&self.under.shape));
        under + 4 * PACKED * self.under.dtype.bits() / 8 + 8 * self.count() + (1 << 17)
    }
}
