//! What `--overwrite` may delete: the files of a checkpoint and nothing else.
//!
//! Beside a report these are the files that the report lists. Without one they are those whose names are known to be
//! of checkpoints. Whatever else a folder holds is somebody's work, and in the way.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{File, Metadata};
use std::io::{BufReader, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use super::folder::is_part;
use super::{JOURNAL, REPORT};

/// Names that a checkpoint's side files have, whoever wrote them.
const KNOWN: &[&str] = &[
    "adapter_config.json",
    "adapter_model.safetensors",
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "config.json",
    "diffusion_pytorch_model.safetensors",
    "generation_config.json",
    "hf_quant_config.json",
    "merges.txt",
    "mergekit_config.yml",
    "mergekit_moe_config.yml",
    "preprocessor_config.json",
    "processor_config.json",
    "pytorch_model.safetensors",
    "quantize_config.json",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "source.spm",
    "special_tokens_map.json",
    "spiece.model",
    "target.spm",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.bpe",
    "vocab.json",
    "vocab.txt",
];

/// What of a report is needed here; the rest may be large, and is not kept.
#[derive(Deserialize)]
struct Report {
    files: Vec<PathBuf>,
}

/// Checks that a folder holds a checkpoint and nothing else.
///
/// # Errors
/// What is in the way, worded to follow the folder's path.
pub(super) fn check(folder: &Path) -> Result<(), String> {
    let listed = listed(folder)?;
    let mut weights = false;
    let mut open = vec![PathBuf::new()];
    let device = folder.metadata().map_err(|e| format!("cannot be looked at: {e}"))?.dev();
    while let Some(inner) = open.pop() {
        let unreadable = |e| in_the_way(&inner, &format!("cannot be listed ({e})"));
        for entry in std::fs::read_dir(folder.join(&inner)).map_err(unreadable)? {
            let name = inner.join(entry.map_err(unreadable)?.file_name());
            let meta = folder.join(&name).symlink_metadata();
            let meta = meta.map_err(|e| in_the_way(&name, &format!("cannot be looked at ({e})")))?;
            let holds_listed = || listed.iter().flatten().any(|file| file.starts_with(&name));
            if meta.dev() != device {
                return Err(in_the_way(&name, "is mounted there"));
            } else if meta.is_dir() && holds_listed() {
                open.push(name);
                continue;
            } else if !meta.is_file() {
                return Err(in_the_way(&name, what(&meta)));
            }
            match &listed {
                Some(files) if files.contains(&name) || [REPORT, JOURNAL].iter().any(|own| name == Path::new(own)) => {}
                Some(_) => return Err(in_the_way(&name, "is not listed in its suture.json")),
                None if is_known(&name, folder) => {}
                None => return Err(in_the_way(&name, "is not known to be of a checkpoint")),
            }
            weights |= [OsStr::new("safetensors"), OsStr::new("gguf")].iter().any(|e| name.extension() == Some(e));
        }
    }
    if weights { Ok(()) } else { Err("holds no weights; --overwrite replaces checkpoints only".to_owned()) }
}

fn in_the_way(name: &Path, why: &str) -> String {
    let name = if name.as_os_str().is_empty() { Path::new(".") } else { name };
    let name = name.display();
    format!("`{name}` {why}; --overwrite will not delete it: move it away, or choose another output")
}

/// The files that the folder's report lists, if it has one.
fn listed(folder: &Path) -> Result<Option<BTreeSet<PathBuf>>, String> {
    let path = folder.join(REPORT);
    match path.symlink_metadata() {
        Ok(meta) if meta.is_file() => {}
        Ok(meta) => return Err(in_the_way(Path::new(REPORT), what(&meta))),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(in_the_way(Path::new(REPORT), &format!("cannot be looked at ({e})"))),
    }
    let unsound = |e: &dyn std::fmt::Display| in_the_way(Path::new(REPORT), &format!("is no report of suture ({e})"));
    let file = File::open(&path).map_err(|e| unsound(&e))?;
    let report: Report = serde_json::from_reader(BufReader::new(file)).map_err(|e| unsound(&e))?;
    for name in &report.files {
        if name.components().count() == 0 || name.components().any(|c| !matches!(c, Component::Normal(_))) {
            return Err(unsound(&format!("it lists `{}`, which is not in its folder", name.display())));
        }
    }
    Ok(Some(report.files.into_iter().collect()))
}

/// True for names that are known to be of checkpoints.
fn is_known(name: &Path, folder: &Path) -> bool {
    let Some(name) = name.to_str() else { return false };
    let weights = name.strip_suffix(".safetensors");
    KNOWN.contains(&name)
        || weights.is_some_and(|stem| stem.starts_with("model") || stem.starts_with("consolidated") || is_part(stem))
        || name.ends_with(".safetensors.index.json")
        || name.starts_with("model.safetensors.index.") && name.ends_with(".json")
        || name.starts_with("tokenizer.model.v")
        // A card that mergekit wrote; by itself it may be anybody's notes.
        || name == "README.md" && folder.join("mergekit_config.yml").is_file()
}

fn what(meta: &Metadata) -> &'static str {
    match meta.file_type() {
        t if t.is_dir() => "is a folder",
        t if t.is_symlink() => "is a link",
        _ => "is no ordinary file",
    }
}
