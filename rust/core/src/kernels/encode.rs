//! Numbers made codes of small floats.

use std::sync::atomic::{AtomicU32, Ordering};

use super::isa::vectorised;

/// The largest number of the 8-bit form (E4M3).
const MOST: f32 = 448.0;
/// Rows and columns of a tile.
const TILE: usize = 128;
/// A power of two that the values of a tile of next to nothing are multiplied by: 448 over their magnitude is no f32.
const LARGEST: f32 = f32::from_bits(0x7F00_0000);

/// By what the values of a tile are multiplied, by its largest magnitude: `448 / peak`, as torch divides a number by a tensor (the
/// reciprocal, then the product); 1 where all is zero; 0 where something is not finite, so that this alone is found at fault.
pub fn rate(peak: f32) -> f32 {
    match peak {
        0.0 => 1.0,
        peak if !peak.is_finite() => 0.0,
        peak => (1.0 / peak * MOST).min(LARGEST),
    }
}

/// By what the codes of a tile are multiplied again; NaN where something is not finite.
pub fn scale(peak: f32) -> f32 {
    if peak.is_finite() { 1.0 / rate(peak) } else { f32::NAN }
}

/// Calls `f` with the runs of values that lie in one row of one tile: where they are in a slice that begins at `start` of a tensor,
/// and the number of the tile.
#[inline(always)]
fn by_tile(len: usize, start: usize, columns: usize, mut f: impl FnMut(std::ops::Range<usize>, usize)) {
    let across = columns / TILE;
    let (mut row, mut column) = (start / columns, start % columns);
    let mut at = 0;
    while at < len {
        let end = (at + TILE - column % TILE).min(len);
        f(at..end, row / TILE * across + column / TILE);
        column += end - at;
        at = end;
        if column == columns {
            (row, column) = (row + 1, 0);
        }
    }
}

vectorised! {
    /// Raises the peak of each tile to the largest magnitude, as bits, among `values`, which begin at `start` of a tensor `columns` wide.
    /// NaN is larger than infinity, and that than any number.
    pub fn peaks(values: &[f32], start: usize, columns: usize, seen: &[AtomicU32]) {
        by_tile(values.len(), start, columns, |own, tile| {
            let peak = values[own].iter().fold(0, |most, v| (v.to_bits() & 0x7FFF_FFFF).max(most));
            if let Some(seen) = seen.get(tile).filter(|s| s.load(Ordering::Relaxed) < peak) {
                seen.fetch_max(peak, Ordering::Relaxed);
            }
        });
    }
}

vectorised! {
    /// Multiplies the values of each tile by its rate; what is not finite becomes NaN.
    pub fn timed(values: &mut [f32], start: usize, columns: usize, rates: &[f32]) {
        by_tile(values.len(), start, columns, |own, tile| {
            let rate = rates.get(tile).copied().unwrap_or(0.0);
            values[own].iter_mut().for_each(|v| *v *= rate);
        });
    }
}

vectorised! {
    /// Rounds to E4M3, to the nearest and of two to the even one; what is larger than the largest becomes the largest, NaN stays NaN.
    pub fn e4m3(values: &[f32], out: &mut [u8]) {
        for (o, v) in out.iter_mut().zip(values) {
            let bits = v.to_bits();
            let (sign, magnitude) = ((bits >> 24) & 0x80, f32::from_bits(bits & 0x7FFF_FFFF));
            let clamped = if magnitude > MOST { MOST } else { magnitude };
            let b = clamped.to_bits();
            // From 2^-6 on three bits of the fraction stay, and the exponent begins at another number.
            let normal = ((b + 0x7_FFFF + ((b >> 20) & 1)) >> 20).wrapping_sub((127 - 7) << 3);
            // Below, steps of 2^-9: what is added makes them the last bit of an f32.
            let small = (clamped + 16384.0).to_bits().wrapping_sub(16384f32.to_bits());
            let code = if clamped < 0.015625 { small } else { normal };
            *o = (sign | if v.is_nan() { 0x7F } else { code }) as u8;
        }
    }
}

/// The largest magnitude of some values, as bits.
#[inline(always)]
fn peak_of(values: &[f32; GROUP]) -> u32 {
    values.iter().fold(0, |most, v| (v.to_bits() & 0x7FFF_FFFF).max(most))
}

/// Values that share a scale in the 4-bit form and in GGML's 8-bit blocks.
pub const GROUP: usize = 32;

/// The exponent of a group's scale by its largest magnitude: the power of two in it, the next from 1.75 times that on, over 4.
#[inline(always)]
fn exponent_of(peak: u32) -> u8 {
    (((peak + (1 << 21)) >> 23).saturating_sub(2)) as u8
}

vectorised! {
    /// The byte of exponent of each group.
    pub fn mxfp4_scales(values: &[f32], out: &mut [u8]) {
        for (o, group) in out.iter_mut().zip(values.as_chunks::<GROUP>().0) {
            *o = exponent_of(peak_of(group));
        }
    }
}

/// By what the values of a group are multiplied: never beyond 2^127, for the exponent is at least 0.
#[inline(always)]
fn over_mxfp4(group: &[f32; GROUP]) -> f32 {
    f32::from_bits((254 - u32::from(exponent_of(peak_of(group)))) << 23)
}

vectorised! {
    /// The codes of each group, two in a byte, the lower half first: the nearest 4-bit floats of the values over the scale, of two the
    /// even one; what is larger than the largest becomes the largest.
    pub fn mxfp4_codes(values: &[f32], out: &mut [u8]) {
        for (out, group) in out.as_chunks_mut::<{ GROUP / 2 }>().0.iter_mut().zip(values.as_chunks::<GROUP>().0) {
            let over = over_mxfp4(group);
            for (o, pair) in out.iter_mut().zip(group.as_chunks::<2>().0) {
                *o = e2m1(pair[0] * over) | (e2m1(pair[1] * over) << 4);
            }
        }
    }
}

/// The nearest 4-bit float's code.
#[inline(always)]
fn e2m1(value: f32) -> u8 {
    let m = value.abs();
    let code = u8::from(m > 0.25)
        + u8::from(m >= 0.75)
        + u8::from(m > 1.25)
        + u8::from(m >= 1.75)
        + u8::from(m > 2.5)
        + u8::from(m >= 3.5)
        + u8::from(m > 5.0);
    code | ((value.to_bits() >> 28) as u8 & 8)
}

/// Bytes of a block of [`q8_0`].
pub const Q8_0: usize = 2 + GROUP;

vectorised! {
    /// Blocks of GGML's Q8_0: an f16 scale, the largest magnitude over 127, and 32 integers: each value over the scale before that was
    /// rounded, to the nearest, halves away from zero.
    pub fn q8_0(values: &[f32], out: &mut [u8]) {
        for (out, group) in out.as_chunks_mut::<Q8_0>().0.iter_mut().zip(values.as_chunks::<GROUP>().0) {
            let (scale, over) = of_q8_0(group);
            let (head, codes) = out.split_at_mut(2);
            head.copy_from_slice(&half::f16::from_f32(scale).to_le_bytes());
            codes.iter_mut().zip(group).for_each(|(o, v)| *o = whole(v * over));
        }
    }
}

/// The scale of a block, and by what its values are multiplied: 0 of zeros, and of next to zeros, whose scale is none.
#[inline(always)]
fn of_q8_0(group: &[f32; GROUP]) -> (f32, f32) {
    let scale = f32::from_bits(peak_of(group)) / 127.0;
    let over = 1.0 / scale;
    (scale, if over.is_finite() { over } else { 0.0 })
}

/// The nearest whole number, halves away from zero.
#[inline(always)]
fn whole(times: f32) -> u8 {
    let whole = times.abs() as i32;
    let up = whole + i32::from(times.abs() - whole as f32 >= 0.5);
    (if times < 0.0 { -up } else { up }) as i8 as u8
}

/// Of values that are encoded: how many are others than those `before`, and how many of these get the code that the value before
/// would have in their place, with their scale. Groups are whole.
pub fn back(form: Back, values: &[f32], before: &[f32]) -> [u64; 2] {
    let mut found = [0; 2];
    let mut add = |v: f32, b: f32, codes: [u8; 2], magnitude: u8| {
        let same = codes[0] == codes[1] || (codes[0] | codes[1]) & magnitude == 0;
        found[0] += u64::from(v != b);
        found[1] += u64::from(v != b && same);
    };
    for (values, before) in values.chunks(GROUP).zip(before.chunks(GROUP)) {
        let group: [f32; GROUP] = std::array::from_fn(|i| values.get(i).copied().unwrap_or(0.0));
        let mut codes = [[0u8; GROUP]; 2];
        match form {
            Back::E4m3 => {
                e4m3(values, &mut codes[0]);
                e4m3(before, &mut codes[1]);
            }
            Back::Mxfp4 | Back::Q8_0 => {
                let fp4 = form == Back::Mxfp4;
                let over = if fp4 { over_mxfp4(&group) } else { of_q8_0(&group).1 };
                for (codes, own) in codes.iter_mut().zip([values, before]) {
                    let code = |v: f32| if fp4 { e2m1(v * over) } else { whole(v * over) };
                    codes.iter_mut().zip(own).for_each(|(c, v)| *c = code(*v));
                }
            }
        }
        let magnitude = [0x7F, 7, 0xFF][form as usize];
        for (i, (v, b)) in values.iter().zip(before).enumerate() {
            add(*v, *b, [codes[0][i], codes[1][i]], magnitude);
        }
    }
    found
}

/// What codes [`back`] is asked about; of the first, values times the rates of their tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// E4M3.
    E4m3,
    /// The 4-bit form.
    Mxfp4,
    /// GGML's 8-bit blocks.
    Q8_0,
}

/// The first block whose scale is no f16.
pub fn too_large(blocks: &[u8]) -> Option<usize> {
    blocks.as_chunks::<Q8_0>().0.iter().position(|b| b[1] & 0x7C == 0x7C)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::kernels::codes::floats;

    /// Law: every code, the midpoints between codes (to the even one) and their neighbours round to the nearest.
    #[test]
    fn codes_are_the_nearest() {
        let table = floats(Dtype::F8E4m3);
        let one = |v: f32| {
            let mut out = [0];
            e4m3(&[v], &mut out);
            out[0]
        };
        for code in 0..0x7Eu8 {
            let (low, high) = (table[usize::from(code)], table[usize::from(code) + 1]);
            let middle = (low + high) / 2.0;
            assert_eq!((one(low), one(-high)), (code, (code + 1) | 0x80));
            assert_eq!(one(middle), code + (code & 1), "{middle}");
            assert_eq!(one(f32::from_bits(middle.to_bits() - 1)), code);
            assert_eq!(one(f32::from_bits(middle.to_bits() + 1)), code + 1);
        }
        assert_eq!((one(1e30), one(-1e30), one(f32::NAN) & 0x7F, one(-0.0)), (0x7E, 0xFE, 0x7F, 0x80));
    }

    #[test]
    fn tiles_of_nothing_and_of_next_to_nothing() {
        assert_eq!((rate(0.0), scale(0.0)), (1.0, 1.0));
        assert_eq!((rate(1e-40), scale(1e-40)), (2f32.powi(127), 2f32.powi(-127)));
        assert!(rate(f32::INFINITY) == 0.0 && scale(f32::NAN).is_nan());
    }

    /// Law: the example of the formats' reference, and halves.
    #[test]
    fn groups_by_hand() {
        let mut values = [0f32; GROUP];
        values[..8].copy_from_slice(&[7.0, -0.5, 0.25, -0.25, 0.0, -0.0, 2.5, 5.0]);
        let (mut scale, mut codes) = ([0], [0; GROUP / 2]);
        mxfp4_scales(&values, &mut scale);
        mxfp4_codes(&values, &mut codes);
        assert_eq!((scale[0], &codes[..4]), (128, &[0x86, 0x80, 0x80, 0x42][..]));
        assert_eq!((exponent_of(0), exponent_of(1.0f32.to_bits()), exponent_of(1.75f32.to_bits())), (0, 125, 126));
        let steps = [0.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 9.0];
        assert_eq!(steps.map(e2m1), [0, 0, 2, 2, 4, 4, 6, 6, 7]);
        values = [0.0; GROUP];
        values[..4].copy_from_slice(&[127.0, 0.5, -1.5, -0.49]);
        let mut block = [0; Q8_0];
        q8_0(&values, &mut block);
        assert_eq!(block[..7], [0, 0x3C, 127, 1, 254, 0, 0]);
    }
}
