//! The files of a delta while it is made. How long packed tensors get is known only when they are, so that tensors are appended, and
//! room for the header is left by what it can hold at most.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::checkpoint::delta::{ADAPTER, Part};
use crate::checkpoint::header::{self, Entry};
use crate::digest::{self, Leaves};
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// Bytes of a header's entry besides the name: dtype, dimensions, offsets.
const ENTRY: u64 = 256;

/// A file.
struct Out {
    path: PathBuf,
    file: File,
    /// Bytes of its header.
    header: u64,
    /// Bytes of tensors so far.
    at: u64,
    entries: Vec<Entry>,
}

/// A tensor that is being appended.
struct Open {
    file: &'static str,
    begin: u64,
    /// Bytes so far.
    len: u64,
    leaves: Leaves,
}

/// A tensor that was appended.
pub struct Kept {
    /// Its name.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Digest of its bytes.
    pub digest: String,
    /// The tensor whose change it keeps.
    pub of: usize,
}

/// All files.
pub struct Files {
    folder: PathBuf,
    /// Bytes of the header of each, at most.
    room: HashMap<&'static str, u64>,
    out: BTreeMap<&'static str, Out>,
    open: HashMap<Part, Open>,
    /// What was appended, in that order.
    pub kept: Vec<Kept>,
    /// Whether it is an adapter.
    lora: bool,
}

impl Files {
    /// Files in a folder, of which the headers hold at most these parts of tensors of these names.
    pub fn new<'a>(folder: &Path, lora: bool, names: impl Iterator<Item = (Part, &'a str)>) -> Self {
        let room = header_bytes(lora, names);
        let (out, open, kept) = Default::default();
        Self { folder: folder.to_owned(), room, out, open, kept, lora }
    }

    /// Appends bytes to the part of the tensor that is being kept.
    ///
    /// # Errors
    /// [`Error::Output`] when the disk is full, [`Error::Io`].
    pub fn append(&mut self, part: Part, bytes: &[u8]) -> Result<()> {
        let name = file_of(self.lora, part);
        if !self.out.contains_key(name) {
            let header = self.room.get(name).copied().unwrap_or(ENTRY);
            let path = self.folder.join(name);
            let fail = |e| Error::io(&path, "make the file", e);
            let file =
                OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).map_err(fail)?;
            self.out.insert(name, Out { path, file, header, at: 0, entries: vec![] });
        }
        let Some(out) = self.out.get_mut(name) else { return Err(Error::bug("a file of a delta is gone")) };
        let at = out.at;
        let open =
            self.open.entry(part).or_insert_with(|| Open { file: name, begin: at, len: 0, leaves: Leaves::new() });
        if open.begin + open.len != at {
            return Err(Error::bug("two tensors of a delta grow in one file"));
        }
        out.file.write_all_at(bytes, out.header + out.at).map_err(|e| match e.kind() {
            std::io::ErrorKind::StorageFull => {
                Error::output(&out.path, "the disk is full; make room and run this again")
            }
            _ => Error::io(&out.path, "write", e),
        })?;
        open.leaves.update(bytes);
        open.len += bytes.len() as u64;
        out.at += bytes.len() as u64;
        Ok(())
    }

    /// Ends the part of the tensor with number `of`.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn close(&mut self, part: Part, name: String, dtype: Dtype, shape: Vec<u64>, of: usize) -> Result<()> {
        if !self.open.contains_key(&part) {
            self.append(part, &[])?;
        }
        let Some(open) = self.open.remove(&part) else { return Err(Error::bug("a tensor of a delta was not begun")) };
        let Some(out) = self.out.get_mut(open.file) else { return Err(Error::bug("a file of a delta is gone")) };
        out.entries.push(Entry {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
            begin: open.begin,
            end: open.begin + open.len,
        });
        let digest = digest::hex(digest::combine(open.leaves.finish().into_iter()));
        self.kept.push(Kept { name, dtype, shape, digest, of });
        Ok(())
    }

    /// Forgets what was begun of a tensor.
    pub fn discard(&mut self) {
        for (_, open) in self.open.drain() {
            if let Some(out) = self.out.get_mut(open.file) {
                out.at = out.at.min(open.begin);
            }
        }
    }

    /// Writes the headers, without which nothing opens; returns the names of the files.
    ///
    /// # Errors
    /// As [`Self::append`].
    pub fn finish(&mut self) -> Result<Vec<String>> {
        let mut names = Vec::new();
        for (name, out) in std::mem::take(&mut self.out) {
            let fail = |e| Error::io(&out.path, "write the header", e);
            if out.entries.is_empty() {
                std::fs::remove_file(&out.path).map_err(|e| Error::io(&out.path, "remove", e))?;
                continue;
            }
            let wrong = |p: String| Error::output(&out.path, p);
            let rendered = header::render(&out.entries, &header::plain_metadata(), 0).map_err(wrong)?;
            let text = rendered[8..].trim_ascii_end();
            if text.len() as u64 + 8 > out.header {
                return Err(Error::bug("the header of a delta's file is longer than the room for it"));
            }
            let mut bytes = (out.header - 8).to_le_bytes().to_vec();
            bytes.extend_from_slice(text);
            bytes.resize(out.header as usize, b' ');
            out.file.set_len(out.header + out.at).map_err(fail)?;
            out.file.write_all_at(&bytes, 0).map_err(fail)?;
            out.file.sync_data().map_err(fail)?;
            names.push(name.to_owned());
        }
        Ok(names)
    }
}

/// Bytes of the header of each file that holds at most these parts of tensors of these names.
pub fn header_bytes<'a>(lora: bool, names: impl Iterator<Item = (Part, &'a str)>) -> HashMap<&'static str, u64> {
    let mut room: HashMap<&'static str, u64> = HashMap::new();
    for (part, name) in names {
        let quoted = serde_json::to_string(name).map_or(0, |q| q.len() as u64);
        *room.entry(file_of(lora, part)).or_insert(ENTRY) += quoted + ENTRY;
    }
    room.values_mut().for_each(|bytes| *bytes = (8 + *bytes).next_multiple_of(64));
    room
}

/// The file of a part: an adapter is one.
pub fn file_of(lora: bool, part: Part) -> &'static str {
    match part {
        Part::Left | Part::Right | Part::Whole if lora => ADAPTER,
        _ => part.file(),
    }
}
