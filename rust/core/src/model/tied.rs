//! Which tensors are one: a head and the table of the tokens' embeddings, the tables of an encoder and a decoder.

use serde_json::Value;

use super::config::Section;
use super::roles::Role;

/// How the table of a language model's tokens ends.
const TABLES: [&str; 10] = [
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "shared.weight",
    "tok_embeddings.weight",
    "tokens_embed.weight",
    "token_embedding.weight",
    "word_embedding.weight",
    "embeddings.weight",
];
/// How the table of an encoder-decoder's tokens is called, of which those of both sides are copies.
const SHARED: &str = "shared.weight";
/// How heads over the vocabulary end.
const HEADS: [&str; 12] = [
    "lm_head.weight",
    "embed_out.weight",
    "proj_out.weight",
    "cls.predictions.decoder.weight",
    "predictions.decoder.weight",
    "lm_head.decoder.weight",
    "lm_head.out_proj.weight",
    "lm_loss.weight",
    "output_projection.weight",
    "generator_lm_head.weight",
    "vocab_projector.weight",
    "pred_layer.proj.weight",
];
/// Heads, and their biases, whose names are others' too unless they are the whole name: ModernBERT's, RWKV's, those of models in
/// Meta's own form.
const WHOLE: [&str; 5] = ["decoder.bias", "decoder.weight", "head.weight", "output.bias", "output.weight"];
/// Families that tie unless their config says otherwise. Of others a config that says nothing tells nothing.
const TIED: [&str; 58] = [
    "albert",
    "bart",
    "bert",
    "big_bird",
    "bigbird_pegasus",
    "biogpt",
    "blenderbot",
    "blenderbot-small",
    "bloom",
    "camembert",
    "cohere",
    "cohere2",
    "convbert",
    "ctrl",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "ernie",
    "esm",
    "falcon",
    "falcon_mamba",
    "flaubert",
    "fnet",
    "funnel",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma3_text",
    "gemma3n",
    "gpt2",
    "gpt_bigcode",
    "gpt_neo",
    "led",
    "lfm2",
    "longformer",
    "longt5",
    "m2m_100",
    "mamba",
    "marian",
    "mbart",
    "modernbert",
    "mpnet",
    "mpt",
    "mt5",
    "openai-gpt",
    "opt",
    "paligemma",
    "pegasus",
    "roberta",
    "smollm3",
    "starcoder2",
    "switch_transformers",
    "t5",
    "umt5",
    "whisper",
    "xlm",
    "xlm-roberta",
];

/// True for the names of tables of tokens.
pub fn is_table(name: &str) -> bool {
    TABLES.iter().any(|t| ends(name, t))
}

/// True for the names of heads that may be tied to a table.
pub fn is_head(name: &str) -> bool {
    HEADS.iter().any(|h| ends(name, h)) || WHOLE.contains(&name) && name.ends_with(".weight")
}

/// How what stands beside a table or a head and has a number for each token ends.
const BESIDE: [&str; 11] = [
    "lm_head.bias",
    "embed_out.bias",
    "final_logits_bias",
    "predictions.bias",
    "predictions.decoder.bias",
    "lm_head.decoder.bias",
    "lm_loss.bias",
    "generator_lm_head.bias",
    "vocab_projector.bias",
    "pred_layer.proj.bias",
    "embed_tokens_per_layer.weight",
];

/// How the second name of such a head's bias ends.
const DECODER_BIAS: &str = ".decoder.bias";

/// True for the names of all that has a row for each token: tables, heads, their biases.
pub fn has_row_per_token(name: &str) -> bool {
    is_table(name) || is_head(name) || WHOLE.contains(&name) || BESIDE.iter().any(|b| ends(name, b))
}

fn ends(name: &str, end: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a model ties its head to its embedding, as far as its config tells: what it says for the whole, or for its language
/// model, or what its family does unless told.
pub fn said(config: Option<&Value>) -> Option<bool> {
    let sections = Section::all(config?);
    // Loaders go by what Python takes for true.
    let truth = |v: &Value| v.as_bool().or(v.as_f64().map(|n| n != 0.0));
    let tie = |s: &Section| s.get("tie_word_embeddings").and_then(truth);
    let whole = sections.first()?;
    let inner = || sections.iter().filter(|s| !s.path().is_empty() && s.role() == Role::Language).find_map(tie);
    let family = || whole.text("model_type").and_then(|f| TIED.contains(&f).then_some(true));
    tie(whole).or_else(inner).or_else(family)
}

/// Whether the architecture that a config names has a head over a vocabulary.
pub fn wants_head(config: &Value) -> bool {
    let named = config["architectures"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let heads = ["CausalLM", "LMHead", "ForConditionalGeneration"];
    named.into_iter().any(|a| heads.iter().any(|h| a.contains(h)))
}

/// The tensor among `names` that the one called `name` is a copy of in a model that ties: a head of the table, the tables of both
/// sides of an encoder-decoder of the one they share. `stack` is the model's main stack of layers.
pub fn original<'a>(name: &str, names: impl Iterator<Item = &'a str> + Clone, stack: Option<&str>) -> Option<usize> {
    if is_head(name) {
        return table(name, names, stack).ok().flatten();
    }
    let copy = ends(name, TABLES[0]) && !ends(name, SHARED);
    copy.then(|| only(names.enumerate().filter(|(_, n)| ends(n, SHARED)).map(|(i, _)| i))).flatten()
}

/// What the head of a model is called whose table is called `table`, were it stored: of language models with a decoder alone, and
/// of encoders whose heads have layers of their own, which are among `names`.
pub fn head_of<'a>(config: &Value, table: &str, names: impl Iterator<Item = &'a str> + Clone) -> Option<&'static str> {
    const INNER: [(&str, &str); 3] = [
        ("cls.predictions.transform.dense.weight", "cls.predictions.decoder.weight"),
        ("lm_head.dense.weight", "lm_head.decoder.weight"),
        ("predictions.dense.weight", "predictions.decoder.weight"),
    ];
    if let Some((_, head)) = INNER.iter().find(|(inner, _)| names.clone().any(|n| n == *inner)) {
        return Some(head);
    }
    let named = config["architectures"].as_array()?.iter().filter_map(Value::as_str);
    let decoder = |a: &str| a.ends_with("ForCausalLM") || a.ends_with("LMHeadModel");
    let other = table.contains("embeddings.word_embeddings") || config["model_type"] == "biogpt";
    let known = [TABLES[0], "wte.weight", "word_embeddings.weight"].iter().any(|t| ends(table, t));
    (named.into_iter().any(decoder) && known && !other).then_some(HEADS[0])
}

/// The bias that the one called `name` is a copy of: heads of BERT's kind have theirs under two names, whatever ties.
pub fn bias(name: &str) -> Option<String> {
    let copy = BESIDE.iter().any(|b| b.ends_with(DECODER_BIAS) && ends(name, b));
    copy.then(|| format!("{}.bias", name.trim_end_matches(DECODER_BIAS)))
}

/// The one item, if it is one.
fn only<T>(mut items: impl Iterator<Item = T>) -> Option<T> {
    items.next().filter(|_| items.next().is_none())
}

/// The table that the head called `head` is tied to, among `names`; `stack` is the model's main stack of layers.
///
/// The head's own prefix decides (`language_model.lm_head.weight`), else the prefix of the stack (`model.layers.`), else
/// there must be only one table.
///
/// # Errors
/// The tables there are, if none of this decides.
pub fn table<'a>(
    head: &str,
    names: impl Iterator<Item = &'a str>,
    stack: Option<&str>,
) -> Result<Option<usize>, Vec<&'a str>> {
    among(head, names.enumerate().filter(|(_, n)| is_table(n)).collect(), stack)
}

/// As [`table`], among the names of tables alone.
///
/// # Errors
/// As [`table`].
pub fn among<'a>(
    head: &str,
    tables: Vec<(usize, &'a str)>,
    stack: Option<&str>,
) -> Result<Option<usize>, Vec<&'a str>> {
    let under = |prefix: &str| only(tables.iter().filter(|(_, n)| n.starts_with(prefix))).map(|(i, _)| *i);
    // The one that both sides share is the original of their copies.
    if let Some((shared, _)) = only(tables.iter().filter(|(_, n)| ends(n, SHARED))) {
        return Ok(Some(*shared));
    }
    let own = HEADS.iter().find_map(|h| head.strip_suffix(h).filter(|_| ends(head, h))).unwrap_or_default();
    if let Some(found) = under(own).filter(|_| !own.is_empty()) {
        return Ok(Some(found));
    }
    // `model.layers.` -> `model.`: the table stands beside the layers.
    let root = stack.map(|s| s.trim_end_matches('.').rsplit_once('.').map_or("", |(root, _)| root));
    if let Some(root) = root {
        let beside = |name: &&(usize, &str)| {
            let inner = if root.is_empty() { Some(name.1) } else { name.1.strip_prefix(root)?.strip_prefix('.') };
            inner.filter(|n| TABLES.contains(n)).map(|_| ())
        };
        if let Some((i, _)) = only(tables.iter().filter(|t| beside(t).is_some())) {
            return Ok(Some(*i));
        }
    }
    match tables[..] {
        [] => Ok(None),
        [(only, _)] => Ok(Some(only)),
        _ => Err(tables.into_iter().map(|(_, n)| n).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heads_prefix_decides_then_the_stacks() {
        let names = ["audio.embed_tokens.weight", "model.embed_tokens.weight", "vision.wte.weight"];
        let of = |head: &str, stack: Option<&str>| table(head, names.into_iter(), stack);
        assert_eq!(of("lm_head.weight", Some("model.layers.")), Ok(Some(1)));
        assert_eq!(of("audio.lm_head.weight", Some("model.layers.")), Ok(Some(0)));
        assert_eq!(of("lm_head.weight", None), Err(names.to_vec()));
        assert_eq!(of("lm_head.weight", Some("layers.")), Err(names.to_vec()));
        assert_eq!(table("lm_head.weight", ["wte.weight", "x"].into_iter(), Some("h.")), Ok(Some(0)));
        assert_eq!(table("lm_head.weight", ["x"].into_iter(), None), Ok(None));
    }

    #[test]
    fn copies_have_an_original() {
        let t5 = ["decoder.embed_tokens.weight", "encoder.embed_tokens.weight", "lm_head.weight", "shared.weight"];
        for name in &t5[..3] {
            assert_eq!(original(name, t5.into_iter(), Some("decoder.block.")), Some(3), "{name}");
        }
        assert_eq!(original("shared.weight", t5.into_iter(), None), None);
        let bert = ["bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"];
        assert_eq!(original(bert[1], bert.into_iter(), Some("bert.encoder.layer.")), Some(0));
        assert_eq!(bias("cls.predictions.decoder.bias").as_deref(), Some("cls.predictions.bias"));
        assert_eq!(bias("lm_head.decoder.bias").as_deref(), Some("lm_head.bias"));
        assert_eq!(bias("model.decoder.bias"), None);
        let whisper = ["model.decoder.embed_tokens.weight", "proj_out.weight"];
        assert_eq!(original("proj_out.weight", whisper.into_iter(), Some("model.decoder.layers.")), Some(0));
    }

    #[test]
    fn a_config_ties_for_the_whole_or_for_its_language_model() {
        let of = |config: Value| said(Some(&config));
        assert_eq!(of(serde_json::json!({"tie_word_embeddings": true})), Some(true));
        assert_eq!(
            of(serde_json::json!({"text_config": {"tie_word_embeddings": true, "num_hidden_layers": 1}})),
            Some(true)
        );
        assert_eq!(of(serde_json::json!({"model_type": "t5"})), Some(true));
        assert_eq!(of(serde_json::json!({"model_type": "llama"})), None);
    }
}
