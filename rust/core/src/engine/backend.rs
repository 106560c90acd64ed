//! Who computes tiles: the CPU, or something else under the same plan, journal and report.

use crate::error::Result;
use crate::methods::{Kernel, Stats, Tile};

/// Computes tiles with kernels.
pub trait Backend: Sync {
    /// Adds a tile to the statistics of its span.
    ///
    /// # Errors
    /// What makes it impossible.
    fn scan(&self, kernel: &dyn Kernel, tile: &Tile, stats: &mut Stats) -> Result<()>;

    /// Computes a tile into `out`; `ranks` as in [`Kernel::apply`].
    ///
    /// # Errors
    /// What makes it impossible.
    fn apply(&self, kernel: &dyn Kernel, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) -> Result<()>;
}

/// The kernels as they are.
pub struct Cpu;

impl Backend for Cpu {
    fn scan(&self, kernel: &dyn Kernel, tile: &Tile, stats: &mut Stats) -> Result<()> {
        kernel.scan(tile, stats);
        Ok(())
    }

    fn apply(&self, kernel: &dyn Kernel, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) -> Result<()> {
        kernel.apply(tile, ranks, out);
        Ok(())
    }
}
