//! What a tensor's name says: the layer it belongs to and the module inside the layer.
//!
//! Names only group tensors; no tensor is ever dropped because its name is unknown.

/// The words that stand before a layer number, over the architectures in use (`model.layers.3.`, `h.3.`, ...).
const LAYER_WORDS: [&str; 5] = ["layers", "layer", "h", "blocks", "block"];

/// Layer numbers from here on are taken for something else: no model has as many layers, and a hostile name must not
/// make anyone count to its number.
const MAX_LAYERS: usize = 100_000;

/// A tensor name split at its layer number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerName<'a> {
    /// Everything before the number, with the dot: `model.layers.`. Names a stack of layers.
    pub stack: &'a str,
    /// Layer number, from 0.
    pub layer: usize,
    /// Everything after the number's dot: `self_attn.q_proj.weight`.
    pub rest: &'a str,
}

/// Splits `name` at its first layer number; `None` for tensors outside every layer (embeddings, final norm, head).
///
/// The first number counts, not the last: in T5 (`encoder.block.3.layer.1.`) the inner one numbers sub-layers.
pub fn split_layer(name: &str) -> Option<LayerName<'_>> {
    let mut start = 0;
    let mut previous = "";
    for part in name.split('.') {
        let end = start + part.len();
        if LAYER_WORDS.contains(&previous)
            && !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && end < name.len()
            && let Ok(layer) = part.parse()
            && layer < MAX_LAYERS
        {
            return Some(LayerName { stack: &name[..start], layer, rest: &name[end + 1..] });
        }
        previous = part;
        start = end + 1;
    }
    None
}

/// The module a tensor belongs to: its name inside the layer (or its whole name) without `.weight` or `.bias`.
pub fn module(name: &str) -> &str {
    let rest = split_layer(name).map_or(name, |l| l.rest);
    rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias")).unwrap_or(rest)
}

/// The kind of module: [`module`] with every number as `*`, so that the experts of a layer count as one.
pub fn module_kind(name: &str) -> String {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    module(name).split('.').map(|part| if digits(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

/// The stack of layers (`model.layers.`) that holds the most elements, and its number of layers.
///
/// A model may have several (a vision tower, an encoder and a decoder); the others count as outside the layers.
pub fn main_stack<'a>(tensors: impl Iterator<Item = (&'a str, u64)>) -> Option<(String, usize)> {
    let mut stacks: std::collections::BTreeMap<&str, (u64, usize)> = Default::default();
    for (name, elements) in tensors {
        if let Some(l) = split_layer(name) {
            let entry = stacks.entry(l.stack).or_default();
            entry.0 += elements;
            entry.1 = entry.1.max(l.layer + 1);
        }
    }
    stacks.into_iter().max_by_key(|(_, (elements, _))| *elements).map(|(s, (_, n))| (s.to_owned(), n))
}

/// True for tensors that stand before the layers (embeddings), false for those after them (final norm, head).
pub fn is_before_layers(name: &str) -> bool {
    let after = ["embed_out", "unembed"].iter().any(|word| name.contains(word));
    !after && ["embed", "wte", "wpe"].iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_numbers_are_found_in_the_common_architectures() {
        let l = split_layer("model.layers.12.self_attn.q_proj.weight").unwrap();
        assert_eq!((l.stack, l.layer, l.rest), ("model.layers.", 12, "self_attn.q_proj.weight"));
        assert_eq!(split_layer("transformer.h.0.attn.c_attn.bias").unwrap().layer, 0);
        assert_eq!(split_layer("encoder.block.3.layer.1.DenseReluDense.wi.weight").unwrap().layer, 3);
        assert_eq!(split_layer("bert.encoder.layer.7.output.dense.weight").unwrap().layer, 7);
        for name in ["lm_head.weight", "model.norm.weight", "layers.x.w", "model.layers.3", "experts.4.w"] {
            assert_eq!(split_layer(name), None, "{name}");
        }
    }

    #[test]
    fn modules_lose_layer_and_suffix() {
        assert_eq!(module("model.layers.12.self_attn.q_proj.weight"), "self_attn.q_proj");
        assert_eq!(module("lm_head.weight"), "lm_head");
        assert_eq!(module("rotary"), "rotary");
        assert_eq!(module_kind("model.layers.1.mlp.experts.17.up_proj.weight"), "mlp.experts.*.up_proj");
    }

    #[test]
    fn the_largest_stack_is_the_main_one() {
        let names = [("vision.blocks.30.w", 5), ("model.layers.0.w", 100), ("model.layers.1.w", 100), ("norm", 1)];
        assert_eq!(main_stack(names.into_iter()), Some(("model.layers.".into(), 2)));
    }
}
