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
    /// Whether it, a delta, is taken out of the model.
    pub back: bool,
}

/// What the file or folder at `path` is called: by its own name, or in the cache of a hub, whose folders are called by commits, by
/// the name it has on the hub.
pub fn called(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    on_hub(&path).unwrap_or_else(|| path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned())
}

/// The name on a hub of what lies in its cache at `path`.
pub fn on_hub(path: &Path) -> Option<String> {
    let snapshots = path.parent().filter(|p| p.file_name().is_some_and(|name| name == "snapshots"))?;
    let cached = snapshots.parent()?.file_name()?.to_str()?;
    Some(cached.strip_prefix("models--")?.replacen("--", "/", 1))
}

impl Applied {
    /// The adapter at `path`, times `weight`.
    pub fn new(path: PathBuf, weight: f64) -> Self {
        Self { path, weight: weight.to_bits(), back: false }
    }

    /// The same, taken out of the model if `back`.
    pub fn taken(self, back: bool) -> Self {
        Self { back, ..self }
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
