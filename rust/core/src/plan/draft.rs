//! A plan in the making: output tensors in order, before they have places in files.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::same_shape;
use super::{Action, Group, Models, Operand, OutputConfig, Plan, TensorPlan, Unused};
use crate::checkpoint::header::{Entry, tensor_bytes};
use crate::checkpoint::{Layout, ShardPolicy};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::{Method, Params, Scope, Value as Param, registry};
use crate::names::split_layer;

struct Item {
    name: String,
    dtype: Dtype,
    shape: Vec<u64>,
    action: Action,
}

/// Output tensors collected by an operation.
pub struct Draft {
    /// What kind of surgery.
    pub title: String,
    /// The models read.
    pub models: Models,
    /// Side-file changes.
    pub config: OutputConfig,
    /// What the user should know.
    pub warnings: Vec<String>,
    /// What is done, for people.
    pub notes: Vec<(&'static str, String)>,
    /// Keep each tensor in the shard it has in this model.
    pub keep_shards_of: Option<usize>,
    /// Beginning of the files' names: `model`.
    pub stem: &'static str,
    items: Vec<Item>,
    names: HashSet<String>,
    groups: Vec<(String, Params)>,
    by_group: HashMap<String, usize>,
    rounded: bool,
}

impl Draft {
    /// An empty draft.
    pub fn new(title: String, models: Models, config: OutputConfig) -> Self {
        Self {
            title,
            models,
            config,
            warnings: Vec::new(),
            notes: Vec::new(),
            keep_shards_of: None,
            stem: "model",
            items: Vec::new(),
            names: HashSet::new(),
            groups: Vec::new(),
            by_group: HashMap::new(),
            rounded: false,
        }
    }

    /// Adds a tensor that is `from`, cast if `dtype` asks for another float type.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the output would hold the name twice.
    pub fn copy(&mut self, name: String, from: Operand, dtype: Option<Dtype>) -> Result<()> {
        let have = self.models.tensor(from).dtype;
        match dtype {
            Some(want) if want != have && have.computes() => {
                let mut params = Params { inputs: 1, ..Params::default() };
                params.per_input.insert("scale", vec![Param::Number(1.0)]);
                self.merge(name, registry::PASSTHROUGH, params, None, vec![from], Some(want))
            }
            _ => self.push(name, have, from, Action::Copy { from, same: vec![] }),
        }
    }

    /// Adds a tensor computed by `method`. Tensors that cannot be computed on are copied if every input holds the
    /// same bytes, which the run checks.
    ///
    /// # Errors
    /// [`Error::Tensor`] for shapes that differ or dtypes that cannot be merged, [`Error::Recipe`] for parameters that
    /// do not go together.
    pub fn merge(
        &mut self,
        name: String,
        method: &'static dyn Method,
        params: Params,
        base: Option<Operand>,
        inputs: Vec<Operand>,
        dtype: Option<Dtype>,
    ) -> Result<()> {
        let operands: Vec<Operand> = base.iter().chain(&inputs).copied().collect();
        same_shape(&self.models, &operands)?;
        let Some(first) = operands.first().copied() else { return Err(Error::recipe("", "nothing to merge")) };
        // What comes after the models (masks, squared gradients) does not decide the output's dtype.
        let models = &operands[..operands.len() - (inputs.len() - params.inputs)];
        let dtypes: Vec<Dtype> = models.iter().map(|o| self.models.tensor(*o).dtype).collect();
        if let Some(i) = dtypes.iter().position(|d| !d.computes()) {
            return self.carry(name, models, dtypes[i]);
        }
        if let Some(o) = operands[models.len()..].iter().find(|o| !self.models.tensor(**o).dtype.widens()) {
            let (tensor, path) = (self.models.tensor(*o), &self.models.get(o.model).path);
            return Err(Error::tensor(
                path,
                &name,
                format!("is {}; expected a float dtype or BOOL", tensor.dtype.name()),
            ));
        }
        self.rounded |= dtypes.contains(&Dtype::F64);
        let promoted = dtypes.iter().copied().reduce(Dtype::promote).unwrap_or(Dtype::F32);
        let shape = &self.models.tensor(first).shape;
        let wrong = |p| Error::recipe("", format!("tensor `{name}`: {p}"));
        let cost = method.bind(&params, shape).map_err(wrong)?.cost();
        let group = self.group(&name, method.scope(&params), &params)?;
        let dtype = method.dtype(&params).or(dtype).unwrap_or(promoted);
        self.push(name, dtype, first, Action::Merge { method, params, base, inputs, cost, group })
    }

    /// The group whose tensors share statistics with the one called `name`, made if need be.
    fn group(&mut self, name: &str, scope: Scope, params: &Params) -> Result<Option<usize>> {
        let layer = split_layer(name);
        let group = match (scope, layer) {
            (Scope::Tensor, _) => return Ok(None),
            (Scope::Model, _) => "the model".to_owned(),
            (_, None) => format!("`{name}`"),
            (Scope::Layer, Some(l)) => format!("{}{}", l.stack, l.layer),
            (Scope::Module, Some(l)) => {
                format!("{}{}.{}", l.stack, l.layer, l.rest.split('.').next().unwrap_or(l.rest))
            }
        };
        let index = *self.by_group.entry(group.clone()).or_insert_with(|| {
            self.groups.push((group.clone(), params.clone()));
            self.groups.len() - 1
        });
        // Weights and factors only enter when a tensor is computed; all else decides what is found out before.
        let late = |name: &str| ["weight", "lambda", "alpha", "beta"].contains(&name);
        let first = &self.groups[index].1;
        let differs = params.shared.iter().find(|(k, v)| !late(k) && first.shared.get(*k) != Some(v)).map(|(k, _)| k);
        let each = params.per_input.iter().find(|(k, v)| !late(k) && first.per_input.get(*k) != Some(v));
        if let Some(key) = differs.or(each.map(|(k, _)| k)) {
            return Err(Error::recipe(
                "",
                format!(
                    "`{key}` must be the same for all tensors of {group}, whose statistics they share; `{name}` differs"
                ),
            ));
        }
        Ok(Some(index))
    }

    fn carry(&mut self, name: String, operands: &[Operand], dtype: Dtype) -> Result<()> {
        let mut unique: Vec<Operand> = Vec::new();
        for o in operands {
            if !unique.contains(o) {
                unique.push(*o);
            }
        }
        let (from, same) = (unique[0], unique[1..].to_vec());
        let other = same.iter().map(|o| self.models.tensor(*o).dtype).find(|d| *d != self.models.tensor(from).dtype);
        if other.is_some() || (dtype.name().starts_with('F') && !same.is_empty()) {
            return Err(Error::tensor(
                &self.models.get(from.model).path,
                &name,
                format!(
                    "is {}, which cannot be merged (f64, f32, f16 and bf16 can); dequantise the models first",
                    other.filter(|d| !d.computes()).unwrap_or(dtype).name()
                ),
            ));
        }
        let have = self.models.tensor(from).dtype;
        self.push(name, have, from, Action::Copy { from, same })
    }

    /// Notes whether the output has a head that the model its config comes from ties to the embedding.
    pub fn settle_head(&mut self) {
        let model = self.models.get(self.config.from);
        let head = self.items.iter().find(|i| i.name.ends_with("lm_head.weight") && model.find(&i.name).is_none());
        if let Some(head) = head {
            self.warnings.push(format!(
                "{} ties its head to its embedding, the output has a head of its own (`{}`)",
                model.path.display(),
                head.name
            ));
            self.config.untied = true;
        }
    }

    fn push(&mut self, name: String, dtype: Dtype, like: Operand, action: Action) -> Result<()> {
        if !self.names.insert(name.clone()) {
            return Err(Error::recipe("", format!("two tensors of the output would be called `{name}`")));
        }
        let shape = self.models.tensor(like).shape.clone();
        self.items.push(Item { name, dtype, shape, action });
        Ok(())
    }

    /// Gives every tensor its place and closes the plan.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn finish(mut self, recipe: Value, shard_size: u64) -> Result<Plan> {
        let entries = self
            .items
            .iter()
            .map(|i| Entry {
                name: i.name.clone(),
                dtype: i.dtype,
                shape: i.shape.clone(),
                begin: 0,
                end: tensor_bytes(i.dtype, &i.shape).unwrap_or(0),
            })
            .collect();
        let sources: Vec<Option<u64>> = self
            .items
            .iter()
            .map(|i| match i.action {
                Action::Copy { from, .. } => Some(self.models.tensor(from).begin),
                Action::Merge { .. } => None,
            })
            .collect();
        let policy = match self.keep_shards_of {
            Some(model) => ShardPolicy::Given(
                self.items
                    .iter()
                    .map(|i| self.models.find(model, &i.name).map_or(0, |o| self.models.tensor(o).file))
                    .collect(),
            ),
            // Adapters are looked for in one file.
            None if self.stem != "model" => ShardPolicy::Size(u64::MAX),
            None => ShardPolicy::Size(shard_size),
        };
        let unused = self.unused();
        if self.rounded {
            self.warnings.push("f64 tensors are rounded to f32 before arithmetic".into());
        }
        let layout = Layout::new(entries, &policy, &sources, self.stem)?;
        let mut tensors: Vec<TensorPlan> = self
            .items
            .into_iter()
            .zip(&layout.places)
            .map(|(i, (shard, offset))| TensorPlan {
                nbytes: tensor_bytes(i.dtype, &i.shape).unwrap_or(0),
                name: i.name,
                dtype: i.dtype,
                shape: i.shape,
                shard: *shard,
                offset: *offset,
                action: i.action,
            })
            .collect();
        tensors.sort_by_key(|t| (t.shard, t.offset));
        let mut groups: Vec<Group> =
            self.groups.into_iter().map(|(name, _)| Group { name, tensors: Vec::new() }).collect();
        for (i, t) in tensors.iter().enumerate() {
            if let Action::Merge { group: Some(group), .. } = t.action {
                groups[group].tensors.push(i);
            }
        }
        let mut bytes: HashMap<Dtype, u64> = HashMap::new();
        for t in tensors.iter().filter(|t| t.dtype.computes()) {
            *bytes.entry(t.dtype).or_default() += t.nbytes;
        }
        self.config.mostly = bytes.into_iter().max_by_key(|(d, n)| (*n, d.bits(), d.name())).map(|(d, _)| d);
        Ok(Plan {
            title: self.title,
            recipe,
            labels: self.models.labels(),
            models: self.models.checkpoints,
            shards: layout.shards,
            tensors,
            groups,
            unused,
            warnings: self.warnings,
            notes: self.notes,
            config: self.config,
            hash: std::sync::OnceLock::new(),
        })
    }

    /// Law 5: every input tensor is in the output or listed with a reason.
    fn unused(&self) -> Vec<Unused> {
        let used: HashSet<(usize, usize)> =
            self.items.iter().flat_map(|i| i.action.operands()).map(|o| (o.model, o.tensor)).collect();
        let labels = self.models.labels();
        let mut out = Vec::new();
        for (m, checkpoint) in self.models.checkpoints.iter().enumerate() {
            for (t, tensor) in checkpoint.tensors.iter().enumerate() {
                if !used.contains(&(m, t)) {
                    let reason = match crate::names::split_layer(&tensor.name) {
                        Some(l) => format!("nothing is taken from layer {} of this model", l.layer),
                        None => "tensors outside the layers are taken from elsewhere".to_owned(),
                    };
                    out.push(Unused { model: labels[m].clone(), tensor: tensor.name.clone(), reason });
                }
            }
        }
        out
    }
}
