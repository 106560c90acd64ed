//! Isotropic merging: the sum of the changes with all its singular values the same.

use super::Found;
use super::stack::{Mix, Stack};
use super::tsvm::CUT;
use crate::kernels::linalg::Eigen;
use crate::methods::{Halt, Params};

/// The polar factor of the sum, times the mean of its singular values.
pub fn iso_c(stack: &mut Stack, _params: &Params) -> Result<(Mix, Found), Halt> {
    let of = stack.sum(1.0);
    let eigen = Eigen::of(stack.gram(of.clone())?.as_ref())?;
    let singular = eigen.singular();
    let largest = singular.first().copied().unwrap_or(0.0);
    if largest == 0.0 {
        return Ok((Mix::nothing(), Vec::new()));
    }
    // Directions that are not there have none to be scaled to, but count in the mean.
    let mean = singular.iter().sum::<f64>() / singular.len() as f64;
    let there: Vec<f64> = singular.iter().copied().filter(|s| *s > largest * CUT).collect();
    let found = vec![
        ("rank".to_owned(), there.len() as f64),
        ("singular_value".to_owned(), mean),
        ("condition".to_owned(), largest / there[there.len() - 1]),
    ];
    let by = eigen.function(|s| if s > largest * CUT { mean / s } else { 0.0 });
    Ok((Mix::one(of, by), found))
}
