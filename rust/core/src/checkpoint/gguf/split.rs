//! What kind of file one is, and whether files of a split model belong together.

use serde_json::Value;

use super::header::Header;
use super::metadata::short;

/// Refuses what is no model.
///
/// # Errors
/// In words without the path.
pub(super) fn refuse_others(header: &Header) -> Result<(), String> {
    let said = |key: &str| header.metadata.get(key).and_then(Value::as_str);
    let named = |begins: &[&str]| {
        let mut tensors = header.tensors.iter().map(|t| t.name.as_str());
        !header.tensors.is_empty() && tensors.all(|t| begins.iter().any(|b| t.starts_with(b)))
    };
    let (kind, architecture) = (said("general.type"), said("general.architecture"));
    let problem = if kind == Some("adapter") || header.tensors.iter().any(|t| t.name.ends_with(".lora_a")) {
        "is an adapter (LoRA) in GGUF, which is not read; give the adapter that it was made from (safetensors, PEFT)"
    } else if kind == Some("mmproj") || architecture == Some("clip") || named(&["v.", "mm.", "a."]) {
        "is the vision or audio part of a model (mmproj), not the model; give the GGUF file of the language model"
    } else if kind == Some("imatrix") || header.tensors.iter().any(|t| t.name.ends_with(".in_sum2")) {
        "is an importance matrix (imatrix), not a model"
    } else if let Some(other) = kind.filter(|k| *k != "model") {
        return Err(format!("is of the type `{}`, expected `model`", short(other)));
    } else {
        return Ok(());
    };
    Err(problem.to_owned())
}

/// Holds what the file numbered `index` says of the whole against all of them.
///
/// # Errors
/// In words without the path.
pub(super) fn check(headers: &[Header], index: usize) -> Result<(), String> {
    let said = |key: &str| headers[index].metadata.get(key).and_then(Value::as_u64);
    let count = said("split.count").unwrap_or(1).max(1);
    if count != headers.len() as u64 {
        let found = headers.len();
        return Err(if found == 1 {
            format!(
                "is one of the {count} files of a split model, by its own name; all have to lie side by side, called \
                 NAME-00001-of-{count:05}.gguf and so on"
            )
        } else {
            format!("says that the model has {count} files, found {found}")
        });
    }
    if let Some(number) = said("split.no").filter(|n| count > 1 && *n != index as u64) {
        return Err(format!("says that it is file {} of the split model, its name says {}", number + 1, index + 1));
    }
    let tensors: usize = headers.iter().map(|h| h.tensors.len()).sum();
    match said("split.tensors.count") {
        Some(total) if index + 1 == headers.len() && total != tensors as u64 => {
            Err(format!("says that the model has {total} tensors, found {tensors} in {count} files"))
        }
        _ => Ok(()),
    }
}
