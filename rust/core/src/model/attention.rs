//! How the tensors of an attention block are cut into heads. A table of the names and layouts in use.
//!
//! What is not in the table is [`Cut::Unknown`], never guessed: half a head moved is a silently wrong model.

use super::config::Heads;
use super::names::inside;
use super::slices::{Part, Slicing};

/// What is known of the attention of a stack.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Heads of each layer.
    pub heads: Heads,
    /// The `model_type` of its config.
    pub family: Option<&'a str>,
    /// Elements of a head, where a tensor told.
    pub size: Option<u64>,
    /// True if matrices are kept transposed, a row for each input, as GPT-2 has them.
    pub transposed: bool,
}

/// What a tensor is to the heads of its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cut {
    /// No part of an attention block.
    Outside,
    /// All heads share it: a norm of the block, rotary frequencies, the bias of the output projection.
    Shared,
    /// Each piece is a head, or a group of heads that share their keys and values.
    Pieces(Slicing),
    /// It belongs to one of so many heads.
    One {
        /// The head, or the group of heads.
        head: u64,
        /// How many there are of it.
        of: u64,
    },
    /// A part of an attention block whose layout is not known.
    Unknown,
}

const QUERY: [&str; 13] = [
    "q_proj",
    "query",
    "query_proj",
    "q_lin",
    "to_q",
    "wq",
    "q",
    "attn_q",
    "add_q_proj",
    "pos_query_proj",
    "pos_key_proj",
    "sinks",
    "query_pass",
];
const KEY_VALUE: [&str; 18] = [
    "k_proj",
    "v_proj",
    "key",
    "value",
    "key_proj",
    "value_proj",
    "k_lin",
    "v_lin",
    "to_k",
    "to_v",
    "wk",
    "wv",
    "k",
    "v",
    "attn_k",
    "attn_v",
    "add_k_proj",
    "add_v_proj",
];
const OUT: [&str; 14] = [
    "o_proj",
    "out_proj",
    "out_lin",
    "to_out.0",
    "to_add_out",
    "wo",
    "Wo",
    "o",
    "output.dense",
    "dense",
    "proj",
    "projection",
    "c_proj",
    "attn_output",
];
/// Queries, keys and values one below the other.
const STACKED: [&str; 8] = ["qkv_proj", "Wqkv", "qkv", "W_pack", "in_proj_weight", "in_proj_bias", "in_proj", "c_attn"];
/// Queries, keys and values of one head, or of one group of heads, after those of the other.
const INTERLEAVED: [&str; 2] = ["query_key_value", "wqkv"];
/// Families whose `query_key_value` and `wqkv` are known to be so.
const INTERLEAVES: [&str; 6] = ["gpt_neox", "gpt_neox_japanese", "bloom", "persimmon", "falcon", "internlm2"];
/// Families that use a name of [`STACKED`] for another layout.
const NOT_STACKED: [&str; 2] = ["codegen", "minimax"];
/// A column for each head.
const BIASES: [&str; 2] = ["relative_attention_bias", "relative_position_bias_table"];
/// These names are an attention's wherever they stand; all others only inside of one.
const ALWAYS: [&str; 6] = ["q_proj", "k_proj", "v_proj", "o_proj", "attn_q", "attn_k"];

fn is(module: &str, words: &[&str]) -> bool {
    words.iter().any(|w| module.strip_suffix(w).is_some_and(|rest| rest.is_empty() || rest.ends_with('.')))
}

fn norm(part: &str) -> bool {
    part.contains("norm") || part.starts_with("ln_") || part.ends_with("_ln")
}

fn attends(part: &str) -> bool {
    let lower = part.to_ascii_lowercase();
    (lower.contains("attn") || lower.contains("attention")) && !norm(&lower) && !lower.contains("linear_att")
}

/// The module inside its layer, without what ends the names of its tensors.
fn module(rest: &str) -> &str {
    rest.strip_suffix(".weight").or_else(|| rest.strip_suffix(".bias")).unwrap_or(rest)
}

impl Attention<'_> {
    /// What the tensor called `name`, of a layer, is to the heads.
    pub fn cut(&self, name: &str, shape: &[u64]) -> Cut {
        let rest = inside(name);
        let module = module(&rest);
        let block = rest.split('.').any(attends);
        if rest.to_ascii_lowercase().contains("linear_att") {
            return Cut::Unknown;
        }
        if !block && !is(module, &ALWAYS) {
            return Cut::Outside;
        }
        if let Some(norm) = self.norm(&rest, shape) {
            return norm;
        }
        let bias = rest.ends_with(".bias") || rest.ends_with("in_proj_bias");
        let out = is(module, &OUT);
        if out && bias && shape.len() == 1 {
            return Cut::Shared;
        }
        self.projection(module, shape).map(Cut::Pieces).unwrap_or_else(|| {
            if shape.iter().product::<u64>() <= 1 || shared_by_all(&rest) { Cut::Shared } else { Cut::Unknown }
        })
    }

    /// Rows or columns of a projection that belong to heads.
    fn projection(&self, module: &str, shape: &[u64]) -> Option<Slicing> {
        let Heads { query, shared } = self.heads;
        let (rows, columns) = match shape {
            [rows] => (*rows, 1),
            [rows, columns] => (*rows, *columns),
            _ => return None,
        };
        let family = self.family.unwrap_or_default();
        let by_rows =
            |heads: u64| rows.is_multiple_of(heads).then(|| Slicing::along_rows(Part::Head, rows, columns, heads));
        let by_columns = |heads: u64| {
            (shape.len() == 2 && columns.is_multiple_of(heads))
                .then(|| Slicing::along_columns(Part::Head, columns, heads))
        };
        let transposed = self.transposed && module.contains("c_");
        if is(module, &BIASES) {
            return by_columns(query).filter(|_| columns == query);
        }
        if is(module, &QUERY) {
            return by_rows(query);
        }
        if is(module, &KEY_VALUE) {
            return by_rows(shared);
        }
        if is(module, &INTERLEAVED) {
            return if INTERLEAVES.contains(&family) { by_rows(shared) } else { None };
        }
        if is(module, &STACKED) {
            let unlike = NOT_STACKED.contains(&family) || (is(module, &["c_attn"]) && !self.knows_c_attn());
            if unlike {
                return None;
            }
            if family == "gpt_bigcode" && query == shared {
                return by_rows(query);
            }
            return if transposed && shape.len() == 2 {
                Slicing::stacked_columns(columns, query, shared)
            } else {
                Slicing::stacked_rows(rows, columns, query, shared)
            };
        }
        if is(module, &OUT) {
            let short = is(module, &["dense", "proj", "projection"]) && !is(module, &["output.dense"]);
            let plain = !short || directly_inside(module);
            return if transposed { by_rows(query) } else { by_columns(query) }.filter(|_| plain);
        }
        None
    }

    /// Whether the layout of `c_attn` is known: transposed it is GPT-2's, else that of the families that have it so.
    fn knows_c_attn(&self) -> bool {
        self.transposed || matches!(self.family, Some("gpt_bigcode" | "qwen"))
    }

    /// Whether a tensor tells that matrices are kept transposed: its outputs, three for each input, are its columns.
    pub fn tells_transposed(name: &str, shape: &[u64]) -> bool {
        name.ends_with("attn.c_attn.weight")
            && matches!(shape, [rows, columns] if Some(*columns) == rows.checked_mul(3))
    }

    /// What a norm inside an attention block is; `None` for all else.
    fn norm(&self, rest: &str, shape: &[u64]) -> Option<Cut> {
        let parts: Vec<&str> = rest.split('.').collect();
        let at = parts.iter().rposition(|p| norm(&p.to_ascii_lowercase()))?;
        // A norm may be a list: one for each head.
        let begin = if at > 0 && norm(&parts[at - 1].to_ascii_lowercase()) { at - 1 } else { at };
        let first = parts[begin].to_ascii_lowercase();
        let of = |words: [&str; 4]| words.iter().any(|w| first.starts_with(w));
        let heads = if of(["q_", "query_", "qnorm", "q_norm"]) {
            self.heads.query
        } else if of(["k_", "key_", "knorm", "k_norm"]) {
            self.heads.shared
        } else {
            return Some(if first.contains("sub") { Cut::Unknown } else { Cut::Shared });
        };
        if let Some(head) = parts[begin + 1..].iter().find_map(|p| p.parse::<u64>().ok()) {
            return Some(if head < heads { Cut::One { head, of: heads } } else { Cut::Unknown });
        }
        let elements: u64 = shape.iter().product();
        Some(match (shape, self.size) {
            ([rows, columns], _) if *rows == heads => {
                Cut::Pieces(Slicing::along_rows(Part::Head, *rows, *columns, heads))
            }
            ([_], Some(size)) if elements == size => Cut::Shared,
            // The queries may hold a gate too.
            ([_], Some(size)) if elements * 2 == size => Cut::Shared,
            _ => Cut::Unknown,
        })
    }

    /// Elements of a query head, if the tensor called `name` tells.
    pub fn size_in(&self, name: &str, shape: &[u64]) -> Option<u64> {
        let rest = inside(name);
        let module = module(&rest);
        let Heads { query, shared } = self.heads;
        let rows = if shape.len() <= 2 { *shape.first()? } else { return None };
        let heads = if is(module, &["sinks"]) {
            return None;
        } else if is(module, &QUERY) {
            query
        } else if is(module, &INTERLEAVED) || (is(module, &STACKED) && !is(module, &["c_attn"])) {
            query + 2 * shared
        } else {
            return None;
        };
        (rows.is_multiple_of(heads) && (rest.split('.').any(attends) || is(module, &ALWAYS))).then(|| rows / heads)
    }
}

/// Whether a module is the one right below an attention block: `self_attention.dense`, and not `attention.mlp.dense`.
fn directly_inside(module: &str) -> bool {
    module.rsplit('.').nth(1).is_some_and(attends)
}

/// What of an attention block is no head's own: rotary frequencies, a mask.
fn shared_by_all(rest: &str) -> bool {
    let parts: Vec<&str> = rest.split('.').collect();
    // `c_attn` is a matrix of the block, not the block.
    let at = parts.iter().rposition(|p| attends(p) && *p != "c_attn").unwrap_or(0);
    let inner = &parts[(at + 1).min(parts.len())..];
    let shared = ["rotary", "inv_freq", "rope", "masked_bias", "relative_position_index"];
    // GPT-2 keeps its causal mask as `attn.bias`.
    inner.iter().any(|part| shared.iter().any(|s| part.contains(s))) || inner == ["bias"]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention(query: u64, shared: u64, family: Option<&str>, size: u64) -> Attention<'_> {
        Attention { heads: Heads { query, shared }, family, size: Some(size), transposed: family == Some("gpt2") }
    }

    #[test]
    fn projections_are_cut_by_rows_and_columns() {
        let a = attention(4, 2, Some("llama"), 2);
        let pieces = |name: &str, shape: &[u64]| match a.cut(&format!("model.layers.0.{name}"), shape) {
            Cut::Pieces(s) => s.pieces(),
            other => panic!("{name}: {other:?}"),
        };
        for (name, shape, n) in [
            ("self_attn.q_proj.weight", &[8, 6][..], 4),
            ("self_attn.k_proj.bias", &[4], 2),
            ("self_attn.o_proj.weight", &[6, 8], 4),
            ("attention.self.query.weight", &[8, 8], 4),
            ("attention.output.dense.weight", &[8, 8], 4),
            ("mixer.q_proj.weight", &[8, 8], 4),
            ("self_attn.sinks", &[4], 4),
            ("self_attn.qkv_proj.weight", &[16, 6], 2),
            ("self_attn.k_norm.weight", &[2, 2], 2),
            ("layer.0.SelfAttention.q.weight", &[8, 8], 4),
            ("layer.0.SelfAttention.relative_attention_bias.weight", &[32, 4], 4),
        ] {
            assert_eq!(pieces(name, shape), n, "{name}");
        }
        assert_eq!(a.cut("h.0.self_attn.q_layernorm.norms.3.weight", &[2]), Cut::One { head: 3, of: 4 });
    }

    #[test]
    fn what_is_not_known_is_told_from_what_all_heads_share() {
        let a = attention(4, 4, None, 2);
        for (name, shape) in [
            ("model.layers.0.self_attn.kv_b_proj.weight", &[16, 4][..]),
            ("model.layers.0.self_attn.q_proj.weight_scale", &[8, 1]),
            ("transformer.h.0.self_attention.query_key_value.weight", &[24, 8]),
            ("h.3.attn.c_attn.bias", &[24]),
            ("model.layers.0.linear_attn.in_proj_qkvz.weight", &[24, 8]),
            ("model.layers.0.self_attn.q_norm.weight", &[5]),
            // One norm over all heads: none of them can be had without the others.
            ("model.layers.0.self_attn.q_norm.weight", &[8]),
        ] {
            assert_eq!(a.cut(name, shape), Cut::Unknown, "{name}");
        }
        for (name, shape) in [
            ("model.layers.0.self_attn.q_norm.weight", &[2][..]),
            ("encoder.layer.0.attention.output.LayerNorm.weight", &[8]),
            ("encoder.layer.0.attention.output.dense.bias", &[8]),
            ("model.layers.0.self_attn.rotary_emb.inv_freq", &[1, 2]),
            ("h.0.attn.bias", &[1, 1, 8, 8]),
            ("model.layers.0.cross_attn.attn_gate", &[1]),
        ] {
            assert_eq!(a.cut(name, shape), Cut::Shared, "{name}");
        }
        for name in [
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.attention_norm.weight",
            "model.layers.0.mlp.up_proj.weight",
            "model.layers.0.mixer.out_proj.weight",
            "blocks.0.feed_forward.key.weight",
        ] {
            assert_eq!(a.cut(name, &[8, 8]), Cut::Outside, "{name}");
        }
    }

    #[test]
    fn fused_layouts_are_the_familys() {
        let of =
            |family: &'static str, name: &str, shape: &[u64]| match attention(4, 4, Some(family), 2).cut(name, shape) {
                Cut::Pieces(s) => (0..shape.iter().product()).map(|e| s.piece(e)).collect::<Vec<_>>(),
                other => panic!("{family} {name}: {other:?}"),
            };
        // A row for each of the 24 outputs: heads after each other in each of three, or three in each head.
        let stacked: Vec<usize> = (0..24).map(|r| r % 8 / 2).collect();
        let interleaved: Vec<usize> = (0..24).map(|r| r / 6).collect();
        assert_eq!(of("phi3", "layers.0.self_attn.qkv_proj.bias", &[24]), stacked);
        assert_eq!(of("gpt_neox", "layers.0.attention.query_key_value.bias", &[24]), interleaved);
        assert_eq!(of("gpt2", "h.0.attn.c_attn.bias", &[24]), stacked);
        // Transposed: the columns are the outputs.
        let twice = [stacked.clone(), stacked].concat();
        assert_eq!(of("gpt2", "h.0.attn.c_attn.weight", &[2, 24]), twice);
        assert_eq!(of("gpt2", "h.0.attn.c_proj.weight", &[8, 1]), (0..8).map(|r| r / 2).collect::<Vec<_>>());
        assert_eq!(attention(4, 4, Some("codegen"), 2).cut("h.0.attn.qkv_proj.weight", &[24, 8]), Cut::Unknown);
    }
}
