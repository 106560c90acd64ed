//! What a checkpoint is, as far as its tensors' names, shapes and dtypes and its config.json tell: stacks of layers, heads, ties,
//! quantised weights.

pub mod anatomy;
pub mod attention;
pub mod config;
pub mod cuts;
pub mod families;
pub mod lora;
pub mod names;
pub mod roles;
pub mod slices;
pub mod tied;
