//! GGUF files as checkpoints like any other: tensors under Hugging Face's names, in its order of rows, decoded as they are read; a config of
//! the metadata.

mod bytes;
mod config;
mod header;
mod metadata;
mod named;
mod split;
mod weights;

use std::collections::{BTreeMap, HashSet};
use std::fs::File;

use serde_json::{Map, Value};

pub(super) use config::Config;
pub(super) use header::{Header, read};

use super::{Checkpoint, decoded::Decoded};
use crate::error::{Error, Result};
use crate::model::ggml::Is;
use crate::model::gguf::Architecture;

/// At most so many names are listed in a message.
const LISTED: usize = 4;

impl Checkpoint {
    /// Takes the tensors of GGUF files in; `headers` are those of its files, in order.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] or [`Error::Tensor`] for files that are no model, do not belong together, or whose tensors do not fit what
    /// the metadata says.
    pub(super) fn take_gguf(&mut self, headers: &[Header]) -> Result<()> {
        let file = |i: usize| self.files[i].path.clone();
        for (i, header) in headers.iter().enumerate() {
            split::refuse_others(header).map_err(|problem| Error::checkpoint(&file(i), problem))?;
            split::check(headers, i).map_err(|problem| Error::checkpoint(&file(i), problem))?;
        }
        let Some(metadata) = headers.first().map(|h| &h.metadata) else { return Ok(()) };
        let name = metadata.get("general.architecture").and_then(Value::as_str).unwrap_or_default().to_owned();
        let experts = metadata.get(&format!("{name}.expert_count")).and_then(Value::as_u64).unwrap_or(0);
        let architecture = Architecture::of(&name, experts > 0);
        let infos = || headers.iter().flat_map(|h| &h.tensors);
        let find = |wanted: &str| infos().find(|t| t.name == wanted);
        let seen = config::Seen {
            vocabulary: find("token_embd.weight").and_then(|t| t.shape.first().copied()),
            head: find("output.weight").is_some(),
            bias: find("blk.0.attn_q.bias").is_some(),
            inner: find("blk.0.ffn_up.bias").is_some(),
            factors: find("rope_freqs.weight").is_some() || find("rope_factors_long.weight").is_some(),
        };
        let rebuilt = config::rebuild(metadata, &name, &seen);
        let own = self.config.is_some();
        self.config = self.config.take().or_else(|| Some(Value::Object(rebuilt.config.clone())));
        let dtype = self.plain_dtype();
        let taken = named::Naming { architecture, name: &name, metadata, dtype }.all(headers);
        let named::Taken { tensors, unknown, dropped } =
            taken.map_err(|f| Error::tensor(&file(f.file), &f.tensor, f.problem))?;
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
            let problem = "is there twice, under two names of GGUF; which of them the model has cannot be told";
            return Err(Error::tensor(&file(twice.file), &twice.name, problem));
        }
        let mut forms: BTreeMap<String, usize> = BTreeMap::new();
        for t in infos().filter(|t| t.kind.is == Is::Blocks) {
            *forms.entry(format!("GGUF {}", t.kind.name)).or_default() += 1;
        }
        self.tensors = tensors;
        self.decoded = Some(Decoded::Forms { forms, gone: Vec::new() });
        self.reindex();
        let mut tell = |what: String| self.warnings.push(format!("{}: {what}", self.path.display()));
        if architecture.is_none() {
            let found = if name.is_empty() {
                "`general.architecture` is missing".to_owned()
            } else {
                format!("the architecture is `{name}`")
            };
            tell(format!("{found}, whose names are not known; tensors keep the names of GGUF"));
        } else if !unknown.is_empty() {
            tell(format!(
                "{} not known in `{name}`, and kept as GGUF has them",
                listed(&unknown, "name is", "names are")
            ));
        }
        if !dropped.is_empty() {
            tell(format!("{} left out: config.json says what they hold", listed(&dropped, "tensor is", "tensors are")));
        }
        if !own && !rebuilt.missing.is_empty() {
            let missing = rebuilt.missing.join("; ");
            tell(format!(
                "config.json cannot be rebuilt in full: {missing}; `--config FILE` gives that of the model it was made from"
            ));
        }
        self.gguf = Some(rebuilt);
        Ok(())
    }

    /// The keys and values of the GGUF file it was opened from, long lists too; `None` of other files.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if the file cannot be read again.
    pub fn gguf_metadata(&self) -> Result<Option<Map<String, Value>>> {
        let (Some(_), Some(shard)) = (&self.gguf, self.files.first()) else { return Ok(None) };
        let file = File::open(&shard.path).map_err(|e| Error::io(&shard.path, "open", e))?;
        let header = read(&file, shard.identity.size, true).map_err(|p| Error::checkpoint(&shard.path, p))?;
        Ok(Some(header.metadata))
    }

    /// The same files with every tensor as it is written there: under its name, of blocks their bytes. What
    /// a config says (`rope_freqs`) is left out.
    ///
    /// # Errors
    /// [`Error::Io`] or [`Error::Checkpoint`] if a file cannot be read again.
    pub fn as_written(mut self) -> Result<Self> {
        if self.gguf.is_none() {
            return Ok(self);
        }
        let mut tensors = Vec::new();
        for (number, shard) in self.files.iter().enumerate() {
            let file = File::open(&shard.path).map_err(|e| Error::io(&shard.path, "open", e))?;
            let header = read(&file, shard.identity.size, false).map_err(|p| Error::checkpoint(&shard.path, p))?;
            let own = header.tensors.iter().filter(|t| t.name != "rope_freqs.weight");
            tensors.extend(own.map(|info| weights::as_written(info, number)));
        }
        self.tensors = tensors;
        self.decoded = None;
        self.reindex();
        Ok(self)
    }

    /// What of a config.json a GGUF file holds, and what it lacks, for people; `None` of other files.
    pub fn gguf_config(&self) -> Option<(&Map<String, Value>, &[String])> {
        self.gguf.as_ref().map(|c| (&c.config, c.missing.as_slice()))
    }
}

/// How many there are, and the first of them.
fn listed(names: &[String], one: &str, more: &str) -> String {
    let first: Vec<String> = names.iter().take(LISTED).map(|n| format!("`{n}`")).collect();
    let rest = if names.len() > LISTED { ", ..." } else { "" };
    format!("{} {} ({}{rest})", names.len(), if names.len() == 1 { one } else { more }, first.join(", "))
}
