//! What config.json says of stacks: how many layers, how many heads. A table of the keys in use.

use serde_json::{Map, Value};

use super::roles::Role;

/// Keys that count the layers of an encoder, of a decoder, of single-stream blocks, and of any stack; the first that is
/// there counts.
const ENCODER_LAYERS: [&str; 2] = ["encoder_layers", "num_encoder_layers"];
const DECODER_LAYERS: [&str; 2] = ["decoder_layers", "num_decoder_layers"];
const SINGLE_LAYERS: [&str; 2] = ["num_single_layers", "depth_single_blocks"];
const LAYERS: [&str; 13] = [
    // What lists stages or blocks of layers counts these.
    "depths",
    "block_sizes",
    "num_hidden_layers",
    "n_layer",
    "num_layers",
    "n_layers",
    "num_blocks",
    "num_transformer_blocks",
    "depth",
    "encoder_layers",
    "decoder_layers",
    "layers_block_type",
    "hybrid_override_pattern",
];

/// Of a model whose layers are used again and again (ALBERT), how many there are.
const GROUPS: [&str; 1] = ["num_hidden_groups"];

/// Families whose heads are not an attention's.
const NO_ATTENTION: [&str; 5] = ["mamba", "mamba2", "falcon_mamba", "xlstm", "rwkv"];

const ENCODER_HEADS: [&str; 1] = ["encoder_attention_heads"];
const DECODER_HEADS: [&str; 1] = ["decoder_attention_heads"];
const HEADS: [&str; 6] =
    ["num_attention_heads", "n_head", "num_heads", "n_heads", "attention_heads", "encoder_attention_heads"];
const SHARED_HEADS: [&str; 4] = ["num_key_value_heads", "num_kv_heads", "n_head_kv", "n_kv_heads"];

/// The configs inside a config that are looked through, and how deep.
const DEPTH: usize = 3;

/// A config, or one inside it, that counts layers or heads.
#[derive(Debug, Clone, Copy)]
pub struct Section<'a> {
    /// The keys it stands under, outermost first; empty for the config itself.
    path: [&'a str; DEPTH],
    /// How many of them there are.
    depth: usize,
    map: &'a Map<String, Value>,
}

/// How many query heads and how many key and value heads a layer has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: u64,
    /// Key and value heads, each for a group of query heads.
    pub shared: u64,
}

/// A number of layers and the key that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// Where it stands: `text_config.num_hidden_layers`.
    pub key: String,
    /// Layers.
    pub layers: usize,
}

impl<'a> Section<'a> {
    /// The config and those inside it that count layers or heads, outermost first.
    pub fn all(config: &'a Value) -> Vec<Self> {
        let mut out = Vec::new();
        if let Some(map) = config.as_object() {
            Self { path: [""; DEPTH], depth: 0, map }.collect(&mut out);
        }
        out
    }

    fn collect(self, out: &mut Vec<Self>) {
        let counts = LAYERS.iter().chain(&HEADS).chain(&DECODER_LAYERS).any(|k| self.map.contains_key(*k));
        if counts || self.depth == 0 {
            out.push(self);
        }
        if self.depth == DEPTH {
            return;
        }
        for (key, value) in self.map {
            if let Some(map) = value.as_object() {
                let mut path = self.path;
                path[self.depth] = key;
                Self { path, depth: self.depth + 1, map }.collect(out);
            }
        }
    }

    /// The keys it stands under.
    pub fn path(&self) -> &[&'a str] {
        &self.path[..self.depth]
    }

    /// What it is the config of.
    pub fn role(&self) -> Role {
        self.path().iter().map(|key| Role::of_word(key)).find(|r| *r != Role::Plain).unwrap_or(Role::Plain)
    }

    /// The value of the first of `keys` that it has, and the key.
    fn first<T>(&self, keys: &[&[&'static str]], read: impl Fn(&Value) -> Option<T>) -> Option<(&'static str, T)> {
        keys.iter().copied().flatten().find_map(|k| Some((*k, self.map.get(*k).and_then(&read)?)))
    }

    /// How many layers it says a stack has whose name holds `words`. Of several keys that count any stack the first, but for one
    /// that says `found`, the number of layers there are.
    pub fn layers(&self, words: &[&str], found: usize) -> Option<Count> {
        let own: &[&str] = match Side::of(words) {
            Side::Encoder => &ENCODER_LAYERS,
            Side::Decoder => &DECODER_LAYERS,
            Side::Single => &SINGLE_LAYERS,
            Side::Groups => &GROUPS,
            Side::Any => &[],
        };
        // A text with a letter a layer, and no number that somebody put into quotes.
        let pattern = |text: &&str| text.parse::<f64>().is_err();
        let count = |v: &Value| {
            let length = v.as_array().map(Vec::len).or_else(|| v.as_str().filter(pattern).map(str::len));
            v.as_u64().or(length.map(|n| n as u64)).filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok())
        };
        // An encoder-decoder whose decoder has no count of its own has one for both.
        let exact = |v: &Value| count(v).filter(|n| *n == found);
        let generic = || self.first(&[&LAYERS], exact).or_else(|| self.first(&[&LAYERS], count));
        let (key, layers) = self.first(&[own], count).or_else(generic)?;
        let key = self.path().iter().copied().chain([key]).collect::<Vec<_>>().join(".");
        Some(Count { key, layers })
    }

    /// How many heads it says the layers of a stack have whose name holds `words`; `None` if it does not tell, or they differ
    /// from layer to layer.
    pub fn heads(&self, words: &[&str]) -> Option<Heads> {
        let own: &[&str] = match Side::of(words) {
            Side::Encoder => &ENCODER_HEADS,
            Side::Decoder => &DECODER_HEADS,
            _ => &[],
        };
        if self.text("model_type").is_some_and(|f| NO_ATTENTION.contains(&f)) {
            return None;
        }
        let count = |v: &Value| v.as_u64().filter(|n| (1..1 << 31).contains(n));
        let (_, query) = self.first(&[own, &HEADS], count)?;
        let truth = |key: &str| self.map.get(key).and_then(Value::as_bool).unwrap_or(false);
        let listed = SHARED_HEADS.iter().find_map(|k| self.map.get(*k)).filter(|v| !v.is_null());
        let shared = match listed {
            // Falcon keeps a count beside these, and reads it only in its new form.
            _ if truth("multi_query") && !truth("new_decoder_architecture") => 1,
            _ if self.text("model_type") == Some("falcon") && !truth("new_decoder_architecture") => query,
            Some(value) => count(value)?,
            None => query,
        };
        Some(Heads { query, shared })
    }

    /// Whether it is the config of an encoder with a decoder.
    pub fn has_decoder(&self) -> bool {
        let said = self.map.get("is_encoder_decoder").and_then(Value::as_bool).unwrap_or(false);
        // Funnel counts the layers of a decoder that is no language model's.
        said || (DECODER_LAYERS.iter().any(|k| self.map.contains_key(*k)) && !self.map.contains_key("block_sizes"))
    }

    /// A text value.
    pub fn text(&self, key: &str) -> Option<&'a str> {
        self.map.get(key).and_then(Value::as_str)
    }

    /// A value.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key)
    }
}

/// Which of the counts in one section a stack goes by.
enum Side {
    Encoder,
    Decoder,
    Single,
    Groups,
    Any,
}

impl Side {
    fn of(words: &[&str]) -> Self {
        let holds = |what: &str| words.iter().any(|w| w.contains(what));
        if holds("layer_groups") {
            Self::Groups
        } else if holds("single") {
            Self::Single
        } else if holds("decoder") {
            Self::Decoder
        } else if holds("encoder") {
            Self::Encoder
        } else {
            Self::Any
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn encoder_and_decoder_have_counts_of_their_own() {
        let of = |config: &Value, words: &[&str]| Section::all(config)[0].layers(words, 0).map(|c| (c.key, c.layers));
        let t5 = json!({"num_layers": 4, "num_decoder_layers": 2});
        assert_eq!(of(&t5, &["encoder", "block"]), Some(("num_layers".into(), 4)));
        assert_eq!(of(&t5, &["decoder", "block"]), Some(("num_decoder_layers".into(), 2)));
        let bart = json!({"encoder_layers": 4, "decoder_layers": 3, "num_hidden_layers": 4});
        assert_eq!(of(&bart, &["model", "decoder", "layers"]), Some(("decoder_layers".into(), 3)));
        // OPT has a decoder and nothing else.
        let opt = json!({"num_hidden_layers": 5});
        assert_eq!(of(&opt, &["model", "decoder", "layers"]), Some(("num_hidden_layers".into(), 5)));
    }

    #[test]
    fn heads_are_shared_as_the_family_says() {
        let of = |config: Value| Section::all(&config)[0].heads(&["h"]).map(|h| (h.query, h.shared));
        assert_eq!(of(json!({"num_attention_heads": 8, "num_key_value_heads": 2})), Some((8, 2)));
        assert_eq!(of(json!({"num_attention_heads": 8, "num_key_value_heads": null})), Some((8, 8)));
        assert_eq!(of(json!({"n_head": 8, "multi_query": true})), Some((8, 1)));
        assert_eq!(
            of(
                json!({"model_type": "falcon", "num_attention_heads": 8, "num_kv_heads": 2, "new_decoder_architecture": true, "multi_query": true})
            ),
            Some((8, 2))
        );
        assert_eq!(
            of(json!({"model_type": "falcon", "num_attention_heads": 8, "num_kv_heads": 2, "multi_query": false})),
            Some((8, 8))
        );
        assert_eq!(of(json!({"num_attention_heads": 8, "num_key_value_heads": [1, 2]})), None);
        assert_eq!(of(json!({})), None);
    }
}
