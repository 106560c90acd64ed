//! The changes of several models to one matrix, gone over in blocks of the longer side.
//!
//! Every method here makes of changes `A_1 .. A_T`, each `long x short`, a result `sum_j (sum_i c_ij A_i) P_j Y_j`: it mixes columns. What
//! `P` and `Y` are follows from products `A_iᵀ A_j` and of what is projected, which are small, so that nothing as long as the
//! matrix need be kept. A matrix wider than it is tall is taken transposed; of such a one the changes are kept, in f32, since
//! its rows lie the other way.

use std::ops::Range;

use faer::{Mat, MatRef};

use crate::kernels::arith::moved;
use crate::kernels::linalg::{Eigen, NOT_FINITE, add_gram, add_product, mirror, product};
use crate::methods::{Halt, Operands, Results};

/// Rows of a block, beside which a Gram matrix must not be what takes the time.
const ROWS: (usize, usize) = (64, 256);
/// Elements that a block has at least: fewer would be formed faster than they are handed over.
const LEAST: usize = 1 << 14;

/// Which combination of the changes: a factor for each model.
pub type Of = Vec<f64>;

/// Takes blocks of combinations.
pub type EachBlock<'f> = &'f mut dyn FnMut(&[MatRef<f64>]) -> Result<(), Halt>;
/// Takes blocks of columns, transposed, the number of the first, and what they were made of.
type EachColumns<'f> = &'f mut dyn FnMut(&mut [Vec<f32>], usize, &[MatRef<f64>]) -> Result<(), Halt>;
/// Takes blocks of rows: of each combination, and of the base.
type EachRows<'f> = &'f mut dyn FnMut(&[MatRef<f64>], &[f32]) -> Result<(), Halt>;

/// A combination of the changes, and how its columns are mixed, `short x k`; `None` if they are not.
pub type Part = (Of, Option<Mat<f64>>);

/// A sum of combinations of the changes, the columns of each mixed.
pub struct Term {
    /// The combinations.
    pub parts: Vec<Part>,
}

impl Term {
    /// One combination, its columns mixed.
    pub fn one(of: Of, by: Mat<f64>) -> Self {
        Self { parts: vec![(of, Some(by))] }
    }

    /// One combination as it is.
    pub fn plain(of: Of) -> Self {
        Self { parts: vec![(of, None)] }
    }

    /// Columns that it gives, of changes with `short` columns.
    fn width(&self, short: usize) -> usize {
        self.parts.first().map_or(0, |(_, by)| by.as_ref().map_or(short, Mat::ncols))
    }
}

/// A result.
pub enum Mix {
    /// The terms side by side, mixed `again`; without that the one term there is.
    Of {
        /// The terms.
        terms: Vec<Term>,
        /// How what they give is mixed again, `sum of k x short`.
        again: Option<Mat<f64>>,
    },
    /// Of a matrix that is taken transposed: what was made of it along a basis of its shorter side.
    Turned {
        /// By rows, `k x long`.
        merged: Vec<f32>,
        /// The basis, `short x k`.
        basis: Mat<f64>,
    },
}

impl Mix {
    /// Nothing at all.
    pub fn nothing() -> Self {
        Self::Of { terms: Vec::new(), again: None }
    }

    /// A sum of combinations, their columns mixed.
    pub fn sum(parts: Vec<Part>) -> Self {
        Self::Of { terms: vec![Term { parts }], again: None }
    }
}

/// The changes of one matrix.
pub struct Stack<'a> {
    read: &'a mut dyn Operands,
    /// The first element of the matrix in its tensor.
    start: u64,
    /// Rows and columns as they are stored.
    rows: usize,
    columns: usize,
    /// The weight of each model's change.
    weights: &'a [f64],
    /// The scale of each model's change, before all else.
    scales: Vec<f64>,
    /// The changes of a matrix that is wider than tall, each without its weight.
    kept: Vec<Vec<f32>>,
    /// Whether this is no matrix, but all elements of a tensor in one row or column.
    vector: bool,
}

/// Rows of a block whose rows have so many elements.
pub fn block_rows(short: usize) -> usize {
    (short / 16).clamp(ROWS.0, ROWS.1).max(LEAST / short.max(1))
}

impl<'a> Stack<'a> {
    /// The changes of the `rows x columns` matrix whose first element in its tensor is `start`.
    ///
    /// # Errors
    /// What reading returns.
    pub fn new(
        read: &'a mut dyn Operands,
        start: u64,
        (rows, columns): (usize, usize),
        weights: &'a [f64],
        vector: bool,
    ) -> Result<Self, Halt> {
        let none = vec![1.0; weights.len()];
        let (scales, kept) = (if read.scales().is_empty() { none } else { read.scales().to_vec() }, Vec::new());
        let mut stack = Self { read, start, rows, columns, weights, scales, kept, vector };
        if !stack.is_tall() {
            let mut kept = vec![Vec::with_capacity(rows * columns); weights.len()];
            stack.read.each(stack.elements(), &mut |tile| {
                let base = tile.base.unwrap_or_default();
                for (kept, x) in kept.iter_mut().zip(tile.inputs) {
                    kept.extend(x.iter().zip(base).map(|(x, b)| x - b));
                }
                Ok(())
            })?;
            stack.kept = kept;
        }
        Ok(stack)
    }

    fn elements(&self) -> Range<u64> {
        self.start..self.start + (self.rows * self.columns) as u64
    }

    /// Whether the longer side is that of the rows, as stored; else all is taken transposed.
    pub fn is_tall(&self) -> bool {
        // A row of one element stays a row.
        self.rows >= self.columns && !(self.vector && self.rows == 1)
    }

    /// Length of the shorter side.
    pub fn short(&self) -> usize {
        self.rows.min(self.columns)
    }

    /// Length of the longer side.
    pub fn long(&self) -> usize {
        self.rows.max(self.columns)
    }

    /// Number of elements.
    pub fn elements_count(&self) -> f64 {
        (self.rows * self.columns) as f64
    }

    /// Whether it is no matrix, but all elements of a tensor in one row or column.
    pub fn is_vector(&self) -> bool {
        self.vector
    }

    /// Number of models.
    pub fn models(&self) -> usize {
        self.weights.len()
    }

    /// The change of one model.
    pub fn model(&self, i: usize) -> Of {
        (0..self.models()).map(|j| f64::from(u8::from(i == j))).collect()
    }

    /// The change of one model without its weight; of weight zero nothing.
    pub fn unweighted(&self, i: usize) -> Of {
        let own = self.weights[i];
        (0..self.models()).map(|j| if i == j && own != 0.0 { 1.0 / own } else { 0.0 }).collect()
    }

    /// A random key for each model.
    pub fn keys(&self) -> Vec<u64> {
        self.read.keys()
    }

    /// The sum of all changes, times a factor.
    pub fn sum(&self, factor: f64) -> Of {
        vec![factor; self.models()]
    }

    /// Calls `f` with blocks of these combinations, in order, each `b x short`.
    pub fn each(&mut self, of: &[Of], f: EachBlock) -> Result<(), Halt> {
        let of = times(of, self.weights);
        self.each_plain(&of, f)
    }

    /// The same of the changes without their weights.
    pub fn each_plain(&mut self, of: &[Of], f: EachBlock) -> Result<(), Halt> {
        if self.is_tall() {
            self.each_tall(of, &mut |blocks, _| f(blocks))
        } else {
            self.each_wide(of, &mut |_, _, blocks| f(blocks))
        }
    }

    /// Blocks of rows as they are stored, each with the base's.
    fn each_tall(&mut self, of: &[Of], f: EachRows) -> Result<(), Halt> {
        let of = &times(of, &self.scales);
        let (short, most) = (self.columns, block_rows(self.columns).min(self.rows));
        let mut blocks = vec![vec![0.0; most * short]; of.len()];
        let mut bases: Vec<f32> = Vec::with_capacity(most * short);
        let (elements, mut left) = (self.elements(), self.rows * self.columns);
        self.read.each(elements, &mut |tile| {
            let base = tile.base.unwrap_or_default();
            let mut at = 0;
            while at < base.len() {
                let filled = bases.len();
                let len = (base.len() - at).min(most * short - filled);
                let own = &base[at..at + len];
                for (block, of) in blocks.iter_mut().zip(of) {
                    let out = &mut block[filled..filled + len];
                    out.fill(0.0);
                    for (x, c) in tile.inputs.iter().zip(of).filter(|(_, c)| **c != 0.0) {
                        let changed = x[at..at + len].iter().zip(own);
                        out.iter_mut().zip(changed).for_each(|(o, (x, b))| *o += c * (f64::from(*x) - f64::from(*b)));
                    }
                }
                bases.extend_from_slice(own);
                (at, left) = (at + len, left - len);
                if bases.len() == most * short || left == 0 {
                    let b = bases.len() / short;
                    f(&views(&blocks, b, short, true), &bases)?;
                    bases.clear();
                }
            }
            Ok(())
        })
    }

    /// Blocks of columns of what is kept, transposed.
    fn each_wide(&mut self, of: &[Of], f: EachColumns) -> Result<(), Halt> {
        let of = &times(of, &self.scales);
        let (long, short) = (self.columns, self.rows);
        let most = block_rows(short).min(long);
        let mut blocks = vec![vec![0.0; most * short]; of.len()];
        for first in (0..long).step_by(most) {
            let b = most.min(long - first);
            for (block, of) in blocks.iter_mut().zip(of) {
                for (row, out) in block[..b * short].chunks_mut(b).enumerate() {
                    out.fill(0.0);
                    for (kept, c) in self.kept.iter().zip(of).filter(|(_, c)| **c != 0.0) {
                        let own = &kept[row * long + first..][..b];
                        out.iter_mut().zip(own).for_each(|(o, d)| *o += c * f64::from(*d));
                    }
                }
            }
            f(&mut self.kept, first, &views(&blocks, b, short, false))?;
        }
        Ok(())
    }

    /// `Aᵀ A` of a combination.
    pub fn gram(&mut self, of: Of) -> Result<Mat<f64>, Halt> {
        let mut out = Mat::zeros(self.short(), self.short());
        self.each(&[of], &mut |blocks| {
            add_gram(&mut out, blocks[0]);
            Ok(())
        })?;
        mirror(&mut out);
        // Else a model that holds some might be left out as one that changes nothing. Of vectors no direction is sought: they come through.
        if !self.vector && (0..out.ncols()).any(|j| !out[(j, j)].is_finite()) {
            return Err(Halt::Failed(NOT_FINITE.into()));
        }
        Ok(out)
    }

    /// The eigenvectors of that: its right singular vectors.
    pub fn eigen(&mut self, of: Of) -> Result<Eigen, Halt> {
        Ok(Eigen::of(self.gram(of)?.as_ref())?)
    }

    /// `Aᵀ B` of a term and a combination.
    pub fn cross(&mut self, a: &Term, of: Of) -> Result<Mat<f64>, Halt> {
        let (mut needed, mut out) =
            (Needed::of(std::slice::from_ref(a)), Mat::zeros(a.width(self.short()), self.short()));
        let last = needed.index(&of);
        self.each(&needed.of.clone(), &mut |blocks| {
            add_product(out.as_mut(), needed.made(blocks).transpose(), blocks[last]);
            Ok(())
        })?;
        Ok(out)
    }

    /// The Gram matrix of terms side by side.
    pub fn joint(&mut self, terms: &[Term]) -> Result<Mat<f64>, Halt> {
        let needed = Needed::of(terms);
        let width = needed.width(self.short());
        let mut out = Mat::zeros(width, width);
        self.each(&needed.of, &mut |blocks| {
            add_gram(&mut out, needed.made(blocks).as_ref());
            Ok(())
        })?;
        mirror(&mut out);
        Ok(out)
    }

    /// Writes base + `factor` times a result.
    pub fn write(mut self, mix: &Mix, factor: f64, write: &mut dyn Results) -> Result<(), Halt> {
        let (terms, again) = match mix {
            Mix::Of { terms, again } => (terms, again),
            Mix::Turned { merged, basis } => return self.write_turned(merged, basis, factor, write),
        };
        if terms.is_empty() {
            return self.read.each(self.elements(), &mut |tile| write.push(tile.base.unwrap_or_default()));
        }
        let needed = Needed::of(terms);
        let made = |blocks: &[MatRef<f64>]| {
            let once = needed.made(blocks);
            match again {
                Some(again) => product(once.as_ref(), again.as_ref()),
                None => once,
            }
        };
        let of = times(&needed.of, self.weights);
        let mut out = Vec::new();
        if self.is_tall() {
            return self.each_tall(&of, &mut |blocks, bases| {
                let (x, short) = (made(blocks), blocks[0].ncols());
                out.clear();
                let at = |i: usize| x[(i / short, i % short)];
                out.extend(bases.iter().enumerate().map(|(i, b)| moved(*b, factor * at(i))));
                write.push(&out)
            });
        }
        let long = self.columns;
        self.each_wide(&of, &mut |kept, first, blocks| {
            let x = made(blocks);
            // What is made of a block takes its place in the first change: nothing reads it again.
            for (row, column) in x.col_iter().enumerate() {
                let own = &mut kept[0][row * long + first..][..x.nrows()];
                own.iter_mut().zip(column.iter()).for_each(|(o, v)| *o = (factor * v) as f32);
            }
            Ok(())
        })?;
        self.add_first(write)
    }

    /// Writes base + the first of what is kept.
    fn add_first(self, write: &mut dyn Results) -> Result<(), Halt> {
        let (elements, mut change, mut out) = (self.elements(), self.kept[0].iter(), Vec::new());
        self.read.each(elements, &mut |tile| {
            let base = tile.base.unwrap_or_default();
            out.clear();
            out.extend(base.iter().zip(&mut change).map(|(b, d)| moved(*b, f64::from(*d))));
            write.push(&out)
        })
    }

    /// Writes base + `factor` times what was made along a basis of the shorter side.
    fn write_turned(
        mut self,
        merged: &[f32],
        basis: &Mat<f64>,
        factor: f64,
        write: &mut dyn Results,
    ) -> Result<(), Halt> {
        let (long, rank) = (self.columns, basis.ncols());
        let most = block_rows(self.rows).min(long);
        for first in (0..long).step_by(most) {
            let b = most.min(long - first);
            let own = Mat::from_fn(rank, b, |r, c| f64::from(merged[r * long + first + c]));
            let x = product(basis.as_ref(), own.as_ref());
            for row in 0..self.rows {
                let out = &mut self.kept[0][row * long + first..][..b];
                out.iter_mut().enumerate().for_each(|(c, o)| *o = (factor * x[(row, c)]) as f32);
            }
        }
        self.add_first(write)
    }
}

/// Combinations of changes, each of which counts so much.
fn times(of: &[Of], factors: &[f64]) -> Vec<Of> {
    of.iter().map(|c| c.iter().zip(factors).map(|(c, f)| c * f).collect()).collect()
}

/// Blocks as matrices of `rows x columns`, by rows or by columns.
fn views(blocks: &[Vec<f64>], rows: usize, columns: usize, by_rows: bool) -> Vec<MatRef<'_, f64>> {
    let own = blocks.iter().map(|block| &block[..rows * columns]);
    if by_rows {
        own.map(|b| MatRef::from_row_major_slice(b, rows, columns)).collect()
    } else {
        own.map(|b| MatRef::from_column_major_slice(b, rows, columns)).collect()
    }
}

/// Which combinations terms are made of.
struct Needed<'t> {
    terms: &'t [Term],
    of: Vec<Of>,
}

impl<'t> Needed<'t> {
    fn of(terms: &'t [Term]) -> Self {
        let mut needed = Self { terms, of: Vec::new() };
        terms.iter().flat_map(|t| &t.parts).for_each(|(of, _)| {
            needed.index(of);
        });
        needed
    }

    /// Where a combination stands among all, to which it is added if need be.
    fn index(&mut self, of: &Of) -> usize {
        let found = self.of.iter().position(|o| o == of);
        found.unwrap_or_else(|| {
            self.of.push(of.clone());
            self.of.len() - 1
        })
    }

    fn width(&self, short: usize) -> usize {
        self.terms.iter().map(|t| t.width(short)).sum()
    }

    /// What the terms make of a block of each combination, side by side.
    fn made(&self, blocks: &[MatRef<f64>]) -> Mat<f64> {
        let short = blocks[0].ncols();
        let mut out = Mat::zeros(blocks[0].nrows(), self.width(short));
        let mut at = 0;
        for term in self.terms {
            for (of, by) in &term.parts {
                let block = self.of.iter().position(|o| o == of).map_or(blocks[0], |i| blocks[i]);
                let mut own = out.as_mut().subcols_mut(at, term.width(short));
                match by {
                    Some(by) => add_product(own, block, by.as_ref()),
                    None => own += block,
                }
            }
            at += term.width(short);
        }
        out
    }
}
