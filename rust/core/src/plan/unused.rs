//! Law 5: every input tensor is in the output or listed with a reason.

use std::collections::{HashMap, HashSet};

use super::{Models, Unused};
use crate::view::Place;

/// Every tensor of `models` that no output reads; `outputs` are the output's tensors with what they read.
pub(super) fn list<'a>(models: &Models, outputs: impl Iterator<Item = (&'a str, Vec<Place>)>) -> Vec<Unused> {
    let outputs: Vec<(&str, Vec<Place>)> = outputs.collect();
    // Of what only lends rows nothing else was to be taken.
    let lent = |model: &usize| models.lent.contains(model);
    let mut used: Vec<Vec<bool>> =
        models.checkpoints.iter().enumerate().map(|(i, c)| vec![lent(&i); c.tensors.len()]).collect();
    for place in outputs.iter().flat_map(|(_, places)| places).chain(&models.read) {
        used[place.model][place.tensor] = true;
    }
    // Mostly nothing is left over, and the rest need not be made.
    let mut out = models.dropped();
    if used.iter().flatten().all(|used| *used) {
        return out;
    }
    let labels = models.labels();
    let mut made: HashMap<&str, Vec<usize>> = HashMap::new();
    for (name, places) in &outputs {
        let mut from: Vec<usize> = places.iter().map(|p| p.model).collect();
        from.dedup();
        made.insert(name, from);
    }
    // Layers of a model that something is taken from.
    let layer = |p: &Place| {
        let (stack, layer) = models.get(p.model).anatomy().place(&models.tensor(*p).name)?;
        Some((p.model, stack, layer))
    };
    let read = outputs.iter().flat_map(|(_, places)| places);
    let layers: HashSet<(usize, usize, usize)> = read.filter_map(layer).collect();
    for (model, checkpoint) in models.checkpoints.iter().enumerate() {
        for (tensor, t) in checkpoint.tensors.iter().enumerate() {
            let place = Place { model, tensor };
            if used[model][tensor] {
                continue;
            }
            let reason = match (made.get(t.name.as_str()), layer(&place)) {
                (_, Some(own)) if !layers.contains(&own) => {
                    let name = models.get(model).anatomy().layer_name(Some((own.1, own.2)));
                    format!("nothing is taken from layer {name} of this model")
                }
                (Some(from), _) => {
                    let from: Vec<&str> = from.iter().map(|m| labels[*m].as_str()).collect();
                    format!("the output's tensor of this name is taken from {}", from.join(", "))
                }
                (None, _) => "the output has no tensor of this name".to_owned(),
            };
            out.push(Unused { model: labels[model].clone(), tensor: t.name.clone(), reason });
        }
    }
    out
}
