//! Plans: what happens to every output tensor, decided from recipe and headers before any weight is read.

pub mod budget;
mod draft;
mod merge;
pub(crate) mod models;
mod modules;
mod select;

pub use draft::Draft;
pub use models::Models;
pub(crate) use models::same_shape;

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use serde::Serialize;

use crate::checkpoint::{Checkpoint, IoMode, Shard, Target};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::{Cost, Method, Params};
use crate::recipe::Recipe;

/// A tensor of one of the models.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Operand {
    /// Index into [`Plan::models`].
    pub model: usize,
    /// Index into that checkpoint's tensors.
    pub tensor: usize,
}

/// What is done to make an output tensor.
#[derive(Clone)]
pub enum Action {
    /// Its bytes are another tensor's.
    Copy {
        /// The tensor.
        from: Operand,
        /// Tensors that must hold the same bytes, or the run fails (integers cannot be merged).
        same: Vec<Operand>,
    },
    /// It is computed by a method.
    Merge {
        /// The method.
        method: &'static dyn Method,
        /// Its parameters for this tensor.
        params: Params,
        /// The base, for methods that work on changes.
        base: Option<Operand>,
        /// The models merged, and after them what parameters name besides.
        inputs: Vec<Operand>,
        /// What it needs at most.
        cost: Cost,
        /// Index into [`Plan::groups`], if its statistics are taken over more than this tensor.
        group: Option<usize>,
    },
}

/// Tensors that share statistics.
#[derive(Debug, Clone)]
pub struct Group {
    /// What they have in common, for people: `the model`, `layer 3`, `self_attn of layer 3`.
    pub name: String,
    /// Indices into [`Plan::tensors`], in order.
    pub tensors: Vec<usize>,
}

impl Action {
    /// Every tensor it reads, the base first.
    pub fn operands(&self) -> Vec<Operand> {
        match self {
            Self::Copy { from, same } => std::iter::once(from).chain(same).copied().collect(),
            Self::Merge { base, inputs, .. } => base.iter().chain(inputs).copied().collect(),
        }
    }
}

/// An output tensor.
#[derive(Clone)]
pub struct TensorPlan {
    /// Name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Size in bytes.
    pub nbytes: u64,
    /// Index of its shard.
    pub shard: usize,
    /// Offset in that file, header included.
    pub offset: u64,
    /// How it is made.
    pub action: Action,
}

impl TensorPlan {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// An input tensor that is in no output, and why.
#[derive(Debug, Clone, Serialize)]
pub struct Unused {
    /// Label of the model.
    pub model: String,
    /// Name of the tensor.
    pub tensor: String,
    /// Why it is left out.
    pub reason: String,
}

/// What config.json has to say of the output.
#[derive(Debug, Clone, Serialize)]
pub struct OutputConfig {
    /// Index of the model whose side files are carried over.
    pub from: usize,
    /// For every output layer the model and layer it takes its settings from; `None` if the layers are unchanged.
    pub layers: Option<Vec<(usize, usize)>>,
    /// Dtype of every float tensor, if the recipe sets one.
    pub dtype: Option<Dtype>,
    /// Dtype of most bytes of the output, among those that compute.
    pub mostly: Option<Dtype>,
    /// True if the output has a head of its own though an input tied it to the embedding.
    pub untied: bool,
}

/// A compiled plan. The same plan on the same inputs gives the same output bytes.
#[derive(Clone)]
pub struct Plan {
    /// What kind of surgery, for reports: `merge ties`, `swap`.
    pub title: String,
    /// The recipe, as given.
    pub recipe: serde_json::Value,
    /// The models read.
    pub models: Vec<Arc<Checkpoint>>,
    /// Their labels, for people and for random keys: the folder's name, numbered when it occurs twice.
    pub labels: Vec<String>,
    /// The files written.
    pub shards: Vec<Shard>,
    /// The tensors written, in the order of their bytes.
    pub tensors: Vec<TensorPlan>,
    /// Tensors that share statistics.
    pub groups: Vec<Group>,
    /// Input tensors left out.
    pub unused: Vec<Unused>,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What is done, in a few lines for people: a title and a text each.
    pub notes: Vec<(&'static str, String)>,
    /// Side-file changes.
    pub config: OutputConfig,
    hash: OnceLock<String>,
}

/// Default shard size, in bytes, as Hugging Face has it.
pub const DEFAULT_SHARD: u64 = 5_000_000_000;

impl Plan {
    /// Compiles a recipe. `seed` feeds random methods. Without a `shard_size` (in bytes) a swap keeps the recipient's
    /// shards and a merge has shards of [`DEFAULT_SHARD`].
    ///
    /// # Errors
    /// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
    pub fn compile(recipe: &serde_json::Value, shard_size: Option<u64>, seed: u64) -> Result<Self> {
        let draft = match Recipe::parse(recipe)? {
            Recipe::Merge(merge) => merge::build(&merge, seed)?,
            Recipe::Swap(swap) => crate::ops::swap::build(&swap, shard_size.is_none())?,
        };
        draft.finish(recipe.clone(), shard_size.unwrap_or(DEFAULT_SHARD))
    }

    /// Checks that the output can go to `target`; see [`Target::check`].
    ///
    /// # Errors
    /// [`Error::Output`] with what is in the way, the disk's free room included.
    pub fn check_target(&self, target: &Target, overwrite: bool) -> Result<()> {
        let files = self.models.iter().flat_map(|m| m.files.iter().map(|f| f.path.as_path()));
        let inputs: Vec<&std::path::Path> = self.models.iter().map(|m| m.path.as_path()).chain(files).collect();
        target.check(&inputs, overwrite)?;
        let above = target.above();
        let stat = rustix::fs::statvfs(above).map_err(|e| Error::io(above, "ask for free room", e))?;
        // Room taken by an earlier run of the same output is room this run has.
        let staged = staged_bytes(&target.staging());
        let (need, free) = (self.write_bytes(), stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(staged));
        if need > free {
            return Err(Error::output(
                target.path(),
                format!("needs {need} bytes of disk, {free} are free; nothing was written"),
            ));
        }
        Ok(())
    }

    /// Bytes read, each input once for every pass its method makes at most.
    pub fn read_bytes(&self) -> u64 {
        self.tensors
            .iter()
            .map(|t| {
                let passes = match &t.action {
                    Action::Copy { .. } => 1,
                    Action::Merge { cost, .. } => cost.reads as u64,
                };
                passes * t.action.operands().iter().map(|o| self.tensor(*o).nbytes).sum::<u64>()
            })
            .sum()
    }

    /// Bytes of the files written.
    pub fn write_bytes(&self) -> u64 {
        self.shards.iter().map(Shard::size).sum()
    }

    /// The tensor an operand stands for.
    pub fn tensor(&self, o: Operand) -> &crate::checkpoint::Tensor {
        &self.models[o.model].tensors[o.tensor]
    }

    /// Path of the file an operand lies in.
    pub fn path(&self, o: Operand) -> &PathBuf {
        &self.models[o.model].files[self.tensor(o).file].path
    }

    /// A digest over everything that decides the output's bytes but the inputs' data; paths do not enter it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let headers: Vec<Vec<&str>> =
                self.models.iter().map(|m| m.files.iter().map(|f| f.header_digest.as_str()).collect()).collect();
            let shards: Vec<_> = self.shards.iter().map(|s| (&s.file, s.header.len(), s.data_bytes)).collect();
            let head = serde_json::json!({"format": 1, "headers": headers, "labels": self.labels, "shards": shards});
            let mut leaves = crate::digest::Leaves::new();
            leaves.update(head.to_string().as_bytes());
            for t in &self.tensors {
                leaves.update(self.tensor_json(t).to_string().as_bytes());
            }
            crate::digest::hex(crate::digest::combine(leaves.finish().into_iter()))
        })
    }

    /// The plan as data, for `--dry-run` and reports.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "title": self.title,
            "hash": self.hash(),
            "models": self.labels.iter().zip(&self.models).map(|(l, m)| serde_json::json!({
                "label": l,
                "path": m.path.to_string_lossy(),
                "tensors": m.tensors.len(),
                "bytes": m.total_bytes(),
            })).collect::<Vec<_>>(),
            "read_bytes": self.read_bytes(),
            "write_bytes": self.write_bytes(),
            "shards": self.shards.iter().map(|s| serde_json::json!({"file": s.file, "bytes": s.size()})).collect::<Vec<_>>(),
            "config": self.config,
            "warnings": self.warnings,
            "notes": self.notes,
            "unused": self.unused,
            "tensors": self.tensors.iter().map(|t| self.tensor_told(t)).collect::<Vec<_>>(),
        })
    }

    /// A tensor with where its parameters come from.
    fn tensor_told(&self, t: &TensorPlan) -> serde_json::Value {
        let mut out = self.tensor_json(t);
        if let Action::Merge { params, .. } = &t.action {
            let places = |at: &Vec<Option<Arc<str>>>| at.iter().map(Option::as_deref).collect::<serde_json::Value>();
            out["from"] = params.from.iter().map(|(k, at)| ((*k).to_owned(), places(at))).collect();
        }
        out
    }

    fn tensor_json(&self, t: &TensorPlan) -> serde_json::Value {
        let operand = |o: &Operand| serde_json::json!([self.labels[o.model], self.tensor(*o).name]);
        let (action, method, params, base, inputs) = match &t.action {
            Action::Copy { from, same } => {
                ("copy", None, None, None, std::iter::once(from).chain(same).map(operand).collect::<Vec<_>>())
            }
            Action::Merge { method, params, base, inputs, .. } => (
                "merge",
                Some(method.spec().name),
                Some(params),
                base.as_ref().map(operand),
                inputs.iter().map(operand).collect(),
            ),
        };
        let mut out = serde_json::json!({
            "name": t.name,
            "dtype": t.dtype,
            "shape": t.shape,
            "shard": t.shard,
            "offset": t.offset,
            "action": action,
            "inputs": inputs,
        });
        if let (Some(method), Some(params)) = (method, params) {
            out["method"] = method.into();
            out["params"] = serde_json::json!(params);
            out["base"] = serde_json::json!(base);
        }
        out
    }

    /// How each file would be read under `io`.
    ///
    /// # Errors
    /// As [`crate::checkpoint::Source::open`].
    pub fn open_sources(&self, io: IoMode) -> Result<Vec<Vec<crate::checkpoint::Source>>> {
        self.models.iter().map(|m| m.sources(io)).collect()
    }
}

fn staged_bytes(folder: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).map(|m| m.blocks() * 512).sum()
}
