//! Methods that take a tensor as a matrix: merges of singular vectors, and of what layers do to their inputs.
//!
//! A method is a function from a [`stack::Stack`] of changes to a [`stack::Mix`] of them. Stacked experts (three dimensions) are a
//! matrix each; any other tensor, which has no two sides, gets the mean of the changes.

mod aligned;
mod dc_merge;
mod inner;
mod iso;
mod opcm;
mod registry;
mod regmean;
mod resmerge;
mod spectrum;
mod stack;
mod svc;
mod tsvm;
mod wudi;

pub(super) use registry::*;
pub(super) use regmean::Regmean;
pub(super) use stack::{Stack, block_rows};
pub(super) use svc::calibrated;

use super::{Cost, Element, Halt, Kernel, Method, Operands, Params, Results, Span, Spec, Tile};
use crate::kernels::arith::{moved, of_changes, weighted};
use crate::kernels::linalg::eigen_bytes;
use stack::Mix;

/// What a method found of a tensor, each with its name.
type Found = Vec<(String, f64)>;

/// The merged change, and what was found on the way.
type Made = Result<(Mix, Found), Halt>;
type Make = fn(&mut Stack, &Params) -> Made;

/// A method, by what it makes of the changes of a matrix.
pub(super) struct Matrix {
    spec: Spec,
    make: Make,
    /// What it holds at most for so many models, of a matrix that is wider than tall or not: squares of the shorter side, and how
    /// many times as long the side of the largest eigenproblem is.
    most: fn(u64, bool) -> (u64, u64),
    /// How often it goes over a matrix that is taller than wide, of so many models; the other is kept.
    passes: fn(usize) -> usize,
    /// What becomes of tensors that are no matrix.
    vectors: Vectors,
}

/// Singular values below this share of the largest of their matrix are rounding: their vectors are whatever it left, and must not
/// reach a result.
const CUT: f64 = 1e-5;

/// What exact arithmetic would decide is decided with this much room.
const SLACK: f64 = 1e-9;

/// What becomes of tensors that are no matrix.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Vectors {
    /// The mean of the changes.
    Mean,
    /// They are a matrix of one column.
    Column,
    /// They are a matrix of one row.
    Row,
}

/// The matrices that a tensor is: their number, rows and columns; none for what has no two sides.
pub(super) fn matrices(shape: &[u64]) -> Option<(u64, u64, u64)> {
    match *shape {
        [rows, columns] => Some((1, rows, columns)),
        [count, rows, columns] => Some((count, rows, columns)),
        _ => None,
    }
    .filter(|(count, rows, columns)| count * rows * columns > 0)
}

impl Method for Matrix {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn idle(&self, params: &Params, name: &str) -> bool {
        self.spec.parameter("inner").is_some() && inner::idle(params.word("inner"), name)
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (weights, factor) = (params.numbers("weight"), params.number("lambda"));
        let inside = params.layered || params.word("outside") == "matrix";
        let found = if inside { matrices(shape) } else { None };
        let all: u64 = shape.iter().product();
        let flat = || match self.vectors {
            Vectors::Mean => None,
            Vectors::Column => Some((1, all, 1)).filter(|_| all > 0),
            Vectors::Row => Some((1, 1, all)).filter(|_| all > 0),
        };
        let vector = found.is_none();
        let Some((count, rows, columns)) = found.or_else(flat) else {
            let factor = factor / weights.len().max(1) as f64;
            return Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| {
                let Some(base) = tile.base else { return };
                of_changes(base, tile.inputs, &weights, out, |b, changes, weights| {
                    moved(b, factor * weighted(weights, changes))
                });
            })));
        };
        let short = rows.min(columns);
        let models = weights.len() as u64;
        let blocks = 8 * 2 * (models + 1) * block_rows(short as usize) as u64 * short;
        // The changes; and where another method is inside, its coordinates and what it makes of them.
        let held = if self.spec.parameter("inner").is_some() { 2 * models + 1 } else { models };
        let wide = if rows < columns || vector { 4 * held * rows * columns } else { 0 };
        let (squares, side) = (self.most)(models, rows < columns);
        let keeps = 8 * squares * short * short + eigen_bytes(side * short) + blocks + wide;
        let reads = if rows < columns { 3 } else { (self.passes)(weights.len()) };
        let cost = Cost { reads, span: Span::Whole { keeps }, unit: columns, ..Cost::ELEMENT };
        let dimensions = (count, rows, columns);
        Ok(Box::new(Bound { make: self.make, params: params.clone(), weights, factor, dimensions, vector, cost }))
    }
}

/// A method bound to a tensor of matrices.
struct Bound {
    make: Make,
    params: Params,
    weights: Vec<f64>,
    factor: f64,
    /// How many matrices, and their rows and columns.
    dimensions: (u64, u64, u64),
    vector: bool,
    cost: Cost,
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Found, Halt> {
        let mut all = Vec::new();
        let (count, rows, columns) = self.dimensions;
        for i in 0..count {
            let dimensions = (rows as usize, columns as usize);
            let mut stack = Stack::new(read, i * rows * columns, dimensions, &self.weights, self.vector)?;
            let (mix, found) = (self.make)(&mut stack, &self.params)?;
            stack.write(&mix, self.factor, write)?;
            let of = if count > 1 { format!("{i}.") } else { String::new() };
            all.extend(found.into_iter().map(|(name, value)| (format!("{of}{name}"), value)));
        }
        Ok(all)
    }

    fn apply(&self, _tile: &Tile, _ranks: &mut [u64], _out: &mut [f32]) {}
}
