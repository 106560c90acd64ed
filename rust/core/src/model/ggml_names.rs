//! What tensors of Hugging Face's checkpoints are called in GGUF files, and what is done to them there: dense models of the families
//! that are written.
//!
//! Sources: the conversion scripts of llama.cpp.

use super::gguf::{Change, INSIDE, OUTSIDE};

/// A family that is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Llama, Mistral.
    Llama,
    /// Qwen 2 and 3.
    Qwen,
    /// Gemma 2 and 3.
    Gemma,
}

impl Family {
    /// That of a config's `model_type`.
    pub fn of(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "llama" | "mistral" => Self::Llama,
            "qwen2" | "qwen3" => Self::Qwen,
            "gemma2" | "gemma3_text" => Self::Gemma,
            _ => return None,
        })
    }

    /// The name of a tensor in GGUF, and what is done to it; `None` if it has none.
    pub fn name(self, ours: &str) -> Option<(String, Change)> {
        let (stem, end) = ours.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
        let change = match (self, stem.rsplit('.').next()?) {
            (Self::Llama, "q_proj") => Change::Queries,
            (Self::Llama, "k_proj") => Change::Keys,
            (Self::Gemma, own) if own.ends_with("norm") => Change::More,
            _ => Change::None,
        };
        let Some((layer, own)) = stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.')) else {
            let theirs = OUTSIDE.iter().find(|(_, ours)| *ours == stem)?.0;
            return Some((format!("{theirs}.{end}"), change));
        };
        let number: usize = layer.parse().ok()?;
        let known = INSIDE.iter().find(|(_, ours)| *ours == own).map(|(theirs, _)| *theirs);
        let theirs = match (self, own) {
            (Self::Gemma, "post_attention_layernorm") => "post_attention_norm",
            (Self::Gemma, "pre_feedforward_layernorm") => "ffn_norm",
            (Self::Gemma, "post_feedforward_layernorm") => "post_ffw_norm",
            (_, "post_attention_layernorm") => "ffn_norm",
            _ => known?,
        };
        Some((format!("blk.{number}.{theirs}.{end}"), change))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_llama_cpp() {
        for (family, ours, theirs, change) in [
            (Family::Llama, "model.layers.12.self_attn.q_proj.weight", "blk.12.attn_q.weight", Change::Queries),
            (Family::Llama, "model.layers.0.self_attn.k_proj.bias", "blk.0.attn_k.bias", Change::Keys),
            (Family::Llama, "model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight", Change::None),
            (Family::Qwen, "model.layers.0.self_attn.k_proj.weight", "blk.0.attn_k.weight", Change::None),
            (Family::Qwen, "lm_head.weight", "output.weight", Change::None),
            (Family::Gemma, "model.norm.weight", "output_norm.weight", Change::More),
            (Family::Gemma, "model.layers.3.pre_feedforward_layernorm.weight", "blk.3.ffn_norm.weight", Change::More),
            (Family::Gemma, "model.layers.3.self_attn.q_norm.weight", "blk.3.attn_q_norm.weight", Change::More),
        ] {
            assert_eq!(family.name(ours), Some((theirs.to_owned(), change)));
        }
        assert_eq!(Family::Llama.name("model.layers.0.block_sparse_moe.gate.weight"), None);
        assert_eq!(Family::of("mamba"), None);
    }
}
