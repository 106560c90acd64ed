//! Quantised weights and what they come with: scales, zeros, permutations. They mean something only together.

use std::collections::{HashMap, HashSet};

use crate::dtype::Dtype;

/// Endings of the members of a family, longest first where one ends like another. What is before is the module's name.
const ENDINGS: [&str; 48] = [
    // FP8, FP4, compressed-tensors, ModelOpt, fbgemm.
    ".weight_scale_inv",
    ".weight_scale_2",
    ".weight_scales",
    ".weight_scale",
    ".weight_zero_point",
    ".weight_g_idx",
    ".weight_shape",
    ".weight_global_scale",
    ".weight_packed",
    ".weight_format",
    ".input_scale_ub",
    ".input_scale",
    ".input_zero_point",
    ".input_global_scale",
    ".activation_scale",
    ".output_scale",
    ".output_zero_point",
    ".pre_quant_scale",
    ".qscale_weight",
    ".qscale_act",
    // GPTQ, AWQ, LLM.int8, HQQ, AQLM.
    ".qweight",
    ".qzeros",
    ".g_idx",
    ".perm",
    ".SCB",
    ".W_q",
    ".codes",
    ".codebooks",
    // bitsandbytes; its quant_state has one more part.
    ".weight.nested_absmax",
    ".weight.nested_quant_map",
    ".weight.absmax",
    ".weight.quant_map",
    // torchao, quanto.
    "._weight_qdata",
    "._weight_scale",
    "._weight_zero_point",
    ".weight._data",
    ".weight._scale",
    ".weight._shift",
    // What attention keeps of keys and values.
    ".k_scale",
    ".v_scale",
    ".q_scale",
    // Others, and stacked experts (gpt-oss, fused FP8).
    ".blocks",
    ".scales",
    ".scale",
    "_blocks",
    "_scales",
    "_scale_inv",
    "_scale",
];
const STATE: &str = ".weight.quant_state.";

/// The members of the families of a checkpoint.
#[derive(Debug, Clone, Default)]
pub struct Families {
    /// The module of each member, by the tensor's index.
    members: HashMap<usize, String>,
}

/// The module that a name with one of the endings is of.
fn stem(name: &str) -> Option<&str> {
    name.split_once(STATE)
        .map(|(stem, _)| stem)
        .or_else(|| ENDINGS.iter().find_map(|e| name.strip_suffix(e)))
        .filter(|stem| !stem.is_empty())
}

impl Families {
    /// The families among tensors, given with their dtypes in order. Only what does not compute makes one: the `scale` of a
    /// norm that is not quantised stands alone.
    pub fn of<'a>(tensors: impl Iterator<Item = (&'a str, Dtype)> + Clone) -> Self {
        // Nearly all models: their tens of thousands of names need not be looked into.
        if tensors.clone().all(|(_, dtype)| dtype.computes()) {
            return Self::default();
        }
        let weight = |name: &'a str| name.strip_suffix(".weight").unwrap_or(name);
        let mut companions: HashSet<&str> = tensors.clone().filter_map(|(name, _)| stem(name)).collect();
        let quantised: HashSet<&str> = tensors
            .clone()
            .filter(|(_, dtype)| !dtype.computes())
            .map(|(name, _)| stem(name).unwrap_or(weight(name)))
            .collect();
        companions.retain(|stem| quantised.contains(stem));
        let member = |(i, (name, _)): (usize, (&'a str, Dtype))| {
            let stem = stem(name).unwrap_or(weight(name));
            companions.contains(stem).then(|| (i, stem.to_owned()))
        };
        Self { members: tensors.enumerate().filter_map(member).collect() }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The module whose weight the tensor belongs to, if it is a quantised weight or comes with one.
    pub fn module(&self, tensor: usize) -> Option<&str> {
        self.members.get(&tensor).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn modules(tensors: &[(&str, Dtype)]) -> Vec<Option<String>> {
        let families = Families::of(tensors.iter().copied());
        (0..tensors.len()).map(|i| families.module(i).map(str::to_owned)).collect()
    }

    #[test]
    fn members_share_their_module_whatever_they_are_called() {
        let quantised: [&[(&str, Dtype)]; 7] = [
            &[("a.q.weight", Dtype::F8E4m3), ("a.q.weight_scale_inv", Dtype::F32), ("a.q.input_scale", Dtype::F32)],
            &[
                ("a.q.qweight", Dtype::I32),
                ("a.q.qzeros", Dtype::I32),
                ("a.q.scales", Dtype::F16),
                ("a.q.g_idx", Dtype::I32),
            ],
            &[
                ("a.q.weight", Dtype::U8),
                ("a.q.weight.absmax", Dtype::F32),
                ("a.q.weight.quant_state.bitsandbytes__nf4", Dtype::U8),
            ],
            &[("a.q_blocks", Dtype::U8), ("a.q_scales", Dtype::U8)],
            &[("a.q", Dtype::F8E4m3), ("a.q_scale_inv", Dtype::Bf16)],
            &[("a.q._weight_qdata", Dtype::I8), ("a.q._weight_scale", Dtype::F32)],
            &[("a.q.weight_packed", Dtype::I32), ("a.q.weight_scale", Dtype::Bf16), ("a.q.weight_shape", Dtype::I64)],
        ];
        for family in quantised {
            let found = modules(family);
            assert!(found.iter().all(|m| m.is_some() && *m == found[0]), "{family:?}: {found:?}");
        }
    }

    #[test]
    fn what_is_not_quantised_has_no_family() {
        assert_eq!(modules(&[("norm.weight", Dtype::F32), ("norm.scale", Dtype::F32)]), [None, None]);
        assert_eq!(
            modules(&[("ids", Dtype::I64), ("a.q.bias", Dtype::F32), ("a.q.weight", Dtype::F8E4m3)]),
            [None, None, None]
        );
    }
}
