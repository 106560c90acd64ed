//! Codes of 4 bits that stand for the values of a table: IQ4_NL, IQ4_XS, MXFP4, NVFP4.

use super::half;
use crate::kernels::isa::vectorised;

/// What the codes of IQ4_NL and IQ4_XS stand for.
const STEPS: [f32; 16] = [-127., -104., -83., -65., -49., -35., -22., -10., 1., 13., 25., 38., 53., 69., 89., 113.];

/// E2M1 (OCP Microscaling Formats 1.0), twice its values; code 8 is 0 and not -0.
const TWICE_E2M1: [f32; 16] = [0., 1., 2., 3., 4., 6., 8., 12., 0., -1., -2., -3., -4., -6., -8., -12.];

vectorised! {
    /// `d T[n]`.
    pub fn iq4_nl(bytes: &[u8], out: &mut [f32]) {
        for ([d0, d1, qs @ ..], out) in bytes.as_chunks::<18>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = half(*d0, *d1);
            for i in 0..16 {
                out[i] = d * STEPS[usize::from(qs[i] & 15)];
                out[i + 16] = d * STEPS[usize::from(qs[i] >> 4)];
            }
        }
    }
}

vectorised! {
    /// `d (s - 32) T[n]`, a scale of 6 bits for 32 elements.
    pub fn iq4_xs(bytes: &[u8], out: &mut [f32]) {
        for (b, out) in bytes.as_chunks::<136>().0.iter().zip(out.as_chunks_mut::<256>().0) {
            let (d, high) = (half(b[0], b[1]), u16::from_le_bytes([b[2], b[3]]));
            for (g, out) in out.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let s = ((b[4 + g / 2] >> (4 * (g % 2))) & 15) | ((((high >> (2 * g)) & 3) as u8) << 4);
                let scale = d * (f32::from(s) - 32.0);
                for l in 0..16 {
                    let q = b[8 + 16 * g + l];
                    out[l] = scale * STEPS[usize::from(q & 15)];
                    out[l + 16] = scale * STEPS[usize::from(q >> 4)];
                }
            }
        }
    }
}

/// `2^(e - 128)`, an f32 subnormal for 0 and 1; 255 is not special.
#[inline(always)]
fn half_e8m0(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x20_0000 << e } else { (u32::from(e) - 1) << 23 })
}

vectorised! {
    /// `2^(e - 128) * 2 E2M1[n]`.
    pub fn mxfp4(bytes: &[u8], out: &mut [f32]) {
        for ([e, qs @ ..], out) in bytes.as_chunks::<17>().0.iter().zip(out.as_chunks_mut::<32>().0) {
            let d = half_e8m0(*e);
            for i in 0..16 {
                out[i] = d * TWICE_E2M1[usize::from(qs[i] & 15)];
                out[i + 16] = d * TWICE_E2M1[usize::from(qs[i] >> 4)];
            }
        }
    }
}

/// Half of an unsigned E4M3: the sign is not looked at, and 7F is 0.
#[inline(always)]
fn half_e4m3(s: u8) -> f32 {
    let (e, m) = (u32::from(s >> 3 & 15), u32::from(s & 7));
    match (e, m) {
        _ if s == 0x7f => 0.0,
        // Subnormal: m 2^-9.
        (0, m) => m as f32 * f32::from_bits((127 - 10) << 23),
        (e, m) => f32::from_bits((e + 127 - 8) << 23 | m << 20),
    }
}

vectorised! {
    /// `E4M3[s] * E2M1[n]`, a scale for 16 elements. What the tensor is multiplied by besides stands beside it.
    pub fn nvfp4(bytes: &[u8], out: &mut [f32]) {
        for ([s0, s1, s2, s3, qs @ ..], out) in bytes.as_chunks::<36>().0.iter().zip(out.as_chunks_mut::<64>().0) {
            for (t, s) in [*s0, *s1, *s2, *s3].into_iter().enumerate() {
                let d = half_e4m3(s);
                for u in 0..8 {
                    let q = qs[8 * t + u];
                    out[16 * t + u] = d * TWICE_E2M1[usize::from(q & 15)];
                    out[16 * t + u + 8] = d * TWICE_E2M1[usize::from(q >> 4)];
                }
            }
        }
    }
}

/// One element of a block of MXFP4.
#[inline]
pub fn mxfp4_at(block: &[u8], i: usize) -> f32 {
    let byte = block[1 + i % 16];
    half_e8m0(block[0]) * TWICE_E2M1[usize::from(if i < 16 { byte & 15 } else { byte >> 4 })]
}
