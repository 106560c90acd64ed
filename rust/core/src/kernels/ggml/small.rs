//! Codes of one or two values a bit: Q1_0, TQ1_0, TQ2_0.

use super::half;
use crate::kernels::isa::vectorised;

vectorised! {
    /// `d` or `-d`.
    pub fn q1_0(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, qs @ ..], out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<128>().0) {
            let d = half(*d0, *d1);
            for (q, out) in qs.iter().zip(out.as_chunks_mut::<8>().0) {
                for i in 0..8 {
                    out[i] = if (q >> i) & 1 == 1 { d } else { -d };
                }
            }
        }
    }
}

/// Five ternary digits in a byte, as a fixed-point fraction of 3^5: the leading one of what a power of 3 moves to the front.
#[inline(always)]
fn digit(byte: u8, power: u8) -> f32 {
    let moved = byte.wrapping_mul(power);
    f32::from(((u16::from(moved) * 3) >> 8) as u8) - 1.0
}

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

vectorised! {
    /// `d (t - 1)`, five digits a byte; the last 16 elements four a byte.
    pub fn tq1_0(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<54>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half(b[52], b[53]);
            for (n, power) in POWERS.into_iter().enumerate() {
                for i in 0..32 {
                    out[32 * n + i] = d * digit(b[i], power);
                }
                for i in 0..16 {
                    out[160 + 16 * n + i] = d * digit(b[32 + i], power);
                }
                if n < 4 {
                    for i in 0..4 {
                        out[240 + 4 * n + i] = d * digit(b[48 + i], power);
                    }
                }
            }
        }
    }
}

vectorised! {
    /// `d (q - 1)`, codes of 2 bits.
    pub fn tq2_0(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<66>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half(b[64], b[65]);
            for (j, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (at, shift) = (32 * (j / 4), 2 * (j % 4));
                for l in 0..32 {
                    out[l] = d * (f32::from((b[at + l] >> shift) & 3) - 1.0);
                }
            }
        }
    }
}
