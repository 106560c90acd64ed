//! Surgery: what a recipe asks for becomes a plan. One file, or room, an operation.

pub mod assemble;
pub mod copy;
pub mod swap;

use std::sync::Arc;

use serde_json::Value;

use crate::error::Result;
use crate::plan::{self, Plan, Vocabulary};
use crate::recipe::Recipe;

/// Default shard size, in bytes, as Hugging Face has it.
pub const DEFAULT_SHARD: u64 = 5_000_000_000;

/// Compiles a recipe. `seed` feeds random methods, `vocabulary` is what the models of a merge are brought to,
/// or whose rows a copy's tables have. Without a `shard_size` (in bytes) a swap keeps the recipient's
/// shards, a copy the model's, and a merge has shards of [`DEFAULT_SHARD`].
///
/// # Errors
/// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
pub fn compile(
    recipe: &Value,
    shard_size: Option<u64>,
    seed: u64,
    vocabulary: Option<Arc<Vocabulary>>,
) -> Result<Plan> {
    let draft = match Recipe::parse(recipe)? {
        Recipe::Merge(merge) => plan::merge::build(&merge, seed, vocabulary.as_deref())?,
        Recipe::Swap(swap) => swap::build(&swap, shard_size.is_none())?,
        Recipe::Assemble(asked) => assemble::build(&asked)?,
        Recipe::Copy(copy) => copy::build(&copy, shard_size.is_none(), vocabulary.as_deref())?,
    };
    let mut plan = draft.finish(recipe.clone(), shard_size.unwrap_or(DEFAULT_SHARD))?;
    plan.vocabulary = vocabulary;
    Ok(plan)
}
