//! Arithmetic on slices, compiled for AVX2 and for the baseline, chosen once at run time.
//!
//! No kernel uses fused multiply-add or an order of summation that depends on the instruction set: both versions
//! give the same bits.

pub mod arith;
pub mod cast;
pub mod reduce;
pub mod rng;
pub mod scratch;
pub mod select;
