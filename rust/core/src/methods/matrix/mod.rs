//! Methods that take a tensor as a matrix: merges of singular vectors, and of what layers do to their inputs.
//!
//! A method is a function from a [`stack::Stack`] of changes to a [`stack::Mix`] of them. Stacked experts (three dimensions) are a
//! matrix each; any other tensor, which has no two sides, gets the mean of the changes.

mod iso;
mod stack;
mod tsvm;

use super::{
    ANY, Base, Class, Cost, Default, Element, Halt, Kernel, Kind, LAMBDA, Method, Operands, Parameter, Params, Results,
    Span, Spec, Tile,
};
use crate::kernels::arith::{moved, of_changes, weighted};
use crate::kernels::linalg::eigen_bytes;
use stack::{Mix, Of, Stack, block_rows};

/// What a method found of a tensor, each with its name.
type Found = Vec<(String, f64)>;

/// A method, by what it makes of the changes of a matrix.
pub(super) struct Matrix {
    spec: Spec,
    make: fn(&mut Stack, &Params) -> Result<(Mix, Found), Halt>,
    /// Square matrices of the shorter side that it holds at most, besides what an eigenproblem takes.
    squares: u64,
}

const WEIGHT: Parameter = Parameter::each("weight", "weight of the model's change", ANY, Default::Number(1.0));

const SPEC: Spec =
    Spec { base: Base::Required, class: Class::Matrix, reads: 4, departs: "not in mergekit", ..Spec::COMMON };

pub(super) static TSVM: Matrix = Matrix {
    spec: Spec {
        name: "tsvm",
        summary: "keep the leading singular vectors of every task, made orthogonal between tasks",
        formula: "base + lambda polar(U) S polar(V)^T, U = [U_1 | .. | U_T], U_i S_i V_i^T the first min(m,n)/T triplets of \
                  weight_i d_i",
        paper: "Gargiulo et al., Task singular vectors, arXiv 2412.00081",
        parameters: &[
            WEIGHT,
            Parameter::shared(
                "official",
                "keep what rounding makes of directions that are not there, as the authors' code does; equal experts then give \
                 noise",
                Kind::Switch,
                Default::Switch(false),
            ),
            LAMBDA,
        ],
        ..SPEC
    },
    make: tsvm::tsvm,
    squares: 4,
};

pub(super) static ISO_C: Matrix = Matrix {
    spec: Spec {
        name: "iso_c",
        summary: "sum the changes and make all singular values of the sum the same",
        formula: "base + lambda mean(S) U V^T, U S V^T = sum_i weight_i d_i",
        paper: "Marczak et al., No task left behind: isotropic model merging, arXiv 2502.04959",
        parameters: &[WEIGHT, LAMBDA],
        reads: 2,
        ..SPEC
    },
    make: iso::iso_c,
    squares: 2,
};

/// The matrices that a tensor is: their number, rows and columns; none for what has no two sides.
fn matrices(shape: &[u64]) -> Option<(u64, u64, u64)> {
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

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (weights, factor) = (params.numbers("weight"), params.number("lambda"));
        let Some((count, rows, columns)) = matrices(shape) else {
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
        let wide = if rows < columns { 4 * models * rows * columns } else { 0 };
        let keeps = 8 * self.squares * short * short + eigen_bytes(short) + blocks + wide;
        let cost = Cost { reads: self.spec.reads, span: Span::Whole { keeps }, unit: columns, ..Cost::ELEMENT };
        Ok(Box::new(Bound { make: self.make, params: params.clone(), weights, factor, count, rows, columns, cost }))
    }
}

/// A method bound to a tensor of matrices.
struct Bound {
    make: fn(&mut Stack, &Params) -> Result<(Mix, Found), Halt>,
    params: Params,
    weights: Vec<f64>,
    factor: f64,
    count: u64,
    rows: u64,
    columns: u64,
    cost: Cost,
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Found, Halt> {
        let mut all = Vec::new();
        for i in 0..self.count {
            let dimensions = (self.rows as usize, self.columns as usize);
            let mut stack = Stack::new(read, i * self.rows * self.columns, dimensions, &self.weights)?;
            let (mix, found) = (self.make)(&mut stack, &self.params)?;
            stack.write(&mix, self.factor, write)?;
            let of = if self.count > 1 { format!("{i}.") } else { String::new() };
            all.extend(found.into_iter().map(|(name, value)| (format!("{of}{name}"), value)));
        }
        Ok(all)
    }

    fn apply(&self, _tile: &Tile, _ranks: &mut [u64], _out: &mut [f32]) {}
}
