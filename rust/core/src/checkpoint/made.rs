//! Tensors that are stored nowhere and made of stored ones when they are read: a weight with an adapter's change in it, a table
//! of rows of several.

use std::ops::Range;
use std::sync::Arc;

use super::Tensor;
pub use super::exact::Exact;
use super::rows::Rows;
use crate::model::coding::Coding;

/// What a tensor is made of.
#[derive(Debug)]
pub enum Made {
    /// A sum of tensors and products of small matrices.
    Sum(Sum),
    /// Rows of several tables.
    Rows(Rows),
    /// Another tensor, some of whose bits are changed.
    Exact(Exact),
    /// A quantised weight.
    Coded(Coded),
}

/// A quantised weight and the stored tensors that it is made of.
#[derive(Debug, Clone)]
pub struct Coded {
    /// How they make its elements.
    pub coding: Coding,
    /// What the form is called, for people: `fp8 128x128`.
    pub name: String,
    /// The stored tensors, in the order that the form has them in.
    pub parts: Vec<Tensor>,
    /// Bits that an element takes as it is stored, scales included, rounded up.
    pub bits: u64,
}

impl Coded {
    /// A weight of so many elements, made of `parts`.
    pub fn new(coding: Coding, name: String, parts: Vec<Tensor>, elements: u64) -> Self {
        let bits = (8 * parts.iter().map(|t| t.nbytes).sum::<u64>()).div_ceil(elements.max(1)).max(1);
        Self { coding, name, parts, bits }
    }

    /// Bytes that are read for a few elements though others share them: those of two units, and of what is beside them.
    fn resident(&self, shape: &[u64]) -> u64 {
        let row = shape.last().copied().unwrap_or(1);
        2 * self.coding.unit().max(row) * self.bits / 8 + 8 * row + (1 << 16)
    }
}

impl Made {
    /// Bits that an element takes as it is read.
    pub fn read_bits(&self) -> u64 {
        match self {
            Self::Sum(sum) => sum.parts.iter().map(|(t, _)| t.read_bits()).sum(),
            Self::Rows(rows) => rows.read_bits(),
            Self::Exact(exact) => exact.under.dtype.bits(),
            Self::Coded(coded) => coded.bits,
        }
    }

    /// Bits an element of what is read into memory of its own, to be put together.
    pub fn inner_bits(&self) -> u64 {
        match self {
            Self::Sum(sum) => {
                let own = if sum.parts.len() > 1 { self.read_bits() } else { 0 };
                own + sum.parts.iter().filter_map(|(t, _)| t.made.as_ref()).map(|m| m.inner_bits()).sum::<u64>()
            }
            // A run that is read by itself, before it joins the others; it may be made in its turn.
            Self::Rows(rows) => rows.tables.iter().flatten().map(|t| t.read_bits() + t.inner_bits()).max().unwrap_or(0),
            Self::Exact(exact) => exact.under.read_bits() + exact.under.inner_bits(),
            // What is put together of several places.
            Self::Coded(coded) => coded.bits,
        }
    }

    /// Bytes that stay in memory while a tensor of this shape is read, besides what is read at a time.
    pub fn resident(&self, shape: &[u64]) -> u64 {
        match self {
            Self::Sum(sum) => sum.resident(shape),
            Self::Rows(rows) => {
                let tables = rows.tables.iter().flatten();
                let inner: u64 = tables.filter_map(|t| Some(t.made.as_ref()?.resident(&t.shape))).sum();
                // A row that is formed of many, and what it is formed of.
                let mean = if rows.layout.moves() { 0 } else { 8 * (5 * rows.columns + (1 << 17)) };
                inner + mean
            }
            Self::Exact(exact) => exact.resident(),
            Self::Coded(coded) => coded.resident(shape),
        }
    }

    /// The same, whose tensors lie in files `by` places further on.
    fn shifted(&self, by: usize) -> Self {
        let moved = |t: &Tensor| t.shifted(by);
        let factor = |f: &Factor| Factor { tensor: moved(&f.tensor), ..f.clone() };
        match self {
            Self::Sum(sum) => Self::Sum(Sum {
                parts: sum.parts.iter().map(|(t, c)| (moved(t), *c)).collect(),
                products: (sum.products.iter())
                    .map(|p| Product {
                        left: factor(&p.left),
                        middle: p.middle.as_ref().map(moved),
                        right: factor(&p.right),
                        ..p.clone()
                    })
                    .collect(),
                sparse: (sum.sparse.iter())
                    .map(|s| Sparse { index: moved(&s.index), values: moved(&s.values), ..s.clone() })
                    .collect(),
                signs: sum.signs.iter().map(|s| Signs { bits: moved(&s.bits), ..s.clone() }).collect(),
                magnitude: sum.magnitude.as_ref().map(moved),
            }),
            Self::Rows(rows) => Self::Rows(Rows {
                layout: Arc::clone(&rows.layout),
                tables: rows.tables.iter().map(|t| t.as_ref().map(moved)).collect(),
                columns: rows.columns,
                formed: Default::default(),
            }),
            Self::Exact(exact) => {
                Self::Exact(Exact { under: moved(&exact.under), blocks: moved(&exact.blocks), ..exact.clone() })
            }
            Self::Coded(coded) => {
                Self::Coded(Coded { parts: coded.parts.iter().map(moved).collect(), ..coded.clone() })
            }
        }
    }
}

impl Tensor {
    /// The same tensor of a checkpoint whose files come `by` places further on.
    pub fn shifted(&self, by: usize) -> Self {
        let made = self.made.as_ref().map(|m| Arc::new(m.shifted(by)));
        Self { file: self.file + by, made, ..self.clone() }
    }

    /// The quantised weights that it is made of.
    pub fn coded(&self) -> Vec<&Coded> {
        match self.made.as_deref() {
            None => vec![],
            Some(Made::Coded(coded)) => vec![coded],
            Some(Made::Sum(sum)) => sum.parts.iter().flat_map(|(t, _)| t.coded()).collect(),
            Some(Made::Rows(rows)) => rows.tables.iter().flatten().flat_map(Self::coded).collect(),
            Some(Made::Exact(exact)) => exact.under.coded(),
        }
    }

    /// Whether it has bytes of its own, that can be moved: it is stored, or rows of it are.
    pub fn moves(&self) -> bool {
        match self.made.as_deref() {
            None => true,
            Some(Made::Sum(_) | Made::Coded(_)) => false,
            Some(Made::Rows(rows)) => rows.moves(self),
            Some(Made::Exact(_)) => true,
        }
    }
}

/// `sum c_i X_i + sum s_j L_j R_j`, and what else is added, in f64; with a magnitude every row is then given that length (DoRA, arXiv 2402.09353).
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Tensors of the sum's shape, and their coefficients.
    pub parts: Vec<(Tensor, f64)>,
    /// Products added to it.
    pub products: Vec<Product>,
    /// Single elements that are added to.
    pub sparse: Vec<Sparse>,
    /// Signs that are added, times a number.
    pub signs: Vec<Signs>,
    /// The length of each row, one number a row.
    pub magnitude: Option<Tensor>,
}

/// A change of some elements.
#[derive(Debug, Clone)]
pub struct Sparse {
    /// Which, ascending: U32 or U64.
    pub index: Tensor,
    /// What is added to each.
    pub values: Tensor,
    /// What that is multiplied by.
    pub scale: f64,
}

/// A change of every element by the same amount, up or down.
#[derive(Debug, Clone)]
pub struct Signs {
    /// A bit an element, the lowest of a byte first; 1 is up.
    pub bits: Tensor,
    /// The amount.
    pub scale: f64,
}

/// Elements of sparse changes and signs that are read together.
pub const WINDOW: u64 = 1 << 16;

/// `scale * left * right`: blocks of matrices (experts), one after the other, of `rows` by `columns`.
#[derive(Debug, Clone)]
pub struct Product {
    /// Rows by rank.
    pub left: Factor,
    /// What each rank is multiplied by, block by block.
    pub middle: Option<Tensor>,
    /// Rank by columns.
    pub right: Factor,
    /// The rank.
    pub rank: u64,
    /// Rows of a block.
    pub rows: u64,
    /// Columns.
    pub columns: u64,
    /// What the product is multiplied by.
    pub scale: f64,
}

impl Product {
    /// The blocks that rows are in, and which of the rows.
    pub fn blocks(&self, rows: &Range<u64>) -> impl Iterator<Item = (u64, Range<u64>)> {
        let (each, rows) = (self.rows.max(1), rows.clone());
        (rows.start / each..rows.end.div_ceil(each))
            .map(move |b| (b, (b * each).max(rows.start)..((b + 1) * each).min(rows.end)))
    }
}

/// A factor, by where its elements lie: element `across` of rank `k` of block `b` is stored at
/// `b * block + k * rank + across * step`.
#[derive(Debug, Clone)]
pub struct Factor {
    /// The stored tensor.
    pub tensor: Tensor,
    /// Elements from a block to the next.
    pub block: u64,
    /// Elements from a rank to the next.
    pub rank: u64,
    /// Elements from a row (of the left factor) or column (of the right one) to the next.
    pub step: u64,
}

/// Elements of products that are formed together, at least four rows of them or a part of one row: they fit the second-level
/// cache, and there are rows enough that a panel of a right factor is used many times.
pub const BLOCK: u64 = 1 << 16;

/// Elements of a factor that are read at a time where they do not lie together, if those of one row are not further apart.
pub const GATHERED: u64 = 1 << 16;

/// Rows of products that are formed together, all of their columns unless a row is longer than [`BLOCK`].
pub fn rows_together(columns: u64) -> u64 {
    if columns > BLOCK { 1 } else { (BLOCK / columns.max(1) / 4).max(1) * 4 }
}

impl Factor {
    /// Elements from the first of one row or column to the last.
    pub fn apart(&self, ranks: u64) -> u64 {
        if self.step == 1 { 1 } else { ranks.saturating_sub(1) * self.rank + 1 }
    }
}

impl Sum {
    /// Elements of a row: of an array with more dimensions all behind the first.
    pub fn columns(&self, shape: &[u64]) -> u64 {
        let behind = || shape.get(1..).map_or(1, |s| s.iter().product());
        self.products.first().map_or_else(behind, |p| p.columns).max(1)
    }

    fn resident(&self, shape: &[u64]) -> u64 {
        let inner: u64 = self.parts.iter().filter_map(|(t, _)| Some(t.made.as_ref()?.resident(&t.shape))).sum();
        let products = |p: &Product| {
            // The rows of the left factor and the block of the right one, in f64; and what they are read from, twice.
            let rows = rows_together(p.columns);
            let gathered = GATHERED.max(p.left.apart(p.rank)).max(p.right.apart(p.rank)).max(p.columns);
            p.rank * (rows + p.columns.next_multiple_of(16)) * 8 + gathered * 16
        };
        // Rows that are given lengths are read whole, and their lengths are found in one.
        let bits: u64 = self.parts.iter().map(|(t, _)| t.read_bits()).sum();
        let rows = if self.magnitude.is_some() { self.columns(shape) * (8 + 2 * bits.div_ceil(8)) } else { 0 };
        let columns = self.columns(shape);
        let changes = self.sparse.len() as u64 * WINDOW * 40 + self.signs.len() as u64 * WINDOW / 4;
        let products = self.products.iter().map(products).sum::<u64>();
        inner + rows_together(columns) * columns.min(BLOCK) * 8 + rows + products + changes
    }
}
