//! Merge methods. A method is one small file and one line in [`registry`].
//!
//! A method sees f32 tiles and parameters; no file, thread, dtype or tensor name.

mod linear;
mod passthrough;
pub mod registry;
mod slerp;
mod sparse;
mod spec;

pub use spec::{ANY, Base, Default, Granularity, Kind, Parameter, Params, Spec, Value};

/// A stretch of consecutive elements of one tensor, of all models at once.
pub struct Tile<'a> {
    /// Elements of the base, if the method has one that is not an input.
    pub base: Option<&'a [f32]>,
    /// The same elements of every input.
    pub inputs: &'a [&'a [f32]],
    /// A random key for every input; see [`crate::kernels::rng`].
    pub keys: &'a [u64],
    /// Index of the first element in the tensor; a multiple of [`crate::kernels::reduce::BLOCK`].
    pub start: u64,
    /// Number of elements of the whole tensor.
    pub of: u64,
}

/// Statistics of a span of a tensor. Those of a tensor are the sums over its spans, added in order.
#[derive(Debug, Clone, std::default::Default)]
pub struct Stats {
    /// Sums; added in the order of the spans, so that their rounding is always the same.
    pub sums: Vec<f64>,
    /// Histograms, of [`crate::kernels::select::BINS`] bins each.
    pub counts: Vec<Vec<u32>>,
    /// Counts whose running total before each span is wanted when that span is computed.
    pub ranks: Vec<u64>,
}

/// How many of each kind of statistics a scan collects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Length of [`Stats::sums`].
    pub sums: usize,
    /// Number of [`Stats::counts`].
    pub histograms: usize,
    /// Length of [`Stats::ranks`].
    pub ranks: usize,
}

impl Stats {
    /// Zeroes the statistics and gives them the wanted sizes; histograms that are there already keep their memory.
    pub fn reset(&mut self, wants: Wants) {
        self.sums = vec![0.0; wants.sums];
        self.ranks = vec![0; wants.ranks];
        self.counts.iter_mut().for_each(|c| c.fill(0));
        self.counts.resize_with(wants.histograms, || vec![0; crate::kernels::select::BINS]);
    }
}

/// Statistics of a whole tensor.
#[derive(Debug, Clone, std::default::Default)]
pub struct Totals {
    /// As [`Stats::sums`].
    pub sums: Vec<f64>,
    /// As [`Stats::counts`], wide enough for any tensor.
    pub counts: Vec<Vec<u64>>,
    /// As [`Stats::ranks`], over the whole tensor.
    pub ranks: Vec<u64>,
}

/// A merge method.
pub trait Method: Sync {
    /// What it says of itself.
    fn spec(&self) -> &Spec;

    /// The method with the parameters of one tensor of `elements` elements.
    ///
    /// # Errors
    /// What is wrong with the parameters together; each alone has been checked against the spec.
    fn bind(&self, params: &Params, elements: u64) -> Result<Box<dyn Kernel>, String>;
}

/// A method bound to one tensor.
///
/// The engine reads the tensor once for each scan, hands over the totals, and reads it a last time to apply.
pub trait Kernel: Send + Sync {
    /// What the next scan collects, asked before each; `None` when nothing is left to find out.
    fn wants(&self) -> Option<Wants> {
        None
    }

    /// Adds a tile to the statistics of its span. Tiles of a span come in order.
    fn scan(&self, _tile: &Tile, _stats: &mut Stats) {}

    /// Takes the totals of a finished scan.
    fn take(&mut self, _totals: Totals) {}

    /// Computes a tile into `out`.
    ///
    /// `ranks` holds, for the counts of the last scan that had any, the total of everything before this tile; the
    /// kernel keeps it up to date. Tiles of a span come in order.
    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]);
}
