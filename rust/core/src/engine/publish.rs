//! The last phase of a run: what was made is checked for completeness and put in its place.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::Sidecar;
use super::journal::{self, Done};
use crate::checkpoint::Staging;
use crate::digest;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::source::object;
use crate::view::Sources;

/// Name of the index of a sharded output.
const INDEX: &str = "model.safetensors.index.json";

/// Every file the output will consist of besides its shards, relative to its folder; `report` is the name of its report.
pub fn beside(plan: &Plan, sidecars: &[Sidecar], report: &str) -> Vec<PathBuf> {
    let given = sidecars.iter().map(|s| match s {
        Sidecar::Bytes(name, _) | Sidecar::Copy(name, _) => name.clone(),
    });
    let index = (plan.shards.len() > 1).then(|| INDEX.into());
    index.into_iter().chain(given).chain([report.into()]).collect()
}

/// The digests of the files that go beside the tensors.
///
/// # Errors
/// [`Error::Io`] if one that is to be copied cannot be read.
pub fn digests(sidecars: &[Sidecar]) -> Result<BTreeMap<String, String>> {
    let of = |sidecar: &Sidecar| {
        let (name, digest) = match sidecar {
            Sidecar::Bytes(name, bytes) => (name, digest::hex(digest::of_bytes(bytes))),
            Sidecar::Copy(name, from) => {
                // What stands for an object of a store has none of its bytes.
                if from.metadata().is_ok_and(|meta| object::stands_in(&meta)) {
                    return Err(Error::bug(format!("{} is of a store and was to be copied", from.display())));
                }
                (name, digest::of_file(from).map_err(|e| Error::io(from, "read", e))?)
            }
        };
        Ok((name.to_string_lossy().into_owned(), digest))
    };
    sidecars.iter().map(of).collect()
}

/// Publishes a finished output. Until then, and if anything fails, the folder and its journal stay to be resumed.
///
/// # Errors
/// [`Error::Bug`] if a tensor is missing, [`Error::Checkpoint`] if an input has changed since its header was read,
/// [`Error::Output`] or [`Error::Io`] if the output cannot be put in its place.
pub fn publish(
    plan: &Plan,
    sources: &Sources,
    staging: Staging,
    done: &HashMap<usize, Done>,
    sidecars: &[Sidecar],
    report: &str,
    overwrite: bool,
) -> Result<()> {
    if let Some(missing) = (0..plan.tensors.len()).find(|t| !done.contains_key(t)) {
        return Err(Error::bug(format!("`{}` was not made", plan.tensors[missing].name)));
    }
    unchanged(sources)?;
    let name = staging.target().report();
    let files = beside(plan, sidecars, &name);
    staging
        .publish(&plan.shards, &files, journal::FILE, overwrite, |folder| write(plan, folder, sidecars, &name, report))
}

/// Checks that every input is still what it was when its header was read.
///
/// # Errors
/// [`Error::Checkpoint`] naming the first that is not.
pub fn unchanged(sources: &Sources) -> Result<()> {
    sources.iter().flatten().try_for_each(|source| source.check())
}

fn write(plan: &Plan, folder: &Path, sidecars: &[Sidecar], name: &str, report: &str) -> Result<()> {
    write_beside(folder, sidecars, name, report)?;
    index(plan).map_or(Ok(()), |(name, bytes)| write_file(folder, Path::new(name), &bytes))
}

fn write_file(folder: &Path, name: &Path, bytes: &[u8]) -> Result<()> {
    let path = folder.join(name);
    let fail = |e| Error::io(&path, "write", e);
    let mut file = std::fs::File::create(&path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)
}

/// The index of an output of several shards, and its name.
pub fn index(plan: &Plan) -> Option<(&'static str, Vec<u8>)> {
    if plan.shards.len() <= 1 {
        return None;
    }
    let map: serde_json::Map<String, serde_json::Value> =
        plan.tensors.iter().map(|t| (t.name.clone(), plan.shards[t.shard].file.clone().into())).collect();
    let total: u64 = plan.tensors.iter().map(|t| t.nbytes).sum();
    let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
    Some((INDEX, serde_json::to_vec_pretty(&index).unwrap_or_default()))
}

/// Writes what goes beside the shards, and the report, but for the index.
///
/// # Errors
/// [`Error::Io`] if a file cannot be written, or one that is to be copied cannot be read.
pub fn write_beside(folder: &Path, sidecars: &[Sidecar], name: &str, report: &str) -> Result<()> {
    let write = |name: &Path, bytes: &[u8]| write_file(folder, name, bytes);
    for sidecar in sidecars {
        match sidecar {
            Sidecar::Bytes(name, bytes) => write(name, bytes)?,
            Sidecar::Copy(name, from) => {
                let path = folder.join(name);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, "make the folder", e))?;
                }
                std::fs::copy(from, &path)
                    .and_then(|_| std::fs::File::open(&path)?.sync_all())
                    .map_err(|e| Error::io(from, "copy", e))?;
            }
        }
    }
    write(Path::new(name), report.as_bytes())
}
