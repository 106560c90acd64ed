//! The block types of GGML: from the bytes of whole blocks to f32, in the order in which the elements lie in a row.
//!
//! Pure functions. In every type all products are exact in f32 (a scale of 11 bits, an integer scale and a code come to 24 bits at
//! most), and only the last addition or subtraction of those with a minimum rounds; so nothing depends on the instruction set.

#![allow(
    clippy::needless_range_loop,
    reason = "one index goes over codes, high bits and elements, which lie in different orders"
)]

mod four;
mod k;
mod plain;
mod small;

pub use four::{iq4_nl, iq4_xs, mxfp4, mxfp4_at, nvfp4};
pub use k::{q2_k, q3_k, q4_k, q5_k, q6_k, q8_k};
pub use plain::{q4_0, q4_1, q5_0, q5_1, q8_0};
pub use small::{q1_0, tq1_0, tq2_0};

/// An f16 widened, exactly. The `half` crate asks the processor each time what it can do; here a block has one or two of them.
#[inline(always)]
fn half(low: u8, high: u8) -> f32 {
    let bits = u32::from(u16::from_le_bytes([low, high]));
    let size = (bits & 0x7fff) << 13;
    // The exponent of an f16 counts from 15, that of an f32 from 127; what is subnormal becomes normal by the product.
    let wide = if size >= 0x7c00 << 13 { size | 0x7f80_0000 } else { (f32::from_bits(size) * TWO_112).to_bits() };
    f32::from_bits(wide | (bits & 0x8000) << 16)
}

/// 2^112.
const TWO_112: f32 = f32::from_bits((112 + 127) << 23);

#[cfg(test)]
mod tests;
