//! Parts of a tensor that are measured on their own: attention heads, groups of neurons, rows of a vocabulary.

use std::ops::Range;

use crate::model::names::{module, split_layer};

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

/// What a comparison is to cut tensors into.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted {
    /// Query heads and key/value heads of a layer; `None` to leave heads alone.
    pub heads: Option<(u64, u64)>,
    /// Groups of neurons of a module; 0 for none.
    pub neurons: u64,
    /// True to look at each row of a vocabulary.
    pub tokens: bool,
}

/// A cut of a tensor along rows or columns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slicing {
    /// What the pieces are.
    pub part: Part,
    /// First row or column of each piece, and after them their number.
    pub bounds: Vec<u64>,
    /// Elements between two rows, or 1 for columns.
    unit: u64,
    /// Elements after which the cut repeats: those of the tensor for rows, of a row for columns.
    period: u64,
    by_column: bool,
}

const QUERY: [&str; 2] = ["q_proj", "query"];
const KEY_VALUE: [&str; 4] = ["k_proj", "v_proj", "key", "value"];
const ATTENTION_OUT: [&str; 3] = ["o_proj", "out_proj", "attention.output.dense"];
const NEURONS_IN: [&str; 7] = ["gate_proj", "up_proj", "w1", "w3", "fc1", "intermediate.dense", "dense_h_to_4h"];
const NEURONS_OUT: [&str; 5] = ["down_proj", "w2", "fc2", "dense_4h_to_h", "output.dense"];
const VOCABULARY: [&str; 7] =
    ["embed_tokens", "word_embeddings", "tok_embeddings", "wte", "embed_in", "lm_head", "embed_out"];

/// Whether the module is one of those named, by the last parts of its name.
fn is(module: &str, words: &[&str]) -> bool {
    words.iter().any(|w| module.strip_suffix(w).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

impl Slicing {
    /// How the tensor called `name` is cut; `None` for tensors without such parts, or whose size they do not divide.
    pub fn of(name: &str, shape: &[u64], wanted: &Wanted) -> Option<Self> {
        let module = module(name);
        let rows = *shape.first()?;
        let columns: u64 = shape[1..].iter().product();
        if rows == 0 || columns == 0 {
            return None;
        }
        if split_layer(name).is_none() {
            let vocabulary = wanted.tokens && shape.len() == 2 && is(module, &VOCABULARY);
            return vocabulary.then(|| Self::along_rows(Part::Token, rows, columns, rows));
        }
        let even = |n: u64, heads: u64| heads > 0 && n.is_multiple_of(heads);
        let matrix = shape.len() == 2;
        let out = is(module, &ATTENTION_OUT);
        if let Some((query, shared)) = wanted.heads
            && shape.len() <= 2
        {
            for (words, heads) in [(&QUERY[..], query), (&KEY_VALUE[..], shared)] {
                if is(module, words) && even(rows, heads) {
                    return Some(Self::along_rows(Part::Head, rows, columns, heads));
                }
            }
            if matrix && out && even(columns, query) {
                return Some(Self::along_columns(Part::Head, columns, query));
            }
        }
        if wanted.neurons > 0 && matrix {
            if is(module, &NEURONS_IN) {
                return Some(Self::along_rows(Part::Neuron, rows, columns, wanted.neurons.min(rows)));
            }
            if is(module, &NEURONS_OUT) && !out {
                return Some(Self::along_columns(Part::Neuron, columns, wanted.neurons.min(columns)));
            }
        }
        None
    }

    /// A cut into `pieces` groups of rows.
    pub fn along_rows(part: Part, rows: u64, columns: u64, pieces: u64) -> Self {
        Self { part, bounds: bounds(rows, pieces), unit: columns, period: rows * columns, by_column: false }
    }

    /// A cut into `pieces` groups of columns.
    pub fn along_columns(part: Part, columns: u64, pieces: u64) -> Self {
        Self { part, bounds: bounds(columns, pieces), unit: 1, period: columns, by_column: true }
    }

    /// Elements after which the cut repeats.
    pub fn period(&self) -> u64 {
        self.period
    }

    /// Number of pieces.
    pub fn pieces(&self) -> usize {
        self.bounds.len() - 1
    }

    /// The piece an element is in.
    fn piece(&self, element: u64) -> usize {
        let unit = (element % self.period) / self.unit;
        self.bounds.partition_point(|b| *b <= unit) - 1
    }

    /// The pieces that a range of elements has something of.
    pub fn touched(&self, range: &Range<u64>) -> Range<usize> {
        if self.by_column {
            return 0..self.pieces();
        }
        self.piece(range.start)..self.piece(range.end - 1) + 1
    }

    /// The pieces that a range of elements goes through, each with its number, in order; a piece may come again.
    pub fn runs(&self, range: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> {
        let mut at = range.start;
        let mut piece = if range.is_empty() { 0 } else { self.piece(at) };
        std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let period = at / self.period * self.period;
            let run = at..(period + self.bounds[piece + 1] * self.unit).min(range.end);
            let found = (piece, run.clone());
            at = run.end;
            piece = if piece + 2 == self.bounds.len() { 0 } else { piece + 1 };
            Some(found)
        })
    }
}

/// Where each of `pieces` nearly equal pieces of `n` begins, and `n`.
fn bounds(n: u64, pieces: u64) -> Vec<u64> {
    (0..=pieces).map(|i| (u128::from(i) * u128::from(n) / u128::from(pieces)) as u64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted { heads: Some((4, 2)), neurons: 3, tokens: true };

    #[test]
    fn tensors_are_cut_by_what_they_are() {
        let of = |name: &str, shape: &[u64]| Slicing::of(name, shape, &WANTED).map(|s| (s.part, s.pieces(), s.unit));
        assert_eq!(of("model.layers.0.self_attn.q_proj.weight", &[8, 6]), Some((Part::Head, 4, 6)));
        assert_eq!(of("model.layers.0.self_attn.k_proj.bias", &[4]), Some((Part::Head, 2, 1)));
        assert_eq!(of("model.layers.0.self_attn.o_proj.weight", &[6, 8]), Some((Part::Head, 4, 1)));
        assert_eq!(of("encoder.layer.3.attention.self.query.weight", &[8, 8]), Some((Part::Head, 4, 8)));
        assert_eq!(of("model.layers.0.mlp.down_proj.weight", &[6, 10]), Some((Part::Neuron, 3, 1)));
        assert_eq!(of("lm_head.weight", &[11, 6]), Some((Part::Token, 11, 6)));
        assert_eq!(of("model.layers.0.self_attn.q_proj.weight", &[7, 6]), None);
        assert_eq!(of("model.norm.weight", &[6]), None);
    }

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
