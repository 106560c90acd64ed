//! Opening one file of tensors, by its first bytes: a safetensors header, what `torch.save` writes, or GGUF.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::folder::Kind;
use super::{ShardFile, Tensor, gguf, header, torch};
use crate::error::{Error, Result};
use crate::source::object;

/// What begins a zip archive.
const ZIP: &[u8] = b"PK\x03\x04";

/// What to do with a file that is not read.
const AGAIN: &str =
    "load it where it is trusted and save it again with torch.save (torch 1.6 or later), or as safetensors";

/// A file that was opened: its header is read and checked, its data is not.
pub(super) struct Opened {
    pub shard: ShardFile,
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// What was passed over, without the path.
    pub warning: Option<String>,
    /// The header of a GGUF file, whose tensors are made of those of all files together.
    pub gguf: Option<gguf::Header>,
}

/// Opens the file at `path`, the one numbered `index` of a checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] if it is not sound or not of tensors, [`Error::Io`] if it cannot be read.
pub(super) fn open(path: &Path, index: usize) -> Result<Opened> {
    // Asked before opening: opening a pipe would wait for ever.
    let meta = path.metadata().map_err(|e| Error::io(path, "open", e))?;
    if !meta.is_file() {
        return Err(Error::checkpoint(path, "is not a file"));
    }
    let mut file = File::open(path).map_err(|e| Error::io(path, "open", e))?;
    let identity = object::identify(&file.metadata().map_err(|e| Error::io(path, "open", e))?);
    let size = identity.size;
    let mut first = [0u8; 8];
    if size < 8 {
        return Err(Error::checkpoint(path, format!("{size} bytes are too few for a safetensors file")));
    }
    file.read_exact(&mut first).map_err(|e| Error::io(path, "read", e))?;
    let named = path.extension().is_some_and(|e| e == "safetensors");
    let claimed = u64::from_le_bytes(first);
    let legacy = torch::is_legacy(&file, size).map_err(|e| Error::io(path, "read", e))?;
    let pickled = legacy || first.starts_with(ZIP);
    let shard = |header_digest| ShardFile {
        path: path.to_owned(),
        identity,
        header_digest,
        metadata: Default::default(),
        adapter: false,
    };
    if first.starts_with(b"GGUF") {
        let found = gguf::read(&file, size, false).map_err(|problem| Error::checkpoint(path, problem))?;
        let shard = shard(found.digest.clone());
        return Ok(Opened { shard, tensors: Vec::new(), warning: None, gguf: Some(found) });
    }
    let problem = if pickled {
        named.then(|| misnamed(!legacy))
    } else {
        something_else(&first, size).or_else(|| tar(&file, size)).or_else(|| no_archive(path, claimed, size))
    };
    if let Some(problem) = problem {
        return Err(Error::checkpoint(path, problem));
    }
    if pickled {
        let read = if legacy { torch::read_legacy } else { torch::read };
        let torch::Read { tensors, warning, digest } = read(path, &file, size, index)?;
        return Ok(Opened { shard: shard(digest), tensors, warning, gguf: None });
    }
    let (json, data_start) = header_of(path, file, claimed, size)?;
    let header::Parsed { entries, metadata, warning } =
        header::parse(&json, size - data_start).map_err(|p| Error::checkpoint(path, p))?;
    let shard = ShardFile { metadata, ..shard(crate::digest::hex(crate::digest::of_bytes(&json))) };
    let tensor = |e: header::Entry| Tensor {
        name: e.name,
        dtype: e.dtype,
        shape: e.shape,
        file: index,
        begin: data_start + e.begin,
        nbytes: e.end - e.begin,
        strides: None,
        made: None,
    };
    Ok(Opened { shard, tensors: entries.into_iter().map(tensor).collect(), warning, gguf: None })
}

/// The JSON of a safetensors header of `len` bytes, and where the data begins.
fn header_of(path: &Path, mut file: File, len: u64, size: u64) -> Result<(Vec<u8>, u64)> {
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
    Ok((json, 8 + len))
}

/// What a file that begins so is, where it is known to be taken for weights.
fn something_else(first: &[u8; 8], size: u64) -> Option<String> {
    const PAGE: [&[u8]; 4] = [b"<!DOCTYP", b"<!doctyp", b"<html", b"<HTML"];
    if first == b"version " && size < 1024 {
        return Some(
            "is a Git LFS pointer, not the weights it stands for; fetch them (`git lfs pull`) and try again".to_owned(),
        );
    }
    // All text, and markup behind white space or the mark that some put before text: no header is as long as that would say.
    let text = first.strip_prefix(b"\xef\xbb\xbf").unwrap_or(first);
    let markup = text.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace())
        && (text.trim_ascii_start().starts_with(b"<") || text.trim_ascii_start().is_empty());
    if markup || PAGE.iter().any(|p| first.starts_with(p)) {
        return Some(
            "is an HTML page, not weights; the download was answered by a web page, fetch it again".to_owned(),
        );
    }
    None
}

/// What a file of torch, an archive if `zip`, is under the name of a safetensors file.
fn misnamed(zip: bool) -> String {
    let what = if zip { " (a zip archive)" } else { "" };
    format!("is a pickled PyTorch file{what} under the name of a safetensors file; rename it to end in .bin")
}

/// What a file of the first torch is, of which nothing is read.
fn tar(file: &File, size: u64) -> Option<String> {
    const USTAR: (u64, &[u8; 5]) = (257, b"ustar");
    let mut magic = [0; 5];
    let tar = size > 512 && file.read_exact_at(&mut magic, USTAR.0).is_ok() && &magic == USTAR.1;
    tar.then(|| format!("is a tar archive, the form that torch wrote before 0.4, which is not read; {AGAIN}"))
}

/// What is to be said of a file that is called as those of torch and is none; a pickle need not say that it is one.
fn no_archive(path: &Path, claimed: u64, size: u64) -> Option<String> {
    let pickled = path.file_name().and_then(Kind::of) == Some(Kind::Torch);
    let longer = claimed > header::MAX_HEADER || claimed > size - 8;
    (pickled && longer).then(|| {
        format!("is neither what torch.save writes nor safetensors; a pickle by itself is never executed; {AGAIN}")
    })
}
