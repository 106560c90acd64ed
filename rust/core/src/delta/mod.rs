//! What a fine-tune changed: both checkpoints streamed once, side by side, in parallel.

pub mod ancestry;
pub mod metrics;
pub mod moments;
pub mod summary;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use serde_json::{Value, json};

use crate::checkpoint::{Checkpoint, IoMode};
use crate::dtype::Dtype;
use crate::engine::chunks::{self, Buffers, Stored};
use crate::engine::observer::{Observer, Progress};
use crate::engine::spans;
use crate::error::Result;
use crate::kernels::cast::widen;
use crate::names::{module_kind, split_layer};
use crate::plan::budget::{CHUNK, TILE};
use metrics::METRICS;
use moments::Moments;

/// How two checkpoints relate, tensor by tensor.
pub struct Comparison {
    /// Tensors of both, in the order of the base's bytes.
    pub tensors: Vec<Compared>,
    /// Names only the base has.
    pub only_base: Vec<String>,
    /// Names only the tuned model has.
    pub only_tuned: Vec<String>,
    /// Names both have with different shapes.
    pub reshaped: Vec<String>,
}

/// One tensor of both.
pub struct Compared {
    /// Name.
    pub name: String,
    /// Dtype in the base.
    pub dtype: Dtype,
    /// Shape.
    pub shape: Vec<u64>,
    /// True if both hold the same bytes of the same dtype.
    pub equal: bool,
    /// Sums over its elements; for dtypes that do not compute, only the counts.
    pub moments: Moments,
}

struct Pair {
    base: usize,
    tuned: usize,
}

/// Bytes that [`compare`] reads.
pub fn read_bytes(base: &Checkpoint, tuned: &Checkpoint) -> u64 {
    let pairs = pairs(base, tuned).0;
    pairs.iter().map(|p| base.tensors[p.base].nbytes + tuned.tensors[p.tuned].nbytes).sum()
}

fn pairs(base: &Checkpoint, tuned: &Checkpoint) -> (Vec<Pair>, Vec<String>) {
    let mut reshaped = Vec::new();
    let mut out = Vec::new();
    for (i, b) in base.tensors.iter().enumerate() {
        let Some(j) = tuned.find(&b.name) else { continue };
        let t = &tuned.tensors[j];
        // Tensors without arithmetic can only be compared as the bytes of one dtype.
        let comparable = t.dtype == b.dtype || (t.dtype.computes() && b.dtype.computes());
        if t.shape == b.shape && comparable {
            out.push(Pair { base: i, tuned: j });
        } else {
            reshaped.push(b.name.clone());
        }
    }
    (out, reshaped)
}

/// Compares two checkpoints, reading each once.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`] when the observer stops it.
pub fn compare(
    base: &Checkpoint,
    tuned: &Checkpoint,
    io: IoMode,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Comparison> {
    let (base_files, tuned_files) = (base.sources(io)?, tuned.sources(io)?);
    let (pairs, reshaped) = pairs(base, tuned);
    let elements = pairs.iter().map(|p| base.tensors[p.base].elements());
    let found = spans::each(elements, threads, observer, |i, elements, buffers, progress| {
        let (b, t) = (&base.tensors[pairs[i].base], &tuned.tensors[pairs[i].tuned]);
        let stored =
            [Stored { source: &base_files[b.file], tensor: b }, Stored { source: &tuned_files[t.file], tensor: t }];
        compare_span(&stored, elements, buffers, progress)
    })?;
    let tensors = pairs
        .iter()
        .enumerate()
        .map(|(i, p)| {
            let b = &base.tensors[p.base];
            let mut moments = Moments::default();
            let mut equal = tuned.tensors[p.tuned].dtype == b.dtype;
            for (m, same) in found.of(i) {
                moments += *m;
                equal &= *same;
            }
            Compared { name: b.name.clone(), dtype: b.dtype, shape: b.shape.clone(), equal, moments }
        })
        .collect();
    let missing = |a: &Checkpoint, b: &Checkpoint| {
        a.tensors.iter().filter(|t| b.find(&t.name).is_none()).map(|t| t.name.clone()).collect()
    };
    Ok(Comparison { tensors, only_base: missing(base, tuned), only_tuned: missing(tuned, base), reshaped })
}

fn compare_span(
    stored: &[Stored; 2],
    elements: std::ops::Range<u64>,
    buffers: &mut Buffers,
    progress: &Progress,
) -> Result<(Moments, bool)> {
    let (b, t) = (stored[0].tensor, stored[1].tensor);
    let mut moments = Moments::default();
    let mut equal = b.dtype == t.dtype;
    let (mut wide_b, mut wide_t) = ([0f32; TILE], [0f32; TILE]);
    chunks::each(stored, elements, CHUNK, true, buffers, |part, raw| {
        progress.alive()?;
        let mut at = part.start;
        while at < part.end {
            let end = (at + TILE as u64).min(part.end);
            let len = (end - at) as usize;
            let bytes = |i: usize| {
                let bits = stored[i].tensor.dtype.bits();
                &raw[i][((at - part.start) * bits / 8) as usize..((end - part.start) * bits / 8) as usize]
            };
            let (raw_b, raw_t) = (bytes(0), bytes(1));
            let same = b.dtype == t.dtype && raw_b == raw_t;
            equal &= same;
            moments += if !b.dtype.computes() {
                counted(raw_b, raw_t, b.dtype, len)
            } else if same {
                widen(b.dtype, raw_b, &mut wide_b[..len]);
                Moments::of_equal(&wide_b[..len])
            } else {
                widen(b.dtype, raw_b, &mut wide_b[..len]);
                widen(t.dtype, raw_t, &mut wide_t[..len]);
                Moments::of(&wide_b[..len], &wide_t[..len])
            };
            at = end;
        }
        progress.add(raw.iter().map(|r| r.len() as u64).sum());
        Ok(())
    })?;
    Ok((moments, equal))
}

/// Elements that differ, for dtypes without arithmetic; those of less than a byte are packed from the low bits up.
fn counted(base: &[u8], tuned: &[u8], dtype: Dtype, elements: usize) -> Moments {
    let bits = dtype.bits() as usize;
    let differing = if bits >= 8 {
        base.chunks(bits / 8).zip(tuned.chunks(bits / 8)).filter(|(b, t)| b != t).count()
    } else {
        let bit = |i: usize| (base[i / 8] ^ tuned[i / 8]) >> (i % 8) & 1 == 1;
        (0..elements).filter(|e| (e * bits..(e + 1) * bits).any(bit)).count()
    };
    Moments { elements: elements as u64, changed: differing as u64, ..Moments::default() }
}

impl Comparison {
    /// The comparison as data: metrics per tensor, and rolled up by module kind, by layer, and over all.
    pub fn to_json(&self, base: &Path, tuned: &Path) -> Value {
        let kinds: Vec<String> = self.tensors.iter().map(|t| module_kind(&t.name)).collect();
        // Modules come in the order of the file, which is that of the model.
        let mut first: HashMap<&str, usize> = HashMap::new();
        for (i, kind) in kinds.iter().enumerate() {
            first.entry(kind).or_insert(i);
        }
        let mut modules: BTreeMap<usize, Moments> = BTreeMap::new();
        let mut layers: BTreeMap<(usize, String), Moments> = BTreeMap::new();
        let mut cells: BTreeMap<(usize, String, usize), Moments> = BTreeMap::new();
        let mut total = Moments::default();
        for (t, kind) in self.tensors.iter().zip(&kinds).filter(|(t, _)| t.dtype.computes()) {
            let kind = first[kind.as_str()];
            total += t.moments;
            *modules.entry(kind).or_default() += t.moments;
            // Layers come in order of their number, whatever stands outside them last.
            let key = split_layer(&t.name).map_or((usize::MAX, "-".to_owned()), |l| (l.layer, l.layer.to_string()));
            *layers.entry(key.clone()).or_default() += t.moments;
            *cells.entry((key.0, key.1, kind)).or_default() += t.moments;
        }
        json!({
            "base": base.to_string_lossy(),
            "tuned": tuned.to_string_lossy(),
            "metrics": METRICS.iter().map(|m| json!({"name": m.name, "summary": m.summary})).collect::<Vec<_>>(),
            "total": row(&total, &[]),
            "tensors": self.tensors.iter().map(|t| row(&t.moments, &[
                ("name", json!(t.name)),
                ("dtype", json!(t.dtype)),
                ("shape", json!(t.shape)),
                ("equal", json!(t.equal)),
            ])).collect::<Vec<_>>(),
            "modules": modules.iter().map(|(k, m)| row(m, &[("module", json!(kinds[*k]))])).collect::<Vec<_>>(),
            "layers": layers.iter().map(|((_, k), m)| row(m, &[("layer", json!(k))])).collect::<Vec<_>>(),
            "cells": cells.iter().map(|((_, l, k), m)| row(m, &[("layer", json!(l)), ("module", json!(kinds[*k]))])).collect::<Vec<_>>(),
            "only_base": self.only_base,
            "only_tuned": self.only_tuned,
            "reshaped": self.reshaped,
        })
    }
}

fn row(m: &Moments, head: &[(&str, Value)]) -> Value {
    let mut map: serde_json::Map<String, Value> = head.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
    map.insert("elements".into(), m.elements.into());
    for metric in METRICS {
        // JSON has no infinity.
        let value = (metric.value)(m);
        map.insert(metric.name.into(), if value.is_finite() { json!(value) } else { json!(value.to_string()) });
    }
    map.insert("nonfinite_base".into(), m.nonfinite_base.into());
    map.insert("nonfinite_tuned".into(), m.nonfinite_tuned.into());
    Value::Object(map)
}
