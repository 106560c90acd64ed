//! Between stored elements and f32: widening is exact (but for f64), narrowing rounds once, to nearest even.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::isa::vectorised;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// How elements are stored that can be read as numbers. What has none cannot be computed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 64-bit floats.
    F64,
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// The upper half of 32-bit floats.
    Bf16,
    /// Booleans, a byte each.
    Bool,
}

impl Element {
    /// How a dtype's elements are stored, if they can be read as numbers.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F64 => Some(Self::F64),
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 => Some(Self::Bf16),
            Dtype::Bool => Some(Self::Bool),
            _ => None,
        }
    }

    /// As [`Self::of`], where the plan has seen to it.
    ///
    /// # Errors
    /// [`Error::Bug`] for any other dtype.
    pub fn need(dtype: Dtype) -> Result<Self> {
        Self::of(dtype).ok_or_else(|| Error::bug(format!("{} was to be computed on", dtype.name())))
    }

    /// Bytes of an element.
    pub fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::Bool => 1,
        }
    }
}

/// What numbers are widened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Widen {
    /// To compute with in f32: what is made may be formed in f32 where it is of 16 bits.
    ToCompute,
    /// To be as near as f32 can be: f64 is rounded to nearest.
    ToNearest,
    /// To be rounded to 16 bits and nothing else: f64 is rounded to odd.
    ToOdd,
}

impl Widen {
    /// Widens the stored elements in `bytes`, which holds exactly `out.len()`.
    pub fn widen(self, element: Element, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::ToCompute | Self::ToNearest => widen(element, bytes, out),
            Self::ToOdd => widen_to_odd(element, bytes, out),
        }
    }
}

/// Widens the stored elements in `bytes` into `out`.
///
/// `bytes` holds exactly `out.len()` elements; f64 is rounded to f32.
pub fn widen(element: Element, bytes: &[u8], out: &mut [f32]) {
    debug_assert_eq!(bytes.len(), out.len() * element.bytes());
    match element {
        Element::Bf16 => widen_bf16(bytes, out),
        Element::F16 => {
            let mut halves = [f16::ZERO; 256];
            for (chunk, out) in bytes.chunks(512).zip(out.chunks_mut(256)) {
                let halves = &mut halves[..out.len()];
                for (h, b) in halves.iter_mut().zip(chunk.chunks_exact(2)) {
                    *h = f16::from_le_bytes([b[0], b[1]]);
                }
                halves.convert_to_f32_slice(out);
            }
        }
        Element::F64 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
                *o = f64::from_le_bytes(*b) as f32;
            }
        }
        Element::Bool => {
            for (o, b) in out.iter_mut().zip(bytes) {
                *o = f32::from(u8::from(*b != 0));
            }
        }
        Element::F32 => {
            for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *o = f32::from_le_bytes(*b);
            }
        }
    }
}

/// Widens stored elements that will be rounded to 16 bits and nothing else: f64 is rounded to f32 to odd, so that the second
/// rounding gives what one rounding would (Boldo and Melquiond, Emulation of FMA and correctly rounded sums, 2008).
pub fn widen_to_odd(element: Element, bytes: &[u8], out: &mut [f32]) {
    if element != Element::F64 {
        return widen(element, bytes, out);
    }
    for (o, b) in out.iter_mut().zip(bytes.as_chunks::<8>().0) {
        let exact = f64::from_le_bytes(*b);
        let near = exact as f32;
        let back = f64::from(near);
        *o = if back == exact || exact.is_nan() || exact.is_infinite() {
            near
        } else {
            // Towards zero, and the last bit set: it says that something was cut off.
            let below = if back.abs() > exact.abs() { near.to_bits() - 1 } else { near.to_bits() };
            f32::from_bits(below | 1)
        };
    }
}

/// Rounds `values` into stored elements of `dtype`, to nearest even; NaN stays NaN, overflow becomes infinite.
///
/// `bytes` has room for exactly `values.len()` elements; as booleans, all but 0 is true.
pub fn narrow(element: Element, values: &[f32], bytes: &mut [u8]) {
    debug_assert_eq!(bytes.len(), values.len() * element.bytes());
    match element {
        Element::Bf16 => narrow_bf16(values, bytes),
        Element::F16 => {
            let mut halves = [f16::ZERO; 256];
            for (values, chunk) in values.chunks(256).zip(bytes.chunks_mut(512)) {
                let halves = &mut halves[..values.len()];
                halves.convert_from_f32_slice(values);
                for (h, b) in halves.iter().zip(chunk.chunks_exact_mut(2)) {
                    b.copy_from_slice(&h.to_le_bytes());
                }
            }
        }
        Element::F64 => {
            for (v, b) in values.iter().zip(bytes.as_chunks_mut::<8>().0) {
                *b = f64::from(*v).to_le_bytes();
            }
        }
        Element::Bool => {
            for (v, b) in values.iter().zip(bytes) {
                *b = u8::from(*v != 0.0);
            }
        }
        Element::F32 => {
            for (v, b) in values.iter().zip(bytes.as_chunks_mut::<4>().0) {
                *b = v.to_le_bytes();
            }
        }
    }
}

vectorised! {
    fn widen_bf16(bytes: &[u8], out: &mut [f32]) {
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            *o = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16);
        }
    }
}

vectorised! {
    fn narrow_bf16(values: &[f32], bytes: &mut [u8]) {
        for (v, b) in values.iter().zip(bytes.as_chunks_mut::<2>().0) {
            let bits = v.to_bits();
            let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1));
            let nan = bits & 0x7fff_ffff > 0x7f80_0000;
            let top = if nan { (bits >> 16) | 0x40 } else { rounded >> 16 };
            *b = (top as u16).to_le_bytes();
        }
    }
}

/// Index of the first NaN or infinite element of `bytes`, if `dtype` computes and there is one.
pub fn first_nonfinite(dtype: Dtype, bytes: &[u8]) -> Option<usize> {
    /// Elements tested together before looking for which one it was.
    const RUN: usize = 1024;
    let width = if dtype.computes() { dtype.bytes() } else { return None };
    for (i, run) in bytes.chunks(RUN * width).enumerate() {
        let bad = match dtype {
            Dtype::Bf16 => any_16(run, 0x7f80),
            Dtype::F16 => any_16(run, 0x7c00),
            Dtype::F32 => any_32(run),
            _ => run.as_chunks::<8>().0.iter().any(|b| !f64::from_le_bytes(*b).is_finite()),
        };
        if bad {
            let at = run.chunks_exact(width).position(|b| match dtype {
                Dtype::Bf16 => any_16(b, 0x7f80),
                Dtype::F16 => any_16(b, 0x7c00),
                Dtype::F32 => any_32(b),
                _ => b.as_chunks::<8>().0.iter().any(|b| !f64::from_le_bytes(*b).is_finite()),
            });
            return at.map(|at| i * RUN + at);
        }
    }
    None
}

vectorised! {
    fn any_16(bytes: &[u8], exponent: u16) -> bool {
        let mut bad = 0u16;
        for b in bytes.as_chunks::<2>().0 {
            bad |= u16::from(u16::from_le_bytes(*b) & exponent == exponent);
        }
        bad != 0
    }
}

vectorised! {
    fn any_32(bytes: &[u8]) -> bool {
        let mut bad = 0u32;
        for b in bytes.as_chunks::<4>().0 {
            bad |= u32::from(u32::from_le_bytes(*b) & 0x7f80_0000 == 0x7f80_0000);
        }
        bad != 0
    }
}

vectorised! {
    /// Whether a value is NaN or infinite.
    pub fn any_nonfinite(values: &[f32]) -> bool {
        let largest = values.iter().fold(0, |most: u32, v| most.max(v.to_bits() & 0x7fff_ffff));
        largest >= 0x7f80_0000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOATS: [Dtype; 4] = [Dtype::Bf16, Dtype::F16, Dtype::F32, Dtype::F64];

    #[test]
    fn every_16_bit_pattern_survives_the_round_trip() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut wide = vec![0f32; 65536];
            widen(Element::of(dtype).unwrap(), &bytes, &mut wide);
            let mut back = vec![0u8; bytes.len()];
            narrow(Element::of(dtype).unwrap(), &wide, &mut back);
            for (i, w) in wide.iter().enumerate() {
                if !w.is_nan() {
                    assert_eq!(back[2 * i..2 * i + 2], bytes[2 * i..2 * i + 2], "{dtype:?} {i:04x}");
                }
            }
        }
    }

    proptest::proptest! {
        /// Law 2: one rounding, to nearest even, as the `half` crate does it one element at a time.
        #[test]
        fn narrowing_rounds_to_nearest_even(bits in proptest::collection::vec(proptest::num::u32::ANY, 1..600)) {
            let values: Vec<f32> = bits.iter().map(|b| f32::from_bits(*b)).collect();
            let mut bytes = vec![0; values.len() * 2];
            narrow(Element::Bf16, &values, &mut bytes);
            for (v, b) in values.iter().zip(bytes.chunks_exact(2)) {
                proptest::prop_assert_eq!(half::bf16::from_f32(*v).to_le_bytes(), [b[0], b[1]]);
            }
            narrow(Element::F16, &values, &mut bytes);
            for (v, b) in values.iter().zip(bytes.chunks_exact(2)) {
                let got = f16::from_le_bytes([b[0], b[1]]);
                let want = f16::from_f32(*v);
                proptest::prop_assert!(got == want || (got.is_nan() && want.is_nan()));
            }
        }
    }

    proptest::proptest! {
        /// Law 2: f64 is rounded once on its way to 16 bits: to the nearest of the neighbours, of two the even one. (The
        /// `half` crate is no oracle here: it looks at the upper 32 bits alone.)
        #[test]
        fn f64_is_rounded_once(bits in proptest::collection::vec(proptest::num::u64::ANY, 1..200), near in -60000f64..60000.0) {
            let mut values: Vec<f64> = bits.iter().map(|b| f64::from_bits(*b)).collect();
            // Near halves, where two roundings go wrong.
            values.extend([1.0 + 2f64.powi(-9) + 2f64.powi(-40), 1.0 + 2f64.powi(-12) - 2f64.powi(-45), near, -1e-50]);
            let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
            let mut wide = vec![0f32; values.len()];
            widen_to_odd(Element::F64, &bytes, &mut wide);
            let mut narrowed = vec![0; values.len() * 2];
            for (element, most, exact) in [
                (Element::F16, 65504.0, (|b| f16::from_bits(b).to_f64()) as fn(u16) -> f64),
                (Element::Bf16, 3.389e38, |b| half::bf16::from_bits(b).to_f64()),
            ] {
                narrow(element, &wide, &mut narrowed);
                for (v, b) in values.iter().zip(narrowed.chunks_exact(2)).filter(|(v, _)| v.abs() < most) {
                    let got = u16::from_le_bytes([b[0], b[1]]);
                    let size = got & 0x7fff;
                    let away = |b: u16| (v.abs() - exact(b)).abs();
                    let nearest = [size.saturating_sub(1), size + 1].iter().all(|other| {
                        *other == size || away(size) < away(*other) || (away(size) == away(*other) && size % 2 == 0)
                    });
                    proptest::prop_assert!(nearest && (got >> 15 == 1) == v.is_sign_negative(), "{:e} {:04x}", v, got);
                }
            }
        }
    }

    #[test]
    fn the_first_nonfinite_element_is_found() {
        for dtype in FLOATS {
            let mut values = vec![1.5f32; 5000];
            let mut bytes = vec![0; 5000 * dtype.bytes()];
            narrow(Element::of(dtype).unwrap(), &values, &mut bytes);
            assert_eq!(first_nonfinite(dtype, &bytes), None);
            for at in [0, 1023, 1024, 4999] {
                values[at] = if at % 2 == 0 { f32::NAN } else { f32::NEG_INFINITY };
                narrow(Element::of(dtype).unwrap(), &values, &mut bytes);
                assert_eq!(first_nonfinite(dtype, &bytes), Some(at), "{dtype:?}");
                values[at] = 1.5;
            }
        }
        assert_eq!(first_nonfinite(Dtype::I64, &[0xff; 16]), None);
    }
}
