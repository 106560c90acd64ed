//! Checkpoints on disk: opened by their headers, read by byte range, written by position.

mod adapted;
mod adapter;
mod aliases;
mod based;
mod decoded;
pub mod delta;
mod exact;
mod experts;
mod file;
mod fitting;
mod folder;
mod gguf;
pub mod header;
mod heads;
mod index;
mod json;
mod layout;
pub mod made;
pub mod reference;
mod renamed;
mod replaceable;
pub mod rows;
mod staging;
mod target;
mod told;
mod torch;

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde_json::Value;

pub use adapter::Adapter;
pub use decoded::Decoded;
pub use experts::Packing;
pub use layout::{Layout, Shard, ShardPolicy};
pub use reference::{Applied, Reference};
pub use renamed::Prefixes;
pub use staging::{Staging, WriteMode};
pub use target::{Target, report_of};

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::anatomy::{Anatomy, Stack};
use crate::model::attention::Attention;
use crate::model::names::{is_buffer, other_names};
use crate::model::tied;
use crate::source::{self, Identity, IoMode, Source};
use made::Made;

/// The file of an output that says how it was made, with the digest of every tensor.
pub const REPORT: &str = "suture.json";

/// The file of an unfinished output by which a run is taken up again.
pub const JOURNAL: &str = ".suture-journal";

/// A tensor of an open checkpoint.
#[derive(Debug, Clone)]
pub struct Tensor {
    /// Name, unique in the checkpoint.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Index into [`Checkpoint::files`].
    pub file: usize,
    /// Offset of the first byte in that file.
    pub begin: u64,
    /// Size in bytes.
    pub nbytes: u64,
    /// What it is made of when it is read, if it is not stored as it is. File and first byte are then those of what it stands for.
    pub made: Option<Arc<Made>>,
    /// Elements from one to the next along each dimension, where the elements do not lie one behind the other. These may lie
    /// anywhere in the file, some in the same place.
    pub strides: Option<Vec<u64>>,
}

impl Tensor {
    /// Whether its bytes in the file are its elements in order.
    pub fn is_contiguous(&self) -> bool {
        self.strides.is_none()
    }

    /// Bits that an element takes as it is read: of what is made, those of what it is made of.
    pub fn read_bits(&self) -> u64 {
        self.made.as_ref().map_or(self.dtype.bits(), |m| m.read_bits())
    }

    /// Bits an element of what is read into memory of its own, to be put together.
    pub fn inner_bits(&self) -> u64 {
        self.made.as_ref().map_or(0, |m| m.inner_bits())
    }

    /// Bytes that reading all of it takes.
    pub fn read_bytes(&self) -> u64 {
        self.elements() * self.read_bits() / 8
    }

    /// Whether it is a factor of an adapter.
    pub fn is_factor(&self) -> bool {
        self.name.contains(".lora_")
    }

    /// Whether it is a buffer that loaders compute again; see [`is_buffer`].
    pub fn is_buffer(&self) -> bool {
        is_buffer(&self.name, self.shape.len())
    }

    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// One file of a checkpoint.
#[derive(Debug, Clone)]
pub struct ShardFile {
    /// Path.
    pub path: PathBuf,
    /// Which file it was when its header was read.
    pub identity: Identity,
    /// Digest of the header, of whatever says where the tensors lie, as hexadecimal.
    pub header_digest: String,
    /// What it says of itself.
    pub metadata: BTreeMap<String, String>,
    /// Whether it is an adapter's, which was folded in.
    pub adapter: bool,
}

/// An opened checkpoint: its headers are read and checked, its data is not.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The file or folder it was opened from.
    pub path: PathBuf,
    /// Its files.
    pub files: Vec<ShardFile>,
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// What was passed over when it was opened, for the user to know.
    pub warnings: Vec<String>,
    /// The config.json beside its files, if there is one that can be read.
    pub config: Option<Value>,
    /// How many of the files are its own, and no adapter's.
    pub own_files: usize,
    /// Adapters that are folded in, and how many tensors each changes.
    pub folded: Vec<String>,
    /// How it was named.
    pub reference: Reference,
    /// Of a quantised one that was to be made plain what was decoded, or why nothing was.
    pub decoded: Option<Decoded>,
    /// Of a GGUF file what of a config.json it holds.
    gguf: Option<gguf::Config>,
    by_name: HashMap<String, usize>,
    anatomy: OnceLock<Anatomy>,
    /// Its tables of tokens.
    tables: OnceLock<Vec<usize>>,
}

/// Tables of tokens among which the one that a head is tied to is looked for.
const MOST_TABLES: usize = 256;
/// Longest config.json that is looked into, in bytes.
const MAX_CONFIG: u64 = 16 << 20;

impl Checkpoint {
    /// Opens a file of tensors, or a folder of them: safetensors, or what `torch.save` writes.
    ///
    /// Of a folder with an index, the files that the index lists are the checkpoint. Without one it is the group of
    /// files called `model` (`model.safetensors`, or `model-NNNNN-of-NNNNN.safetensors`); or else whatever there is, if
    /// that is one numbered set or single files only. Adapters, states of optimizers and other files known to lie
    /// beside models count only where there is nothing else. What is left out is in [`Self::warnings`]. Files of `torch.save`
    /// (`pytorch_model.bin`, ...) count where there is no safetensors file, by the same rules. Of a repository in a
    /// hub's cache its snapshot is opened, and is the checkpoint's path.
    ///
    /// Of a delta of the form `lora` the adapter is opened; another delta, and a twin, is no model.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a header or the index is not sound, or the folder is a delta's or a twin's, [`Error::Io`] if
    /// something cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let resolved = index::resolve(path)?;
        let listing = index::list(&resolved)?;
        Self::listed(path, &resolved, listing)
    }

    /// The tensors that a delta keeps its changes in, those of all its files; of any other folder as [`Self::open`].
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn stored(path: &Path) -> Result<Self> {
        let resolved = index::resolve(path)?;
        match delta::Delta::is(&resolved) {
            true => {
                let files = delta::Delta::files(&resolved)?;
                Self::listed(path, &resolved, index::Listing { files, weight_map: None, warning: None })
            }
            false => Self::open(path),
        }
    }

    fn listed(named: &Path, path: &Path, listing: index::Listing) -> Result<Self> {
        let reference = Reference::from(named);
        let mut out = Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: Vec::new(),
            warnings: listing.warning.map(|w| format!("{}: {w}", path.display())).into_iter().collect(),
            config: read_json(&path.join("config.json")),
            own_files: 0,
            folded: Vec::new(),
            reference,
            decoded: None,
            gguf: None,
            by_name: HashMap::new(),
            anatomy: OnceLock::new(),
            tables: OnceLock::new(),
        };
        let mut headers = Vec::new();
        for file in &listing.files {
            headers.extend(out.add_file(file)?);
        }
        out.own_files = out.files.len();
        if headers.len() == out.files.len() {
            out.take_gguf(&headers)?;
        } else if !headers.is_empty() {
            return Err(Error::checkpoint(path, "holds GGUF files and others; expected files of one kind"));
        }
        if let Some(map) = &listing.weight_map {
            for (name, file) in map {
                let found = out.by_name.get(name).map(|i| out.tensors[*i].file);
                if found != Some(*file) {
                    let file = listing.files[*file].file_name().unwrap_or_default().display();
                    return Err(Error::tensor(path, name, format!("the index says it is in {file}, which lacks it")));
                }
            }
        }
        Ok(out)
    }

    /// Opens a model with the adapters that it is named with.
    ///
    /// # Errors
    /// As [`Self::open`]; and if an adapter is not one of the model.
    pub fn of(reference: &Reference) -> Result<Self> {
        let mut out = Self::open(&reference.path)?;
        for applied in &reference.adapters {
            let delta = delta::Delta::is(&applied.path);
            if !(delta && out.is_stored_for(applied)?) {
                // What is added to a weight is added to its values.
                out = out.plain()?;
            }
            if delta { out.fold_delta(applied)? } else { out.fold(applied)? }
        }
        out.reference = reference.clone();
        Ok(out)
    }

    /// Where it lies, with its adapters as they are written.
    pub fn written(&self) -> PathBuf {
        if self.reference.adapters.is_empty() { self.path.clone() } else { self.reference.to_string().into() }
    }

    /// What it is called: its name, or that of its folder or file, and those of its adapters.
    pub fn name(&self) -> String {
        let own = self.reference.name.clone().unwrap_or_else(|| reference::called(&self.path));
        self.reference.adapters.iter().fold(own, |name, a| format!("{name}+{}", reference::called(&a.path)))
    }

    /// Takes the files of another model among its own, for tensors that are made of both; the place of the first.
    pub fn lend(&mut self, other: &Self) -> usize {
        let first = self.files.len();
        let files = other.files.iter().cloned();
        // What they say of themselves is not of this model.
        self.files.extend(files.map(|f| ShardFile { metadata: BTreeMap::new(), ..f }));
        first
    }

    /// Finds its tensors again by their names and kinds, after some were left out, added or renamed.
    fn reindex(&mut self) {
        self.by_name = self.tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        (self.anatomy, self.tables) = Default::default();
    }

    /// Puts a tensor in the place of the one of its name, or behind all others.
    pub fn put(&mut self, tensor: Tensor) {
        match self.by_name.get(&tensor.name) {
            Some(i) => self.tensors[*i] = tensor,
            None => {
                self.by_name.insert(tensor.name.clone(), self.tensors.len());
                self.tensors.push(tensor);
            }
        }
        (self.anatomy, self.tables) = Default::default();
    }

    /// Leaves a tensor out.
    fn remove(&mut self, name: &str) {
        self.tensors.retain(|t| t.name != name);
        self.reindex();
    }

    /// A checkpoint of tensors in one file that is not there, for tests of what needs no data.
    #[cfg(test)]
    pub(crate) fn of_tensors(tensors: Vec<Tensor>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Self {
            path: PathBuf::new(),
            files: Vec::new(),
            tensors,
            warnings: Vec::new(),
            config: None,
            own_files: 1,
            folded: Vec::new(),
            reference: PathBuf::new().into(),
            decoded: None,
            gguf: None,
            by_name,
            anatomy: OnceLock::new(),
            tables: OnceLock::new(),
        }
    }

    /// Takes in a file's tensors; of a GGUF file it gives the header, which means something with those of all.
    fn add_file(&mut self, path: &Path) -> Result<Option<gguf::Header>> {
        let opened = file::open(path, self.files.len())?;
        self.files.push(opened.shard);
        for t in opened.tensors {
            if let Some(other) = self.by_name.insert(t.name.clone(), self.tensors.len()) {
                let other = self.tensors[other].file;
                let also = if other == t.file {
                    "twice".to_owned()
                } else {
                    format!("also in {}", self.files[other].path.display())
                };
                return Err(Error::tensor(path, &t.name, format!("it is {also}")));
            }
            self.tensors.push(t);
        }
        self.warnings.extend(opened.warning.map(|w| format!("{}: {w}", path.display())));
        Ok(opened.gguf)
    }

    /// Index of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// As [`Self::find`], by another name that the tensor has had in its family if need be.
    pub fn find_alike(&self, name: &str) -> Option<usize> {
        self.find(name).or_else(|| other_names(name).find_map(|n| self.find(&n)))
    }

    /// The tensor that stands for the one called `name` of another model: one of that name or of another that it has had in its
    /// family, the table that a head is tied to, what it is a copy of.
    pub fn counterpart(&self, name: &str) -> Option<usize> {
        let copy = || self.original(name).and_then(|t| self.find(&t.name));
        self.find_alike(name).or_else(|| self.table_of(name).ok().flatten()).or_else(copy)
    }

    /// The table that the head called `name` is tied to, if the model may tie.
    ///
    /// # Errors
    /// The tables there are, if it cannot be told.
    pub fn table_of(&self, name: &str) -> std::result::Result<Option<usize>, Vec<&str>> {
        if self.tied() == Some(false) || !tied::is_head(name) {
            return Ok(None);
        }
        let named = |i: &usize| (*i, self.tensors[*i].name.as_str());
        // No model has as many, and each head would look at all of them: 20,000 heads took 6 s.
        if self.tables().len() > MOST_TABLES {
            return Err(self.tables().iter().take(4).map(|i| named(i).1).collect());
        }
        let tables = self.tables().iter().map(named).collect();
        tied::among(name, tables, self.anatomy().main().map(|s| s.prefix.as_str()))
    }

    /// Its tables of tokens.
    pub fn tables(&self) -> &[usize] {
        let find = || (0..self.tensors.len()).filter(|i| tied::is_table(&self.tensors[*i].name)).collect();
        self.tables.get_or_init(find)
    }

    /// Its files, to be read; each is opened when it is.
    pub fn sources(&self, io: IoMode) -> Vec<Box<dyn Source>> {
        self.files.iter().map(|f| source::open(&f.path, f.identity, io)).collect()
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.nbytes).sum()
    }

    /// Whether it holds the factors of an adapter.
    pub fn adapter(&self) -> bool {
        self.factor().is_some()
    }

    /// The first tensor that is a factor of an adapter.
    pub fn factor(&self) -> Option<&Tensor> {
        self.tensors.iter().find(|t| t.is_factor())
    }

    /// Whether it ties its head to its embedding, as far as its config.json tells.
    pub fn tied(&self) -> Option<bool> {
        tied::said(self.config.as_ref())
    }

    /// The tensor that the one called `name`, there or not, is a copy of, if its config.json ties them or every model does.
    pub fn original(&self, name: &str) -> Option<&Tensor> {
        let table = || {
            let stack = self.anatomy().main().map(|s| s.prefix.as_str());
            tied::original(name, self.tensors.iter().map(|t| t.name.as_str()), stack)
        };
        let bias = || self.find(&tied::bias(name)?);
        let found = &self.tensors[bias().or_else(|| if self.tied() == Some(true) { table() } else { None })?];
        let same = self.find(name).is_none_or(|i| self.tensors[i].shape == found.shape);
        (same && found.name != name).then_some(found)
    }

    /// Its stacks of layers.
    pub fn anatomy(&self) -> &Anatomy {
        self.anatomy.get_or_init(|| {
            Anatomy::of(self.tensors.iter().map(|t| (t.name.as_str(), t.elements())), self.config.as_ref())
        })
    }

    /// What is known of the attention of a stack, if config.json tells the number of its heads.
    pub fn attention<'a>(&self, stack: &'a Stack) -> Option<Attention<'a>> {
        let inside = || self.tensors.iter().filter(|t| stack.layer(&t.name).is_some());
        let transposed = inside().any(|t| Attention::tells_transposed(&t.name, &t.shape));
        let attention = Attention { heads: stack.heads?, family: stack.family.as_deref(), size: None, transposed };
        let size = inside().find_map(|t| attention.size_in(&t.name, &t.shape));
        Some(Attention { size, ..attention })
    }
}

/// A config, if it can be read. Whether it is sound is for those to say who write one: here it only tells more.
fn read_json(path: &Path) -> Option<Value> {
    let small = path.metadata().is_ok_and(|m| m.is_file() && m.len() <= MAX_CONFIG);
    let text = if small { std::fs::read(path).ok()? } else { return None };
    serde_json::from_slice::<Value>(&text).ok().filter(Value::is_object)
}
