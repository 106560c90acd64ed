//! What a checkpoint is, as far as its tensors' names, shapes and dtypes and its config.json tell: stacks of layers, heads, ties,
//! quantised weights.

pub mod anatomy;
pub mod attention;
pub mod coding;
pub mod config;
pub mod cuts;
pub mod families;
pub mod ggml;
pub mod ggml_names;
pub mod gguf;
pub mod lora;
pub mod names;
pub mod quantised;
pub mod roles;
pub mod slices;
pub mod tied;
