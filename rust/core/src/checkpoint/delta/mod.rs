//! Deltas: what leads from a model to another, kept by itself. A folder with `delta.json` and files of tensors.

mod fold;
pub mod said;
pub mod sample;

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

pub use said::{Entry, Kept, Model, Part, Said, Stored};
pub use sample::Sampled;

use super::reference::called;
use super::{ShardFile, Tensor, file};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// The file that says what a delta is.
pub const FILE: &str = "delta.json";

/// The file of the factors of a delta of the form `lora`.
pub(crate) const ADAPTER: &str = "adapter_model.safetensors";

/// Longest `delta.json` accepted, in bytes.
const MAX: u64 = 512 << 20;

/// An opened delta.
pub struct Delta {
    /// Its folder.
    pub path: PathBuf,
    /// What it says of itself.
    pub said: Said,
    /// Its files.
    pub files: Vec<ShardFile>,
    /// Its tensors.
    tensors: HashMap<String, Tensor>,
    /// The digest of what it says.
    about: String,
}

/// Whether a name is that of a file in the same folder.
fn inside(name: &str) -> bool {
    matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)])
}

impl Delta {
    /// Whether a path is that of a delta.
    pub fn is(path: &Path) -> bool {
        path.join(FILE).is_file()
    }

    /// The files of a delta, whatever they keep.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>> {
        let said = Self::said(path)?;
        Ok(said.files.iter().filter(|name| inside(name)).map(|name| path.join(name)).collect())
    }

    /// Of a delta of the form `lora` the file that makes it an adapter; nothing where a folder is no delta.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] of any other delta: its tensors are those of no model.
    pub(super) fn as_adapter(path: &Path) -> Result<Option<Vec<PathBuf>>> {
        if !Self::is(path) {
            return Ok(None);
        }
        let said = Self::said(path)?;
        let file = path.join(ADAPTER);
        if said.form == "lora" && file.is_file() {
            return Ok(Some(vec![file]));
        }
        let base = &said.base.name;
        let problem = format!(
            "is a delta of `{base}`, not a model; name it BASE+DELTA (`{base}+{}`), which is one; `suture delta info` shows what it \
             holds",
            called(path)
        );
        Err(Error::checkpoint(path, problem))
    }

    /// Opens a delta: its headers are read and checked against what it says.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Tensor`] if it is none, or damaged.
    pub fn open(path: &Path) -> Result<Self> {
        Self::of(path, Self::said(path)?)
    }

    /// What the delta in a folder says of itself.
    fn said(path: &Path) -> Result<Said> {
        let record = path.join(FILE);
        let meta = std::fs::metadata(&record).map_err(|e| Error::io(&record, "open", e))?;
        if !meta.is_file() || meta.len() > MAX {
            return Err(Error::checkpoint(&record, format!("expected a file of at most {MAX} bytes")));
        }
        let text = std::fs::read(&record).map_err(|e| Error::io(&record, "read", e))?;
        let wrong = |p: String| Error::checkpoint(&record, p);
        let value: serde_json::Value =
            serde_json::from_slice(&text).map_err(|e| wrong(format!("is not valid JSON: {e}")))?;
        if value["format"] != said::FORMAT {
            return Err(wrong(format!("expected `format` to be `{}`, found {}", said::FORMAT, value["format"])));
        }
        if value["version"] != said::VERSION {
            let found = &value["version"];
            return Err(wrong(format!(
                "is of version {found} of the format, and {} is known; suture may be too old",
                said::VERSION
            )));
        }
        serde_json::from_slice(&text).map_err(|e| wrong(format!("is not as a delta has it: {e}")))
    }

    /// The delta in the folder `path`, of which `said` is known.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn of(path: &Path, said: Said) -> Result<Self> {
        let (mut files, mut tensors) = (Vec::new(), HashMap::new());
        for name in &said.files {
            if !inside(name) {
                return Err(Error::checkpoint(&path.join(FILE), format!("lists `{name}`, which is no file beside it")));
            }
            let opened = file::open(&path.join(name), files.len())?;
            for t in opened.tensors {
                if let Some(t) = tensors.insert(t.name.clone(), t) {
                    return Err(Error::tensor(&path.join(name), &t.name, "is in two of the delta's files"));
                }
            }
            files.push(opened.shard);
        }
        let about = serde_json::to_vec(&said).unwrap_or_default();
        let about = crate::digest::hex(crate::digest::of_bytes(&about));
        let out = Self { path: path.to_owned(), said, files, tensors, about };
        out.said.tensors.iter().try_for_each(|entry| out.check(entry))?;
        out.all_named()?;
        Ok(out)
    }

    /// Refuses tensors that nothing in the record names: what they change would be left out unsaid.
    fn all_named(&self) -> Result<()> {
        let named: HashSet<&String> = self.said.tensors.iter().flat_map(|entry| entry.parts.values()).collect();
        let mut orphans: Vec<&String> = self.tensors.keys().filter(|name| !named.contains(name)).collect();
        orphans.sort();
        let Some(orphan) = orphans.first() else { return Ok(()) };
        let problem = format!("is named by no entry of {FILE}; the delta is damaged, take it again");
        Err(Error::tensor(&self.path, orphan, problem))
    }

    /// Bytes of its files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|f| f.identity.size).sum()
    }

    /// A tensor that keeps the change of another.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is missing.
    pub fn part(&self, entry: &Entry, part: Part) -> Result<&Tensor> {
        let found = entry.parts.get(&part).and_then(|name| self.tensors.get(name));
        found.ok_or_else(|| self.wrong(entry, format!("its `{}` is missing; the delta is damaged", part.suffix())))
    }

    fn wrong(&self, entry: &Entry, problem: String) -> Error {
        Error::tensor(&self.path, &entry.name, problem)
    }

    /// Refuses what is kept by tensors that do not fit what it says, whatever they hold.
    fn check(&self, entry: &Entry) -> Result<()> {
        for part in entry.parts.keys() {
            self.part(entry, *part)?;
        }
        let Some(base) = entry.base.as_ref().or(entry.tuned.as_ref()) else {
            return Err(self.wrong(entry, "is of neither model; the delta is damaged".into()));
        };
        if crate::checkpoint::header::tensor_bytes(base.dtype, &base.shape).is_none() {
            return Err(self.wrong(entry, format!("has no size: {} of shape {:?}", base.dtype.name(), base.shape)));
        }
        let elements: u64 = base.shape.iter().product();
        let expect = |part: Part, shape: &[u64], dtypes: &[Dtype]| -> Result<()> {
            let t = self.part(entry, part)?;
            if t.shape == shape && dtypes.contains(&t.dtype) && t.is_contiguous() && t.made.is_none() {
                return Ok(());
            }
            let problem = format!(
                "`{}` is {} of shape {:?}; expected {} of shape {shape:?}; the delta is damaged",
                t.name,
                t.dtype.name(),
                t.shape,
                dtypes[0].name()
            );
            Err(self.wrong(entry, problem))
        };
        const FLOATS: &[Dtype] = &[Dtype::F32, Dtype::Bf16, Dtype::F16, Dtype::F64];
        let packed = |part: Part| {
            let len = self.part(entry, part)?.shape.first().copied().unwrap_or(0);
            expect(part, &[len], &[Dtype::U8])
        };
        for part in [Part::Xor, Part::Forward, Part::Back] {
            if entry.parts.contains_key(&part) {
                packed(part)?;
            }
        }
        for (part, stored) in [(Part::Whole, &entry.tuned), (Part::Old, &entry.base)] {
            if let (true, Some(stored)) = (entry.parts.contains_key(&part), stored) {
                expect(part, &stored.shape, &[stored.dtype])?;
            }
        }
        match entry.kept {
            Kept::Xor => packed(Part::Xor),
            Kept::Sparse => {
                let count = self.part(entry, Part::Index)?.shape.first().copied().unwrap_or(0);
                expect(Part::Index, &[count], &[Dtype::U32, Dtype::U64])?;
                if count > elements {
                    return Err(self.wrong(entry, format!("{count} of its {elements} elements change; it is damaged")));
                }
                expect(Part::Values, &[count], FLOATS)
            }
            Kept::Bits => {
                expect(Part::Signs, &[elements.div_ceil(8)], &[Dtype::U8])?;
                expect(Part::Scale, &[1], FLOATS)
            }
            Kept::LowRank => fold::product(self, entry, 1.0).map(|_| ()),
            Kept::Whole => self.part(entry, Part::Whole).map(|_| ()),
            Kept::Same | Kept::Left | Kept::Gone => Ok(()),
        }
    }
}
