//! The checkpoints a recipe names, opened once each, and the lookup of tensors in them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Operand;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::error::{Error, Result};
use crate::names::main_stack;

/// The models of a plan, in the order they are first named.
#[derive(Default)]
pub struct Models {
    /// The checkpoints.
    pub checkpoints: Vec<Arc<Checkpoint>>,
    by_path: HashMap<PathBuf, usize>,
}

impl Models {
    /// The index of the model at `path`, opened at its first mention.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn open(&mut self, path: &str) -> Result<usize> {
        // One model may be written in several ways; it is one model.
        let real = Path::new(path).canonicalize().unwrap_or_else(|_| path.into());
        if let Some(i) = self.by_path.get(&real) {
            return Ok(*i);
        }
        self.checkpoints.push(Arc::new(Checkpoint::open(Path::new(path))?));
        self.by_path.insert(real, self.checkpoints.len() - 1);
        Ok(self.checkpoints.len() - 1)
    }

    /// The model at `index`.
    pub fn get(&self, index: usize) -> &Checkpoint {
        &self.checkpoints[index]
    }

    /// The tensor an operand stands for.
    pub fn tensor(&self, o: Operand) -> &Tensor {
        &self.checkpoints[o.model].tensors[o.tensor]
    }

    /// The model's tensor called `name`. A head that the model ties to its embedding is found as that embedding.
    pub fn find(&self, model: usize, name: &str) -> Option<Operand> {
        let checkpoint = &self.checkpoints[model];
        let tied = || {
            name.ends_with("lm_head.weight")
                .then(|| {
                    let names = ["embed_tokens.weight", "wte.weight", "embed_in.weight"];
                    checkpoint.tensors.iter().position(|t| names.iter().any(|n| t.name.ends_with(n)))
                })
                .flatten()
        };
        checkpoint.find(name).or_else(tied).map(|tensor| Operand { model, tensor })
    }

    /// As [`Self::find`], for a tensor that has to be there because `wanted_by` has it.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is not.
    pub fn need(&self, model: usize, name: &str, wanted_by: &Path) -> Result<Operand> {
        self.find(model, name).ok_or_else(|| {
            Error::tensor(
                &self.get(model).path,
                name,
                format!("is missing, and {} has it; models must have the same tensors", wanted_by.display()),
            )
        })
    }

    /// The model's main stack and its number of layers.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it has no numbered layers.
    pub fn stack(&self, model: usize) -> Result<(String, usize)> {
        self.stack_among(model, |_| true)
    }

    /// As [`Self::stack`], among the tensors whose names `holds` accepts.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if none of these has a numbered layer.
    pub fn stack_among(&self, model: usize, holds: impl Fn(&str) -> bool) -> Result<(String, usize)> {
        let checkpoint = self.get(model);
        let names = checkpoint.tensors.iter().filter(|t| holds(&t.name)).map(|t| (t.name.as_str(), t.elements()));
        main_stack(names).ok_or_else(|| {
            Error::checkpoint(
                &checkpoint.path,
                "no tensor name holds a layer number (such as `layers.0.`), so it has no layers",
            )
        })
    }

    /// Labels of the models, as [`labels`].
    pub fn labels(&self) -> Vec<String> {
        labels(self.checkpoints.iter().map(|c| c.path.as_path()))
    }
}

/// The names of folders or files, numbered where they repeat.
pub(crate) fn labels<'a>(paths: impl Iterator<Item = &'a Path>) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    paths
        .map(|given| {
            let path = given.canonicalize().unwrap_or_else(|_| given.to_owned());
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
            let n = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
            if *n == 1 { name } else { format!("{name}#{n}") }
        })
        .collect()
}

/// Checks that operands have one shape.
///
/// # Errors
/// [`Error::Tensor`] naming the first that differs.
pub(crate) fn same_shape(models: &Models, operands: &[Operand]) -> Result<()> {
    let Some(first) = operands.first() else { return Ok(()) };
    let want = models.tensor(*first);
    for o in operands {
        let t = models.tensor(*o);
        if t.shape != want.shape {
            return Err(Error::tensor(
                &models.get(o.model).path,
                &t.name,
                format!(
                    "has shape {:?}, but {:?} in {}; models must have the same shapes",
                    t.shape,
                    want.shape,
                    models.get(first.model).path.display()
                ),
            ));
        }
    }
    Ok(())
}
