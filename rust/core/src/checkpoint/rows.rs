//! Tables of tokens whose rows are those of several models' tables: models of different vocabularies, brought to one.

use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::Tensor;

/// Consecutive rows of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Segment {
    /// So many rows of a model's table, from a row on.
    Rows(u64, usize, u64),
    /// One row, the mean of rows of models' tables.
    Mean {
        /// The models and their rows.
        mean: Vec<(usize, u64)>,
    },
    /// Rows of zeros.
    Zero {
        /// How many.
        zero: u64,
    },
    /// Rows that are no tokens, each the mean of all rows that are.
    Pad {
        /// How many.
        pad: u64,
    },
}

impl Segment {
    /// How many rows it is.
    pub fn count(&self) -> u64 {
        match self {
            Self::Rows(count, ..) => *count,
            Self::Mean { .. } => 1,
            Self::Zero { zero: count } | Self::Pad { pad: count } => *count,
        }
    }

    /// The models it takes rows of, and for each the row behind the last.
    pub fn reads(&self) -> impl Iterator<Item = (usize, u64)> {
        let (run, mean): (_, &[(usize, u64)]) = match self {
            Self::Rows(count, model, row) => (Some((*model, row.saturating_add(*count))), &[]),
            Self::Mean { mean } => (None, mean),
            _ => (None, &[]),
        };
        run.into_iter().chain(mean.iter().map(|(model, row)| (*model, row.saturating_add(1))))
    }
}

/// The rows of a table, in order.
#[derive(Debug)]
pub struct Layout {
    /// The runs.
    pub segments: Vec<Segment>,
    /// The first row of each.
    pub starts: Vec<u64>,
    /// Rows in all.
    pub rows: u64,
    /// Rows that are tokens.
    pub real: u64,
}

impl Layout {
    /// Of these segments.
    pub fn new(segments: Vec<Segment>) -> Self {
        let mut rows = 0u64;
        let mut starts = Vec::with_capacity(segments.len());
        for s in &segments {
            starts.push(rows);
            rows = rows.saturating_add(s.count());
        }
        let pads = segments.iter().filter(|s| matches!(s, Segment::Pad { .. })).map(Segment::count).sum::<u64>();
        Self { segments, starts, rows, real: rows.saturating_sub(pads) }
    }

    /// Whether all rows are stored ones, or zeros: then there is nothing to compute.
    pub fn moves(&self) -> bool {
        self.segments.iter().all(|s| matches!(s, Segment::Rows(..) | Segment::Zero { .. }))
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        let means = self.segments.iter().filter(|s| matches!(s, Segment::Mean { .. })).count();
        ((size_of::<Segment>() + 8) * self.segments.len() + 64 * means) as u64
    }
}

/// A table put together of rows.
#[derive(Debug)]
pub struct Rows {
    /// Which rows.
    pub layout: Arc<Layout>,
    /// Every model's table; `None` of those that no row is from.
    pub tables: Vec<Option<Tensor>>,
    /// Elements of a row.
    pub columns: u64,
    /// The mean of all rows that are tokens, once it is known.
    pub mean: Mutex<Option<Arc<Vec<f64>>>>,
}

impl Rows {
    /// Whether its bytes are those of stored rows of one dtype.
    pub fn moves(&self, own: &Tensor) -> bool {
        self.layout.moves() && self.tables.iter().flatten().all(|t| t.made.is_none() && t.dtype == own.dtype)
    }

    /// Bits that an element takes as it is read, at most.
    pub fn read_bits(&self) -> u64 {
        let widest = self.tables.iter().flatten().map(Tensor::read_bits).max().unwrap_or(64);
        if self.layout.moves() { widest } else { widest.max(64) }
    }
}
