//! Converting: every tensor of one model as it is, in safetensors.

use crate::error::Result;
use crate::plan::{Draft, Models, OutputConfig};
use crate::recipe::Convert;
use crate::view::Place;

/// Compiles a conversion. An adapter's file is called as adapters' are.
///
/// # Errors
/// As [`crate::checkpoint::Checkpoint::open`].
pub fn build(convert: &Convert) -> Result<Draft> {
    let mut models = Models::default();
    let model = models.open(&convert.model)?;
    let mut draft = Draft::new("convert".into(), models, OutputConfig::of(model, convert.dtype));
    let names: Vec<String> = draft.models.get(model).tensors.iter().map(|t| t.name.clone()).collect();
    if names.iter().any(|name| name.contains(".lora_")) {
        draft.stem = "adapter_model";
    }
    draft.notes.push(("model".to_owned(), draft.models.labels().remove(model)));
    for (tensor, name) in names.into_iter().enumerate() {
        draft.copy(name, Place { model, tensor }, convert.dtype)?;
    }
    Ok(draft)
}
