//! What a config says that nobody reads: told of where it is a name that somebody knows, refused where nobody does.
//!
//! mergekit passes over every key that it does not read, a misspelt one too. Here a name that it, another method or an
//! older version reads is told of, once, and a name that nobody knows is an error, unless the recipe says
//! `ignore_unknown`.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::methods::registry;

/// Keys that mergekit or one of its relatives reads somewhere, besides the parameters of methods.
pub const KEYS: [&str; 49] = [
    "allow_crimes",
    "allow_negative_weights",
    "base_model",
    "chat_template",
    "copy_tokenizer",
    "cuda",
    "device",
    "dtype",
    "exclude",
    "experts_per_token",
    "filter",
    "filters",
    "gate_mode",
    "include",
    "int8_mask",
    "layer_granularity",
    "layer_range",
    "lazy_unpickle",
    "lora_merge_cache",
    "low_cpu_memory",
    "merge_method",
    "metadata",
    "model",
    "models",
    "modules",
    "name",
    "negative_prompts",
    "noise_scale",
    "normalize_weights",
    "out_dtype",
    "out_shard_size",
    "override_architecture",
    "pad_to_multiple_of",
    "parameters",
    "positive_prompts",
    "random_seed",
    "residual_scale",
    "residual_weight",
    "revision",
    "seed",
    "slices",
    "smooth",
    "source",
    "sources",
    "tokenizer",
    "tokenizer_source",
    "tokens",
    "trust_remote_code",
    "write_model_card",
];

/// What of a recipe was not read.
#[derive(Debug, Default)]
pub struct Idle {
    /// True where names that nobody knows are passed over, too.
    ignore_unknown: bool,
    /// By the name, and who does not read it: the places.
    found: RefCell<BTreeMap<(String, String), Vec<String>>>,
}

impl Idle {
    /// Of a recipe that says whether unknown names are passed over.
    pub fn new(ignore_unknown: bool) -> Self {
        Self { ignore_unknown, ..Self::default() }
    }

    /// Takes note of a name at key path `at` that `reader` does not read; false if it is not to be passed over.
    pub fn passes(&self, name: &str, at: &str, reader: &str) -> bool {
        let parameter = || registry::METHODS.iter().any(|m| m.spec().parameter(name).is_some());
        let passes = self.ignore_unknown || KEYS.contains(&name) || parameter();
        if passes {
            self.found.borrow_mut().entry((name.to_owned(), reader.to_owned())).or_default().push(at.to_owned());
        }
        passes
    }

    /// A sentence for each name.
    pub fn told(&self) -> Vec<String> {
        let told = |((name, reader), places): (&(String, String), &Vec<String>)| {
            let more = if places.len() > 1 { format!(" and {} more", places.len() - 1) } else { String::new() };
            let place = &places[0];
            // A parameter beside `parameters` is a slip.
            let parameter = || registry::METHODS.iter().any(|m| m.spec().parameter(name).is_some());
            let inside = place.rsplit('.').nth(1) == Some("parameters");
            let slip = if !inside && parameter() { "; it goes under `parameters`" } else { "" };
            format!("`{name}` is not read by {reader} ({place}{more}){slip}")
        };
        self.found.borrow().iter().map(told).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_somebody_knows_pass_and_are_told_once() {
        let idle = Idle::default();
        assert!(idle.passes("density", "models[0].parameters.density", "linear"));
        assert!(idle.passes("density", "models[1].parameters.density", "linear"));
        assert!(idle.passes("random_seed", "random_seed", "a merge"));
        assert!(!idle.passes("densty", "parameters.densty", "linear"));
        assert_eq!(
            idle.told(),
            [
                "`density` is not read by linear (models[0].parameters.density and 1 more)",
                "`random_seed` is not read by a merge (random_seed)"
            ]
        );
        assert!(Idle::new(true).passes("densty", "parameters.densty", "linear"));
    }

    #[test]
    fn keys_are_listed_once_and_in_order() {
        assert!(KEYS.is_sorted());
    }
}
