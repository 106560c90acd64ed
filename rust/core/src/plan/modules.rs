//! Which tensor belongs to which module of a recipe with `modules`.

use super::Models;
use crate::error::{Error, Result};
use crate::recipe::Part;

/// The modules of a recipe. A tensor belongs to the one whose name is a part of its own between dots (`vision_tower`,
/// `encoder`); the one module that names no tensor (`text_decoder`, `default`) has all others.
pub struct ByModule<'a> {
    names: Vec<&'a str>,
    rest: Option<usize>,
}

impl<'a> ByModule<'a> {
    /// Sorts the tensors of `models` among `parts`.
    ///
    /// # Errors
    /// [`Error::Recipe`] if two modules name no tensor, or a tensor has no module.
    pub fn new(parts: &'a [Part], models: &Models) -> Result<Self> {
        let names: Vec<&str> = parts.iter().filter_map(|p| p.name.as_deref()).collect();
        let mut by = Self { names, rest: None };
        if by.names.len() < 2 {
            by.names.clear();
            return Ok(by);
        }
        let mut seen = vec![false; by.names.len()];
        let mut other = None;
        for tensor in models.checkpoints.iter().flat_map(|c| &c.tensors) {
            match by.named(&tensor.name) {
                Some(i) => seen[i] = true,
                None => other = Some(&tensor.name),
            }
        }
        let unseen: Vec<usize> = (0..seen.len()).filter(|i| !seen[*i]).collect();
        match (&unseen[..], other) {
            ([], Some(name)) => Err(Error::recipe(
                "modules",
                format!("tensor `{name}` belongs to no module; add `default` for the rest"),
            )),
            ([rest], _) => Ok(Self { rest: Some(*rest), ..by }),
            ([], None) => Ok(by),
            ([first, second, ..], _) => Err(Error::recipe(
                "modules",
                format!(
                    "no tensor name holds `{}` or `{}`; only one module can stand for the rest",
                    by.names[*first], by.names[*second]
                ),
            )),
        }
    }

    fn named(&self, tensor: &str) -> Option<usize> {
        tensor.split('.').find_map(|part| self.names.iter().position(|n| *n == part))
    }

    /// True if part `part` has what the others leave.
    pub fn is_rest(&self, part: usize) -> bool {
        self.rest == Some(part)
    }

    /// True if part `part` has the tensor called `name`.
    pub fn holds(&self, part: usize, name: &str) -> bool {
        self.names.is_empty() || self.named(name).or(self.rest) == Some(part)
    }
}
