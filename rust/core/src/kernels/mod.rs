//! Arithmetic on slices, compiled for each instruction set ([`isa`]), of which one is chosen once at run time.
//!
//! No kernel has an order of summation that depends on the instruction set, or fuses a product and a sum where it does not say so
//! (`mul_add`): all versions give the same bits.

pub mod arith;
mod bounds;
pub mod cast;
pub mod changes;
pub mod codes;
pub mod encode;
pub mod exp;
pub mod ggml;
pub mod isa;
pub mod leading;
pub mod linalg;
pub mod low_rank;
pub mod packed;
pub mod reduce;
pub mod rng;
pub mod scratch;
pub mod search;
pub mod select;
mod wanted;
