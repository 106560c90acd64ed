//! What a tensor's name says: the layer it belongs to and the module inside the layer.
//!
//! Names only group tensors; no tensor is ever dropped because its name is unknown.

use std::borrow::Cow;

/// Words that stand before a layer number, besides those that end in one of [`LAYER_ENDS`] (`h.3.`, `blk.3.`, `stages.3.`).
const LAYER_WORDS: [&str; 8] = ["layer", "layers", "block", "blocks", "resblocks", "h", "blk", "stages"];

/// Ends of compound words that stand before a layer number: `double_blocks.3.`, `decoder_layers.3.`.
const LAYER_ENDS: [&str; 3] = ["_layers", "_blocks", "layer_groups"];

/// Words that look like one of these and number something else: convolutions before the layers.
const NO_LAYERS: [&str; 2] = ["conv_layers", "deconv_layers"];

/// Lists beside each other that make a layer together: XLM's `transformer.attentions.3.` and `transformer.ffns.3.`.
const PARALLEL: [&str; 4] = ["attentions", "ffns", "layer_norm1", "layer_norm2"];

/// Layer numbers from here on are taken for something else: no model has as many layers, and a hostile name must not
/// make anyone count to its number.
const MAX_LAYERS: usize = 100_000;

/// A tensor name split at its layer number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerName<'a> {
    /// Everything before the number, with the dot: `model.layers.`.
    pub before: &'a str,
    /// Layer number, from 0.
    pub layer: usize,
    /// Everything after the number's dot: `self_attn.q_proj.weight`.
    pub after: &'a str,
    /// Where the name of the stack ends in `before`.
    stack: usize,
}

impl<'a> LayerName<'a> {
    /// What all layers of a stack share: `model.layers.`; of lists that make a layer together what is before them.
    pub fn stack(&self) -> &'a str {
        &self.before[..self.stack]
    }

    /// The name inside the layer: `self_attn.q_proj.weight`.
    pub fn inside(&self) -> Cow<'a, str> {
        match &self.before[self.stack..] {
            "" => Cow::Borrowed(self.after),
            list => Cow::Owned(format!("{list}{}", self.after)),
        }
    }

    /// The name of the same tensor in another layer.
    pub fn at(&self, layer: usize) -> String {
        format!("{}{layer}.{}", self.before, self.after)
    }
}

/// Splits `name` at its first layer number; `None` for tensors outside every layer (embeddings, final norm, head).
///
/// The first number counts, not the last: in T5 (`encoder.block.3.layer.1.`) the inner one numbers sub-layers.
pub fn split_layer(name: &str) -> Option<LayerName<'_>> {
    let mut start = 0;
    let mut previous = "";
    for part in name.split('.') {
        let end = start + part.len();
        let parallel = PARALLEL.contains(&previous);
        if (parallel || is_layer_word(previous))
            && !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && end < name.len()
            && let Ok(layer) = part.parse()
            && layer < MAX_LAYERS
        {
            let stack = if parallel { start - previous.len() - 1 } else { start };
            return Some(LayerName { before: &name[..start], layer, after: &name[end + 1..], stack });
        }
        previous = part;
        start = end + 1;
    }
    None
}

fn is_layer_word(word: &str) -> bool {
    (LAYER_WORDS.contains(&word) || LAYER_ENDS.iter().any(|end| word.ends_with(end))) && !NO_LAYERS.contains(&word)
}

/// The name of a tensor inside its layer, or its whole name.
pub fn inside(name: &str) -> Cow<'_, str> {
    split_layer(name).map_or(Cow::Borrowed(name), |l| l.inside())
}

/// The module a tensor belongs to: its name inside the layer (or its whole name) without `.weight` or `.bias`.
pub fn module(name: &str) -> Cow<'_, str> {
    let cut = |rest: &str| {
        let short = rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias"));
        short.map_or(rest.len(), str::len)
    };
    match inside(name) {
        Cow::Borrowed(rest) => Cow::Borrowed(&rest[..cut(rest)]),
        Cow::Owned(mut rest) => {
            rest.truncate(cut(&rest));
            Cow::Owned(rest)
        }
    }
}

/// The kind of module: [`module`] with every number as `*`, so that the experts of a layer count as one.
pub fn module_kind(name: &str) -> String {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    module(name).split('.').map(|part| if digits(part) { "*" } else { part }).collect::<Vec<_>>().join(".")
}

/// Beginnings of names that one family has had at different times: with parts of a vision-language model beside each other, and
/// inside of `model.`.
const RENAMED: [(&str, &str); 10] = [
    ("language_model.model.", "model.language_model."),
    ("language_model.lm_head.", "lm_head."),
    ("vision_tower.", "model.vision_tower."),
    ("vision_model.", "model.vision_model."),
    ("audio_tower.", "model.audio_tower."),
    ("multi_modal_projector.", "model.multi_modal_projector."),
    ("visual.", "model.visual."),
    ("image_newline", "model.image_newline"),
    ("language_model.", "model.language_model."),
    ("model.", "model.language_model."),
];

/// Other names that the tensor called `name` has had in its family; the same for the beginnings of names.
pub fn other_names(name: &str) -> impl Iterator<Item = String> {
    RENAMED.iter().flat_map(move |(old, new)| {
        let newer = name.strip_prefix(old).filter(|_| !name.starts_with(new)).map(|rest| format!("{new}{rest}"));
        let older = name.strip_prefix(new).map(|rest| format!("{old}{rest}"));
        newer.into_iter().chain(older)
    })
}

/// Whether the tensor called `name` is of a router, which sends tokens to experts.
pub fn is_router(name: &str) -> bool {
    let parts: Vec<&str> = name.rsplit('.').take(3).collect();
    let of_module = |word: &str| ["gate", "router"].contains(&word);
    match parts[..] {
        // Of a feed-forward module, not a gate of attention or of a shared expert.
        ["weight" | "bias" | "e_score_correction_bias", own, of] => {
            own == "router"
                || (of_module(own) && ["mlp", "block_sparse_moe", "feed_forward", "moe", "ffn"].contains(&of))
        }
        _ => false,
    }
}

/// Whether the tensor called `name` is of one expert of several, or of all stacked.
pub fn is_expert(name: &str) -> bool {
    name.contains(".experts.")
}

/// Whether the tensor called `name` is a buffer that loaders compute again: it need not be there, nor be alike.
pub fn is_buffer(name: &str, dimensions: usize) -> bool {
    const ENDS: [&str; 8] = [
        "inv_freq",
        "original_inv_freq",
        "position_ids",
        "token_type_ids",
        "cos_cached",
        "sin_cached",
        "masked_bias",
        "relative_position_index",
    ];
    let last = name.rsplit('.').next().unwrap_or(name);
    // The causal mask of GPT-2 and its like, [1, 1, n, n].
    let mask = last == "bias" && dimensions >= 3 && name.contains("att");
    ENDS.contains(&last) || mask
}

/// True for tensors that stand before the layers (embeddings), false for those after them (final norm, head).
pub fn is_before_layers(name: &str) -> bool {
    let after = ["embed_out", "unembed"].iter().any(|word| name.contains(word));
    !after && ["embed", "wte", "wpe"].iter().any(|word| name.contains(word))
}

/// Numbers as people list them: `0-4, 30`.
pub fn ranges(numbers: impl Iterator<Item = usize>) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for l in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == l => *last = l,
            _ => runs.push((l, l)),
        }
    }
    let texts = runs.iter().map(|(a, b)| if a == b { a.to_string() } else { format!("{a}-{b}") });
    texts.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_numbers_are_found_in_the_common_architectures() {
        let l = split_layer("model.layers.12.self_attn.q_proj.weight").unwrap();
        assert_eq!((l.stack(), l.layer, &*l.inside()), ("model.layers.", 12, "self_attn.q_proj.weight"));
        for (name, layer) in [
            ("transformer.h.0.attn.c_attn.bias", 0),
            ("encoder.block.3.layer.1.DenseReluDense.wi.weight", 3),
            ("bert.encoder.layer.7.output.dense.weight", 7),
            ("double_blocks.4.img_attn.qkv.weight", 4),
            ("single_transformer_blocks.4.attn.to_q.weight", 4),
            ("transformer.resblocks.2.attn.in_proj_weight", 2),
            ("blk.9.attn_q.weight", 9),
            ("encoder.stages.1.layers.0.w", 1),
        ] {
            assert_eq!(split_layer(name).map(|l| l.layer), Some(layer), "{name}");
        }
        for name in [
            "lm_head.weight",
            "model.norm.weight",
            "layers.x.w",
            "model.layers.3",
            "experts.4.w",
            "feature_extractor.conv_layers.0.conv.weight",
        ] {
            assert_eq!(split_layer(name), None, "{name}");
        }
    }

    #[test]
    fn lists_beside_each_other_are_one_stack() {
        let attention = split_layer("transformer.attentions.3.q_lin.weight").unwrap();
        let norm = split_layer("transformer.layer_norm1.3.weight").unwrap();
        assert_eq!((attention.stack(), norm.stack()), ("transformer.", "transformer."));
        assert_eq!((&*attention.inside(), &*norm.inside()), ("attentions.q_lin.weight", "layer_norm1.weight"));
        assert_eq!(attention.at(5), "transformer.attentions.5.q_lin.weight");
        assert_eq!(module("transformer.layer_norm1.3.weight"), "layer_norm1");
    }

    #[test]
    fn modules_lose_layer_and_suffix() {
        assert_eq!(module("model.layers.12.self_attn.q_proj.weight"), "self_attn.q_proj");
        assert_eq!(module("lm_head.weight"), "lm_head");
        assert_eq!(module("rotary"), "rotary");
        assert_eq!(module_kind("model.layers.1.mlp.experts.17.up_proj.weight"), "mlp.experts.*.up_proj");
    }
}
