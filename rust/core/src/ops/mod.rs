//! Surgery: what a recipe asks for becomes a plan. One file, or room, an operation.

pub mod convert;
pub mod swap;

use serde_json::Value;

use crate::error::Result;
use crate::plan::{self, Plan};
use crate::recipe::Recipe;

/// Default shard size, in bytes, as Hugging Face has it.
pub const DEFAULT_SHARD: u64 = 5_000_000_000;

/// Compiles a recipe. `seed` feeds random methods. Without a `shard_size` (in bytes) a swap keeps the recipient's
/// shards, a merge or a conversion has shards of [`DEFAULT_SHARD`].
///
/// # Errors
/// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
pub fn compile(recipe: &Value, shard_size: Option<u64>, seed: u64) -> Result<Plan> {
    let draft = match Recipe::parse(recipe)? {
        Recipe::Convert(convert) => convert::build(&convert)?,
        Recipe::Merge(merge) => plan::merge::build(&merge, seed)?,
        Recipe::Swap(swap) => swap::build(&swap, shard_size.is_none())?,
    };
    draft.finish(recipe.clone(), shard_size.unwrap_or(DEFAULT_SHARD))
}
