//! Blocks of 256 elements whose scales are quantised in their turn: Q2_K to Q6_K, and Q8_K.

use super::half;
use crate::kernels::isa::vectorised;

vectorised! {
    /// `d s q - dmin m`, a scale and a minimum of 4 bits for 16 elements, codes of 2 bits.
    pub fn q2_k(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<84>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, dmin) = (half(b[80], b[81]), half(b[82], b[83]));
            for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let (scale, least) = (d * f32::from(b[k] & 15), dmin * f32::from(b[k] >> 4));
                let (at, shift) = (16 + 32 * (k / 8) + 16 * (k % 2), 2 * (k % 8 / 2));
                for l in 0..16 {
                    out[l] = scale * f32::from((b[at + l] >> shift) & 3) - least;
                }
            }
        }
    }
}

vectorised! {
    /// `d (s - 32) (q - 4)`, with a mask of what is not lowered by 4; scales of 6 bits.
    pub fn q3_k(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<110>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half(b[108], b[109]);
            for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let low = if k < 8 { b[96 + k] & 15 } else { b[96 + k - 8] >> 4 };
                let s = low | ((b[104 + k % 4] >> (2 * (k / 4))) & 3) << 4;
                let scale = d * (f32::from(s) - 32.0);
                let (l, j) = (16 * (k % 2), k % 8 / 2);
                let (at, shift, bit) = (32 + 32 * (k / 8) + l, 2 * j, 4 * (k / 8) + j);
                for i in 0..16 {
                    let q = ((b[at + i] >> shift) & 3) | ((b[l + i] >> bit) & 1) << 2;
                    out[i] = scale * (f32::from(q) - 4.0);
                }
            }
        }
    }
}

/// The scale and the minimum, of 6 bits each, of 32 elements of Q4_K and Q5_K.
#[inline(always)]
fn sixes(sc: &[u8], g: usize) -> (u8, u8) {
    if g < 4 {
        (sc[g] & 63, sc[g + 4] & 63)
    } else {
        ((sc[g + 4] & 15) | (sc[g - 4] >> 6) << 4, (sc[g + 4] >> 4) | (sc[g] >> 6) << 4)
    }
}

vectorised! {
    /// `d s q - dmin m`, for 32 elements a scale and a minimum, codes of 4 bits.
    pub fn q4_k(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<144>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, dmin) = (half(b[0], b[1]), half(b[2], b[3]));
            for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (s, m) = sixes(&b[4..16], g);
                let (scale, least) = (d * f32::from(s), dmin * f32::from(m));
                let (at, shift) = (16 + 32 * (g / 2), 4 * (g % 2));
                for l in 0..32 {
                    out[l] = scale * f32::from((b[at + l] >> shift) & 15) - least;
                }
            }
        }
    }
}

vectorised! {
    /// As Q4_K with a fifth bit.
    pub fn q5_k(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<176>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, dmin) = (half(b[0], b[1]), half(b[2], b[3]));
            for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let (s, m) = sixes(&b[4..16], g);
                let (scale, least) = (d * f32::from(s), dmin * f32::from(m));
                let (at, shift) = (48 + 32 * (g / 2), 4 * (g % 2));
                for l in 0..32 {
                    let q = ((b[at + l] >> shift) & 15) | ((b[16 + l] >> g) & 1) << 4;
                    out[l] = scale * f32::from(q) - least;
                }
            }
        }
    }
}

vectorised! {
    /// `d s (q - 32)`, a signed scale of 8 bits for 16 elements, codes of 6 bits.
    pub fn q6_k(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<210>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let d = half(b[208], b[209]);
            for (k, out) in out.as_chunks_mut::<16>().0.iter_mut().enumerate() {
                let scale = d * f32::from(b[192 + k] as i8);
                let (h, j, l) = (k / 8, k % 8 / 2, 16 * (k % 2));
                let (low, high) = (64 * h + 32 * (j % 2) + l, 128 + 32 * h + l);
                for i in 0..16 {
                    let q = ((b[low + i] >> (4 * (j / 2))) & 15) | ((b[high + i] >> (2 * j)) & 3) << 4;
                    out[i] = scale * (f32::from(q) - 32.0);
                }
            }
        }
    }
}

vectorised! {
    /// `d q`, with an f32 scale.
    pub fn q8_k(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, d2, d3, rest @ ..], out) in
            bytes.as_chunks::<292>().0.iter().zip(out.as_chunks_mut::<256>().0)
        {
            let d = f32::from_le_bytes([*d0, *d1, *d2, *d3]);
            for i in 0..256 {
                out[i] = d * f32::from(rest[i] as i8);
            }
        }
    }
}
