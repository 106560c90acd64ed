//! Attention heads of one model put into a tensor of another: the rows or columns of the listed heads move.

use crate::error::{Error, Result};
use crate::model::names::{module, split_layer};
use crate::model::slices::{Part, Slicing, Wanted};
use crate::recipe::{Donor, Swap};
use crate::view::{Place, Run, Runs};

/// What becomes of a tensor when only some heads move.
pub enum Heads {
    /// Nothing of it belongs to a head that moves.
    Stay,
    /// All its heads move, or heads are not asked for.
    Whole,
    /// Only these pieces move.
    Some {
        /// Which of its pieces.
        taken: Vec<bool>,
        /// The cut into pieces.
        slicing: Slicing,
    },
}

/// How a tensor is cut into heads, if heads are asked for and it has any.
fn cut(swap: &Swap, name: &str, shape: &[u64]) -> Option<Slicing> {
    let wanted = Wanted { heads: swap.head_counts, neurons: 0, tokens: false };
    Slicing::of(name, shape, &wanted).filter(|s| s.part == Part::Head)
}

/// Elements of a head, from a tensor that is cut into query heads by rows.
pub fn size(swap: &Swap, name: &str, shape: &[u64]) -> Option<u64> {
    let (query, _) = swap.head_counts?;
    let slicing = cut(swap, name, shape)?;
    let is_query = module(name).ends_with("q_proj") || module(name).ends_with("query");
    (is_query && slicing.pieces() as u64 == query).then(|| shape[0] / query)
}

/// Whether a tensor is a norm of queries or keys.
fn head_norm(name: &str) -> bool {
    let last = module(name).rsplit('.').next().unwrap_or_default().to_owned();
    last.contains("norm") && ["q", "k", "query", "key"].iter().any(|p| last.starts_with(&format!("{p}_")))
}

/// Checks that it is known which heads a tensor of a layer serves, whether or not it is to move: else half of a head would.
/// `size` are the elements of a head, as far as known.
///
/// # Errors
/// [`Error::Recipe`] for heads that do not exist, or a tensor of an attention block that is not understood.
pub fn understood(swap: &Swap, donor: &Donor, name: &str, shape: &[u64], size: Option<u64>) -> Result<()> {
    let (Some(listed), Some((query, _))) = (&donor.heads, swap.head_counts) else { return Ok(()) };
    let at = donor.place("heads");
    if let Some(head) = listed.iter().find(|h| **h as u64 >= query) {
        return Err(Error::recipe(at, format!("head {head} does not exist; there are {query}, numbered from 0")));
    }
    let elements: u64 = shape.iter().product();
    // A norm of queries or keys is the same for all heads, or has a stretch for each.
    let wide_norm = head_norm(name) && size.is_some_and(|size| elements > size);
    if cut(swap, name, shape).is_none() && (wide_norm || serves_heads(name)) {
        let problem = format!(
            "`{name}` is part of an attention block, and which rows of it belong to which head is not known (fused, \
             low-rank or quantised attention, a norm or a value of each head); move whole layers or modules instead"
        );
        return Err(Error::recipe(at, problem));
    }
    Ok(())
}

/// How the heads of `donor` move in the tensor called `name`.
///
/// Key and value heads are shared by a group of query heads; they move with their whole group.
///
/// # Errors
/// [`Error::Recipe`] for a group of which only a part is listed.
pub fn moved(swap: &Swap, donor: &Donor, name: &str, shape: &[u64]) -> Result<Heads> {
    let (Some(listed), Some((query, _))) = (&donor.heads, swap.head_counts) else { return Ok(Heads::Whole) };
    let at = donor.place("heads");
    let Some(slicing) = cut(swap, name, shape) else { return Ok(Heads::Stay) };
    let group = (query / slicing.pieces() as u64).max(1);
    let mut taken = Vec::new();
    for piece in 0..slicing.pieces() as u64 {
        let inside = (piece * group..(piece + 1) * group).filter(|h| listed.contains(&(*h as usize))).count() as u64;
        if inside > 0 && inside < group {
            let (first, last) = (piece * group, (piece + 1) * group - 1);
            return Err(Error::recipe(
                at,
                format!(
                    "heads {first}-{last} share head {piece} of `{}`; list all of them, or leave such modules out with \
                     --modules",
                    module(name)
                ),
            ));
        }
        taken.push(inside > 0);
    }
    Ok(if taken.contains(&true) { Heads::Some { taken, slicing } } else { Heads::Stay })
}

/// Whether a tensor that is not cut into heads belongs to an attention block and is more than what all heads share: a norm,
/// rotary frequencies, a mask, the bias of the output projection.
fn serves_heads(name: &str) -> bool {
    let rest = split_layer(name).map_or(name, |l| l.rest);
    let mut parts = rest.split('.').map(str::to_ascii_lowercase);
    let norm = |part: &str| part.contains("norm") || part.starts_with("ln_") || part.ends_with("_ln");
    let attends = |part: &str| (part.contains("attn") || part.contains("attention")) && !norm(part);
    if !parts.any(|part| attends(&part)) {
        return false;
    }
    let shared = ["rotary", "inv_freq", "rope", "masked_bias"];
    let inner: Vec<String> = parts.collect();
    let alike = inner.iter().any(|part| norm(part) || shared.iter().any(|s| part.contains(s)));
    let out = ["o_proj", "out_proj", "output.dense"].iter().any(|o| rest.ends_with(&format!("{o}.bias")));
    // GPT-2 keeps its causal mask as `attn.bias`.
    !(alike || out || inner == ["bias"])
}

/// The recipient's tensor `own` with the pieces of the donor's that are `taken`.
pub fn runs(own: Place, donor: Place, taken: &[bool], slicing: &Slicing, elements: u64) -> Runs {
    let mut runs: Vec<Run> = Vec::new();
    let stride = slicing.period();
    for (piece, range) in slicing.runs(0..stride) {
        let from = if taken[piece] { donor } else { own };
        match runs.last_mut() {
            Some(last) if last.from == from => last.len = range.end - last.start,
            _ => runs.push(Run { from, start: range.start, len: range.end - range.start }),
        }
    }
    Runs { runs, times: elements / stride.max(1), stride }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_serves_heads_is_told_from_what_all_share() {
        for name in [
            "model.layers.0.self_attn.qkv_proj.weight",
            "h.3.attn.c_attn.bias",
            "transformer.h.0.self_attention.query_key_value.weight",
            "model.layers.0.self_attn.kv_b_proj.weight",
            "model.layers.0.self_attn.q_proj.weight_scale",
            "blocks.0.attn.Wqkv.weight",
        ] {
            assert!(serves_heads(name), "{name}");
        }
        for name in [
            "model.layers.0.post_attention_layernorm.weight",
            "model.layers.0.attention_norm.weight",
            "model.layers.0.self_attn.q_norm.weight",
            "encoder.layer.0.attention.output.LayerNorm.weight",
            "encoder.layer.0.attention.output.dense.bias",
            "model.layers.0.self_attn.rotary_emb.inv_freq",
            "h.0.attn.bias",
            "model.layers.0.mlp.up_proj.weight",
        ] {
            assert!(!serves_heads(name), "{name}");
        }
    }
}
