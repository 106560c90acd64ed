//! Reads an output again and compares it with the digests written beside it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use super::chunks::{self, Stored};
use super::observer::{Observer, Progress};
use super::threads;
use crate::checkpoint::{Checkpoint, IoMode, Source};
use crate::digest::{self, Leaves};
use crate::error::{Error, Result};
use crate::plan::budget::{CHUNK, SPAN};

/// What `verify` found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Verified {
    /// Tensors compared.
    pub tensors: usize,
    /// Bytes read.
    pub bytes: u64,
    /// Tensors that differ from their digest, in the order of their bytes.
    pub differing: Vec<String>,
}

/// The digest of every tensor of a checkpoint, in the order of its bytes; spans of all tensors run in parallel.
///
/// # Errors
/// Input that cannot be read, [`Error::Interrupted`] when the observer stops it.
pub fn digests(checkpoint: &Checkpoint, io: IoMode, threads: usize, observer: &dyn Observer) -> Result<Vec<String>> {
    let sources: Vec<Source> =
        checkpoint.files.iter().map(|f| Source::open(&f.path, f.size, io)).collect::<Result<_>>()?;
    let tasks: Vec<(usize, u64)> = checkpoint
        .tensors
        .iter()
        .enumerate()
        .flat_map(|(i, t)| (0..t.elements().div_ceil(SPAN)).map(move |s| (i, s)))
        .collect();
    let leaves: Mutex<BTreeMap<(usize, u64), Vec<u128>>> = Mutex::default();
    let progress = Progress::default();
    threads::each(tasks.len(), threads, &progress, observer, |i, buffers| {
        let (index, span) = tasks[i];
        let tensor = &checkpoint.tensors[index];
        let stored = [Stored { source: &sources[tensor.file], tensor }];
        let elements = span * SPAN..((span + 1) * SPAN).min(tensor.elements());
        let mut mine = Leaves::new();
        chunks::each(&stored, elements, CHUNK, true, buffers, |_, raw| {
            if progress.stopped() {
                return Err(Error::Interrupted);
            }
            mine.update(raw[0]);
            progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        if let Ok(mut leaves) = leaves.lock() {
            leaves.insert(tasks[i], mine.finish());
        }
        Ok(())
    })?;
    let leaves = leaves.into_inner().map_err(|_| Error::Interrupted)?;
    Ok((0..checkpoint.tensors.len())
        .map(|t| {
            let own = leaves.range((t, 0)..(t + 1, 0)).flat_map(|(_, l)| l.iter().copied());
            digest::hex(digest::combine(own))
        })
        .collect())
}

/// Compares the checkpoint at `path` with the digests in its `suture.json`.
///
/// # Errors
/// [`Error::Checkpoint`] if there is no such file, or if it lists other tensors than the checkpoint holds.
pub fn verify(path: &Path, io: IoMode, threads: usize, observer: &dyn Observer) -> Result<Verified> {
    let record = path.join(crate::checkpoint::REPORT);
    let text = std::fs::read(&record).map_err(|e| Error::io(&record, "read the digests", e))?;
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|e| Error::checkpoint(&record, format!("is not valid JSON: {e}")))?;
    let Some(listed) = value["tensors"].as_object().filter(|_| value["digest"] == digest::SCHEME) else {
        return Err(Error::checkpoint(&record, format!("holds no {} digests", digest::SCHEME)));
    };
    let checkpoint = Checkpoint::open(path)?;
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
            l["digest"] != **d || l["dtype"] != t.dtype.name() || l["shape"] != serde_json::json!(t.shape)
        })
        .map(|(t, _)| t.name.clone())
        .collect();
    Ok(Verified { tensors: checkpoint.tensors.len(), bytes: checkpoint.total_bytes(), differing })
}
