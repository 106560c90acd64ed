//! A cut of a tensor along rows or columns, into parts that are measured or moved on their own.

use std::ops::Range;

/// What a tensor is cut into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Attention heads: rows of the query, key and value projections, columns of the output projection.
    Head,
    /// Groups of neurons: rows of the projections into the feed-forward layer, columns of the one out of it.
    Neuron,
    /// Rows of an embedding or a head, a token each.
    Token,
}

/// A cut of a tensor along rows or columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slicing {
    /// What the pieces are.
    pub part: Part,
    /// First row or column of each stretch, and after them their number.
    pub bounds: Vec<u64>,
    /// The piece each stretch belongs to; empty where each is a piece of its own.
    owners: Vec<usize>,
    /// Elements between two rows, or 1 for columns.
    unit: u64,
    /// Elements after which the cut repeats: those of the tensor for rows, of a row for columns.
    period: u64,
    by_column: bool,
}

impl Slicing {
    /// A cut into `pieces` groups of rows.
    pub fn along_rows(part: Part, rows: u64, columns: u64, pieces: u64) -> Self {
        let bounds = bounds(rows, pieces);
        Self { part, bounds, owners: Vec::new(), unit: columns, period: rows * columns, by_column: false }
    }

    /// A cut into `pieces` groups of columns.
    pub fn along_columns(part: Part, columns: u64, pieces: u64) -> Self {
        Self { part, bounds: bounds(columns, pieces), owners: Vec::new(), unit: 1, period: columns, by_column: true }
    }

    /// A cut of rows that hold the queries of all heads, then the keys, then the values; a piece is what shares keys and values.
    /// `None` if they do not come out even.
    pub fn stacked_rows(rows: u64, columns: u64, query: u64, shared: u64) -> Option<Self> {
        let (bounds, owners) = stacked(rows, query, shared)?;
        Some(Self { part: Part::Head, bounds, owners, unit: columns, period: rows * columns, by_column: false })
    }

    /// As [`Self::stacked_rows`], of a matrix that is kept transposed.
    pub fn stacked_columns(columns: u64, query: u64, shared: u64) -> Option<Self> {
        let (bounds, owners) = stacked(columns, query, shared)?;
        Some(Self { part: Part::Head, bounds, owners, unit: 1, period: columns, by_column: true })
    }

    /// Elements after which the cut repeats.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.owners.iter().max().map_or(self.bounds.len() - 1, |last| last + 1)
    }

    /// The stretch an element is in.
    fn stretch(&self, element: u64) -> usize {
        let unit = (element % self.period) / self.unit;
        self.bounds.partition_point(|b| *b <= unit) - 1
    }

    /// The piece that a stretch belongs to.
    fn owner(&self, stretch: usize) -> usize {
        self.owners.get(stretch).copied().unwrap_or(stretch)
    }

    /// The piece an element is in.
    pub fn piece(&self, element: u64) -> usize {
        self.owner(self.stretch(element))
    }

    /// The pieces that a range of elements has something of.
    pub fn touched(&self, range: &Range<u64>) -> Range<usize> {
        if self.by_column || !self.owners.is_empty() {
            return 0..self.pieces();
        }
        self.piece(range.start)..self.piece(range.end - 1) + 1
    }

    /// The pieces that a range of elements goes through, each with its number, in order; a piece may come again.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let mut at = range.start;
        let mut stretch = if range.is_empty() { 0 } else { self.stretch(at) };
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let period = at / self.period * self.period;
            let run = at..(period + self.bounds[stretch + 1] * self.unit).min(range.end);
            let found = (self.owner(stretch), run.clone());
            at = run.end;
            stretch = if stretch + 2 == self.bounds.len() { 0 } else { stretch + 1 };
            Some(found)
        })
    }
}

/// The stretches of `query` heads' queries, `shared` heads' keys and as many values, all of one size, and whose they are.
fn stacked(n: u64, query: u64, shared: u64) -> Option<(Vec<u64>, Vec<usize>)> {
    let heads = query.checked_add(shared.checked_mul(2)?)?;
    if shared == 0 || !query.is_multiple_of(shared) || n == 0 || !n.is_multiple_of(heads) {
        return None;
    }
    let (size, group) = (n / heads, query / shared);
    let queries = (0..shared).map(|g| (g * group * size, g));
    let others = (0..2 * shared).map(|i| ((query + i) * size, i % shared));
    let (mut bounds, owners): (Vec<u64>, Vec<usize>) = queries.chain(others).map(|(at, g)| (at, g as usize)).unzip();
    bounds.push(n);
    Some((bounds, owners))
}

/// Where each of `pieces` nearly equal pieces of `n` begins, and `n`.
fn bounds(n: u64, pieces: u64) -> Vec<u64> {
    (0..=pieces).map(|i| (u128::from(i) * u128::from(n) / u128::from(pieces)) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Whatever range is asked for, its runs cover it in order, each inside the piece it is said to be of.
        #[test]
        fn runs_cover_the_range(rows in 1u64..9, columns in 1u64..9, pieces in 1u64..9, cut in 0u64..80, columnwise: bool) {
            let n = if columnwise { columns } else { rows };
            let pieces = pieces.min(n);
            let s = if columnwise { Slicing::along_columns(Part::Head, columns, pieces) }
                else { Slicing::along_rows(Part::Head, rows, columns, pieces) };
            let all = rows * columns;
            let cut = cut.min(all);
            let mut at = 0;
            for (piece, run) in s.runs(0..cut).chain(s.runs(cut..all)) {
                proptest::prop_assert_eq!(run.start, at);
                for e in run.clone() {
                    let unit = if columnwise { e % columns } else { e / columns };
                    proptest::prop_assert!(s.bounds[piece] <= unit && unit < s.bounds[piece + 1]);
                }
                at = run.end;
            }
            proptest::prop_assert_eq!(at, all);
        }
    }
}
