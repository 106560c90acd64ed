//! Merging in shared bases: KnOTS and core space. Both change the basis without loss, merge by another method there, and change it
//! back.

use faer::Mat;

use super::inner::{Held, bind, run};
use super::stack::{Mix, Stack, Term};
use super::tsvm::Leading;
use super::{CUT, Made};
use crate::kernels::linalg::{Eigen, product};
use crate::methods::Params;

/// The directions that the columns of all changes, as they are taken, span: `sum_i A_i by_i`, and in which each change is
/// `right_iᵀ` times them.
struct Spanned {
    /// How each change's columns are mixed to the directions, `short x r`.
    by: Vec<Mat<f64>>,
    /// Coordinates of each change, `r x short`.
    coordinates: Vec<Mat<f64>>,
}

/// Of the changes without their weights, side by side: the eigenvectors of a matrix of `T short` rows.
fn spanned(stack: &mut Stack) -> Result<Spanned, super::Halt> {
    let (models, short) = (stack.models(), stack.short());
    let terms: Vec<Term> = (0..models).map(|i| Term::plain(stack.unweighted(i))).collect();
    let eigen = Eigen::of(stack.joint(&terms)?.as_ref())?;
    let all = Leading::of(&eigen, models * short, eigen.largest() * CUT);
    let by = all.to_left();
    let part = |m: &Mat<f64>, i: usize| m.subrows(i * short, short).to_owned();
    let scaled = Mat::from_fn(all.right.nrows(), all.values.len(), |r, c| all.right[(r, c)] * all.values[c]);
    Ok(Spanned {
        by: (0..models).map(|i| part(&by, i)).collect(),
        coordinates: (0..models).map(|i| part(&scaled, i).transpose().to_owned()).collect(),
    })
}

/// The directions of the shorter side that any change has, `short x k`.
fn short_basis(stack: &mut Stack) -> Result<Mat<f64>, super::Halt> {
    let mut all = Mat::<f64>::zeros(stack.short(), stack.short());
    for i in 0..stack.models() {
        all += stack.gram(stack.unweighted(i))?;
    }
    let eigen = Eigen::of(all.as_ref())?;
    Ok(Leading::of(&eigen, stack.short(), eigen.largest() * CUT).right)
}

/// What the inner method makes of coordinates, each `rows x columns`; `turned` if they are to be laid out by columns.
fn inside(stack: &Stack, params: &Params, coordinates: &[Mat<f64>], turned: bool) -> Result<Mat<f64>, super::Halt> {
    let (rows, columns) = (coordinates[0].nrows(), coordinates[0].ncols());
    let laid = |m: &Mat<f64>| -> Vec<f32> {
        let wide = if turned { m.as_ref() } else { m.transpose() };
        wide.col_iter().flat_map(|c| c.iter().map(|v| *v as f32).collect::<Vec<_>>()).collect()
    };
    let held: Vec<Vec<f32>> = coordinates.iter().map(laid).collect();
    let shape = if turned { [columns as u64, rows as u64] } else { [rows as u64, columns as u64] };
    let kernel = bind(params.word("inner"), params, &shape)?;
    let keys = stack.keys();
    let mut held = Held { inputs: held.iter().map(Vec::as_slice).collect(), keys: &keys, unit: shape[1] as usize };
    let merged = run(kernel, &mut held)?;
    let at = |r: usize, c: usize| f64::from(merged[if turned { c * rows + r } else { r * columns + c }]);
    Ok(Mat::from_fn(rows, columns, at))
}

/// KnOTS: coordinates of every task along the left singular vectors of all side by side.
pub fn knots(stack: &mut Stack, params: &Params) -> Made {
    if !stack.is_tall() || stack.is_vector() {
        return knots_wide(stack, params);
    }
    let Spanned { by, coordinates } = spanned(stack)?;
    let rank = coordinates[0].nrows();
    if rank == 0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    let merged = inside(stack, params, &coordinates, false)?;
    let parts = by.into_iter().enumerate().map(|(i, by)| (stack.unweighted(i), Some(by))).collect();
    Ok((Mix::Of { terms: vec![Term { parts }], again: Some(merged) }, vec![("rank".to_owned(), rank as f64)]))
}

/// The same of a matrix taken transposed, whose left vectors are those of its shorter side: coordinates are as large as
/// the matrix.
fn knots_wide(stack: &mut Stack, params: &Params) -> Made {
    let long = stack.long();
    // A vector is its own coordinates, NaN and all.
    let basis = if stack.is_vector() { Mat::identity(1, 1) } else { short_basis(stack)? };
    let rank = basis.ncols();
    if rank == 0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    let mut held = Vec::new();
    for i in 0..stack.models() {
        let mut turned = vec![0.0f32; rank * long];
        let mut first = 0;
        stack.each(&[stack.unweighted(i)], &mut |blocks| {
            let seen = product(blocks[0], basis.as_ref());
            for (r, column) in seen.col_iter().enumerate() {
                let own = &mut turned[r * long + first..][..seen.nrows()];
                own.iter_mut().zip(column.iter()).for_each(|(o, v)| *o = *v as f32);
            }
            first += seen.nrows();
            Ok(())
        })?;
        held.push(turned);
    }
    let kernel = bind(params.word("inner"), params, &[rank as u64, long as u64])?;
    let keys = stack.keys();
    let mut held = Held { inputs: held.iter().map(Vec::as_slice).collect(), keys: &keys, unit: long };
    let merged = run(kernel, &mut held)?;
    Ok((Mix::Turned { merged, basis }, vec![("rank".to_owned(), rank as f64)]))
}

/// Core space: coordinates of every task along what the columns of all, and the rows of all, span.
pub fn core_space(stack: &mut Stack, params: &Params) -> Made {
    if stack.is_vector() {
        // It has no two sides to find a space for.
        return knots_wide(stack, params);
    }
    let rows = short_basis(stack)?;
    if rows.ncols() == 0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    let Spanned { by, coordinates } = spanned(stack)?;
    let coordinates: Vec<Mat<f64>> = coordinates.iter().map(|c| product(c.as_ref(), rows.as_ref())).collect();
    let found =
        vec![("rank_long".to_owned(), coordinates[0].nrows() as f64), ("rank_short".to_owned(), rows.ncols() as f64)];
    let merged = inside(stack, params, &coordinates, !stack.is_tall())?;
    let parts = by.into_iter().enumerate().map(|(i, by)| (stack.unweighted(i), Some(by))).collect();
    let again = product(merged.as_ref(), rows.transpose());
    Ok((Mix::Of { terms: vec![Term { parts }], again: Some(again) }, found))
}
