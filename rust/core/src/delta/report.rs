//! A comparison as data: figures per tensor, rolled up by layer, by module, by both and over all, and per part.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Map, Value, json};

use super::metrics::{self, METRICS};
use super::moments::Moments;
use super::{Asked, Compared, Comparison, Group, Layer, Model, QUANTILES};
use crate::model::anatomy::Anatomy;
use crate::model::names::module_kind;
use crate::model::slices::Part;

/// Cosine from which on a model counts as tuned from the base, and below which as no relative of it.
const RELATED: f64 = 0.97;
const STRANGERS: f64 = 0.25;

impl Comparison {
    /// The comparison as data.
    pub fn to_json(&self) -> Value {
        let labels = labels(&self.models);
        json!({
            "base": self.base.to_string_lossy(),
            "stacks": self.anatomy.to_json(),
            "metrics": metrics::specs(&self.options, self.quantised),
            "models": self.models.iter().zip(&labels).map(|(m, l)| self.model(m, l)).collect::<Vec<_>>(),
            "pairs": self.pairs.iter().map(|p| {
                let tensors = p.tensors.iter().map(|t| (t.name.as_str(), t.layer, t.sums));
                let rolled = Rolled::of(tensors);
                let mut out = rolled.to_json(&self.anatomy, |sums, _| sums.row());
                out["a"] = labels[p.models.0].clone().into();
                out["b"] = labels[p.models.1].clone().into();
                out["tensors"] = (p.tensors.iter()).map(|t| headed(t.sums.row(), &[("name", json!(t.name))])).collect();
                out
            }).collect::<Vec<_>>(),
        })
    }

    fn model(&self, model: &Model, label: &str) -> Value {
        let computing = || model.tensors.iter().filter(|t| t.dtype.computes());
        let rolled = Rolled::of(computing().map(|t| (t.name.as_str(), t.layer, t.moments)));
        let mut out = rolled.to_json(&self.anatomy, |m, group| self.row(m, group.and_then(|g| model.groups.get(&g))));
        out["tuned"] = model.path.to_string_lossy().into();
        out["label"] = label.into();
        out["ancestry"] = ancestry(computing());
        out["tensors"] = (model.tensors.iter())
            .map(|t| {
                let head = [
                    ("name", json!(t.name)),
                    ("dtype", json!(t.dtype)),
                    ("shape", json!(t.shape)),
                    ("layer", layer_name(&self.anatomy, t.layer)),
                    ("equal", json!(t.equal)),
                ];
                let mut row = self.row(&t.moments, t.asked.as_ref());
                for metric in METRICS.iter().filter(|m| !m.counts && !t.dtype.computes()) {
                    row.insert(metric.name.into(), Value::Null);
                }
                headed(row, &head)
            })
            .collect();
        if self.options.heads {
            out["heads"] = self.parts(model, Part::Head, |piece, _| vec![("head", json!(piece))]);
        }
        if self.options.neurons > 0 {
            out["neurons"] = self.parts(model, Part::Neuron, |piece, bounds| {
                vec![("group", json!(piece)), ("first", json!(bounds[piece])), ("last", json!(bounds[piece + 1] - 1))]
            });
        }
        if self.options.tokens > 0 {
            let vocabularies = || {
                model.tensors.iter().filter_map(|t| {
                    let s = t.slicing.as_ref().filter(|s| s.part == Part::Token)?;
                    Some((t, s.bounds.as_slice()))
                })
            };
            out["tokens"] = vocabularies()
                .flat_map(|(t, rows)| t.parts.iter().zip(rows).map(move |(m, row)| (t, m, row)))
                .map(|(t, m, row)| headed(self.row(m, None), &[("tensor", json!(t.name)), ("row", json!(row))]))
                .collect();
            out["vocabularies"] = vocabularies()
                .map(|(t, rows)| json!({"tensor": t.name, "rows": t.shape[0], "changed": rows.last()}))
                .collect();
        }
        // What cannot be computed on counts: else a model of which a third changed would hardly have changed.
        let mut all = Moments::default();
        model.tensors.iter().for_each(|t| all += t.moments);
        for metric in METRICS.iter().filter(|m| m.counts) {
            out["total"][metric.name] = number((metric.value)(&all));
        }
        out["total"]["elements"] = all.elements.into();
        out["uncomputed"] = uncomputed(model);
        out["only_base"] = json!(model.only_base);
        out["only_tuned"] = json!(model.only_tuned);
        out["reshaped"] = json!(model.reshaped);
        out["lost"] = model.lost.iter().map(|(n, l)| (n.clone(), json!(l))).collect::<Map<_, _>>().into();
        out
    }

    /// The figures of the parts of one kind, a tensor's weight and bias taken together.
    fn parts(&self, model: &Model, part: Part, head: impl Fn(usize, &[u64]) -> Vec<(&'static str, Value)>) -> Value {
        let mut order: HashMap<String, usize> = HashMap::new();
        let mut found: BTreeMap<(Layer, usize, usize), (Moments, &Compared)> = BTreeMap::new();
        for t in &model.tensors {
            let Some(slicing) = t.slicing.as_ref().filter(|s| s.part == part) else { continue };
            let next = order.len();
            let kind = *order.entry(module_kind(&t.name)).or_insert(next);
            for (piece, m) in t.parts.iter().enumerate().take(slicing.pieces()) {
                found.entry((t.layer, kind, piece)).or_insert((Moments::default(), t)).0 += *m;
            }
        }
        (found.iter())
            .map(|((layer, _, piece), (m, t))| {
                let bounds = t.slicing.as_ref().map_or(&[][..], |s| &s.bounds);
                let mut all =
                    vec![("layer", layer_name(&self.anatomy, *layer)), ("module", json!(module_kind(&t.name)))];
                all.extend(head(*piece, bounds));
                headed(self.row(m, None), &all)
            })
            .collect()
    }

    fn row(&self, m: &Moments, asked: Option<&Asked>) -> Map<String, Value> {
        let mut row = Map::new();
        row.insert("elements".into(), m.elements.into());
        for metric in METRICS {
            row.insert(metric.name.into(), number((metric.value)(m)));
        }
        if self.quantised {
            row.insert(metrics::BELOW_STEP.into(), number(metrics::ratio(m.below_step as f64, m.stepped as f64)));
            row.insert("stepped".into(), m.stepped.into());
        }
        if let Some(asked) = asked {
            let above = self.options.spread.iter().flatten().map(|t| format!("above_{}", t.text));
            let names = QUANTILES.iter().map(|(n, _)| (*n).to_owned()).chain(["top1".to_owned()]).chain(above);
            for (name, question) in names.zip(&asked.questions) {
                if name == "top1" {
                    row.insert("gini".into(), json!(asked.gini));
                }
                row.insert(name, number(question.answer().unwrap_or(f64::NAN)));
            }
        }
        row.insert("nonfinite_base".into(), m.nonfinite_base.into());
        row.insert("nonfinite_tuned".into(), m.nonfinite_tuned.into());
        row
    }
}

/// JSON has no infinity.
fn number(value: f64) -> Value {
    if value.is_finite() { json!(value) } else { json!(value.to_string()) }
}

fn headed(row: Map<String, Value>, head: &[(&str, Value)]) -> Value {
    let head = head.iter().map(|(k, v)| ((*k).to_owned(), v.clone()));
    Value::Object(head.chain(row).collect())
}

fn layer_name(anatomy: &Anatomy, layer: Layer) -> Value {
    anatomy.layer_name(anatomy.place_of(layer)).into()
}

/// The names of the models' folders, numbered where they repeat: a model may be compared twice.
fn labels(models: &[Model]) -> Vec<String> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let label = |m: &Model| {
        let name = m.name.clone();
        let n = seen.entry(name.clone()).and_modify(|n| *n += 1).or_insert(1);
        if *n == 1 { name } else { format!("{name}#{n}") }
    };
    models.iter().map(label).collect()
}

/// What could not be computed on, and was compared by its bytes.
fn uncomputed(model: &Model) -> Value {
    let those = || model.tensors.iter().filter(|t| !t.dtype.computes());
    let dtypes: std::collections::BTreeSet<&str> = those().map(|t| t.dtype.name()).collect();
    json!({
        "tensors": those().count(),
        "elements": those().map(|t| t.moments.elements).sum::<u64>(),
        "tensors_changed": those().filter(|t| !t.equal).count(),
        "elements_changed": those().map(|t| t.moments.changed).sum::<u64>(),
        "dtypes": dtypes,
    })
}

/// Whether a model looks tuned from the base: by the cosine of all its matrices, for vectors (norms near 1) are alike in
/// all models.
fn ancestry<'a>(tensors: impl Iterator<Item = &'a Compared>) -> Value {
    let mut all = Moments::default();
    tensors.filter(|t| t.shape.len() > 1).for_each(|t| all += t.moments);
    if all.square_base == 0.0 || all.square_tuned == 0.0 {
        return json!({"cosine": null, "relative_l2": null, "verdict": "unknown"});
    }
    let cosine = super::metrics::cosine(&all);
    let verdict = match cosine {
        c if c >= RELATED => "related",
        c if c < STRANGERS => "strangers",
        _ => "doubtful",
    };
    json!({"cosine": cosine, "relative_l2": (all.square_delta / all.square_base).sqrt(), "verdict": verdict})
}

/// Sums over layers, modules, both, and all.
struct Rolled<T> {
    total: T,
    modules: BTreeMap<usize, T>,
    layers: BTreeMap<Layer, T>,
    cells: BTreeMap<(Layer, usize), T>,
    kinds: Vec<String>,
}

impl<T: Copy + Default + std::ops::AddAssign> Rolled<T> {
    fn of<'a>(tensors: impl Iterator<Item = (&'a str, Layer, T)>) -> Self {
        let mut rolled = Self {
            total: T::default(),
            modules: BTreeMap::new(),
            layers: BTreeMap::new(),
            cells: BTreeMap::new(),
            kinds: Vec::new(),
        };
        // Modules come in the order of the file, which is that of the model; layers in that of their numbers.
        let mut known: HashMap<String, usize> = HashMap::new();
        for (name, layer, sums) in tensors {
            let next = known.len();
            let kind = *known.entry(module_kind(name)).or_insert_with_key(|k| {
                rolled.kinds.push(k.clone());
                next
            });
            rolled.total += sums;
            *rolled.modules.entry(kind).or_default() += sums;
            *rolled.layers.entry(layer).or_default() += sums;
            *rolled.cells.entry((layer, kind)).or_default() += sums;
        }
        rolled
    }

    fn to_json(&self, anatomy: &Anatomy, row: impl Fn(&T, Option<Group>) -> Map<String, Value>) -> Value {
        let kind = |k: &usize| self.kinds[*k].clone();
        json!({
            "total": row(&self.total, Some(Group::All)),
            "modules": self.modules.iter().map(|(k, m)| headed(row(m, Some(Group::Module(kind(k)))), &[("module", json!(kind(k)))])).collect::<Vec<_>>(),
            "layers": self.layers.iter().map(|(l, m)| headed(row(m, Some(Group::Layer(*l))), &[("layer", layer_name(anatomy, *l))])).collect::<Vec<_>>(),
            "cells": self.cells.iter().map(|((l, k), m)| headed(row(m, None), &[("layer", layer_name(anatomy, *l)), ("module", json!(kind(k)))])).collect::<Vec<_>>(),
        })
    }
}
