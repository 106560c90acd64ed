//! Which files a checkpoint consists of: a single file, those of an index, or what [`folder`] finds.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde_json::{Map, Value};

use super::delta::Delta;
use super::folder::{self, Kind};
use crate::error::{Error, Result};

/// Longest index accepted, in bytes.
const MAX_INDEX: u64 = 100_000_000;

/// The file that says what a twin is.
const TWIN: &str = "twin.json";

pub(super) struct Listing {
    pub files: Vec<PathBuf>,
    /// Which of the files each tensor is in, by the index.
    pub weight_map: Option<Vec<(String, usize)>>,
    /// What was left out.
    pub warning: Option<String>,
}

pub(super) fn list(path: &Path) -> Result<Listing> {
    let meta = std::fs::metadata(path).map_err(|e| Error::io(path, "open", e))?;
    if !meta.is_dir() {
        return lone(path);
    }
    if let Some(files) = Delta::as_adapter(path)? {
        return Ok(Listing { files, weight_map: None, warning: None });
    }
    let names = folder_names(path)?;
    for kind in [Kind::Safetensors, Kind::Torch, Kind::Gguf] {
        if let Some(listing) = of_kind(path, &names, kind)? {
            return Ok(listing);
        }
    }
    if path.join(TWIN).is_file() {
        let problem = "is a twin, not a model; `suture twin materialise TWIN OUT` makes a model of it, and its shared expert is \
                       one: TWIN/shared";
        return Err(Error::checkpoint(path, problem));
    }
    let advice = "expected model.safetensors, pytorch_model.bin, a GGUF file, or shards with their index";
    Err(Error::checkpoint(path, format!("no safetensors file in this folder, and none of torch.save; {advice}")))
}

/// A file by itself; of a part of a split GGUF file all parts, which lie beside it.
fn lone(path: &Path) -> Result<Listing> {
    let alone = || Listing { files: vec![path.to_owned()], weight_map: None, warning: None };
    let Some(name) = path.file_name().filter(|n| Kind::of(n) == Some(Kind::Gguf)) else { return Ok(alone()) };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if folder::siblings(name, &[], Kind::Gguf).contains(&name.to_owned()) {
        return Ok(alone());
    }
    let parts = folder::siblings(name, &folder_names(folder)?, Kind::Gguf);
    let choice = folder::choose(&parts, Kind::Gguf).map_err(|problem| Error::checkpoint(path, problem))?;
    let files = choice.map(|c| c.files.iter().map(|name| folder.join(name)).collect());
    Ok(Listing { files: files.unwrap_or_else(|| vec![path.to_owned()]), weight_map: None, warning: None })
}

/// The files of one kind that are the model in the folder `path`, which holds `names`; `None` if there are none.
fn of_kind(path: &Path, names: &[OsString], kind: Kind) -> Result<Option<Listing>> {
    let of_model = |n: &&OsString| {
        let stem = n.as_bytes().strip_suffix(b".index.json").and_then(|n| n.strip_suffix(kind.indexed().as_bytes()));
        stem.is_some_and(|stem| !folder::is_beside(stem, names, kind))
    };
    let mut indexes: Vec<&OsString> = names.iter().filter(of_model).collect();
    let (single, own) = (kind.single(), format!("{}.index.json", kind.single()));
    // A variant's index stands beside its model's: `model.fp16.safetensors.index.json`.
    if indexes.len() > 1 {
        indexes.retain(|n| **n == *own);
    }
    if let Some(name) = indexes.first() {
        let listing = from_index(path, &path.join(name));
        let file = path.join(single);
        let listed = listing.as_ref().is_ok_and(|l| l.files.contains(&file));
        // Loaders take the single file; the index is of an earlier state, or of shards that were joined.
        if **name == *own && file.is_file() && !listed {
            let warning = format!("read as `{single}`, as loaders read it; left out: `{own}` and the files it lists");
            return Ok(Some(Listing { files: vec![file], weight_map: None, warning: Some(warning) }));
        }
        return listing.map(Some);
    }
    let choice = folder::choose(names, kind).map_err(|problem| Error::checkpoint(path, problem))?;
    Ok(choice.map(|choice| Listing {
        files: choice.files.iter().map(|name| path.join(name)).collect(),
        weight_map: None,
        warning: choice.warning,
    }))
}

/// The folder that a path stands for: of a repository in a hub's cache (`snapshots/`, `refs/`) the snapshot that `main` names, or the
/// only one; of all else itself.
///
/// # Errors
/// [`Error::Checkpoint`] if there are several and `main` names none of them.
pub(super) fn resolve(path: &Path) -> Result<PathBuf> {
    let snapshots = path.join("snapshots");
    let weights = |n: &OsString| Kind::of(n).is_some() || n.as_bytes().ends_with(b".json");
    if !snapshots.is_dir() || folder_names(path)?.iter().any(weights) {
        return Ok(path.to_owned());
    }
    let main = path.join("refs/main");
    let main = if main.is_file() { std::fs::read_to_string(main).unwrap_or_default() } else { String::new() };
    // The name of one of the snapshots, and no way to anywhere else.
    let one = |name: &&str| matches!(Path::new(name).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
    let named = Some(main.trim()).filter(one).map(|name| snapshots.join(name)).filter(|p| p.is_dir());
    let mut there = folder_names(&snapshots)?;
    match named {
        Some(snapshot) => Ok(snapshot),
        None if there.len() == 1 => Ok(snapshots.join(there.remove(0))),
        None => {
            let listed: Vec<String> = there.iter().take(4).map(|n| format!("`{}`", n.display())).collect();
            let problem = format!(
                "is a hub's cache of {} snapshots, and `refs/main` names none of them: {}; name one",
                there.len(),
                listed.join(", ")
            );
            Err(Error::checkpoint(path, problem))
        }
    }
}

fn folder_names(path: &Path) -> Result<Vec<OsString>> {
    let read = |e| Error::io(path, "list", e);
    let entries = std::fs::read_dir(path).map_err(read)?;
    let mut names: Vec<OsString> = entries.map(|entry| Ok(entry.map_err(read)?.file_name())).collect::<Result<_>>()?;
    names.sort();
    Ok(names)
}

fn from_index(folder: &Path, index: &Path) -> Result<Listing> {
    let meta = std::fs::metadata(index).map_err(|e| Error::io(index, "read", e))?;
    if !meta.is_file() || meta.len() > MAX_INDEX {
        let problem = format!("the index is not a file of at most {MAX_INDEX} bytes");
        return Err(Error::checkpoint(index, problem));
    }
    let text = std::fs::read(index).map_err(|e| Error::io(index, "read", e))?;
    let value: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| Error::checkpoint(index, format!("the index is not valid: {e}")))?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(Error::checkpoint(index, "the index has no `weight_map` object"));
    };
    let mut places = BTreeMap::new();
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(Error::tensor(index, tensor, "its entry in the index is not a file name"));
        };
        // Tensors are many more than files, and each look at one is a call of the system.
        if places.contains_key(file) {
            continue;
        }
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            return Err(Error::tensor(
                index,
                tensor,
                format!("its shard `{file}` is not a file of this folder; refused"),
            ));
        }
        if !folder.join(file).is_file() {
            return Err(Error::tensor(
                index,
                tensor,
                format!("its shard `{file}` is missing; is the download complete?"),
            ));
        }
        places.insert(file, 0);
    }
    places.values_mut().enumerate().for_each(|(i, place)| *place = i);
    let files = places.keys().map(|f| folder.join(f)).collect();
    let place = |(tensor, file): (&String, &Value)| Some((tensor.clone(), *places.get(file.as_str()?)?));
    let weight_map = map.iter().filter_map(place).collect();
    Ok(Listing { files, weight_map: Some(weight_map), warning: None })
}
