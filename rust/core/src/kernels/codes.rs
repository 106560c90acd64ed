//! Small floats and integers made f32: tables of what a code stands for, and loops that multiply by a scale.

use super::isa::vectorised;
use crate::dtype::Dtype;

/// The 4-bit floats (E2M1).
pub const E2M1: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// `2^(byte - 127)`; 255 is NaN (E8M0).
#[inline]
pub const fn exponent(byte: u8) -> f32 {
    match byte {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits((byte as u32) << 23),
    }
}

/// An 8-bit float with `exponent` bits of exponent, `bias`, and infinities if `infinite`; else, and without a negative zero, a float
/// whose NaN is 0x7f (with either sign) or, of a bias of one more (`fnuz`), 0x80.
#[inline]
pub fn float8(byte: u8, exponent: u32, bias: i32, infinite: bool) -> f32 {
    let mantissa = 7 - exponent;
    let (e, m) = (i32::from(byte & 0x7f) >> mantissa, u32::from(byte) & ((1 << mantissa) - 1));
    let fnuz = bias == 1 << (exponent - 1);
    let last = e == (1 << exponent) - 1;
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0f32 };
    if (fnuz && byte == 0x80) || (infinite && last && m != 0) || (!fnuz && !infinite && byte & 0x7f == 0x7f) {
        return f32::NAN;
    }
    if infinite && last {
        return sign * f32::INFINITY;
    }
    let significand = if e == 0 { m as f32 } else { (m + (1 << mantissa)) as f32 };
    // A power of two from its exponent: all here are normal f32.
    let power = e.max(1) - bias - mantissa as i32;
    sign * significand * f32::from_bits(((power + 127) as u32) << 23)
}

/// What every byte stands for as an 8-bit float of this dtype.
pub fn floats(dtype: Dtype) -> [f32; 256] {
    let one = |byte: u8| match dtype {
        Dtype::F8E5m2 => float8(byte, 5, 15, true),
        Dtype::F8E4m3Fnuz => float8(byte, 4, 8, false),
        Dtype::F8E5m2Fnuz => float8(byte, 5, 16, false),
        Dtype::F8E8m0 => exponent(byte),
        _ => float8(byte, 4, 7, false),
    };
    std::array::from_fn(|byte| one(byte as u8))
}

/// What every byte stands for as a signed integer.
pub fn integers() -> [f32; 256] {
    std::array::from_fn(|byte| f32::from(byte as u8 as i8))
}

/// The two values that every byte stands for of a table of 16, the low one first.
pub fn pairs(table: &[f32; 16]) -> [[f32; 2]; 256] {
    std::array::from_fn(|byte| [table[byte & 15], table[byte >> 4]])
}

vectorised! {
    /// `table[code] * scale`.
    pub fn scaled(codes: &[u8], table: &[f32; 256], scale: f32, out: &mut [f32]) {
        for (o, c) in out.iter_mut().zip(codes) {
            *o = table[usize::from(*c)] * scale;
        }
    }
}

vectorised! {
    /// `E4M3 * scale`, without a table: looking up sixteen at once takes as long as one by one.
    pub fn scaled_e4m3(codes: &[u8], scale: f32, out: &mut [f32]) {
        // The exponent of an E4M3 counts from 7, that of an f32 from 127.
        const NORMAL: u32 = (127 - 7) << 23;
        const LEAST: f32 = 1.0 / 64.0;
        for (o, c) in out.iter_mut().zip(codes) {
            let (size, sign) = (u32::from(*c & 0x7f), u32::from(*c & 0x80) << 24);
            // Below the least exponent the fraction is what is beyond one of it.
            let small = f32::from_bits((size << 20) + NORMAL + (1 << 23)) - LEAST;
            let value = if size < 8 { small.to_bits() } else { (size << 20) + NORMAL };
            let value = if size == 0x7f { 0x7fc0_0000 } else { value };
            *o = f32::from_bits(value | sign) * scale;
        }
    }
}

vectorised! {
    /// `(table[code] - zero) * scale`.
    pub fn scaled_from(codes: &[u8], table: &[f32; 256], zero: f32, scale: f32, out: &mut [f32]) {
        for (o, c) in out.iter_mut().zip(codes) {
            *o = (table[usize::from(*c)] - zero) * scale;
        }
    }
}

vectorised! {
    /// `table[code] * scale`, each with a scale of its own.
    pub fn scaled_each(codes: &[u8], table: &[f32; 256], scales: &[f32], out: &mut [f32]) {
        for ((o, c), s) in out.iter_mut().zip(codes).zip(scales) {
            *o = table[usize::from(*c)] * s;
        }
    }
}

vectorised! {
    /// Both values of each byte times `scale`.
    pub fn scaled_pairs(codes: &[u8], table: &[[f32; 2]; 256], scale: f32, out: &mut [f32]) {
        for (o, c) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
            let pair = table[usize::from(*c)];
            *o = [pair[0] * scale, pair[1] * scale];
        }
    }
}

vectorised! {
    /// `(field - zero) * scale` of the eight 4-bit fields of each word, the lowest first.
    pub fn scaled_nibbles(words: &[[u8; 4]], zero: i32, scale: f32, out: &mut [f32]) {
        for (o, w) in out.as_chunks_mut::<8>().0.iter_mut().zip(words) {
            let w = u32::from_le_bytes(*w);
            for (k, o) in o.iter_mut().enumerate() {
                *o = (((w >> (4 * k)) & 15) as i32 - zero) as f32 * scale;
            }
        }
    }
}

vectorised! {
    /// `(byte - zero) * scale`.
    pub fn scaled_bytes(codes: &[u8], zero: i32, scale: f32, out: &mut [f32]) {
        for (o, c) in out.iter_mut().zip(codes) {
            *o = (i32::from(*c) - zero) as f32 * scale;
        }
    }
}

/// Groups whose zero points and scales [`scaled_groups`] finds by a byte, which needs no look at the end of a table.
pub const FEW: usize = 256;

vectorised! {
    /// `(field - zero[g]) * scale[g]` of the eight 4-bit fields of each word, the lowest first, each of a group `g` of its own, of
    /// which there are [`FEW`] at most. One by one, with the end of the table looked at each time, it took 2 ns longer.
    pub fn scaled_groups(words: &[[u8; 4]], groups: &[[u8; 4]], of: &[(i32, f32); FEW], out: &mut [f32]) {
        let groups = groups.as_chunks::<8>().0;
        for ((o, w), g) in out.as_chunks_mut::<8>().0.iter_mut().zip(words).zip(groups) {
            let w = u32::from_le_bytes(*w);
            for k in 0..8 {
                let (zero, scale) = of[usize::from(g[k][0])];
                o[k] = (((w >> (4 * k)) & 15) as i32 - zero) as f32 * scale;
            }
        }
    }
}

vectorised! {
    /// `(field - zero) * scale` of the 4-bit field at `shift` of each word.
    pub fn scaled_column(words: &[[u8; 4]], shift: u32, zero: i32, scale: f32, out: &mut [f32]) {
        for (o, w) in out.iter_mut().zip(words) {
            *o = (((u32::from_le_bytes(*w) >> shift) & 15) as i32 - zero) as f32 * scale;
        }
    }
}

vectorised! {
    /// `E2M1 * 2^(e - 127)` of the 4-bit floats at `shift` of each byte, each with an exponent of its own.
    pub fn scaled_halves(codes: &[u8], shift: u32, exponents: &[u8], out: &mut [f32]) {
        for ((o, c), e) in out.iter_mut().zip(codes).zip(exponents) {
            let e = u32::from(*e);
            let bits = if e == 0 { 1 << 22 } else { e << 23 };
            let scale = f32::from_bits(if e == 255 { 0x7fc0_0000 } else { bits });
            // A table of 16 would be looked up element by element.
            let c = u32::from((*c >> shift) & 15);
            let (m, e) = (c & 1, (c >> 1) & 3);
            let halves = (m | (u32::from(e != 0) << 1)) << e.saturating_sub(1);
            let value = halves as i32 as f32 * 0.5;
            *o = f32::from_bits(value.to_bits() | ((c & 8) << 28)) * scale;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_8_bits_are_what_the_standard_says() {
        let e4m3 = floats(Dtype::F8E4m3);
        assert_eq!((e4m3[0x7e], e4m3[0x08], e4m3[0x01], e4m3[0xfe]), (448.0, 1.0 / 64.0, 1.0 / 512.0, -448.0));
        assert!(e4m3[0x7f].is_nan() && e4m3[0xff].is_nan());
        let e5m2 = floats(Dtype::F8E5m2);
        assert_eq!((e5m2[0x7b], e5m2[0x7c], e5m2[0xfc]), (57344.0, f32::INFINITY, f32::NEG_INFINITY));
        assert!(e5m2[0x7d].is_nan() && e5m2[0xff].is_nan());
        assert_eq!(e5m2[0x01], 2f32.powi(-16));
        let (fnuz, other) = (floats(Dtype::F8E4m3Fnuz), floats(Dtype::F8E5m2Fnuz));
        assert_eq!((fnuz[0x7f], fnuz[0x08], other[0x7f], other[0x01]), (240.0, 1.0 / 128.0, 57344.0, 2f32.powi(-17)));
        assert!(fnuz[0x80].is_nan() && other[0x80].is_nan());
        let (all, mut found): (Vec<u8>, _) = ((0..=255).collect(), [0f32; 256]);
        scaled_e4m3(&all, 0.3, &mut found);
        let same = |i: usize| found[i].to_bits() == (e4m3[i] * 0.3).to_bits() || found[i].is_nan() && e4m3[i].is_nan();
        assert!((0..256).all(same));
        let codes: Vec<u8> = (0..16).collect();
        let mut out = [0f32; 16];
        scaled_halves(&codes, 0, &[127; 16], &mut out);
        assert_eq!(out.map(f32::to_bits), E2M1.map(f32::to_bits));
        assert_eq!((exponent(0), exponent(127), exponent(254)), (2f32.powi(-127), 1.0, 2f32.powi(127)));
    }
}
