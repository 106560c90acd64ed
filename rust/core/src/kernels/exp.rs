//! The exponential of many numbers at once, for products that are rounded to f32.

/// The error of [`exp`] and of the C library's together, relative; four times what it can be.
pub const ERROR: f64 = 1.0 / (1u64 << 48) as f64;
/// Up to here [`exp`] is what it says.
pub const MOST: f64 = 700.0;

/// 1.5 * 2^52: added to a number it leaves its whole part in the low bits.
const WHOLE: f64 = 6_755_399_441_055_744.0;
/// ln 2 in two parts; the first has zeros enough at its end that its multiples are exact.
const LN_2: [f64; 2] = [6.931_471_803_691_238e-1, 1.908_214_929_270_587_7e-10];
/// 1 / i!, from the twelfth down to the first: beyond, on |r| <= ln 2 / 2, lies less than 2^-52.
const INVERSE_FACTORIALS: [f64; 12] = [
    1.0 / 479_001_600.0,
    1.0 / 39_916_800.0,
    1.0 / 3_628_800.0,
    1.0 / 362_880.0,
    1.0 / 40_320.0,
    1.0 / 5_040.0,
    1.0 / 720.0,
    1.0 / 120.0,
    1.0 / 24.0,
    1.0 / 6.0,
    0.5,
    1.0,
];

/// e^x for x from -[`MOST`] to [`MOST`], within a few units of the last place, in a form that vectorises.
#[inline(always)]
pub fn exp(x: f64) -> f64 {
    let shifted = x * std::f64::consts::LOG2_E + WHOLE;
    let whole = shifted - WHOLE;
    let r = (x - whole * LN_2[0]) - whole * LN_2[1];
    let mut sum = INVERSE_FACTORIALS[0];
    for c in &INVERSE_FACTORIALS[1..] {
        sum = sum * r + c;
    }
    let power = f64::from_bits((shifted.to_bits() << 52).wrapping_add(1023 << 52));
    (sum * r + 1.0) * power
}

/// A product with a relative error below [`ERROR`], rounded to f32; NaN if what is true may round to another number.
#[inline(always)]
pub fn certain(product: f64) -> f32 {
    let (a, b) = ((product * (1.0 - ERROR)) as f32, (product * (1.0 + ERROR)) as f32);
    if a.to_bits() == b.to_bits() { a } else { f32::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four times nearer to the C library's than is asked.
    #[test]
    fn it_is_near_enough() {
        let worst = (-70_000..70_000).map(|i| f64::from(i) * 0.01 + 1e-7).map(|x| (exp(x) / x.exp() - 1.0).abs());
        assert!(worst.fold(0.0, f64::max) < ERROR / 4.0);
    }

    #[test]
    fn what_may_round_otherwise_is_told() {
        let between = f64::from(1.0f32) + f64::from(f32::EPSILON) / 2.0;
        assert!(certain(between).is_nan() && certain(between * (1.0 + ERROR / 2.0)).is_nan());
        assert!(certain(f64::NAN).is_nan());
        assert_eq!(certain(between * (1.0 + 4.0 * ERROR)), 1.0 + f32::EPSILON);
        assert_eq!(certain(0.0).to_bits(), 0);
    }
}
