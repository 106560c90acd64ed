//! Tensors that are stored nowhere and made of stored ones when they are read: a weight with an adapter's change in it.

use super::Tensor;

/// What a tensor is made of.
#[derive(Debug, Clone)]
pub enum Made {
    /// A sum of tensors and products of small matrices.
    Sum(Sum),
}

impl Made {
    /// Bytes that stay in memory while it is read, besides what is read at a time.
    pub fn resident(&self) -> u64 {
        match self {
            Self::Sum(sum) => sum.resident(),
        }
    }

    /// Everything it is made of.
    pub fn parts(&self) -> Vec<&Tensor> {
        match self {
            Self::Sum(sum) => {
                let products = sum.products.iter().flat_map(|p| [&p.left.tensor, &p.right.tensor]);
                sum.parts.iter().map(|(t, _)| t).chain(products).chain(&sum.magnitude).collect()
            }
        }
    }
}

/// `sum c_i X_i + sum s_j L_j R_j`, in f64; with a magnitude every row is then given that length (DoRA, arXiv 2402.09353).
#[derive(Debug, Clone, Default)]
pub struct Sum {
    /// Tensors of the sum's shape, and their coefficients.
    pub parts: Vec<(Tensor, f64)>,
    /// Products added to it.
    pub products: Vec<Product>,
    /// The length of each row, one number a row.
    pub magnitude: Option<Tensor>,
}

/// `scale * left * right`: blocks of matrices (experts), one after the other, of `rows` by `columns`.
#[derive(Debug, Clone)]
pub struct Product {
    /// Rows by rank.
    pub left: Factor,
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

impl Sum {
    fn resident(&self) -> u64 {
        let inner: u64 = self.parts.iter().filter_map(|(t, _)| t.made.as_ref()).map(|m| m.resident()).sum();
        // The right factor of a block in f64, and what it is read from.
        let right = |p: &Product| p.rank * p.columns * 8 + p.right.tensor.nbytes.min(64 << 20);
        inner + self.products.iter().map(right).sum::<u64>()
    }
}
