//! What a checkpoint is, as far as its tensors' names and dtypes tell: layers, heads, ties, quantised weights.

pub mod families;
pub mod names;
pub mod slices;
pub mod tied;
