//! Reads an output again and compares it with the digests written beside it.

use std::path::{Component, Path};

use super::chunks;
use super::observer::{Observer, Progress};
use super::spans;
use crate::checkpoint::{Checkpoint, report_of};
use crate::digest::{self, Leaves};
use crate::error::{Error, Result};
use crate::sizes::CHUNK;
use crate::source::IoMode;
use crate::view::{Decode, Plain};

/// What `verify` found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Verified {
    /// Tensors compared.
    pub tensors: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Tensors that differ from their digest, in the order of their bytes.
    pub differing: Vec<String>,
    /// Files beside the tensors that differ from their digest, or are gone.
    pub files: Vec<String>,
}

/// The digest of every tensor of a checkpoint, in the order of its bytes; spans of all tensors run in parallel.
///
/// # Errors
/// Input that cannot be read, [`Error::Interrupted`] when the observer stops it.
pub fn digests(checkpoint: &Checkpoint, io: IoMode, threads: usize, observer: &dyn Observer) -> Result<Vec<String>> {
    let sources = checkpoint.sources(io);
    let elements = checkpoint.tensors.iter().map(|t| t.elements());
    let plain = |i: usize| {
        let tensor = &checkpoint.tensors[i];
        Plain { source: &*sources[tensor.file], tensor }
    };
    let views = |i: usize| vec![Box::new(plain(i)) as Box<dyn Decode>];
    let leaves = |i: usize, elements, buffers: &mut chunks::Buffers, progress: &Progress| {
        let stored = plain(i);
        let mut mine = Leaves::new();
        chunks::each(&[&stored], elements, CHUNK, true, buffers, |_, raw| {
            progress.alive()?;
            mine.update(raw[0]);
            progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        Ok(mine.finish())
    };
    let found = spans::each(elements, views, threads, observer, leaves, |_, leaves| {
        digest::hex(digest::combine(leaves.into_iter().flatten()))
    })?;
    sources.iter().try_for_each(|s| s.check())?;
    Ok(found)
}

/// Compares the checkpoint at `path` with the digests in its `suture.json`, or beside a file in `FILE.suture.json`.
///
/// # Errors
/// [`Error::Checkpoint`] if there is no such file, or if it lists other tensors than the checkpoint holds.
pub fn verify(path: &Path, io: IoMode, threads: usize, observer: &dyn Observer) -> Result<Verified> {
    // The report of a file lies beside the file itself, not beside a link to it.
    let path = &*path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let file = path.file_name().and_then(|n| n.to_str()).filter(|_| path.is_file());
    let record = match file {
        Some(_) => path.with_file_name(report_of(file)),
        None => path.join(report_of(None)),
    };
    let text = match std::fs::read(&record) {
        // What suture did not write has no digests; whether it is a checkpoint is another question.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Checkpoint::stored(path)?;
            let problem = format!(
                "was not written by suture, or its {} is gone: there are no digests to compare with",
                record.display()
            );
            return Err(Error::checkpoint(path, problem));
        }
        other => other.map_err(|e| Error::io(&record, "read the digests", e))?,
    };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::checkpoint(&record, format!("is not valid JSON: {e}")))?;
    let Some(listed) = value["tensors"].as_object().filter(|_| value["digest"] == digest::SCHEME) else {
        return Err(Error::checkpoint(&record, format!("holds no {} digests", digest::SCHEME)));
    };
    let checkpoint = Checkpoint::stored(path)?.as_written()?;
    if let Some(name) = listed.keys().find(|n| checkpoint.find(n).is_none()) {
        return Err(Error::tensor(path, name, "is listed in suture.json and missing from the checkpoint"));
    }
    if let Some(t) = checkpoint.tensors.iter().find(|t| !listed.contains_key(&t.name)) {
        return Err(Error::tensor(path, &t.name, "is not listed in suture.json; it was added later"));
    }
    let found = digests(&checkpoint, io, threads, observer)?;
    let differing = checkpoint
        .tensors
        .iter()
        .zip(&found)
        .filter(|(t, d)| {
            let l = &listed[&t.name];
            // Of what a store has copied by itself no digest is known.
            (l["digest"] != **d && !l["digest"].is_null())
                || l["dtype"] != t.dtype.name()
                || l["shape"] != serde_json::json!(t.shape)
        })
        .map(|(t, _)| t.name.clone())
        .collect();
    let beside = value["beside"].as_object().into_iter().flatten();
    let differs = |name: &str, digest: &serde_json::Value| {
        // A record is a file like any other: it may name what has no end.
        let inner = Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
        let file = path.join(name);
        !inner || !file.is_file() || digest::of_file(&file).map_or(true, |found| *digest != found)
    };
    let files = beside.filter(|(name, digest)| differs(name, digest)).map(|(name, _)| name.clone()).collect();
    Ok(Verified { files, tensors: checkpoint.tensors.len(), bytes: checkpoint.total_bytes(), differing })
}
