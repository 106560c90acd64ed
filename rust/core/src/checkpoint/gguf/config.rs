//! A config.json of what the metadata of a GGUF file says, and what it does not say.

use serde_json::{Map, Value, json};

/// A rebuilt config.
#[derive(Debug, Clone, Default)]
pub(in crate::checkpoint) struct Config {
    /// What is known.
    pub config: Map<String, Value>,
    /// What loaders need and the file does not hold, for people.
    pub missing: Vec<String>,
}

/// What more may be said of positions scaled by YaRN: libraries mean different things by it.
const YARN: [&str; 6] = [
    "rope.scaling.attn_factor",
    "rope.scaling.yarn_log_multiplier",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
];

/// What is seen of the tensors.
pub(super) struct Seen {
    /// Rows of the table of tokens.
    pub vocabulary: Option<u64>,
    /// Whether there is a head of its own.
    pub head: bool,
    /// Whether queries have a bias.
    pub bias: bool,
    /// Whether feed-forward modules have one.
    pub inner: bool,
    /// Whether there are factors of a rope that was scaled.
    pub factors: bool,
}

/// What a key of GGUF is called in a config, of all architectures.
const KEYS: [(&str, &str); 6] = [
    ("context_length", "max_position_embeddings"),
    ("embedding_length", "hidden_size"),
    ("block_count", "num_hidden_layers"),
    ("feed_forward_length", "intermediate_size"),
    ("attention.head_count", "num_attention_heads"),
    ("attention.layer_norm_rms_epsilon", "rms_norm_eps"),
];

/// The same of what need not be there.
const FURTHER: [(&str, &str); 6] = [
    ("attention.key_length", "head_dim"),
    ("attention.sliding_window", "sliding_window"),
    ("attn_logit_softcapping", "attn_logit_softcapping"),
    ("final_logit_softcapping", "final_logit_softcapping"),
    ("expert_used_count", "num_experts_per_tok"),
    ("expert_shared_feed_forward_length", "shared_expert_intermediate_size"),
];

/// What an architecture is called in configs: its `model_type`, its class, and what is never in a file of it.
fn known(
    architecture: &str,
    experts: bool,
    window: bool,
) -> Option<(&'static str, &'static str, &'static [&'static str])> {
    const ROUTING: &[&str] = &["norm_topk_prob", "decoder_sparse_step", "mlp_only_layers"];
    Some(match (architecture, experts) {
        ("llama", true) => ("mixtral", "MixtralForCausalLM", &[]),
        ("llama", false) if window => ("mistral", "MistralForCausalLM", &[]),
        ("llama", false) => ("llama", "LlamaForCausalLM", &[]),
        ("qwen2", _) => ("qwen2", "Qwen2ForCausalLM", &[]),
        ("qwen3", _) => ("qwen3", "Qwen3ForCausalLM", &[]),
        ("qwen2moe", _) => ("qwen2_moe", "Qwen2MoeForCausalLM", ROUTING),
        ("qwen3moe", _) => ("qwen3_moe", "Qwen3MoeForCausalLM", ROUTING),
        ("gemma2", _) => ("gemma2", "Gemma2ForCausalLM", &["query_pre_attn_scalar"]),
        ("gemma3", _) => {
            ("gemma3_text", "Gemma3ForCausalLM", &["query_pre_attn_scalar", "rope_local_base_freq", "layer_types"])
        }
        ("gpt-oss", _) => ("gpt_oss", "GptOssForCausalLM", &["layer_types", "swiglu_limit", "rope_scaling.truncate"]),
        _ => return None,
    })
}

/// The config of a file with these keys and values.
pub(super) fn rebuild(metadata: &Map<String, Value>, architecture: &str, seen: &Seen) -> Config {
    let own = |key: &str| metadata.get(&format!("{architecture}.{key}")).filter(|v| !v.is_null());
    let mut out = Config::default();
    let experts = own("expert_count").and_then(Value::as_u64).unwrap_or(0);
    let family = known(architecture, experts > 0, own("attention.sliding_window").is_some());
    match family {
        Some((kind, class, lacking)) => {
            out.config.insert("architectures".into(), json!([class]));
            out.config.insert("model_type".into(), kind.into());
            out.missing.extend(lacking.iter().map(|key| format!("`{key}`, which GGUF does not hold")));
        }
        None => out.missing.push(format!("what a model of the architecture `{architecture}` is")),
    }
    let kind = family.map_or("", |(kind, ..)| kind);
    let stays_zero = |key: &str| kind.ends_with("_moe") && key == "feed_forward_length";
    for (theirs, ours) in KEYS {
        match own(theirs).and_then(same) {
            Some(value) => drop(out.config.insert(ours.into(), value)),
            None if own(theirs).is_some() => {
                out.missing.push(format!("`{ours}`: `{architecture}.{theirs}` differs from layer to layer"));
            }
            None if stays_zero(theirs) => {}
            None => out.missing.push(format!("`{ours}`: the file lacks `{architecture}.{theirs}`")),
        }
    }
    for (theirs, ours) in FURTHER {
        out.config.extend(own(theirs).and_then(same).map(|value| (ours.to_owned(), value)));
    }
    let heads = out.config.get("num_attention_heads").cloned();
    let groups = own("attention.head_count_kv").map_or(heads, same);
    out.config.extend(groups.map(|groups| ("num_key_value_heads".to_owned(), groups)));
    if let (false, Some(size), "llama" | "mistral" | "mixtral") =
        (out.config.contains_key("head_dim"), own("rope.dimension_count").and_then(Value::as_u64), kind)
    {
        out.config.insert("head_dim".into(), size.into());
    }
    if experts > 0 {
        let ours = if kind.starts_with("qwen") { "num_experts" } else { "num_local_experts" };
        out.config.insert(ours.into(), experts.into());
        let each = own("expert_feed_forward_length").cloned();
        match (kind, each) {
            ("qwen2_moe" | "qwen3_moe", Some(each)) => drop(out.config.insert("moe_intermediate_size".into(), each)),
            (_, Some(each)) => drop(out.config.insert("intermediate_size".into(), each)),
            _ => {}
        }
    }
    out.config.insert("rope_theta".into(), own("rope.freq_base").cloned().unwrap_or(json!(10000.0)));
    rope(&mut out, own, seen);
    for (there, key, with, always) in [
        (seen.bias, "attention_bias", &["llama", "qwen3", "qwen3_moe", "gpt_oss"][..], kind.starts_with("qwen2")),
        (seen.inner, "mlp_bias", &["llama"][..], false),
    ] {
        if there && with.contains(&kind) {
            out.config.insert(key.into(), true.into());
        } else if there && !always && family.is_some() {
            out.missing.push(format!("`{key}`: the file has biases that models of the kind `{kind}` have not"));
        }
    }
    // What would be computed otherwise.
    let size = own("rope.dimension_count").filter(|n| out.config.get("head_dim").is_some_and(|d| d != *n));
    let more = ["attention.scale", "logit_scale", "embedding_scale", "residual_scale"];
    let more = more.iter().filter(|key| own(key).is_some()).copied();
    let unsaid = more.chain(size.map(|_| "rope.dimension_count"));
    out.missing.extend(unsaid.map(|key| format!("what `{architecture}.{key}` says, for which its config has no word")));
    out.config.extend(seen.vocabulary.map(|rows| ("vocab_size".to_owned(), rows.into())));
    out.config.insert("tie_word_embeddings".into(), (!seen.head).into());
    for (theirs, ours) in [("bos", "bos_token_id"), ("eos", "eos_token_id"), ("padding", "pad_token_id")] {
        let value = metadata.get(&format!("tokenizer.ggml.{theirs}_token_id")).and_then(Value::as_u64);
        out.config.extend(value.map(|v| (ours.to_owned(), v.into())));
    }
    out.config.insert("dtype".into(), "bfloat16".into());
    out
}

/// How positions were scaled.
fn rope<'a>(out: &mut Config, own: impl Fn(&str) -> Option<&'a Value>, seen: &Seen) {
    if seen.factors {
        out.missing.push("`rope_scaling`, of which the file holds the factors alone (`rope_freqs`)".to_owned());
        return;
    }
    let factor = own("rope.scaling.factor").or_else(|| own("rope.scale_linear"));
    let kind =
        own("rope.scaling.type").and_then(Value::as_str).unwrap_or(if factor.is_some() { "linear" } else { "none" });
    let original = own("rope.scaling.original_context_length");
    let scaling = match (kind, factor) {
        ("none", _) => return,
        ("linear", Some(factor)) => json!({"rope_type": "linear", "factor": factor}),
        ("yarn", Some(factor)) if original.is_some() && !YARN.iter().any(|key| own(key).is_some()) => {
            json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original})
        }
        _ => return out.missing.push(format!("`rope_scaling`: `{kind}` of this file does not say all of it")),
    };
    out.config.insert("rope_scaling".into(), scaling);
}

/// A value of the whole model: of a list with one for each layer the one that all have.
fn same(value: &Value) -> Option<Value> {
    match value {
        Value::Array(list) => list.first().filter(|first| list.iter().all(|v| v == *first)).cloned(),
        other => Some(other.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEEN: Seen = Seen { vocabulary: Some(64), head: false, bias: false, inner: false, factors: false };

    fn metadata(more: Value) -> Map<String, Value> {
        let own = json!({
            "llama.block_count": 2, "llama.context_length": 128, "llama.embedding_length": 32,
            "llama.feed_forward_length": [48, 48], "llama.attention.head_count": 4,
            "llama.attention.layer_norm_rms_epsilon": 1e-5, "llama.rope.dimension_count": 8,
        });
        [own, more].into_iter().flat_map(|v| v.as_object().cloned().unwrap()).collect()
    }

    /// A Llama's config says what its metadata says, under the names of Hugging Face; what is equal in all layers is said once.
    #[test]
    fn a_llama_has_all_of_it() {
        let more = json!({"tokenizer.ggml.eos_token_id": 2, "llama.rope.freq_base": 100000.0});
        let found = rebuild(&metadata(more), "llama", &SEEN);
        assert_eq!(found.missing, [] as [String; 0]);
        let want = json!({
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2,
            "max_position_embeddings": 128, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4,
            "num_key_value_heads": 4, "head_dim": 8, "rms_norm_eps": 1e-5, "rope_theta": 100000.0, "vocab_size": 64,
            "tie_word_embeddings": true, "eos_token_id": 2, "dtype": "bfloat16",
        });
        assert_eq!(Value::Object(found.config), want);
    }

    /// What is not held is named and not made up.
    #[test]
    fn what_is_missing_is_named() {
        let lacking = |more: Value, architecture: &str, seen: &Seen| {
            rebuild(&metadata(more), architecture, seen).missing.join("; ")
        };
        assert!(lacking(json!({"llama.block_count": null}), "llama", &SEEN).contains("lacks `llama.block_count`"));
        assert!(lacking(json!({}), "llama", &Seen { factors: true, ..SEEN }).contains("`rope_scaling`"));
        assert!(lacking(json!({"llama.attention.head_count": [4, 2]}), "llama", &SEEN).contains("from layer to layer"));
        assert!(lacking(json!({}), "gemma3", &SEEN).contains("`query_pre_attn_scalar`"));
        assert!(lacking(json!({}), "mamba", &SEEN).contains("the architecture `mamba`"));
        assert!(lacking(json!({"llama.rope.scaling.type": "longrope"}), "llama", &SEEN).contains("longrope"));
        let yarn = json!({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
            "llama.rope.scaling.original_context_length": 64, "llama.rope.scaling.yarn_beta_fast": 16.0});
        assert!(lacking(yarn, "llama", &SEEN).contains("`yarn`"));
        let biased = Seen { bias: true, inner: true, ..SEEN };
        assert_eq!(lacking(json!({}), "llama", &biased), "");
        assert!(lacking(json!({"llama.attention.sliding_window": 8}), "llama", &biased).contains("`mlp_bias`"));
        assert!(lacking(json!({"llama.attention.key_length": 16}), "llama", &SEEN).contains("rope.dimension_count"));
        assert!(lacking(json!({"llama.logit_scale": 0.5}), "llama", &SEEN).contains("llama.logit_scale"));
    }

    #[test]
    fn experts_make_a_mixtral_and_a_window_a_mistral() {
        let kind = |more: Value| rebuild(&metadata(more), "llama", &SEEN).config["model_type"].clone();
        assert_eq!(kind(json!({"llama.expert_count": 8})), "mixtral");
        assert_eq!(kind(json!({"llama.attention.sliding_window": 4096})), "mistral");
    }
}
