//! A model put together: of experts, of modules, of parts of several models.

use crate::error::{Error, Result};
use crate::plan::{Draft, Models, OutputConfig};
use crate::recipe::{Assemble, To};

/// Compiles an assembly.
///
/// # Errors
/// [`Error::Recipe`] if it has no tensors, [`Error::Tensor`] if one is not what it is to be.
pub fn build(asked: &Assemble) -> Result<Draft> {
    if asked.pieces.is_empty() {
        return Err(Error::recipe("assemble.tensors", "is empty; the output would hold no tensors"));
    }
    let mut models = Models::opening(true);
    let found = models.assemble(asked)?;
    if asked.to.is_some() {
        models.all_decoded()?;
    }
    // The first is opened first.
    let lead = 0;
    // Adapters are also made of models that hold several, under names of their own.
    let peft = |name: &str| name.starts_with("base_model.model.") && name.contains(".lora_");
    let adapter = models.get(lead).adapter() || asked.pieces.iter().any(|p| peft(&p.name));
    let mut draft = Draft::new(asked.title.clone(), models, OutputConfig::of(lead, asked.dtype));
    draft.form = asked.to.and_then(To::form);
    draft.stem = if adapter { "adapter_model" } else { "model" };
    for (piece, places) in asked.pieces.iter().zip(&found) {
        draft.assemble(piece, places, asked.dtype)?;
    }
    Ok(draft)
}
