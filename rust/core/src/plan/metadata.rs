//! What an output's files say of themselves: the `__metadata__` of the model that lends the config, and what the models say of
//! single tensors, which follows its layers.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Models;
use crate::model::names::split_layer;
use crate::view::Place;

/// A key that lists the tensors that other keys describe (torchao).
const LISTING: &str = "tensor_names";

/// The metadata of a plan's models.
pub(super) struct About {
    /// What is said of the model as a whole.
    whole: BTreeMap<String, String>,
    /// For each model, what is said of a module: key and text.
    modules: Vec<HashMap<String, Vec<(String, String)>>>,
}

/// A module's name from that of its weight.
fn module(name: &str) -> &str {
    name.strip_suffix(".weight").unwrap_or(name)
}

impl About {
    /// Collects what the files of `models` say; what is said of the whole comes from the model at `from`.
    pub fn of(models: &Models, from: usize) -> Self {
        let mut whole = BTreeMap::new();
        let mut modules = Vec::new();
        for (index, checkpoint) in models.checkpoints.iter().enumerate() {
            let mut own: HashMap<String, Vec<(String, String)>> = HashMap::new();
            let said: BTreeMap<&String, &String> = checkpoint.files.iter().rev().flat_map(|f| &f.metadata).collect();
            for (key, text) in said {
                let of_tensor = split_layer(key).is_some() || checkpoint.find(key).is_some();
                if of_tensor {
                    own.entry(module(key).to_owned()).or_default().push((key.clone(), text.clone()));
                } else if index == from && !key.contains("hash") {
                    // A hash of other contents would be wrong.
                    whole.insert(key.clone(), text.clone());
                }
            }
            modules.push(own);
        }
        whole.entry("format".to_owned()).or_insert_with(|| "pt".to_owned());
        Self { whole, modules }
    }

    /// What a file says that holds these tensors: each its name and the place it comes from.
    pub fn file<'a>(
        &self,
        models: &Models,
        tensors: impl Iterator<Item = (&'a str, Place)>,
    ) -> BTreeMap<String, String> {
        let mut out = self.whole.clone();
        let mut listed: BTreeSet<String> = BTreeSet::new();
        for (name, place) in tensors {
            let source = &models.tensor(place).name;
            let stem = models.family(place).unwrap_or_else(|| module(source));
            for (key, text) in self.modules[place.model].get(stem).into_iter().flatten() {
                let layers = (split_layer(key), split_layer(source), split_layer(name));
                let key = match layers {
                    (Some(key), Some(was), Some(is)) if key.layer == was.layer => key.at(is.layer),
                    _ => key.clone(),
                };
                out.insert(key.clone(), text.clone());
                listed.insert(key);
            }
        }
        if out.contains_key(LISTING) {
            out.insert(LISTING.to_owned(), serde_json::json!(listed).to_string());
        }
        out
    }
}
