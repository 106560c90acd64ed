//! What tensors of GGUF files are called in Hugging Face's checkpoints, and what was done to them: a table for each architecture.
//!
//! Sources: the conversion scripts of llama.cpp, and loading in transformers.

/// What a tensor is.
#[derive(Debug, Clone, PartialEq)]
pub enum Meaning {
    /// A tensor of that name.
    One(String, Change),
    /// A matrix for each expert: what stands before its number, and behind it.
    Each(String, String),
    /// A matrix for each expert, of which the upper half of the rows is one tensor and the lower half another: what stands before the
    /// number, and behind it of each.
    Halves(String, [String; 2]),
    /// The transpose of the matrix of each expert (gpt-oss).
    Turned(String),
    /// One of two of which the columns of another take turns: its name, and which it is. Matrices are transposed besides.
    Woven(String, usize),
    /// Nothing: what it holds, config.json says.
    Nothing,
}

/// What was done to a tensor's elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Nothing.
    None,
    /// In every query head, rows of the two halves take turns.
    Queries,
    /// The same in every head of keys.
    Keys,
    /// 1 was added to every element.
    More,
    /// A dimension of 1 was left out before the others.
    Flat,
}

/// A kind of model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama, Mistral.
    Llama,
    /// The same with experts.
    Mixtral,
    /// Qwen 2 and 3.
    Qwen,
    /// The same with experts.
    QwenMoe,
    /// Gemma 2 and 3.
    Gemma,
    /// gpt-oss.
    GptOss,
}

/// Tensors outside layers.
pub(super) const OUTSIDE: [(&str, &str); 3] =
    [("token_embd", "model.embed_tokens"), ("output_norm", "model.norm"), ("output", "lm_head")];

/// Tensors of a layer, of all architectures.
pub(super) const INSIDE: [(&str, &str); 10] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

/// Tensors that say what a config says, or that loaders compute.
const NOTHING: [&str; 5] =
    ["rope_freqs", "attn_rot_embd", "rope_factors_long", "rope_factors_short", "attn_rot_embd.inv_freq"];

impl Architecture {
    /// That of a file, by `general.architecture` and whether there are experts.
    pub fn of(name: &str, experts: bool) -> Option<Self> {
        Some(match (name, experts) {
            ("llama" | "mistral3", false) => Self::Llama,
            ("llama" | "mistral3", true) => Self::Mixtral,
            ("qwen2" | "qwen3", _) => Self::Qwen,
            ("qwen2moe" | "qwen3moe", _) => Self::QwenMoe,
            ("gemma2" | "gemma3", _) => Self::Gemma,
            ("gpt-oss", _) => Self::GptOss,
            _ => return None,
        })
    }

    /// What the tensor called `name` is; `None` if it is not known.
    pub fn meaning(self, name: &str) -> Option<Meaning> {
        let (stem, end) = name.rsplit_once('.').filter(|(_, end)| matches!(*end, "weight" | "bias"))?;
        let called = |own: &str| format!("{own}.{end}");
        let plain = |own: &str| Some(Meaning::One(called(own), self.norm(own, end)));
        let last = stem.rsplit_once('.').map_or(stem, |(_, last)| last);
        if NOTHING.contains(&last) || NOTHING.contains(&stem) {
            return Some(Meaning::Nothing);
        }
        let Some((layer, own)) = stem.strip_prefix("blk.").and_then(|rest| rest.split_once('.')) else {
            return plain(OUTSIDE.iter().find(|(theirs, _)| *theirs == stem)?.1);
        };
        let number: usize = layer.parse().ok()?;
        let inside = |own: &str| format!("model.layers.{number}.{own}");
        if let Some((_, ours)) = INSIDE.iter().find(|(theirs, _)| *theirs == own) {
            let change = match (self, own) {
                (Self::Llama | Self::Mixtral, "attn_q") => Change::Queries,
                (Self::Llama | Self::Mixtral, "attn_k") => Change::Keys,
                _ => self.norm(ours, end),
            };
            return Some(Meaning::One(called(&inside(ours)), change));
        }
        let module = match self {
            Self::Mixtral => "block_sparse_moe.experts",
            _ => "mlp.experts",
        };
        let router = match self {
            Self::Mixtral => "block_sparse_moe.gate",
            Self::GptOss => "mlp.router",
            _ => "mlp.gate",
        };
        let part = |which: usize| match self {
            Self::Mixtral => ["w1", "w3", "w2"][which],
            _ => ["gate_proj", "up_proj", "down_proj"][which],
        };
        let which = |own: &str| ["ffn_gate", "ffn_up", "ffn_down"].iter().position(|p| *p == own);
        // Each expert by itself, in old files.
        if let Some((own, expert)) = own.split_once('.') {
            let (which, expert) = (which(own)?, expert.parse::<usize>().ok()?);
            return Some(Meaning::One(called(&inside(&format!("{module}.{expert}.{}", part(which)))), Change::None));
        }
        match (self, own) {
            (Self::Gemma, "ffn_norm") => plain(&inside("pre_feedforward_layernorm")),
            (Self::Gemma | Self::GptOss, "post_attention_norm") => plain(&inside("post_attention_layernorm")),
            (Self::Gemma, "post_ffw_norm") => plain(&inside("post_feedforward_layernorm")),
            (Self::GptOss, "ffn_norm") => None,
            (_, "ffn_norm") => plain(&inside("post_attention_layernorm")),
            (Self::GptOss, "attn_sinks") => Some(Meaning::One(inside("self_attn.sinks"), Change::None)),
            (Self::Mixtral | Self::QwenMoe | Self::GptOss, "ffn_gate_inp") => plain(&inside(router)),
            (Self::QwenMoe, "ffn_gate_inp_shexp") => {
                Some(Meaning::One(called(&inside("mlp.shared_expert_gate")), Change::Flat))
            }
            (Self::QwenMoe, _) if own.ends_with("_shexp") => {
                let part = part(which(own.strip_suffix("_shexp")?)?);
                plain(&inside(&format!("mlp.shared_expert.{part}")))
            }
            (Self::GptOss, _) => {
                let end = if end == "bias" { "_bias" } else { "" };
                let of = |own: &str| inside(&format!("mlp.experts.{own}{end}"));
                match which(own.strip_suffix("_exps")?)? {
                    2 if end.is_empty() => Some(Meaning::Turned(of("down_proj"))),
                    2 => Some(Meaning::One(of("down_proj"), Change::None)),
                    which => Some(Meaning::Woven(of("gate_up_proj"), which)),
                }
            }
            (Self::Mixtral | Self::QwenMoe, "ffn_gate_up_exps") => {
                let behind = [0, 1].map(|which| called(part(which)));
                Some(Meaning::Halves(inside(module), behind))
            }
            (Self::Mixtral | Self::QwenMoe, _) => {
                let part = part(which(own.strip_suffix("_exps")?)?);
                Some(Meaning::Each(inside(module), called(part)))
            }
            _ => None,
        }
    }

    /// What was done to a tensor that may be the weight of a norm.
    fn norm(self, ours: &str, end: &str) -> Change {
        if self == Self::Gemma && ours.ends_with("norm") && end == "weight" { Change::More } else { Change::None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(architecture: Architecture, name: &str) -> String {
        match architecture.meaning(name) {
            Some(Meaning::One(name, Change::None)) => name,
            Some(Meaning::One(name, change)) => format!("{name} {change:?}"),
            Some(Meaning::Each(before, behind)) => format!("{before}.E.{behind}"),
            Some(Meaning::Halves(before, behind)) => format!("{before}.E.{}", behind.join("+")),
            other => format!("{other:?}"),
        }
    }

    /// Names are Hugging Face's, and what was done to a tensor is undone where it was done.
    #[test]
    fn names_are_those_of_each_family() {
        use Architecture::*;
        for (of, theirs, ours) in [
            (Llama, "token_embd.weight", "model.embed_tokens.weight"),
            (Llama, "output.weight", "lm_head.weight"),
            (Llama, "output_norm.weight", "model.norm.weight"),
            (Llama, "blk.12.attn_q.weight", "model.layers.12.self_attn.q_proj.weight Queries"),
            (Llama, "blk.0.attn_k.bias", "model.layers.0.self_attn.k_proj.bias Keys"),
            (Llama, "blk.0.attn_v.bias", "model.layers.0.self_attn.v_proj.bias"),
            (Llama, "blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"),
            (Llama, "rope_freqs.weight", "Some(Nothing)"),
            (Llama, "blk.3.attn_rot_embd.weight", "Some(Nothing)"),
            (Llama, "blk.3.ssm_conv1d.weight", "None"),
            (Llama, "blk.x.attn_q.weight", "None"),
            (Mixtral, "blk.0.ffn_gate_inp.weight", "model.layers.0.block_sparse_moe.gate.weight"),
            (Mixtral, "blk.0.ffn_down_exps.weight", "model.layers.0.block_sparse_moe.experts.E.w2.weight"),
            (Mixtral, "blk.0.ffn_up.7.weight", "model.layers.0.block_sparse_moe.experts.7.w3.weight"),
            (Qwen, "blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"),
            (Qwen, "blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"),
            (QwenMoe, "blk.0.ffn_gate_up_exps.weight", "model.layers.0.mlp.experts.E.gate_proj.weight+up_proj.weight"),
            (QwenMoe, "blk.0.ffn_up_shexp.weight", "model.layers.0.mlp.shared_expert.up_proj.weight"),
            (QwenMoe, "blk.0.ffn_gate_inp_shexp.weight", "model.layers.0.mlp.shared_expert_gate.weight Flat"),
            (QwenMoe, "blk.0.ffn_gate_inp.weight", "model.layers.0.mlp.gate.weight"),
            (Gemma, "blk.0.ffn_norm.weight", "model.layers.0.pre_feedforward_layernorm.weight More"),
            (Gemma, "blk.0.post_ffw_norm.weight", "model.layers.0.post_feedforward_layernorm.weight More"),
            (Gemma, "blk.0.post_attention_norm.weight", "model.layers.0.post_attention_layernorm.weight More"),
            (Gemma, "output_norm.weight", "model.norm.weight More"),
            (Gemma, "blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight More"),
            (GptOss, "blk.0.attn_sinks.weight", "model.layers.0.self_attn.sinks"),
            (GptOss, "blk.0.ffn_gate_inp.bias", "model.layers.0.mlp.router.bias"),
            (GptOss, "blk.0.ffn_down_exps.bias", "model.layers.0.mlp.experts.down_proj_bias"),
            (GptOss, "blk.0.ffn_up_exps.bias", "Some(Woven(\"model.layers.0.mlp.experts.gate_up_proj_bias\", 1))"),
            (GptOss, "blk.0.ffn_down_exps.weight", "Some(Turned(\"model.layers.0.mlp.experts.down_proj\"))"),
            (GptOss, "blk.0.ffn_gate_exps.weight", "Some(Woven(\"model.layers.0.mlp.experts.gate_up_proj\", 0))"),
        ] {
            assert_eq!(one(of, theirs), ours, "{of:?} {theirs}");
        }
    }

    #[test]
    fn architectures_are_told_by_name_and_experts() {
        assert_eq!(Architecture::of("llama", true), Some(Architecture::Mixtral));
        assert_eq!(Architecture::of("gemma3", false), Some(Architecture::Gemma));
        assert_eq!(Architecture::of("mamba", false), None);
    }
}
