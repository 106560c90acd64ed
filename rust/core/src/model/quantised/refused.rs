//! Forms that are known by their names and not decoded.

use super::Stored;
use crate::dtype::Dtype;

/// The ending of a tensor, those that must lie beside it, and what the form is called.
const FORMS: [(&str, &[&str], &str); 22] = [
    (".q_weight", &[".q_scale"], "EXL2"),
    (".trellis", &[], "EXL3"),
    (".W_q", &[], "HQQ or SINQ"),
    (".codes", &[".codebooks"], "AQLM"),
    (".indices", &[".centroids"], "VPTQ"),
    (".Qidxs", &[], "QuIP#"),
    (".tables2", &[], "HIGGS"),
    (".dqweight", &[], "fp_quant"),
    (".weight", &[".weight_scales"], "EETQ"),
    (".weight._data", &[], "quanto"),
    (".weight_qdata", &[], "torchao"),
    ("._weight_qdata", &[], "torchao"),
    (".B", &[".s"], "Marlin"),
    (".B_meta", &[], "Marlin with sparsity"),
    (".weight_sf", &[], "NVFP4 with swizzled scales"),
    (".bitmask", &[".compressed"], "compressed-tensors with sparsity"),
    (".weight_packed", &[".weight_packed_meta"], "compressed-tensors with sparsity"),
    (".weight_packed", &[".meta"], "compressed-tensors with sparsity"),
    (".dense_weights", &[], "SpQR"),
    (".pre_quant_scale", &[".weight_scale_2"], "ModelOpt with AWQ (`pre_quant_scale`)"),
    (".pre_quant_scale", &[".weight_scale"], "ModelOpt with AWQ (`pre_quant_scale`)"),
    (".act.scales", &[], "AWQ with scaled activations"),
];

/// Methods that the tensors do not tell from others.
const METHODS: [(&str, &str); 10] = [
    ("quark", "Quark"),
    ("spqr", "SpQR"),
    ("auto-round", "AutoRound"),
    ("eetq", "EETQ"),
    ("bitnet", "BitNet"),
    ("higgs", "HIGGS"),
    ("qqq", "QQQ"),
    ("vptq", "VPTQ"),
    ("fp_quant", "fp_quant"),
    ("sinq", "SINQ"),
];

/// Kernels' own orders of words.
const ORDERS: [&str; 8] = ["marlin", "bitblas", "gptq_p", "qqq", "gemv_fast", "exllama", "llm-awq", "ipex"];

/// Why the quantised weight that a tensor belongs to is not decoded.
pub fn reason(stored: &Stored, index: usize) -> Option<String> {
    let (name, dtype) = (stored.tensors[index].name, stored.dtype(index));
    let why = |form: &str| {
        Some(format!("`{name}` is of {form}, which is not decoded; a checkpoint of the plain weights can be merged"))
    };
    for (ending, others, form) in FORMS {
        if let Some(stem) = name.strip_suffix(ending)
            && others.iter().all(|o| stored.find(stem, o).is_some())
        {
            return why(form);
        }
    }
    if dtype.computes() {
        return None;
    }
    if stored.said.rotated {
        return why("a model whose layers' inputs are rotated as it runs (`transform_config`)");
    }
    let coded = [".qweight", ".weight_packed", ".weight"].iter().any(|e| name.ends_with(e));
    if coded && let Some((_, form)) = METHODS.iter().find(|(method, _)| *method == stored.said.method) {
        return why(form);
    }
    if let Some(stem) = name.strip_suffix(".qweight") {
        let order = ORDERS.iter().find(|o| stored.said.form.contains(**o));
        if let Some(order) = order {
            return why(&format!("the order of words of {order}"));
        }
        if stored.said.marlin {
            return why("the order of words of Marlin");
        }
        if dtype != Dtype::I32 {
            return why(&format!("words in {}", dtype.name()));
        }
        if stored.find(stem, ".qzeros").is_none() || stored.find(stem, ".scales").is_none() {
            return None;
        }
    }
    if dtype == Dtype::U8
        && let Some(stem) = name.strip_suffix(".weight_packed")
        && stored.find(stem, ".weight_zero_point").is_some()
    {
        return why("4-bit floats with zero points");
    }
    let sparse = ["sparse", "marlin-24", "mxfp6"].iter().find(|f| stored.said.form.contains(**f));
    if name.ends_with(".weight_packed")
        && let Some(form) = sparse
    {
        return why(form);
    }
    if dtype == Dtype::U8
        && let Some(stem) = name.strip_suffix(".weight")
        && let Some(scale) = stored.find(stem, ".weight_scale")
        && stored.find(stem, ".weight_scale_2").is_none()
        && stored.dtype(scale).computes()
    {
        return why("ModelOpt's INT4, or a form that is not known");
    }
    None
}
