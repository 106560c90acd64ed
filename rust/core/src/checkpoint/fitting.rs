//! Which way round an adapter's factors lie in a weight, where its own shape leaves that open.

use super::{Checkpoint, Tensor};
use crate::model::attention::Attention;
use crate::model::lora::LoraConfig;
use crate::model::names::split_layer;

/// Whether a module's weight is kept as [in, out], if its shape tells. Only layers speak for each other: a head is
/// a linear module in models, too, whose layers keep [in, out].
pub(super) fn told_by(module: &str, weight: &Tensor, a: &Tensor, b: &Tensor) -> Option<bool> {
    split_layer(module)?;
    let ([rows, columns], [_, inputs], [outputs, _]) = (&weight.shape[..], &a.shape[..], &b.shape[..]) else {
        return None;
    };
    (rows != columns).then_some((rows, columns) == (inputs, outputs))
}

/// Whether a model keeps the matrices of its layers as [in, out], if one that no adapter need change tells.
pub(super) fn told_by_model(model: &Checkpoint) -> Option<bool> {
    model.tensors.iter().any(|t| Attention::tells_transposed(&t.name, &t.shape)).then_some(true)
}

/// The stacks of experts that an adapter's config lists, found once for all its modules.
pub(super) fn stacks(model: &Checkpoint, config: &LoraConfig) -> Vec<usize> {
    let listed = |name: &str| {
        let last = name.rsplit('.').next();
        config.parameters.iter().any(|p| p == name || name.ends_with(&format!(".{p}")) || p.rsplit('.').next() == last)
    };
    let stacked = |i: &usize| model.tensors[*i].shape.len() == 3 && listed(&model.tensors[*i].name);
    (0..model.tensors.len()).filter(stacked).collect()
}

/// The number of experts, and whether rows are inputs, if a weight [experts, rows, columns] and factors A [rank * experts,
/// inputs] and B [outputs, rank * experts] fit each other.
pub(super) fn experts(model: &Checkpoint, weight: &Tensor, a: &[u64], b: &[u64]) -> Option<(u64, bool)> {
    let (&[experts, rows, columns], &[across, inputs], &[outputs, ranks]) = (&weight.shape[..], a, b) else {
        return None;
    };
    if experts == 0 || across % experts != 0 || across != ranks {
        return None;
    }
    let outputs_first = (outputs, inputs) == (rows, columns);
    let inputs_first = (outputs, inputs) == (columns, rows);
    let turned = inputs_first && (!outputs_first || neighbour_turned(model, weight));
    (outputs_first || inputs_first).then_some((experts, turned))
}

/// Whether a square stack of experts keeps [in, out]: its neighbour is twice as long on the side of gates and ups.
fn neighbour_turned(model: &Checkpoint, weight: &Tensor) -> bool {
    let Some((parent, own)) = weight.name.rsplit_once('.') else { return false };
    let name = if own == "down_proj" { "gate_up_proj" } else { "down_proj" };
    let other = model.find(&format!("{parent}.{name}")).map(|i| &model.tensors[i].shape[..]);
    matches!(other, Some(&[_, rows, columns]) if rows.checked_mul(2) == Some(columns))
}
