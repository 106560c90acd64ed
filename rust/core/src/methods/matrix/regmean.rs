//! RegMean: the layer that fits every model's outputs on that model's own inputs, whose Gram matrices are given.
//!
//! Written as the weighted mean and what is to be added to it: the same where the sum of the Gram matrices has an inverse, and the
//! least change from the mean elsewhere. Rows of the weight are gone over in panels and Gram matrices by rows, once more for each
//! panel, so that two or three matrices as wide as the layer are held, whatever the number of models.

use std::ops::Range;

use faer::{Mat, MatRef};

use super::{Found, matrices};
use crate::kernels::arith::{combine, moved, of_changes, weighted};
use crate::kernels::linalg::{Eigen, add_product, eigen_bytes, inverse_of, product};
use crate::methods::{
    Base, Class, Cost, Default, Element, Halt, Kernel, Kind, LAMBDA, Method, Operands, POSITIVE, Parameter, Params,
    Results, SHARE, Span, Spec, Tile,
};

/// Rows of a panel: reading the Gram matrices again for each then takes a fiftieth of the products.
const PANEL: u64 = 1024;
/// Rows of a Gram matrix that are multiplied at a time.
const ROWS: u64 = 256;
/// Eigenvalues of the scaled sum below this share of the largest are no data.
const EIGENVALUE: f64 = 1e-7;
/// How far sums over rows and over columns may differ, of the largest sum of magnitudes: rounding is far below.
const ASYMMETRY: f64 = 1e-3;

/// Takes row after row of a Gram matrix, each with its number.
type EachRow<'f> = &'f mut dyn FnMut(usize, &[f64]) -> Result<(), Halt>;

pub(in crate::methods) struct Regmean;

static SPEC: Spec = Spec {
    name: "regmean",
    summary: "the layers that fit each model's outputs on its own inputs best, from Gram matrices of these inputs",
    formula: "base + lambda (m + (sum_i w_i (d_i - m) G_i)(sum_i w_i G_i)^+), m = sum_i w_i d_i / sum_i w_i, G_i = X_i^T X_i with what is \
              off its diagonal times alpha; without a base d_i = x_i",
    paper: "Jin et al., Dataless knowledge fusion by merging weights of language models, arXiv 2212.09849",
    departs: "not in mergekit; the Gram matrices are given as checkpoints, no model is run here",
    parameters: &[
        Parameter::each(
            "gram",
            "checkpoint of Gram matrices: for a weight of n columns n x n, under its name or that without `.weight`",
            Kind::Gram,
            Default::Required,
        ),
        Parameter::each("weight", "how much the model's data count", POSITIVE, Default::Number(1.0)),
        Parameter::shared("alpha", "factor on Gram matrices off their diagonals", SHARE, Default::Number(0.9)),
        LAMBDA,
    ],
    base: Base::Optional,
    class: Class::Matrix,
    reads: 3,
    ..Spec::COMMON
};

impl Method for Regmean {
    fn spec(&self) -> &Spec {
        &SPEC
    }

    fn identity(&self, params: &Params) -> bool {
        params.based || params.number("lambda") == 1.0
    }

    fn bind(&self, params: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
        let (weights, factor) = (params.numbers("weight"), params.number("lambda"));
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            return Err("the weights say how much each model's data count, and must not all be 0".into());
        }
        let shares: Vec<f64> = weights.iter().map(|w| w / total).collect();
        if params.apart == 0 {
            let scaled: Vec<f64> = shares.iter().map(|s| s * factor).collect();
            return Ok(Box::new(Element(move |tile: &Tile, out: &mut [f32]| match tile.base {
                Some(base) => of_changes(base, tile.inputs, &scaled, out, |b, changes, scaled| {
                    moved(b, weighted(scaled, changes))
                }),
                None => combine(tile.inputs, &scaled, out),
            })));
        }
        let Some((count, rows, n)) = matrices(shape).filter(|_| params.apart == weights.len()) else {
            return Err("Gram matrices are those of matrices, one for each model".into());
        };
        let (models, panel) = (weights.len() as u64, PANEL.min(rows));
        let panels = panel * n * (4 * (models + 2) + 4 * 8) + ROWS.min(n) * n * 8;
        // The sum or its inverse, and beside it what inverting takes or a panel.
        let keeps = 8 * n * n + eigen_bytes(n).max(3 * 8 * n * n).max(panels);
        let cost = Cost { reads: SPEC.reads, span: Span::Whole { keeps }, unit: n, ..Cost::ELEMENT };
        let alpha = params.number("alpha");
        Ok(Box::new(Bound { weights, shares, alpha, factor, dimensions: (count, rows, n), cost }))
    }
}

/// The method bound to a tensor of matrices that have Gram matrices.
struct Bound {
    weights: Vec<f64>,
    /// The weights over their sum.
    shares: Vec<f64>,
    alpha: f64,
    factor: f64,
    /// How many matrices, and their rows and columns.
    dimensions: (u64, u64, u64),
    cost: Cost,
}

impl Kernel for Bound {
    fn cost(&self) -> Cost {
        self.cost
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Found, Halt> {
        let (count, rows, n) = self.dimensions;
        let mut all = Vec::new();
        for matrix in 0..count {
            let (inverse, found) = self.inverse(read, matrix)?;
            for first in (0..rows).step_by(PANEL as usize) {
                let own = matrix * rows + first..matrix * rows + (first + PANEL).min(rows);
                let panel = self.panel(read, own.start * n..own.end * n)?;
                self.write(read, matrix, &panel, inverse.as_ref(), write)?;
            }
            let of = if count > 1 { format!("{matrix}.") } else { String::new() };
            all.extend(found.into_iter().map(|(name, value)| (format!("{of}{name}"), value)));
        }
        Ok(all)
    }

    fn apply(&self, _tile: &Tile, _ranks: &mut [u64], _out: &mut [f32]) {}
}

/// Rows of the weight, of the base and of every model.
struct Panel {
    base: Option<Vec<f32>>,
    models: Vec<Vec<f32>>,
    /// The weighted mean of the changes.
    mean: Vec<f64>,
}

impl Panel {
    fn change(&self, model: usize, element: usize) -> f64 {
        let x = f64::from(self.models[model][element]);
        self.base.as_ref().map_or(x, |base| x - f64::from(base[element]))
    }
}

impl Bound {
    /// The inverse of the sum of the Gram matrices, as far as there are data; `None` where there are none.
    fn inverse(&self, read: &mut dyn Operands, matrix: u64) -> Result<(Option<Mat<f64>>, Found), Halt> {
        let n = self.dimensions.2 as usize;
        let mut sum = Mat::<f64>::zeros(n, n);
        for (model, weight) in self.weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            let mut check = Check::new(n);
            let wrong = self.rows(read, model, matrix, &mut |r, row| {
                check.see(r, row)?;
                sum.col_mut(r).iter_mut().zip(row).for_each(|(s, g)| *s += weight * *g);
                Ok(())
            });
            let wrong = wrong.map(|()| check.asymmetric());
            let (row, problem) = match (wrong, check.wrong) {
                (Err(Halt::Failed(problem)), Some(row)) => (row, problem),
                (Err(halt), _) => return Err(halt),
                (Ok(Some(row)), _) => (row, "is in a matrix that is not symmetric, as a Gram matrix is".to_owned()),
                (Ok(None), _) => continue,
            };
            return Err(read.at_fault(model, (matrix * n as u64 + row as u64) * n as u64 + row as u64, &problem));
        }
        let scale: Vec<f64> = (0..n).map(|i| sum[(i, i)]).map(|d| if d > 0.0 { 1.0 / d.sqrt() } else { 0.0 }).collect();
        let used = scale.iter().filter(|s| **s > 0.0).count();
        let mut found = vec![("inputs".to_owned(), used as f64)];
        if used == 0 {
            return Ok((None, found));
        }
        for (j, column) in sum.as_mut().col_iter_mut().enumerate() {
            // Inputs that are always zero stand by themselves, so that the rest is inverted as if they were not there.
            column.iter_mut().enumerate().for_each(|(i, v)| *v = if i == j { 1.0 } else { *v * scale[i] * scale[j] });
        }
        if sum.col_iter().any(|c| c.iter().any(|v| !v.is_finite())) {
            return Err(Halt::Failed("its Gram matrices hold NaN or infinite values, and have no inverse".into()));
        }
        let mut inverse = if let Some((inverse, bound)) = inverse_of(&sum, EIGENVALUE) {
            found.push(("condition_bound".to_owned(), bound));
            inverse
        } else {
            let eigen = Eigen::of(sum.as_ref())?;
            drop(sum);
            let least = EIGENVALUE * eigen.values[0];
            let kept = eigen.values.iter().take_while(|v| **v >= least).count();
            found.push(("rank".to_owned(), (kept + used - n) as f64));
            found.push(("condition".to_owned(), eigen.values[0] / eigen.values[kept - 1]));
            let vectors = eigen.vectors.subcols(0, kept);
            let scaled = Mat::from_fn(n, kept, |i, j| vectors[(i, j)] / eigen.values[j]);
            product(scaled.as_ref(), vectors.transpose())
        };
        for (j, column) in inverse.as_mut().col_iter_mut().enumerate() {
            column.iter_mut().enumerate().for_each(|(i, v)| *v *= scale[i] * scale[j]);
        }
        Ok((Some(inverse), found))
    }

    /// Calls `f` with the rows of a Gram matrix, what is off the diagonal times alpha.
    fn rows(&self, read: &mut dyn Operands, model: usize, matrix: u64, f: EachRow) -> Result<(), Halt> {
        let n = self.dimensions.2;
        let (mut row, mut at) = (Vec::with_capacity(n as usize), 0);
        read.apart(model, matrix * n * n..(matrix + 1) * n * n, &mut |mut piece| {
            while !piece.is_empty() {
                let (own, rest) = piece.split_at(piece.len().min(n as usize - row.len()));
                let first = row.len();
                row.extend(own.iter().map(|v| v * self.alpha));
                if (first..row.len()).contains(&at) {
                    row[at] = own[at - first];
                }
                piece = rest;
                if row.len() == n as usize {
                    f(at, &row)?;
                    row.clear();
                    at += 1;
                }
            }
            Ok(())
        })
    }

    /// Rows of all models.
    fn panel(&self, read: &mut dyn Operands, elements: Range<u64>) -> Result<Panel, Halt> {
        let len = (elements.end - elements.start) as usize;
        let mut base: Option<Vec<f32>> = None;
        let mut models: Vec<Vec<f32>> = self.weights.iter().map(|_| Vec::with_capacity(len)).collect();
        read.each(elements, &mut |tile| {
            if let Some(own) = tile.base {
                base.get_or_insert_with(|| Vec::with_capacity(len)).extend_from_slice(own);
            }
            models.iter_mut().zip(tile.inputs).for_each(|(model, x)| model.extend_from_slice(x));
            Ok(())
        })?;
        let mut panel = Panel { base, models, mean: Vec::new() };
        // From a negative zero, which keeps the sign of zeros.
        let mean = |e| self.shares.iter().enumerate().fold(-0.0, |sum, (i, s)| sum + s * panel.change(i, e));
        panel.mean = (0..len).map(mean).collect();
        Ok(panel)
    }

    /// Writes the merged rows of a panel.
    fn write(
        &self,
        read: &mut dyn Operands,
        matrix: u64,
        panel: &Panel,
        inverse: Option<&Mat<f64>>,
        write: &mut dyn Results,
    ) -> Result<(), Halt> {
        let (n, len) = (self.dimensions.2 as usize, panel.mean.len());
        let more = match inverse {
            Some(inverse) => product(self.beside(read, matrix, panel)?.as_ref(), inverse.as_ref()),
            None => Mat::zeros(len / n, n),
        };
        let mut out = Vec::with_capacity(len);
        out.extend(panel.mean.iter().enumerate().map(|(e, mean)| {
            let more = more[(e / n, e % n)];
            let change = self.factor * if more == 0.0 { *mean } else { mean + more };
            panel.base.as_ref().map_or(change as f32, |base| moved(base[e], change))
        }));
        write.push(&out)
    }

    /// What the models do to their inputs beside what their mean does: the sum of the differences times the Gram matrices.
    fn beside(&self, read: &mut dyn Operands, matrix: u64, panel: &Panel) -> Result<Mat<f64>, Halt> {
        let (n, len) = (self.dimensions.2 as usize, panel.mean.len());
        let mut sum = Mat::zeros(len / n, n);
        let (mut own, mut block) = (vec![0.0; len], Vec::with_capacity(n * n.min(ROWS as usize)));
        for (model, weight) in self.weights.iter().enumerate().filter(|(_, w)| **w > 0.0) {
            for (e, own) in own.iter_mut().enumerate() {
                *own = weight * (panel.change(model, e) - panel.mean[e]);
            }
            let own = MatRef::from_row_major_slice(&own, len / n, n);
            self.rows(read, model, matrix, &mut |r, row| {
                block.extend_from_slice(row);
                let rows = block.len() / n;
                if rows == ROWS as usize || r + 1 == n {
                    let gram = MatRef::from_row_major_slice(&block, rows, n);
                    add_product(sum.as_mut(), own.subcols(r + 1 - rows, rows), gram);
                    block.clear();
                }
                Ok(())
            })?;
        }
        Ok(sum)
    }
}

/// Whether rows are those of a Gram matrix.
struct Check {
    /// The sum of each row's elements, each with a sign of its own, and the same of each column's.
    rows: Vec<f64>,
    columns: Vec<f64>,
    /// The largest sum of a row's magnitudes.
    largest: f64,
    /// The row that is wrong.
    wrong: Option<usize>,
}

/// A sign for each row and column: without them a matrix could be its mirror image by chance.
fn sign(i: usize) -> f64 {
    if (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 63 == 0 { 1.0 } else { -1.0 }
}

impl Check {
    fn new(n: usize) -> Self {
        Self { rows: vec![0.0; n], columns: vec![0.0; n], largest: 0.0, wrong: None }
    }

    fn see(&mut self, r: usize, row: &[f64]) -> Result<(), Halt> {
        if row[r] < 0.0 {
            self.wrong = Some(r);
            return Err(Halt::Failed(
                "is below zero, and on the diagonal of a Gram matrix: these are sums of squares".into(),
            ));
        }
        let (mut sum, mut size) = (0.0, 0.0);
        for (c, (column, v)) in self.columns.iter_mut().zip(row).enumerate() {
            sum += sign(c) * v;
            size += v.abs();
            *column += sign(r) * v;
        }
        self.rows[r] = sum;
        self.largest = self.largest.max(size);
        Ok(())
    }

    /// A row that is not as its column.
    fn asymmetric(&self) -> Option<usize> {
        let unlike = |(r, c): (&f64, &f64)| (r - c).abs() > ASYMMETRY * self.largest;
        self.rows.iter().zip(&self.columns).position(unlike)
    }
}
