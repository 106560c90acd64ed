//! The core of suture: checkpoints on disk are read, compared, merged and written in bounded memory.
//!
//! The flow is one way: a [`recipe`] is compiled with the headers of its [`checkpoint`]s into a [`plan`], which the
//! [`engine`] runs with the [`methods`] and their [`kernels`]. [`delta`] compares checkpoints.

pub mod checkpoint;
pub mod delta;
pub mod digest;
pub mod dtype;
pub mod engine;
pub mod error;
pub mod extract;
pub mod kernels;
pub mod methods;
pub mod model;
pub mod ops;
pub mod plan;
pub mod recipe;
pub mod sizes;
pub mod source;
pub mod view;
