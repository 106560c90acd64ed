//! A model as it is, written anew: one that is made of others (adapters folded in), or stored in another way.

use crate::checkpoint::delta::Delta;
use crate::error::{Error, Result};
use crate::plan::{Draft, Models, OutputConfig, Vocabulary};
use crate::recipe::{Copy, To};
use crate::view::Place;

/// Compiles a copy; `keep_shards` leaves every tensor in the shard it has in the model, and `vocabulary` says which rows its tables
/// have.
///
/// # Errors
/// [`Error::Checkpoint`] if the model is not sound, or holds nothing; [`Error::Tensor`] if a table has not the rows that are wanted.
pub fn build(copy: &Copy, keep_shards: bool, vocabulary: Option<&Vocabulary>) -> Result<Draft> {
    let mut models = Models::opening(copy.to.is_some() || !copy.as_stored);
    let model = models.open(&copy.model)?;
    if copy.to.is_some() {
        models.all_decoded()?;
    }
    if let Some(vocabulary) = vocabulary {
        models.align(vocabulary)?;
    }
    let names: Vec<String> = models.get(model).tensors.iter().map(|t| t.name.clone()).collect();
    if names.is_empty() {
        return Err(Error::checkpoint(&models.get(model).path, "holds no tensors"));
    }
    let adapter = models.get(model).adapter();
    let mut draft = Draft::new(copy.title.clone(), models, OutputConfig::of(model, copy.dtype));
    draft.keep_shards_of = keep_shards.then_some(model);
    draft.form = copy.to.and_then(To::form);
    draft.stem = if adapter { "adapter_model" } else { "model" };
    for (tensor, name) in names.into_iter().enumerate() {
        draft.copy(name, Place { model, tensor }, copy.dtype)?;
    }
    // A delta says itself which tensors there are.
    if !copy.model.adapters.iter().any(|a| Delta::is(&a.path)) {
        draft.settle_head()?;
    }
    Ok(draft)
}
