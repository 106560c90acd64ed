//! Blocks of 32 elements with one scale: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0. Elements 0 to 15 lie in the low nibbles, 16 to 31 in the high
//! ones.

use super::half;
use crate::kernels::isa::vectorised;

vectorised! {
    /// `d (n - 8)`.
    pub fn q4_0(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, qs @ ..], out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = half(*d0, *d1);
            for i in 0..16 {
                out[i] = d * (f32::from(qs[i] & 15) - 8.0);
                out[i + 16] = d * (f32::from(qs[i] >> 4) - 8.0);
            }
        }
    }
}

vectorised! {
    /// `d n + m`.
    pub fn q4_1(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, m0, m1, qs @ ..], out) in bytes.as_chunks::<20>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let (d, m) = (half(*d0, *d1), half(*m0, *m1));
            for i in 0..16 {
                out[i] = d * f32::from(qs[i] & 15) + m;
                out[i + 16] = d * f32::from(qs[i] >> 4) + m;
            }
        }
    }
}

/// The codes of 5 bits: the fifth of each is a bit of `high`.
#[inline(always)]
fn fives(high: u32, qs: &[u8; 16]) -> [u8; 32] {
    let mut codes = [0; 32];
    for i in 0..16 {
        codes[i] = (qs[i] & 15) | (((high >> i) & 1) as u8) << 4;
        codes[i + 16] = (qs[i] >> 4) | (((high >> (i + 16)) & 1) as u8) << 4;
    }
    codes
}

vectorised! {
    /// `d (n - 16)`.
    pub fn q5_0(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, h0, h1, h2, h3, qs @ ..], out) in
            bytes.as_chunks::<22>().0.iter().zip(out.as_chunks_mut::<32>().0)
        {
            let d = half(*d0, *d1);
            let codes = fives(u32::from_le_bytes([*h0, *h1, *h2, *h3]), qs);
            for i in 0..32 {
                out[i] = d * (f32::from(codes[i]) - 16.0);
            }
        }
    }
}

vectorised! {
    /// `d n + m`.
    pub fn q5_1(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, m0, m1, h0, h1, h2, h3, qs @ ..], out) in
            bytes.as_chunks::<24>().0.iter().zip(out.as_chunks_mut::<32>().0)
        {
            let (d, m) = (half(*d0, *d1), half(*m0, *m1));
            let codes = fives(u32::from_le_bytes([*h0, *h1, *h2, *h3]), qs);
            for i in 0..32 {
                out[i] = d * f32::from(codes[i]) + m;
            }
        }
    }
}

vectorised! {
    /// `d q`.
    pub fn q8_0(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, qs @ ..], out) in bytes.as_chunks::<34>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = half(*d0, *d1);
            for i in 0..32 {
                out[i] = d * f32::from(qs[i] as i8);
            }
        }
    }
}
