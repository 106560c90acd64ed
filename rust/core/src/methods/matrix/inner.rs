//! Another method on numbers in memory, under a method of matrices: coordinates of the changes in a basis, or the changes
//! themselves.

use std::ops::Range;

use super::super::{EachTile, Halt, Kernel, Method, Operands, Params, Results, Scope, Span, Stats, Tile, Totals};
use crate::kernels::search::{LIST, gather, sampled};
use crate::methods::{Base, Value, elements};
use crate::sizes::{SPAN, TILE};

/// Methods that can stand inside another: they go by changes alone, and by nothing larger than a tensor.
pub const WORDS: &[&str] = &[
    "mean",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "della",
    "della_linear",
    "breadcrumbs",
    "breadcrumbs_ties",
    "cabs",
    "magmax",
    "emr",
    "sce",
];

/// Whether the method called `word` does nothing with the parameter `name` of the method around it.
pub fn idle(word: &str, name: &str) -> bool {
    let of = |family: &str| word.starts_with(family);
    match name {
        "density" => !(of("ties") || of("dare") || of("della") || of("breadcrumbs") || of("cabs")),
        "gamma" => !of("breadcrumbs"),
        "epsilon" => !of("della"),
        _ => false,
    }
}

/// Tensors of one shape in memory, as changes from nothing.
pub struct Held<'a> {
    /// The elements of each.
    pub inputs: Vec<&'a [f32]>,
    /// A random key for each.
    pub keys: &'a [u64],
    /// Elements that a tile holds a whole number of.
    pub unit: usize,
}

impl Operands for Held<'_> {
    fn keys(&self) -> Vec<u64> {
        self.keys.to_vec()
    }

    fn each(&mut self, range: Range<u64>, f: EachTile) -> Result<(), Halt> {
        let step = (TILE / self.unit.max(1)).max(1) * self.unit.max(1);
        let nothing = vec![0.0; step];
        let of = self.inputs.first().map_or(0, |x| x.len() as u64);
        for start in range.clone().step_by(step) {
            let own = start as usize..(start + step as u64).min(range.end) as usize;
            let inputs: Vec<&[f32]> = self.inputs.iter().map(|x| &x[own.clone()]).collect();
            f(&Tile { base: Some(&nothing[..own.len()]), inputs: &inputs, keys: self.keys, start, of })?;
        }
        Ok(())
    }
}

impl Results for Vec<f32> {
    fn push(&mut self, values: &[f32]) -> Result<(), Halt> {
        self.extend_from_slice(values);
        Ok(())
    }
}

/// What a method makes of tensors in memory.
///
/// # Errors
/// What it finds wrong with them.
pub fn run(mut kernel: Box<dyn Kernel>, held: &mut Held) -> Result<Vec<f32>, Halt> {
    let of = held.inputs.first().map_or(0, |x| x.len());
    let mut out = Vec::with_capacity(of);
    if let Span::Whole { .. } = kernel.cost().span {
        kernel.whole(held, &mut out)?;
        return Ok(out);
    }
    held.unit = kernel.cost().unit as usize;
    let size = SPAN.next_multiple_of(held.unit as u64);
    let spans: Vec<Range<u64>> =
        (0..of as u64).step_by(size as usize).map(|at| at..(at + size).min(of as u64)).collect();
    let mut ranks: Vec<Vec<u64>> = vec![Vec::new(); spans.len()];
    let mut stats = Stats::default();
    while let Some(wants) = kernel.wants() {
        let mut totals = Totals { sums: vec![0.0; wants.sums], ..Totals::default() };
        let mut counted = Vec::new();
        for (span, before) in spans.iter().zip(&ranks) {
            stats.reset(wants);
            stats.before.clone_from(before);
            for part in if wants.sample { sampled(span, false) } else { vec![span.clone()] } {
                let part = part.start / held.unit as u64 * held.unit as u64..part.end;
                held.each(part, &mut |tile| {
                    kernel.scan(tile, &mut stats);
                    Ok(())
                })?;
            }
            totals.sums.iter_mut().zip(&stats.sums).for_each(|(t, s)| *t += s);
            totals.counts.resize_with(stats.counts.len(), Vec::new);
            for (total, counts) in totals.counts.iter_mut().zip(&stats.counts) {
                total.resize(counts.len(), 0);
                total.iter_mut().zip(counts).for_each(|(t, c)| *t += u64::from(*c));
            }
            totals.lists.resize_with(stats.lists.len(), Vec::new);
            gather(&mut totals.lists, &stats.lists, LIST);
            counted.push(stats.ranks.clone());
        }
        if wants.ranks > 0 {
            totals.ranks = vec![0; wants.ranks];
            for (before, own) in ranks.iter_mut().zip(&counted) {
                before.clone_from(&totals.ranks);
                totals.ranks.iter_mut().zip(own).for_each(|(t, r)| *t += r);
            }
        }
        kernel.take(totals)?;
    }
    let mut values = Vec::new();
    for (span, before) in spans.iter().zip(&ranks) {
        let mut running = before.clone();
        held.each(span.clone(), &mut |tile| {
            values.resize(tile.inputs[0].len(), 0.0);
            kernel.apply(tile, &mut running, &mut values);
            out.extend_from_slice(&values);
            Ok(())
        })?;
    }
    Ok(out)
}

/// The method called `word` on tensors of this shape, its weights and whatever else it has of the same name from the parameters of
/// the method around it.
///
/// # Errors
/// As [`Method::bind`]; a method that goes by more than the changes of one tensor.
pub fn bind(word: &str, around: &Params, shape: &[u64]) -> Result<Box<dyn Kernel>, String> {
    let method: &dyn Method = match word {
        "mean" => crate::methods::registry::find("task_arithmetic"),
        _ => crate::methods::registry::find(word),
    }
    .ok_or_else(|| format!("there is no method `{word}`"))?;
    let mut params = Params { seed: around.seed, inputs: around.inputs, based: true, ..Params::default() };
    let spec = method.spec();
    for p in spec.parameters {
        let default = match p.default {
            super::super::Default::Required | super::super::Default::Number(_) => {
                Value::Number(if let super::super::Default::Number(n) = p.default { n } else { 1.0 })
            }
            super::super::Default::Switch(on) => Value::Bool(on),
            super::super::Default::Word(word) => Value::Word(word.to_owned()),
        };
        // What becomes of the merged change is the outer method's to say.
        let outer = !p.late || p.name == "weight";
        if p.per_input {
            let given = around.per_input.get(p.name).filter(|_| outer).cloned();
            params.per_input.insert(p.name, given.unwrap_or_else(|| vec![default; around.inputs]));
        } else {
            let given = around.shared.get(p.name).filter(|_| outer).cloned();
            params.shared.insert(p.name, given.unwrap_or(default));
        }
    }
    if word == "mean" {
        params.shared.insert("lambda", Value::Number(1.0 / around.inputs as f64));
    }
    if spec.base != Base::Required || method.scope(&params) != Scope::Tensor {
        return Err(format!("`{word}` goes by more than the changes of one tensor"));
    }
    debug_assert!(elements(shape) > 0);
    method.bind(&params, shape)
}
