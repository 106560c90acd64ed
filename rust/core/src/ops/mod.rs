//! Surgery that mostly moves tensors as they are: one file each.

pub mod swap;
