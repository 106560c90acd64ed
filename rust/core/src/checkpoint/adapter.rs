//! An adapter: its checkpoint, its config, and which of its tensors belong to which module.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::delta::ADAPTER as FILE;
use super::{Checkpoint, Tensor, index, read_json};
use crate::error::{Error, Result};
use crate::model::lora::{Key, LoraConfig, Role};

/// The file that says what an adapter's factors mean.
pub(super) const CONFIG: &str = "adapter_config.json";

/// Tensors of an adapter that belong to one module, by what they are.
pub(super) type Parts = BTreeMap<Role, Tensor>;

/// An opened adapter.
pub struct Adapter {
    /// Its files and tensors.
    pub checkpoint: Checkpoint,
    /// What its config says.
    pub config: LoraConfig,
    /// The config as it is.
    pub said: Value,
    /// Its tensors by module, and how many other adapted parameters of it stand around it.
    pub(super) modules: BTreeMap<(String, usize), Parts>,
}

impl Adapter {
    /// Opens an adapter.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if it is none, or one whose change is no sum of products.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = index::resolve(path)?;
        // A folder may hold a model too, whose tensors are no change of another.
        let beside = folder.join(FILE);
        let mut checkpoint = Checkpoint::open(if beside.is_file() { &beside } else { path })?;
        if beside.is_file() {
            checkpoint.path = folder;
        }
        let path = &checkpoint.path;
        let folder = if path.is_dir() { path.as_path() } else { path.parent().unwrap_or(path) };
        let said = read_json(&folder.join(CONFIG)).ok_or_else(|| {
            let problem = format!(
                "is no adapter: {CONFIG}, which says what its factors mean, is missing or not JSON; \
                 adapters in other forms than PEFT's are converted first (suture lora convert)"
            );
            Error::checkpoint(path, problem)
        })?;
        let config = LoraConfig::parse(&said).map_err(|p| Error::checkpoint(&folder.join(CONFIG), p))?;
        let mut modules: BTreeMap<(String, usize), Parts> = BTreeMap::new();
        for t in &checkpoint.tensors {
            // PEFT may save what was there before training beside what came of it, and that under two names.
            let trained = t.name.replace(".modules_to_save.", ".");
            if t.name.contains(".original_module.") || (trained != t.name && checkpoint.find(&trained).is_some()) {
                continue;
            }
            let key = Key::parse(&t.name);
            if modules.entry((key.module, key.depth)).or_default().insert(key.role, t.clone()).is_some() {
                let problem = "is there twice, under two adapters' names; give them files of their own";
                return Err(Error::tensor(path, &t.name, problem));
            }
        }
        Ok(Self { config, said, modules, checkpoint })
    }

    /// Its modules as JSON: name, the names of the factors and of what else belongs to them, rank and scale.
    pub fn to_json(&self) -> Value {
        let one = |((module, depth), parts): (&(String, usize), &Parts)| {
            let named = |roles: &[Role]| roles.iter().find_map(|r| parts.get(r)).map(|t| t.name.as_str());
            let key = self.config.key(module, *depth);
            json!({
                "module": module,
                "depth": depth,
                "key": key,
                "a": named(&[Role::A, Role::EmbeddingA]),
                "b": named(&[Role::B, Role::EmbeddingB]),
                "embedding": parts.contains_key(&Role::EmbeddingA),
                "magnitude": named(&[Role::Magnitude]),
                "bias": named(&[Role::ProductBias]),
                "whole": named(&[Role::Whole]),
                "rank": self.config.rank(&key),
                "scale": self.config.scale(&key),
            })
        };
        self.modules.iter().map(one).collect()
    }
}
