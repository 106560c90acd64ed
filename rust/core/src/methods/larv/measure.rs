//! What a matrix and its change show: ranks, and whether they go together.

use serde::{Deserialize, Serialize};

use std::ops::Range;

use faer::Mat;

use crate::kernels::linalg::{Eigen, NOT_FINITE, add_gram, add_product, mirror, trace, values_bytes};
use crate::methods::matrix::{Stack, block_rows};
use crate::methods::{EachTile, Halt, Operands, Tile};

/// Of a matrix that a model has changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(from = "[u64; 2]", into = "[u64; 2]")]
pub struct Measure {
    /// The effective rank of the base's matrix over that of the change.
    pub contrast: f64,
    /// How far they are from commuting, from 0 to 2.
    pub conflict: f64,
}

/// In JSON by the bits of its floats, which are exact whatever they are.
impl From<Measure> for [u64; 2] {
    fn from(m: Measure) -> Self {
        [m.contrast.to_bits(), m.conflict.to_bits()]
    }
}

impl From<[u64; 2]> for Measure {
    fn from([contrast, conflict]: [u64; 2]) -> Self {
        Self { contrast: f64::from_bits(contrast), conflict: f64::from_bits(conflict) }
    }
}

/// Bytes that [`measure`] takes of a matrix: three squares of its shorter side or two and what eigenvalues take, blocks, and both
/// matrices where it is wider than tall.
pub(super) fn bytes(rows: u64, columns: u64) -> u64 {
    let short = rows.min(columns);
    let blocks = 8 * 2 * 3 * block_rows(short as usize) as u64 * short;
    let wide = if rows < columns { 4 * 2 * rows * columns } else { 0 };
    (3 * 8 * short * short).max(2 * 8 * short * short + values_bytes(short)) + blocks + wide
}

/// Measures the `rows x columns` matrix that begins at the element `start` of a tensor, of which `read` has the base and one model;
/// nothing of a matrix that the model left alone. The effective rank of the base's is kept in `rank` for the next model.
///
/// # Errors
/// What reading returns; values that are not finite, or whose eigenvalues do not converge.
pub fn measure(
    read: &mut dyn Operands,
    start: u64,
    (rows, columns): (usize, usize),
    rank: &mut Option<f64>,
) -> Result<Option<Measure>, Halt> {
    let mut both = Both { read };
    let mut stack = Stack::new(&mut both, start, (rows, columns), &[1.0, 1.0], false)?;
    let (short, of) = (stack.short(), [stack.model(0), stack.model(1)]);
    let square = || Mat::<f64>::zeros(short, short);
    let (mut base, mut change, mut cross) = (square(), square(), square());
    stack.each(&of, &mut |blocks| {
        add_gram(&mut base, blocks[0]);
        add_gram(&mut change, blocks[1]);
        add_product(cross.as_mut(), blocks[0].transpose(), blocks[1]);
        Ok(())
    })?;
    drop(stack);
    let (size, changed) = (trace(&base).sqrt(), trace(&change).sqrt());
    if !size.is_finite() || !changed.is_finite() {
        return Err(Halt::Failed(NOT_FINITE.into()));
    }
    if changed == 0.0 {
        return Ok(None);
    }
    mirror(&mut base);
    mirror(&mut change);
    let conflict = if size == 0.0 { 0.0 } else { 0.5 * apart(&base, &change, &cross) / (size * changed) };
    drop(cross);
    let own = match *rank {
        Some(rank) => rank,
        None => *rank.insert(effective_rank(base)?),
    };
    Ok(Some(Measure { contrast: own / effective_rank(change)?, conflict }))
}

/// `|A Dᵀ - D Aᵀ| + |Aᵀ D - Dᵀ A|`, of the Gram matrices of both and `Aᵀ D`: so the longer side never has a square of its own.
fn apart(base: &Mat<f64>, change: &Mat<f64>, cross: &Mat<f64>) -> f64 {
    let n = cross.ncols();
    let (mut near, mut far) = (0.0, 0.0);
    for j in 0..n {
        for i in 0..n {
            near += (cross[(i, j)] - cross[(j, i)]).powi(2);
            far += base[(i, j)] * change[(i, j)] - cross[(i, j)] * cross[(j, i)];
        }
    }
    near.sqrt() + (2.0 * far).max(0.0).sqrt()
}

/// exp of the entropy of the shares of the squared singular values, from the Gram matrix; 1 of nothing.
fn effective_rank(gram: Mat<f64>) -> Result<f64, String> {
    let values = Eigen::values(gram)?;
    let sum: f64 = values.iter().sum();
    let entropy = |v: &f64| if *v > 0.0 { -v / sum * (v / sum).ln() } else { 0.0 };
    Ok(if sum == 0.0 { 1.0 } else { values.iter().map(entropy).sum::<f64>().exp() })
}

/// The base and what a model changed of it, as two matrices.
struct Both<'a> {
    read: &'a mut dyn Operands,
}

impl Operands for Both<'_> {
    fn keys(&self) -> Vec<u64> {
        self.read.keys()
    }

    fn each(&mut self, elements: Range<u64>, f: EachTile) -> Result<(), Halt> {
        let (mut nothing, mut change) = (Vec::new(), Vec::new());
        self.read.each(elements, &mut |tile| {
            let base = tile.base.unwrap_or_default();
            nothing.resize(base.len().max(nothing.len()), 0.0);
            change.clear();
            change.extend(tile.inputs[0].iter().zip(base).map(|(x, b)| x - b));
            f(&Tile { base: Some(&nothing[..base.len()]), inputs: &[base, &change], ..*tile })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A matrix by rows, and what it is with the change.
    struct Pair(Vec<f32>, Vec<f32>);

    impl Operands for Pair {
        fn keys(&self) -> Vec<u64> {
            vec![0]
        }

        fn each(&mut self, range: Range<u64>, f: EachTile) -> Result<(), Halt> {
            let own = range.start as usize..range.end as usize;
            let of = self.0.len() as u64;
            f(&Tile { base: Some(&self.0[own.clone()]), inputs: &[&self.1[own]], keys: &[], start: range.start, of })
        }
    }

    fn of(base: &[f32], change: &[f32], dimensions: (usize, usize)) -> Option<Measure> {
        let changed = base.iter().zip(change).map(|(b, d)| b + d).collect();
        measure(&mut Pair(base.to_vec(), changed), 0, dimensions, &mut None).unwrap()
    }

    /// Law: by hand. diag(1, 2) and [[0, 1], [0, 0]]: A Dᵀ - D Aᵀ has 2 off the diagonal, Aᵀ D - Dᵀ A has 1; ranks are exp of entropies.
    #[test]
    fn a_matrix_by_hand() {
        let found = of(&[1.0, 0.0, 0.0, 2.0], &[0.0, 1.0, 0.0, 0.0], (2, 2)).unwrap();
        assert!((found.conflict - 0.5 * 3.0 * 2f64.sqrt() / 5f64.sqrt()).abs() < 1e-12);
        let entropy = -(0.2 * 0.2f64.ln() + 0.8 * 0.8f64.ln());
        assert!((found.contrast - entropy.exp()).abs() < 1e-12);
        assert_eq!(of(&[1.0, 0.0, 0.0, 2.0], &[0.0; 4], (2, 2)), None);
        // A base of zeros has rank 1 and no conflict.
        let found = of(&[0.0; 4], &[1.0, 0.0, 0.0, 1.0], (2, 2)).unwrap();
        assert!((found.contrast - 0.5).abs() < 1e-12 && found.conflict == 0.0);
    }

    /// Law: a matrix and the same transposed have the same measures, and what commutes has no conflict.
    #[test]
    fn either_way_round() {
        let (rows, columns) = (5, 9);
        let base: Vec<f32> = (0..rows * columns).map(|i| ((i * 7 + i * i) % 11) as f32 - 5.0).collect();
        let change: Vec<f32> = (0..rows * columns).map(|i| ((i * 5 + i * i * i) % 7) as f32 - 3.0).collect();
        let turned =
            |x: &[f32]| -> Vec<f32> { (0..rows * columns).map(|i| x[i % rows * columns + i / rows]).collect() };
        let (wide, tall) = (of(&base, &change, (rows, columns)), of(&turned(&base), &turned(&change), (columns, rows)));
        let (wide, tall) = (wide.unwrap(), tall.unwrap());
        assert!((wide.contrast - tall.contrast).abs() < 1e-12 && (wide.conflict - tall.conflict).abs() < 1e-12);
        assert!(wide.conflict > 0.1);
        let own = of(&base, &base, (rows, columns)).unwrap();
        assert!((own.contrast - 1.0).abs() < 1e-12 && own.conflict < 1e-7);
    }
}
