//! Every method there is: one line each.

use super::{Method, linear, passthrough, slerp, sparse};

/// All methods, in the order they are listed to users.
pub static METHODS: &[&dyn Method] = &[
    &passthrough::Passthrough,
    &linear::Linear,
    &slerp::Slerp,
    &sparse::TASK_ARITHMETIC,
    &sparse::TIES,
    &sparse::DARE_LINEAR,
    &sparse::DARE_TIES,
];

/// The method called `name`.
pub fn find(name: &str) -> Option<&'static dyn Method> {
    METHODS.iter().copied().find(|m| m.spec().name == name)
}
