//! Models as plans have them in JSON: by their paths, with what is put in them.

use std::path::Path;

use serde_json::{Value, json};

use crate::checkpoint::{Applied, Reference};

/// A path as a recipe and a plan have it: text, or its bytes where it is not UTF-8.
pub(super) fn path_json(path: &Path) -> Value {
    use std::os::unix::ffi::OsStrExt;
    match path.to_str() {
        Some(text) => text.into(),
        None => {
            let hex: String = path.as_os_str().as_bytes().iter().map(|b| format!("{b:02x}")).collect();
            json!({"bytes": hex})
        }
    }
}

/// The adapters of a model, as a recipe has them.
pub(super) fn adapters_json(model: &Reference) -> Value {
    let one = |a: &Applied| {
        let mut said = json!({"path": path_json(&a.path), "weight": a.weight()});
        if a.back {
            said["revert"] = true.into();
        }
        said
    };
    model.adapters.iter().map(one).collect()
}

/// A model as [`crate::recipe::model`] reads it.
pub(super) fn model_json(model: &Reference) -> Value {
    json!({"path": path_json(&model.path), "adapters": adapters_json(model), "name": model.name})
}

/// What [`crate::recipe::model`] reads, of a model of a plan.
pub(super) fn reference(model: &Value) -> Value {
    json!({"path": model["path"], "adapters": model["adapters"], "name": model["name"]})
}
