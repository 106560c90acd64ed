//! What the scans of a search collect, and where they put it.

/// What a scan collects: how many of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    /// Histograms.
    pub histograms: usize,
    /// Counts, span by span.
    pub ranks: usize,
    /// Lists of magnitudes, in any order.
    pub lists: usize,
}

/// Where a scan puts what it finds in a span.
pub struct Into<'s> {
    /// The histograms.
    pub counts: &'s mut [Vec<u32>],
    /// The counts.
    pub ranks: &'s mut [u64],
    /// The lists.
    pub lists: &'s mut [Vec<u32>],
}
