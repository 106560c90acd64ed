//! A plan in the making: output tensors in order, before they have places in files.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use serde_json::Value;

use super::coded::undecoded;
use super::item::{Item, as_it_is, together};
use super::layers::Scaled;
use super::metadata::About;
use super::{Action, Counted, Group, Models, OutputConfig, Plan, TensorPlan, same_shape, unused};
use crate::checkpoint::header::{Entry, tensor_bytes};
use crate::checkpoint::{Layout, ShardPolicy};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::encoded::Form;
use crate::methods::{Method, Params, Scope, cost};
use crate::model::names::split_layer;
use crate::view::{Place, View};

/// A tensor to be computed.
pub struct Computation {
    /// Its name in the output.
    pub name: String,
    /// The method.
    pub method: &'static dyn Method,
    /// Its parameters.
    pub params: Params,
    /// The base, for methods that work on changes.
    pub base: Option<View>,
    /// The models, and after them what parameters name besides.
    pub inputs: Vec<View>,
    /// What parameters name that has a shape of its own.
    pub apart: Vec<View>,
    /// Dtype of the result, if not that of the inputs.
    pub dtype: Option<Dtype>,
    /// The part of the recipe it comes from, for errors; empty for all of it.
    pub at: String,
}

/// Tensors that share statistics, while they are collected.
struct Shared {
    name: String,
    params: Params,
    /// The models, the base first.
    models: Vec<usize>,
    /// The part of the recipe its first tensor comes from.
    at: String,
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
    pub notes: Vec<(String, String)>,
    /// Keep each tensor in the shard it has in this model.
    pub keep_shards_of: Option<usize>,
    /// The stack that layers are numbered in, if the recipe names one.
    pub stack: Option<String>,
    /// Beginning of the files' names: `model`.
    pub stem: &'static str,
    /// The form that weights are written in, if they are to be quantised.
    pub form: Option<Form>,
    pub(super) items: Vec<Item>,
    /// The files of Gram matrices.
    pub(super) grams: BTreeSet<usize>,
    names: HashSet<String>,
    groups: Vec<Shared>,
    /// Indices of the groups of each name.
    by_name: HashMap<String, Vec<usize>>,
    rounded: bool,
    pub(super) scaled: Scaled,
    /// Casts that nobody asked for: from which dtype to which, how often, and the first tensor.
    casts: BTreeMap<(&'static str, &'static str), (usize, String)>,
    /// Tensors that some models lack, by which models.
    lacking: BTreeMap<Vec<String>, Vec<String>>,
    /// Buffers that some models lack, or have otherwise, and that stay as one has them.
    buffers: Vec<String>,
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
            stack: None,
            stem: "model",
            form: None,
            items: Vec::new(),
            grams: BTreeSet::new(),
            names: HashSet::new(),
            groups: Vec::new(),
            by_name: HashMap::new(),
            rounded: false,
            scaled: Scaled::default(),
            casts: BTreeMap::new(),
            lacking: BTreeMap::new(),
            buffers: Vec::new(),
        }
    }

    /// Adds a tensor that is `from`, cast if `dtype` asks for another float type. What does not compute, and what comes
    /// with a quantised weight, keeps its dtype.
    ///
    /// # Errors
    /// [`Error::Recipe`] if the output would hold the name twice.
    pub fn copy(&mut self, name: String, from: impl Into<View>, dtype: Option<Dtype>) -> Result<()> {
        let from = from.into();
        let have = from.dtype(&self.models.checkpoints);
        let fixed = from.places().iter().any(|p| self.models.family(*p).is_some());
        match dtype {
            Some(want) if want != have && have.computes() && !fixed => self.cast(name, from, want),
            // What is made has no bytes to move.
            _ if from.is_made(&self.models.checkpoints) => self.cast(name, from, have),
            _ => self.push(name, have, from.like(), Action::Move { from, same: vec![] }),
        }
    }

    /// Adds a tensor that is `from` in the place of `own`, with the dtype of `own`, or `asked` where that is a float type.
    /// A cast that nobody asked for is told.
    ///
    /// # Errors
    /// [`Error::Tensor`] for dtypes between which there is no cast, naming both.
    pub fn take(&mut self, name: String, from: Place, own: Place, asked: Option<Dtype>) -> Result<()> {
        let (have, there) = (self.models.tensor(from).dtype, self.models.tensor(own).dtype);
        if have == there {
            return self.copy(name, from, asked);
        }
        let fixed = self.models.family(from).is_some() || self.models.family(own).is_some();
        if !have.widens() || !there.computes() || fixed {
            let why = if fixed { ", part of a quantised weight" } else { "" };
            let problem = format!(
                "is {}{why}, and {} in {}; there is no cast between these (there is one between f64, f32, f16 and bf16, and \
                 from BOOL to them); bring both models to one dtype first, or decode what is quantised by `--to bf16` (`to`)",
                have.name(),
                there.name(),
                self.models.get(own.model).path.display()
            );
            return Err(Error::tensor(&self.models.get(from.model).path, &name, problem));
        }
        let told = self.casts.entry((have.name(), there.name())).or_insert_with(|| (0, name.clone()));
        told.0 += 1;
        let want = asked.unwrap_or(there);
        if have == want { self.copy(name, from, None) } else { self.cast(name, from.into(), want) }
    }

    /// Notes that a buffer which loaders compute again is not that of all models.
    pub fn leave_buffer(&mut self, name: &str) {
        if !self.buffers.iter().any(|b| b == name) {
            self.buffers.push(name.to_owned());
        }
    }

    /// Notes that some models lack a tensor.
    pub fn lacking(&mut self, name: &str, models: &[String]) {
        self.lacking.entry(models.to_vec()).or_default().push(name.to_owned());
    }

    /// Names of the tensors that are computed.
    pub fn computed(&self) -> impl Iterator<Item = &str> + Clone {
        let computed = |i: &&Item| matches!(i.action, Action::Compute { .. });
        self.items.iter().filter(computed).map(|i| i.name.as_str())
    }

    fn cast(&mut self, name: String, from: View, dtype: Dtype) -> Result<()> {
        let like = from.like();
        // f64 to f32 is the cast itself, not a rounding before arithmetic.
        self.push(name, dtype, like, as_it_is(from)?)
    }

    /// Adds a tensor computed by a method. Tensors that cannot be computed on are moved if every input holds the same
    /// bytes, which the run checks.
    ///
    /// # Errors
    /// [`Error::Tensor`] for shapes that differ or dtypes that cannot be merged, [`Error::Recipe`] for parameters that
    /// do not go together.
    pub fn compute(&mut self, c: Computation) -> Result<()> {
        let views: Vec<&View> = c.base.iter().chain(&c.inputs).collect();
        let places: Vec<Place> = views.iter().map(|v| v.like()).collect();
        same_shape(&self.models, &places)?;
        let Some(first) = places.first().copied() else { return Err(Error::bug("nothing to merge")) };
        // What comes after the models (masks, squared gradients) does not decide the output's dtype.
        let (models, beside) = places.split_at(places.len() - (c.inputs.len() - c.params.inputs));
        let dtypes: Vec<Dtype> = models.iter().map(|p| self.models.tensor(*p).dtype).collect();
        if dtypes.iter().any(|d| !d.computes()) || models.iter().any(|p| self.models.family(*p).is_some()) {
            return self.carry(c.name, models, c.method, &c.params);
        }
        if let Some(p) = beside.iter().find(|p| !self.models.tensor(**p).dtype.widens()) {
            let (tensor, path) = (self.models.tensor(*p), &self.models.get(p.model).path);
            let problem = format!("is {}; expected a float dtype or BOOL", tensor.dtype.name());
            return Err(Error::tensor(path, &c.name, problem));
        }
        self.rounded |= dtypes.contains(&Dtype::F64);
        let promoted = dtypes.iter().copied().reduce(Dtype::promote).unwrap_or(Dtype::F32);
        let shape = &self.models.tensor(first).shape;
        let wrong = |p| Error::recipe("", format!("tensor `{}`: {p}", c.name));
        let cost = cost(c.method, &c.params, shape).map_err(wrong)?;
        let mut from: Vec<usize> = Vec::new();
        for place in models {
            if !from.contains(&place.model) {
                from.push(place.model);
            }
        }
        self.scaled.note(&c, &from);
        let group = self.group(&c, from)?;
        let dtype = c.method.dtype(&c.params).or(c.dtype).unwrap_or(promoted);
        let Computation { name, method, params, base, inputs, apart, .. } = c;
        let params = Box::new(params);
        self.push(name, dtype, first, Action::Compute { method, params, base, inputs, apart, cost, group })
    }

    /// The group whose tensors share statistics with a computation of `models`, made if need be.
    fn group(&mut self, c: &Computation, models: Vec<usize>) -> Result<Option<usize>> {
        let layer = split_layer(&c.name);
        let scope = c.method.scope(&c.params);
        let name = match (scope, layer) {
            (Scope::Tensor, _) => return Ok(None),
            (Scope::Model, _) => "the model".to_owned(),
            (_, None) => format!("`{}`", c.name),
            (Scope::Layer, Some(l)) => format!("{}{}", l.stack(), l.layer),
            (Scope::Module, Some(l)) => {
                let inside = l.inside();
                format!("{}{}.{}", l.stack(), l.layer, inside.split('.').next().unwrap_or(&inside))
            }
        };
        let named = self.by_name.entry(name.clone()).or_default();
        let found = named.iter().copied().find(|g| self.groups[*g].models == models);
        let other = named.iter().map(|g| &self.groups[*g]).find(|g| g.models != models);
        if let Some(other) = other.filter(|_| c.method.couples(&c.params)) {
            let part = |at: &str| if at.is_empty() { "the recipe".to_owned() } else { at.to_owned() };
            let problem = format!(
                "method {} weighs models by all of {name}, but {} and {} merge other models; give both the same, or merge \
                 them apart",
                c.method.spec().name,
                part(&other.at),
                part(&c.at)
            );
            return Err(Error::recipe(&c.at, problem));
        }
        let index = found.unwrap_or_else(|| {
            named.push(self.groups.len());
            self.groups.push(Shared { name: name.clone(), params: c.params.clone(), models, at: c.at.clone() });
            self.groups.len() - 1
        });
        let late = |name: &str| c.method.spec().parameter(name).is_some_and(|p| p.late);
        let first = &self.groups[index].params;
        let shared = c.params.shared.iter().find(|(k, v)| !late(k) && first.shared.get(*k) != Some(v)).map(|(k, _)| k);
        let each = c.params.per_input.iter().find(|(k, v)| !late(k) && first.per_input.get(*k) != Some(v));
        if let Some(key) = shared.or(each.map(|(k, _)| k)) {
            let problem = format!(
                "`{key}` must be the same for all tensors of {name}, whose statistics they share; `{}` differs",
                c.name
            );
            return Err(Error::recipe("", problem));
        }
        Ok(Some(index))
    }

    /// Adds a tensor that cannot be computed on: equal inputs come through a method that leaves equal inputs alone.
    fn carry(&mut self, name: String, models: &[Place], method: &dyn Method, params: &Params) -> Result<()> {
        let mut unique: Vec<Place> = Vec::new();
        for place in models {
            if !unique.contains(place) {
                unique.push(*place);
            }
        }
        let (from, same) = (unique[0], unique[1..].to_vec());
        let have = self.models.tensor(from).dtype;
        let fail = |problem: String| Err(Error::tensor(&self.models.get(from.model).path, &name, problem));
        let dtype = |p: &Place| self.models.tensor(*p).dtype;
        if let Some(other) = same.iter().find(|p| dtype(p) != have) {
            let (path, found) = (self.models.get(other.model).path.display(), dtype(other).name());
            return fail(format!(
                "is {}, and {found} in {path}; these cannot be merged (f64, f32, f16 and bf16 can); bring the models to one \
                 dtype first",
                have.name()
            ));
        }
        // Integers are indices, counts, masks: where all models have the same, that is what the merge has.
        let number = have.is_float() || self.models.family(from).is_some() || same.is_empty();
        if number && !method.identity(params) {
            let what = match self.models.family(from) {
                Some(_) if have.computes() => "part of a quantised weight".to_owned(),
                _ => have.name().to_owned(),
            };
            let checkpoint = self.models.get(from.model);
            let whole = match checkpoint.quantised() {
                0 => String::new(),
                n => format!(" ({n} of the model's {} tensors are quantised)", checkpoint.tensors.len()),
            };
            let why = undecoded(checkpoint);
            return fail(format!(
                "is {what}{whole}, which cannot be computed on (f64, f32, f16 and bf16 can), and method {} would change \
                 it{why}, or leave the tensor out with `exclude`",
                method.spec().name
            ));
        }
        self.push(name, have, from, Action::Move { from: from.into(), same })
    }

    fn push(&mut self, name: String, dtype: Dtype, like: Place, action: Action) -> Result<()> {
        if !self.names.insert(name.clone()) {
            return Err(Error::recipe("", format!("two tensors of the output would be called `{name}`")));
        }
        let shape = self.models.tensor(like).shape.clone();
        self.items.push(Item { name, dtype, shape, action, encode: None });
        Ok(())
    }

    /// Gives every tensor its place and closes the plan.
    ///
    /// # Errors
    /// As [`Layout::new`].
    pub fn finish(mut self, recipe: Value, shard_size: u64) -> Result<Plan> {
        if let Some(form) = self.form {
            self.encode(form)?;
        }
        let nbytes = |i: &Item| tensor_bytes(i.dtype, &i.shape).unwrap_or(0);
        let entry =
            |i: &Item| Entry { name: i.name.clone(), dtype: i.dtype, shape: i.shape.clone(), begin: 0, end: nbytes(i) };
        let source = |i: &Item| match &i.action {
            Action::Move { from, .. } => from.in_place(&self.models.checkpoints).map(|t| t.begin),
            Action::Compute { .. } => None,
        };
        // What comes of an adapter's files goes where the model's last tensors are.
        let own_files = self.keep_shards_of.map_or(1, |model| self.models.get(model).own_files.max(1));
        let shard_in = |model: usize, i: &Item| {
            let name = i.encode.as_ref().map_or(&i.name, |e| &e.weight);
            self.models.find(model, name).map_or(0, |place| self.models.tensor(place).file.min(own_files - 1))
        };
        let policy = match self.keep_shards_of {
            Some(model) if self.form != Some(Form::Q8_0) => {
                ShardPolicy::Given(self.items.iter().map(|i| shard_in(model, i)).collect())
            }
            // Adapters are looked for in one file, and so is what is to be GGUF.
            _ if self.form == Some(Form::Q8_0) => ShardPolicy::Size(u64::MAX),
            _ if self.stem != "model" => ShardPolicy::Size(u64::MAX),
            _ if self.form.is_some() => ShardPolicy::Given(together(&self.items, &nbytes, shard_size)),
            _ => ShardPolicy::Size(shard_size),
        };
        let sources: Vec<Option<u64>> = self.items.iter().map(source).collect();
        let about = About::of(&self.models, self.config.from);
        let lead: HashMap<&str, Place> =
            self.items.iter().filter_map(|i| Some((i.name.as_str(), *i.action.places().first()?))).collect();
        let said = |held: &[Entry]| {
            let held = held.iter().filter_map(|e| Some((e.name.as_str(), *lead.get(e.name.as_str())?)));
            about.file(&self.models, held)
        };
        let layout = Layout::new(self.items.iter().map(entry).collect(), &policy, &sources, self.stem, &said)?;
        drop(lead);
        self.notes.extend(self.models.notes());
        let unused = unused::list(&self.models, self.items.iter().map(|i| (i.name.as_str(), i.action.places())));
        self.config.decoded = self.models.get(self.config.from).is_decoded();
        self.tell();
        let place = |(i, (shard, offset)): (Item, &(usize, u64))| TensorPlan {
            nbytes: nbytes(&i),
            name: i.name,
            dtype: i.dtype,
            shape: i.shape,
            shard: *shard,
            offset: *offset,
            action: i.action,
            encode: i.encode,
        };
        let mut tensors: Vec<TensorPlan> = self.items.into_iter().zip(&layout.places).map(place).collect();
        tensors.sort_by_key(|t| (t.shard, t.offset));
        let groups = self.groups.into_iter().enumerate();
        let groups = groups.map(|(i, g)| Group::of(g.name, i, &tensors)).collect();
        let mut bytes: HashMap<Dtype, u64> = HashMap::new();
        for t in tensors.iter().filter(|t| t.dtype.computes() && t.encode.is_none()) {
            *bytes.entry(t.dtype).or_default() += t.nbytes;
        }
        let named = |m: &crate::checkpoint::Checkpoint| {
            let stack = m.anatomy().choose(self.stack.as_deref()).ok()?;
            Some(Counted::of(stack))
        };
        self.config.of = self.models.checkpoints.iter().map(|m| named(m)).collect();
        (self.config.parts, self.config.quantised) = self.models.given(&tensors);
        self.config.mostly = bytes.into_iter().max_by_key(|(d, n)| (*n, d.bits(), d.name())).map(|(d, _)| d);
        Ok(Plan {
            title: self.title,
            recipe,
            labels: self.models.labels(),
            models: self.models.checkpoints,
            shards: layout.shards,
            tensors: tensors.into(),
            groups,
            unused,
            warnings: self.warnings,
            notes: self.notes,
            config: self.config,
            vocabulary: None,
            hash: std::sync::OnceLock::new(),
        })
    }

    /// Warns of what was decided on the way.
    fn tell(&mut self) {
        for ((from, to), (count, first)) in &self.casts {
            let (tensors, are) = if *count == 1 { ("tensor", "is") } else { ("tensors", "are") };
            self.warnings.push(format!(
                "{count} {tensors} {are} cast from {from} to {to}, the dtype in the model they go into (first: `{first}`)"
            ));
        }
        for (models, tensors) in &self.lacking {
            let (n, are) = (tensors.len(), if tensors.len() == 1 { "tensor is" } else { "tensors are" });
            self.warnings.push(format!("{n} {are} missing in {} (first: `{}`)", models.join(", "), tensors[0]));
        }
        if let [first, ..] = self.buffers.as_slice() {
            let (n, are) = (self.buffers.len(), if self.buffers.len() == 1 { "buffer is" } else { "buffers are" });
            let from = self.models.get(self.config.from).path.display();
            self.warnings.push(format!(
                "{n} {are} not in all models, or not alike, and stay as {from} has them; loaders compute them again (first: `{first}`)"
            ));
        }
        self.warnings.extend(self.models.checkpoints.iter().flat_map(|c| c.told()));
        if self.rounded {
            self.warnings.push("f64 tensors are rounded to f32 before arithmetic".into());
        }
    }
}
