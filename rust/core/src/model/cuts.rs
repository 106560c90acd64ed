//! Which parts of a tensor a comparison measures: attention heads, groups of neurons, rows of a vocabulary.

use super::attention::{Attention, Cut};
use super::names::{module, split_layer};
use super::slices::{Part, Slicing};

/// What a comparison is to cut tensors into.
#[derive(Debug, Clone, Copy, Default)]
pub struct Wanted<'a> {
    /// What is known of the heads of the tensor's stack; `None` to leave heads alone.
    pub heads: Option<Attention<'a>>,
    /// Groups of neurons of a module; 0 for none.
    pub neurons: u64,
    /// True to look at each row of a vocabulary.
    pub tokens: bool,
}

const NEURONS_IN: [&str; 7] = ["gate_proj", "up_proj", "w1", "w3", "fc1", "intermediate.dense", "dense_h_to_4h"];
const NEURONS_OUT: [&str; 5] = ["down_proj", "w2", "fc2", "dense_4h_to_h", "output.dense"];
const VOCABULARY: [&str; 7] =
    ["embed_tokens", "word_embeddings", "tok_embeddings", "wte", "embed_in", "lm_head", "embed_out"];

/// Whether the module is one of those named, by the last parts of its name.
fn is(module: &str, words: &[&str]) -> bool {
    words.iter().any(|w| module.strip_suffix(w).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

/// How the tensor called `name` is cut; `None` for tensors without such parts, or whose size they do not divide.
pub fn slicing(name: &str, shape: &[u64], wanted: &Wanted) -> Option<Slicing> {
    let module = &*module(name);
    let rows = *shape.first()?;
    let columns: u64 = shape[1..].iter().product();
    if rows == 0 || columns == 0 {
        return None;
    }
    if split_layer(name).is_none() {
        let vocabulary = wanted.tokens && shape.len() == 2 && is(module, &VOCABULARY);
        return vocabulary.then(|| Slicing::along_rows(Part::Token, rows, columns, rows));
    }
    let matrix = shape.len() == 2;
    if let Some(attention) = &wanted.heads
        && let Cut::Pieces(slicing) = attention.cut(name, shape)
    {
        return Some(slicing);
    }
    let out = module.contains("attention.");
    if wanted.neurons > 0 && matrix {
        if is(module, &NEURONS_IN) {
            return Some(Slicing::along_rows(Part::Neuron, rows, columns, wanted.neurons.min(rows)));
        }
        if is(module, &NEURONS_OUT) && !out {
            return Some(Slicing::along_columns(Part::Neuron, columns, wanted.neurons.min(columns)));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Wanted = Wanted {
        heads: Some(Attention {
            heads: crate::model::config::Heads { query: 4, shared: 2 },
            family: None,
            size: Some(2),
            transposed: false,
        }),
        neurons: 3,
        tokens: true,
    };

    #[test]
    fn tensors_are_cut_by_what_they_are() {
        let of = |name: &str, shape: &[u64]| slicing(name, shape, &WANTED).map(|s| (s.part, s.pieces()));
        assert_eq!(of("model.layers.0.self_attn.q_proj.weight", &[8, 6]), Some((Part::Head, 4)));
        assert_eq!(of("model.layers.0.self_attn.k_proj.bias", &[4]), Some((Part::Head, 2)));
        assert_eq!(of("model.layers.0.self_attn.o_proj.weight", &[6, 8]), Some((Part::Head, 4)));
        assert_eq!(of("encoder.layer.3.attention.self.query.weight", &[8, 8]), Some((Part::Head, 4)));
        assert_eq!(of("model.layers.0.mlp.down_proj.weight", &[6, 10]), Some((Part::Neuron, 3)));
        assert_eq!(of("lm_head.weight", &[11, 6]), Some((Part::Token, 11)));
        assert_eq!(of("model.layers.0.self_attn.q_proj.weight", &[7, 6]), None);
        assert_eq!(of("model.norm.weight", &[6]), None);
    }
}
