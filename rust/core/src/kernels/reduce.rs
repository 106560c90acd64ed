//! Sums with a fixed shape: f32 products or values in eight lanes over [`BLOCK`] elements, then f64 over blocks.
//!
//! The result depends on the data alone, never on how a tensor was cut into tiles, as long as every tile but a
//! tensor's last is a whole number of blocks.

use super::isa::vectorised;

pub use crate::sizes::BLOCK;

const LANES: usize = 8;

/// Adds `sum(a[i] * b[i])` to `total`, block by block. Products and sums are f64.
pub fn dot(a: &[f32], b: &[f32], total: &mut f64) {
    for (a, b) in a.chunks(BLOCK).zip(b.chunks(BLOCK)) {
        *total += dot_block(a, b);
    }
}

/// Adds `sum(|a[i]|)` to `total`, block by block.
pub fn l1(a: &[f32], total: &mut f64) {
    for a in a.chunks(BLOCK) {
        *total += l1_block(a);
    }
}

vectorised! {
    fn dot_block(a: &[f32], b: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (ac, at) = a.as_chunks::<LANES>();
        let (bc, bt) = b.as_chunks::<LANES>();
        for (a, b) in ac.iter().zip(bc) {
            for i in 0..LANES {
                lanes[i] += f64::from(a[i]) * f64::from(b[i]);
            }
        }
        for (lane, (a, b)) in lanes.iter_mut().zip(at.iter().zip(bt)) {
            *lane += f64::from(*a) * f64::from(*b);
        }
        fold(lanes)
    }
}

vectorised! {
    fn l1_block(a: &[f32]) -> f64 {
        let mut lanes = [0f64; LANES];
        let (ac, at) = a.as_chunks::<LANES>();
        for a in ac {
            for i in 0..LANES {
                lanes[i] += f64::from(a[i].abs());
            }
        }
        for (lane, a) in lanes.iter_mut().zip(at) {
            *lane += f64::from(a.abs());
        }
        fold(lanes)
    }
}

fn fold(l: [f64; LANES]) -> f64 {
    ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Law 3: cutting at block borders changes no bit.
    #[test]
    fn tiles_do_not_matter() {
        let a: Vec<f32> = (0..10_000).map(|i| ((i * 7919) % 1013) as f32 * 1e-3 - 0.5).collect();
        let b: Vec<f32> = (0..10_000).map(|i| ((i * 104_729) % 997) as f32 * 1e-3 - 0.5).collect();
        let mut whole = 0.0;
        dot(&a, &b, &mut whole);
        for tile in [1024, 2048, 7 * 1024] {
            let mut parts = 0.0;
            for (a, b) in a.chunks(tile).zip(b.chunks(tile)) {
                dot(a, b, &mut parts);
            }
            assert_eq!(whole.to_bits(), parts.to_bits());
        }
        let exact: f64 = a.iter().zip(&b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        assert!((whole - exact).abs() < 1e-9);
        let mut sum = 0.0;
        l1(&a, &mut sum);
        assert!((sum - a.iter().map(|v| f64::from(v.abs())).sum::<f64>()).abs() < 1e-9);
    }
}
