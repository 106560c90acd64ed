//! Dot products of vectors that no memory holds whole.

use crate::kernels::reduce;

/// Dot products of all pairs of vectors.
pub(super) struct Gram {
    /// Number of vectors.
    pub(super) n: usize,
    dots: Vec<f64>,
}

impl Gram {
    /// From the sums that [`Self::add`] makes.
    pub(super) fn new(n: usize, dots: Vec<f64>) -> Self {
        Self { n, dots }
    }

    /// Number of sums for `n` vectors: pairs in the order (0,0) (0,1) ... (1,1) ...
    pub(super) fn sums(n: usize) -> usize {
        n * (n + 1) / 2
    }

    /// Adds the dot products of parts of the vectors.
    pub(super) fn add(vectors: &[&[f32]], sums: &mut [f64]) {
        let mut sums = sums.iter_mut();
        for (i, a) in vectors.iter().enumerate() {
            for (b, sum) in vectors[i..].iter().zip(&mut sums) {
                reduce::dot(a, b, sum);
            }
        }
    }

    pub(super) fn dot(&self, i: usize, j: usize) -> f64 {
        let (i, j) = (i.min(j), i.max(j));
        self.dots[i * self.n - i * (i + 1) / 2 + j]
    }

    pub(super) fn norm(&self, i: usize) -> f64 {
        self.dot(i, i).sqrt()
    }

    /// Cosine of the angle between two vectors; 0 if one of them is zero.
    pub(super) fn cosine(&self, i: usize, j: usize) -> f64 {
        let norms = self.norm(i) * self.norm(j);
        if norms == 0.0 { 0.0 } else { (self.dot(i, j) / norms).clamp(-1.0, 1.0) }
    }

    /// Dot product of two directions; 0 if one of the vectors is zero.
    pub(super) fn unit(&self, i: usize, j: usize) -> f64 {
        if i == j { f64::from(self.norm(i) > 0.0) } else { self.cosine(i, j) }
    }

    /// Length of the sum of the directions of some vectors, each times its entry in `w`.
    pub(super) fn length(&self, w: &[f64], of: &[usize]) -> f64 {
        let squared: f64 = of.iter().map(|i| of.iter().map(|j| w[*i] * w[*j] * self.unit(*i, *j)).sum::<f64>()).sum();
        // At least 0 but for rounding; a NaN stays one.
        if squared < 0.0 { 0.0 } else { squared.sqrt() }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// The products of vectors at hand.
    pub(in super::super) fn gram(vectors: &[Vec<f32>]) -> Gram {
        let parts: Vec<&[f32]> = vectors.iter().map(Vec::as_slice).collect();
        let mut dots = vec![0.0; Gram::sums(vectors.len())];
        Gram::add(&parts, &mut dots);
        Gram::new(vectors.len(), dots)
    }

    #[test]
    fn pairs_are_found_in_either_order() {
        let g = gram(&[vec![1.0, 0.0], vec![2.0, 3.0], vec![-1.0, 4.0]]);
        assert_eq!((g.dot(0, 0), g.dot(0, 1), g.dot(2, 0), g.dot(1, 2), g.dot(2, 2)), (1.0, 2.0, -1.0, 10.0, 17.0));
    }
}
