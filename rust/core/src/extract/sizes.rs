//! The size that a delta has at most, from headers: a tensor that did not change takes nothing, and packed bits mostly take less.

use std::collections::BTreeMap;

use super::files::{file_of, header_bytes};
use super::name_of;
use super::options::{Form, Options};
use super::tensors::Item;
use crate::checkpoint::delta::Part;
use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::kernels::packed::bound;
use crate::sizes::PACKED;

/// What a delta takes at most.
pub struct Sizes {
    /// Bytes of each of its files.
    pub files: BTreeMap<&'static str, u64>,
    /// Bytes of the parts of each tensor.
    pub tensors: Vec<u64>,
    /// Whether nothing but an unchanged tensor makes it smaller.
    pub certain: bool,
}

impl Sizes {
    /// Of a delta that keeps `items`.
    pub fn of(base: &Checkpoint, tuned: &Checkpoint, items: &[Item], options: &Options) -> Self {
        let lora = options.form == Form::Lora;
        let (mut files, mut certain): (BTreeMap<&'static str, u64>, bool) = (BTreeMap::new(), options.energy.is_none());
        let mut tensors = Vec::with_capacity(items.len());
        // The elements that are kept one by one, of all those that may be.
        let elements: u64 = items.iter().filter(|i| i.parts().contains(&Part::Index)).map(|i| of(base, i.base).1).sum();
        let kept = options.kept_of(elements);
        let named: Vec<(Part, String)> = items
            .iter()
            .flat_map(|item| item.parts().into_iter().map(move |p| (p, name_of(options.form, p, &item.name))))
            .filter(|(p, _)| !(lora && *p == Part::Middle))
            .collect();
        for item in items {
            let mut own = 0;
            for part in item.parts().into_iter().filter(|p| !(lora && *p == Part::Middle)) {
                let bytes = part_bytes(base, tuned, item, part, options, kept);
                certain &= !matches!(part, Part::Xor | Part::Forward | Part::Back);
                *files.entry(file_of(lora, part)).or_default() += bytes;
                own += bytes;
            }
            tensors.push(own);
        }
        // The largest of the whole model are so many in all, wherever they lie.
        if let (Some(kept), false) = (kept, options.by_tensor) {
            for (part, width) in
                [(Part::Index, index_width(items, base)), (Part::Values, values_width(items, base, tuned))]
            {
                if let Some(bytes) = files.get_mut(part.file()) {
                    *bytes = (*bytes).min(kept * width);
                }
            }
        }
        certain &= options.form != Form::Sparse || (kept.is_some() && options.random.is_none());
        for (file, bytes) in header_bytes(lora, named.iter().map(|(p, n)| (*p, n.as_str()))) {
            if let Some(own) = files.get_mut(file) {
                *own += bytes;
            }
        }
        Self { files, tensors, certain }
    }

    /// Bytes of all files.
    pub fn total(&self) -> u64 {
        self.files.values().sum()
    }
}

fn of(model: &Checkpoint, index: Option<usize>) -> (Option<&Tensor>, u64) {
    let tensor = index.map(|i| &model.tensors[i]);
    (tensor, tensor.map_or(0, Tensor::elements))
}

/// Bytes of a place in the widest of the tensors.
fn index_width(items: &[Item], base: &Checkpoint) -> u64 {
    let wide = |i: &Item| of(base, i.base).1 > u64::from(u32::MAX);
    if items.iter().any(wide) { 8 } else { 4 }
}

/// Bytes of a value in the widest of the tensors.
fn values_width(items: &[Item], base: &Checkpoint, tuned: &Checkpoint) -> u64 {
    if items.iter().any(|i| is_f64(base, tuned, i)) { 8 } else { 4 }
}

fn is_f64(base: &Checkpoint, tuned: &Checkpoint, item: &Item) -> bool {
    [of(base, item.base).0, of(tuned, item.tuned).0].iter().flatten().any(|t| t.dtype == Dtype::F64)
}

fn part_bytes(
    base: &Checkpoint,
    tuned: &Checkpoint,
    item: &Item,
    part: Part,
    options: &Options,
    kept: Option<u64>,
) -> u64 {
    let ((own, elements), (other, _)) = (of(base, item.base), of(tuned, item.tuned));
    let bytes = |t: Option<&Tensor>| t.map_or(0, |t| t.nbytes);
    let few = match options.by_tensor {
        true => options.kept_of(elements).unwrap_or(elements),
        false => kept.unwrap_or(elements).min(elements),
    };
    // Of random elements any number may be drawn.
    let few = if options.random.is_some() { elements } else { few };
    let factors = |of: &dyn Fn(u64, u64, u64) -> u64| {
        item.matrix.map_or(0, |m| m.count * of(options.rank_of(m.rows, m.columns), m.rows, m.columns))
            * options.factor_dtype().bits()
            / 8
    };
    match part {
        Part::Xor | Part::Forward | Part::Back => {
            let block = own.map_or(1, |t| PACKED * t.dtype.bits() / 8);
            let (blocks, rest) = (bytes(own) / block, bytes(own) % block);
            blocks * (4 + bound(block)) + if rest > 0 { 4 + bound(rest) } else { 0 }
        }
        Part::Index => few * if elements > u64::from(u32::MAX) { 8 } else { 4 },
        Part::Values => few * if is_f64(base, tuned, item) { 8 } else { 4 },
        Part::Signs => elements.div_ceil(8),
        Part::Scale => 4,
        Part::Left => factors(&|rank, rows, _| rank * rows),
        Part::Middle => factors(&|rank, _, _| rank),
        Part::Right => factors(&|rank, _, columns| rank * columns),
        Part::Whole => bytes(other),
        Part::Old => bytes(own),
    }
}
