//! What a recipe means by a model: a checkpoint, and adapters on top of it.

use std::fmt;
use std::path::{Path, PathBuf};

/// A model as a recipe names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// The checkpoint.
    pub path: PathBuf,
    /// Adapters folded into it, in this order.
    pub adapters: Vec<Applied>,
    /// What it is called, if not by its folder.
    pub name: Option<String>,
}

/// An adapter and how much of it is added.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Applied {
    /// Its folder or file.
    pub path: PathBuf,
    /// The bits of its weight: references are compared.
    weight: u64,
}

impl Applied {
    /// The adapter at `path`, times `weight`.
    pub fn new(path: PathBuf, weight: f64) -> Self {
        Self { path, weight: weight.to_bits() }
    }

    /// What its change is multiplied by.
    pub fn weight(&self) -> f64 {
        f64::from_bits(self.weight)
    }
}

impl Reference {
    /// The reference with its paths as the file system has them: one model may be written in several ways.
    pub fn real(&self) -> Self {
        let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
        let adapters = self.adapters.iter().map(|a| Applied { path: real(&a.path), ..a.clone() }).collect();
        Self { path: real(&self.path), adapters, name: None }
    }
}

impl From<PathBuf> for Reference {
    fn from(path: PathBuf) -> Self {
        Self { path, adapters: Vec::new(), name: None }
    }
}

impl From<&Path> for Reference {
    fn from(path: &Path) -> Self {
        path.to_owned().into()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match &self.name {
            Some(name) => f.write_str(name)?,
            None => write!(f, "{}", self.path.display())?,
        }
        self.adapters.iter().try_for_each(|a| write!(f, "+{}", a.path.display()))
    }
}
