//! Checkpoints on disk: opened by their headers, read by byte range, written by position.

mod folder;
pub mod header;
mod index;
mod json;
mod layout;
mod replaceable;
mod staging;
mod target;

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

pub use layout::{Layout, Shard, ShardPolicy};
pub use staging::{Staging, WriteMode};
pub use target::Target;

use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::source::{FileSource, Identity, IoMode, Source};

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
}

impl Tensor {
    /// Number of elements.
    pub fn elements(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// One safetensors file of a checkpoint.
#[derive(Debug, Clone)]
pub struct ShardFile {
    /// Path.
    pub path: PathBuf,
    /// Which file it was when its header was read.
    pub identity: Identity,
    /// Digest of the header, as hexadecimal.
    pub header_digest: String,
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
    by_name: HashMap<String, usize>,
}

impl Checkpoint {
    /// Opens a safetensors file, or a folder of them.
    ///
    /// Of a folder with an index, the files that the index lists are the checkpoint. Without one it is the group of
    /// files called `model` (`model.safetensors`, or `model-NNNNN-of-NNNNN.safetensors`); or else whatever there is, if
    /// that is one numbered set or single files only. Adapters, states of optimizers and other files known to lie
    /// beside models count only where there is nothing else. What is left out is in [`Self::warnings`].
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if a header or the index is not sound, [`Error::Io`] if something cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let listing = index::list(path)?;
        let mut out = Self {
            path: path.to_owned(),
            files: Vec::new(),
            tensors: Vec::new(),
            warnings: listing.warning.map(|w| format!("{}: {w}", path.display())).into_iter().collect(),
            by_name: HashMap::new(),
        };
        for file in &listing.files {
            out.add_file(file)?;
        }
        if let Some(map) = &listing.weight_map {
            for (name, file) in map {
                let found = out.by_name.get(name).map(|i| &out.files[out.tensors[*i].file].path);
                if found != Some(&path.join(file)) {
                    return Err(Error::tensor(path, name, format!("the index says it is in {file}, which lacks it")));
                }
            }
        }
        Ok(out)
    }

    /// A checkpoint of tensors in one file that is not there, for tests of what needs no data.
    #[cfg(test)]
    pub(crate) fn of_tensors(tensors: Vec<Tensor>) -> Self {
        let by_name = tensors.iter().enumerate().map(|(i, t)| (t.name.clone(), i)).collect();
        Self { path: PathBuf::new(), files: Vec::new(), tensors, warnings: Vec::new(), by_name }
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let (shard, header, data_start) = read_header(path)?;
        let file = self.files.len();
        for e in header.entries {
            if let Some(other) = self.by_name.insert(e.name.clone(), self.tensors.len()) {
                let other = &self.files[self.tensors[other].file].path;
                return Err(Error::tensor(path, &e.name, format!("it is also in {}", other.display())));
            }
            self.tensors.push(Tensor {
                name: e.name,
                dtype: e.dtype,
                shape: e.shape,
                file,
                begin: data_start + e.begin,
                nbytes: e.end - e.begin,
            });
        }
        self.warnings.extend(header.warning.map(|w| format!("{}: {w}", path.display())));
        self.files.push(shard);
        Ok(())
    }

    /// Index of the tensor called `name`.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Its files, to be read; each is opened when it is.
    pub fn sources(&self, io: IoMode) -> Vec<Box<dyn Source>> {
        self.files.iter().map(|f| Box::new(FileSource::new(&f.path, f.identity, io)) as Box<dyn Source>).collect()
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.nbytes).sum()
    }

    /// The largest stack of layers and its number of layers; see [`crate::model::names::main_stack`].
    pub fn main_stack(&self) -> Option<(String, usize)> {
        crate::model::names::main_stack(self.tensors.iter().map(|t| (t.name.as_str(), t.elements())))
    }
}

fn read_header(path: &Path) -> Result<(ShardFile, header::Parsed, u64)> {
    // Asked before opening: opening a pipe would wait for ever.
    let meta = path.metadata().map_err(|e| Error::io(path, "open", e))?;
    if !meta.is_file() {
        return Err(Error::checkpoint(path, "is not a file"));
    }
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let identity = Identity::of(&file.metadata().map_err(|e| Error::io(path, "open", e))?);
    let size = identity.size;
    let mut first = [0u8; 8];
    if size < 8 {
        return Err(Error::checkpoint(path, format!("{size} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut first).map_err(|e| Error::io(path, "read", e))?;
    let len = u64::from_le_bytes(first);
    if len > header::MAX_HEADER {
        return Err(Error::checkpoint(
            path,
            format!(
                "the header claims {len} bytes, more than the {} allowed; not a safetensors file?",
                header::MAX_HEADER
            ),
        ));
    }
    if len > size - 8 {
        return Err(Error::checkpoint(
            path,
            format!("the header claims {len} bytes, the file holds {}; it is truncated", size - 8),
        ));
    }
    let mut json = vec![0; len as usize];
    file.read_exact(&mut json).map_err(|e| Error::io(path, "read", e))?;
    let parsed = header::parse(&json, size - 8 - len).map_err(|p| Error::checkpoint(path, p))?;
    let shard = ShardFile {
        path: path.to_owned(),
        identity,
        header_digest: crate::digest::hex(crate::digest::of_bytes(&json)),
    };
    Ok((shard, parsed, 8 + len))
}
