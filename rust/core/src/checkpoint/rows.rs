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
    /// One row, a mix of rows of the first model's table.
    Mix {
        /// Which, see [`Mixes`].
        mix: usize,
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
            Self::Mean { .. } | Self::Mix { .. } => 1,
            Self::Zero { zero: count } | Self::Pad { pad: count } => *count,
        }
    }

    fn reads(&self) -> impl Iterator<Item = (usize, u64)> {
        let (run, mean): (_, &[(usize, u64)]) = match self {
            Self::Rows(count, model, row) => (Some((*model, row.saturating_add(*count))), &[]),
            Self::Mean { mean } => (None, mean),
            _ => (None, &[]),
        };
        run.into_iter().chain(mean.iter().map(|(model, row)| (*model, row.saturating_add(1))))
    }
}

/// Weighted sums of rows of the first model's table. Each is a run of entries; several rows can be one mix.
#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Mixes {
    /// Where the entries of each begin, and where those of the last end.
    pub starts: Vec<usize>,
    /// A row for each entry.
    pub index: Vec<u64>,
    /// What it is multiplied by.
    pub weight: Vec<f64>,
    /// Standard deviation of what is drawn and added, as a share of the root mean square of the mixed row, for each mix; none if
    /// nothing is.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub noise: Vec<f64>,
    /// What is drawn by.
    #[serde(default)]
    pub seed: u64,
}

impl Mixes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether each is a run of entries that there are.
    pub fn sound(&self) -> bool {
        let runs = self.starts.first().is_none_or(|s| *s == 0) && self.starts.is_sorted();
        let entries = self.starts.last().copied().unwrap_or(0);
        let noise = self.noise.is_empty() || self.noise.len() == self.len();
        let finite = self.weight.iter().chain(&self.noise).all(|w| w.is_finite());
        runs && self.index.len() == entries && self.weight.len() == entries && noise && finite
    }

    /// The rows of a mix and their weights; none of one that there is not.
    pub fn entries(&self, mix: usize) -> impl Iterator<Item = (u64, f64)> {
        let own = self.starts.get(mix).copied().unwrap_or(0)..self.starts.get(mix + 1).copied().unwrap_or(0);
        let (rows, weights) = (self.index.get(own.clone()), self.weight.get(own));
        rows.unwrap_or_default().iter().copied().zip(weights.unwrap_or_default().iter().copied())
    }

    /// Bytes that they take.
    pub fn bytes(&self) -> u64 {
        8 * (self.starts.len() + 2 * self.index.len() + self.noise.len()) as u64
    }
}

/// The rows of a table, in order.
#[derive(Debug)]
pub struct Layout {
    /// The runs.
    pub segments: Vec<Segment>,
    /// What those that are mixes are.
    pub mixes: Arc<Mixes>,
    /// The first row of each.
    pub starts: Vec<u64>,
    /// Rows in all.
    pub rows: u64,
    /// Rows that are tokens.
    pub real: u64,
}

impl Layout {
    /// Of these segments.
    pub fn new(segments: Vec<Segment>, mixes: Arc<Mixes>) -> Self {
        let mut rows = 0u64;
        let mut starts = Vec::with_capacity(segments.len());
        for s in &segments {
            starts.push(rows);
            rows = rows.saturating_add(s.count());
        }
        let pads = segments.iter().filter(|s| matches!(s, Segment::Pad { .. })).map(Segment::count).sum::<u64>();
        Self { segments, mixes, starts, rows, real: rows.saturating_sub(pads) }
    }

    /// The models it takes rows of, and the row behind the last of each run.
    pub fn reads(&self) -> impl Iterator<Item = (usize, u64)> {
        let mixed = self.segments.iter().filter_map(|s| match s {
            Segment::Mix { mix } => self.mixes.entries(*mix).map(|(row, _)| (0, row.saturating_add(1))).max(),
            _ => None,
        });
        self.segments.iter().flat_map(Segment::reads).chain(mixed)
    }

    /// Whether all mixes that it has are there.
    pub fn sound(&self) -> bool {
        let there = |s: &Segment| !matches!(s, Segment::Mix { mix } if *mix >= self.mixes.len());
        self.segments.iter().all(there)
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
    /// The row that was formed last of many others: the mean of all rows that are tokens, or a mix.
    pub formed: Mutex<Option<(Formed, Arc<Vec<f64>>)>>,
}

/// A row that is formed of many others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Formed {
    /// The mean of all rows that are tokens.
    Mean,
    /// A mix.
    Mix(usize),
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
