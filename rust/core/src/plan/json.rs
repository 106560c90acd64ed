//! Plans as data: for `--dry-run`, for reports, and for another process to run.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, OnceLock};

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::references::{adapters_json, path_json, reference};
use super::{Action, Group, Models, OutputConfig, Plan, SCHEMA, TensorPlan, Unused, Vocabulary};
use crate::checkpoint::header::{self, Entry, tensor_bytes};
use crate::checkpoint::{Checkpoint, Packing, Shard, ShardFile};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::encoded::Encode;
use crate::methods::{Parameter, Params, Value as Param, cost, registry};
use crate::recipe::Recipe;
use crate::view::{Place, Run, Runs, View};

/// A plan, written as it is walked through: as a tree of values, one of 50,000 tensors took 1.1 s and not 0.2.
#[derive(Serialize)]
struct PlanTold<'a> {
    schema: u32,
    title: &'a str,
    hash: &'a str,
    recipe: &'a Value,
    models: Vec<Value>,
    read_bytes: u64,
    write_bytes: u64,
    shards: Vec<Value>,
    config: &'a OutputConfig,
    vocabulary: Option<Value>,
    warnings: &'a [String],
    notes: &'a [(String, String)],
    unused: &'a [Unused],
    groups: Vec<&'a str>,
    tensors: Vec<Told<'a>>,
}

/// A tensor of a plan.
#[derive(Serialize)]
struct Told<'a> {
    name: &'a str,
    dtype: Dtype,
    shape: &'a [u64],
    shard: usize,
    offset: u64,
    action: &'static str,
    inputs: Vec<ViewTold<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    encode: Option<&'a Encode>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    computed: Option<Computed<'a>>,
}

/// What a computed tensor has besides.
#[derive(Serialize)]
struct Computed<'a> {
    method: &'static str,
    params: &'a Params,
    base: Option<ViewTold<'a>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    apart: Vec<ViewTold<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    group: Option<usize>,
    /// Where in the recipe each parameter comes from.
    #[serde(skip_serializing_if = "Option::is_none")]
    from: Option<&'a BTreeMap<&'static str, Vec<Option<Arc<str>>>>>,
}

/// A view: model and tensor, or ranges of several.
#[derive(Serialize)]
#[serde(untagged)]
enum ViewTold<'a> {
    Plain((&'a str, &'a str)),
    Runs { runs: Vec<((&'a str, &'a str), u64, u64)>, times: u64, stride: u64 },
}

impl Plan {
    /// A digest over everything that decides the output's bytes but the inputs' data; paths do not enter it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            let mut leaves = crate::digest::Leaves::new();
            leaves.update(self.head().as_bytes());
            for t in self.tensors.iter() {
                leaves.update(&self.said(t));
            }
            crate::digest::hex(crate::digest::combine(leaves.finish().into_iter()))
        })
    }

    /// What its digest is of for a tensor.
    pub(super) fn said(&self, t: &TensorPlan) -> Vec<u8> {
        serde_json::to_vec(&self.told(t, false)).unwrap_or_default()
    }

    /// The plan as JSON text; [`Self::from_json`] makes it a plan again.
    pub fn to_json(&self) -> String {
        let file = |f: &ShardFile| {
            let name = f.path.file_name().map(|n| n.to_string_lossy());
            json!({"file": name, "identity": f.identity, "header": f.header_digest})
        };
        let model = |(label, m): (&String, &Arc<Checkpoint>)| {
            json!({
                "label": label,
                "path": path_json(&m.path),
                "adapters": adapters_json(&m.reference),
                "name": m.reference.name,
                "decoded": m.decoded.is_some(),
                "tensors": m.tensors.len(),
                "bytes": m.total_bytes(),
                "files": m.files.iter().map(file).collect::<Vec<_>>(),
            })
        };
        let shard = |s: &Shard| json!({"file": s.file, "bytes": s.size(), "header_bytes": s.header.len(), "metadata": s.metadata});
        let text = serde_json::to_string(&PlanTold {
            schema: SCHEMA,
            title: &self.title,
            hash: self.hash(),
            recipe: &self.recipe,
            models: self.labels.iter().zip(&self.models).map(model).collect(),
            read_bytes: self.read_bytes(),
            write_bytes: self.write_bytes(),
            shards: self.shards.iter().map(shard).collect(),
            config: &self.config,
            vocabulary: self.vocabulary.as_ref().map(|v| v.to_json()),
            warnings: &self.warnings,
            notes: &self.notes,
            unused: &self.unused,
            groups: self.groups.iter().map(|g| g.name.as_str()).collect(),
            tensors: self.tensors.iter().map(|t| self.told(t, true)).collect(),
        });
        text.unwrap_or_default()
    }

    /// What decides a tensor; with `whole` also where its parameters come from.
    fn told<'a>(&'a self, t: &'a TensorPlan, whole: bool) -> Told<'a> {
        let view = |v: &'a View| self.view_told(v);
        let (action, inputs) = match &t.action {
            Action::Move { from, same } => {
                let action = if matches!(from, View::Plain(_)) { "copy" } else { "move" };
                let same = same.iter().map(|p| ViewTold::Plain(self.place_told(p)));
                (action, std::iter::once(view(from)).chain(same).collect())
            }
            Action::Compute { inputs, .. } => ("merge", inputs.iter().map(view).collect()),
        };
        let computed = match &t.action {
            Action::Move { .. } => None,
            Action::Compute { method, params, base, apart, group, .. } => Some(Computed {
                method: method.spec().name,
                params,
                base: base.as_ref().map(view),
                apart: apart.iter().map(view).collect(),
                group: *group,
                from: whole.then_some(&params.from),
            }),
        };
        let TensorPlan { name, dtype, shape, shard, offset, .. } = t;
        let encode = t.encode.as_deref();
        Told { name, dtype: *dtype, shape, shard: *shard, offset: *offset, action, inputs, encode, computed }
    }

    fn place_told(&self, p: &Place) -> (&str, &str) {
        (&self.labels[p.model], &self.tensor(*p).name)
    }

    fn view_told<'a>(&'a self, view: &'a View) -> ViewTold<'a> {
        match view {
            View::Plain(p) => ViewTold::Plain(self.place_told(p)),
            View::Runs(r) => ViewTold::Runs {
                runs: r.runs.iter().map(|run| (self.place_told(&run.from), run.start, run.len)).collect(),
                times: r.times,
                stride: r.stride,
            },
        }
    }

    /// The plan that `value`, made by [`Self::to_json`], describes. Its models are opened again and must be what they were; with
    /// `elsewhere` of files no more than the size and the header: they may be copies on another machine.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if an input has changed, [`Error::Recipe`] with the place if `value` is no plan.
    pub fn from_json(value: &Value, elsewhere: bool) -> Result<Self> {
        let models = list(value, "models")?;
        let mut all = Models::default();
        for (i, m) in models.iter().enumerate() {
            all.decode = m["decoded"] == Value::Bool(true);
            all.open(&crate::recipe::model(&format!("models[{i}]"), &reference(m))?)?;
        }
        if value["recipe"]["assemble"].is_object() {
            if let Recipe::Assemble(asked) = Recipe::parse(&value["recipe"])? {
                all.assemble(&asked)?;
            }
        } else if let Some(lead) = value["config"]["from"].as_u64().filter(|lead| (*lead as usize) < models.len()) {
            let experts = value["recipe"]["experts"].as_str().and_then(Packing::from_name);
            all.named_by(lead as usize, experts)?;
        }
        let vocabulary = Some(&value["vocabulary"]).filter(|v| !v.is_null());
        let vocabulary = vocabulary.map(|v| Vocabulary::parse(&v.to_string()).map(Arc::new)).transpose()?;
        if let Some(vocabulary) = &vocabulary {
            all.align(vocabulary)?;
        }
        let opened = all.checkpoints;
        if opened.len() != models.len() {
            return Err(wrong("models"));
        }
        for (i, (checkpoint, m)) in opened.iter().zip(models).enumerate() {
            same_files(checkpoint, list(m, "files")?, elsewhere, &format!("models[{i}]"))?;
        }
        let labels = models.iter().map(|m| text(m, "label").map(str::to_owned)).collect::<Result<Vec<_>>>()?;
        let reader = Reader { models: &opened, labels: &labels };
        let tensors: Vec<TensorPlan> = (list(value, "tensors")?.iter().enumerate())
            .map(|(i, t)| reader.tensor(&format!("tensors[{i}]"), t))
            .collect::<Result<_>>()?;
        let names: HashSet<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
        let groups = list(value, "groups")?;
        let in_group = |t: &TensorPlan| match t.action {
            Action::Compute { group: Some(group), .. } => group < groups.len(),
            _ => true,
        };
        if names.len() < tensors.len() || !tensors.iter().all(in_group) {
            return Err(wrong("tensors"));
        }
        let shards = (list(value, "shards")?.iter().enumerate())
            .map(|(i, s)| shard(i, text(s, "file")?, whole(s, "header_bytes")?, data(s, "metadata")?, &tensors))
            .collect::<Result<_>>()?;
        let groups =
            groups.iter().enumerate().map(|(i, g)| Group::of(g.as_str().unwrap_or_default().to_owned(), i, &tensors));
        let config: OutputConfig = data(value, "config")?;
        let known = |model: usize| model < opened.len();
        if !known(config.from) || !config.stacks.iter().flat_map(|s| &s.layers).all(|(model, _)| known(*model)) {
            return Err(wrong("config"));
        }
        let plan = Self {
            title: text(value, "title")?.to_owned(),
            recipe: value["recipe"].clone(),
            groups: groups.collect(),
            unused: data(value, "unused")?,
            warnings: data(value, "warnings")?,
            notes: data(value, "notes")?,
            config,
            labels,
            vocabulary,
            models: opened.clone(),
            shards,
            tensors: tensors.into(),
            hash: OnceLock::new(),
        };
        if plan.hash() != text(value, "hash")? {
            return Err(Error::recipe("hash", "the plan is not the one that was written; make it anew"));
        }
        Ok(plan)
    }
}

/// The shard at `index`, with its header made again.
fn shard(
    index: usize,
    file: &str,
    header_bytes: u64,
    metadata: BTreeMap<String, String>,
    tensors: &[TensorPlan],
) -> Result<Shard> {
    let mine = || tensors.iter().filter(|t| t.shard == index);
    if metadata.contains_key(super::gguf::KEY) {
        let found = super::gguf::shard(file, metadata, tensors).map(|(shard, _)| shard);
        return found.map_err(|p| Error::recipe(format!("shards[{index}]"), p));
    }
    let entry = |t: &TensorPlan| {
        let begin = t.offset.checked_sub(header_bytes)?;
        Some(Entry { name: t.name.clone(), dtype: t.dtype, shape: t.shape.clone(), begin, end: begin + t.nbytes })
    };
    let entries: Option<Vec<Entry>> = mine().map(entry).collect();
    let wrong = || Error::recipe(format!("shards[{index}]"), "its tensors lie elsewhere; make the plan anew");
    let entries = entries.ok_or_else(wrong)?;
    let header = header::render(&entries, &metadata, header_bytes % crate::sizes::ALIGN)
        .map_err(|p| Error::recipe(format!("shards[{index}]"), p))?;
    if header.len() as u64 != header_bytes {
        return Err(wrong());
    }
    Ok(Shard { file: file.to_owned(), header, data_bytes: mine().map(|t| t.nbytes).sum(), metadata })
}

fn same_files(checkpoint: &Checkpoint, files: &[Value], elsewhere: bool, at: &str) -> Result<()> {
    let now = checkpoint.files.iter().map(|f| (json!(f.identity), &f.header_digest));
    let same = checkpoint.files.len() == files.len()
        && now.zip(files).all(|((identity, header), f)| {
            let same = if elsewhere { f["identity"]["size"] == identity["size"] } else { f["identity"] == identity };
            same && f["header"] == **header
        });
    if same {
        return Ok(());
    }
    let problem = format!("has changed since the plan was made ({at}); make it anew");
    Err(Error::checkpoint(&checkpoint.path, problem))
}

fn wrong(key: &str) -> Error {
    Error::recipe(key, "is not as a plan has it")
}

fn list<'a>(value: &'a Value, key: &str) -> Result<&'a [Value]> {
    value[key].as_array().map(Vec::as_slice).ok_or_else(|| wrong(key))
}

fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value[key].as_str().ok_or_else(|| wrong(key))
}

fn whole(value: &Value, key: &str) -> Result<u64> {
    value[key].as_u64().ok_or_else(|| wrong(key))
}

fn data<T: serde::de::DeserializeOwned>(value: &Value, key: &str) -> Result<T> {
    serde_json::from_value(value[key].clone()).map_err(|_| wrong(key))
}

/// Reads tensors of a plan whose models are open.
struct Reader<'a> {
    models: &'a [Arc<Checkpoint>],
    labels: &'a [String],
}

impl Reader<'_> {
    fn tensor(&self, at: &str, t: &Value) -> Result<TensorPlan> {
        let dtype = Dtype::from_name(text(t, "dtype")?).ok_or_else(|| wrong(at))?;
        let shape: Vec<u64> = data(t, "shape")?;
        let views = list(t, "inputs")?.iter().map(|v| self.view(at, v)).collect::<Result<Vec<_>>>()?;
        let encode: Option<Box<Encode>> = data(t, "encode")?;
        if encode.as_ref().is_some_and(|e| e.tensor() != (dtype, shape.clone())) {
            return Err(wrong(at));
        }
        let action = match text(t, "action")? {
            "copy" | "move" => {
                let (from, same) = views.split_first().ok_or_else(|| wrong(at))?;
                Action::Move { from: from.clone(), same: same.iter().flat_map(View::places).collect() }
            }
            _ => self.computation(at, t, views, encode.as_ref().map_or(&shape, |e| &e.shape))?,
        };
        let action = match (&encode, action) {
            (Some(e), Action::Compute { cost, method, params, base, inputs, apart, group }) => {
                Action::Compute { cost: e.cost(cost), method, params, base, inputs, apart, group }
            }
            (Some(_), Action::Move { .. }) => return Err(wrong(at)),
            (None, action) => action,
        };
        Ok(TensorPlan {
            name: text(t, "name")?.to_owned(),
            dtype,
            nbytes: tensor_bytes(dtype, &shape).ok_or_else(|| wrong(at))?,
            shape,
            shard: whole(t, "shard")? as usize,
            offset: whole(t, "offset")?,
            action,
            encode,
        })
    }

    fn computation(&self, at: &str, t: &Value, inputs: Vec<View>, shape: &[u64]) -> Result<Action> {
        let method = registry::find(text(t, "method")?).ok_or_else(|| wrong(at))?;
        let base = Some(&t["base"]).filter(|b| !b.is_null()).map(|b| self.view(at, b)).transpose()?;
        let apart = t["apart"].as_array().into_iter().flatten();
        let apart = apart.map(|v| self.view(at, v)).collect::<Result<Vec<_>>>()?;
        let (stored, from) = (&t["params"], &t["from"]);
        let names = |key: &str| stored[key].as_object().cloned().unwrap_or_default();
        let known = |name: &str| method.spec().parameter(name).map(|p| p.name).ok_or_else(|| wrong(at));
        let mut params = Params {
            inputs: whole(stored, "inputs")? as usize,
            seed: whole(stored, "seed")?,
            depth: stored["depth"].as_f64(),
            layered: stored["layered"] == true,
            twin: stored["twin"].as_str().map(str::to_owned),
            based: base.is_some(),
            apart: apart.len(),
            ..Params::default()
        };
        for (name, value) in names("shared") {
            params.shared.insert(known(&name)?, parameter(&value).ok_or_else(|| wrong(at))?);
        }
        for (name, values) in names("per_input") {
            let values: Option<Vec<Param>> = values.as_array().map(|l| l.iter().filter_map(parameter).collect());
            params.per_input.insert(known(&name)?, values.ok_or_else(|| wrong(at))?);
        }
        for (name, places) in from.as_object().cloned().unwrap_or_else(Map::new) {
            let place = |p: &Value| p.as_str().map(Arc::from);
            params
                .from
                .insert(known(&name)?, places.as_array().map(|l| l.iter().map(place).collect()).unwrap_or_default());
        }
        // What a plan says of parameters a kernel relies on.
        let given = |p: &Parameter| match p.per_input {
            true => params.per_input.get(p.name).is_some_and(|v| v.len() == params.inputs),
            false => params.shared.contains_key(p.name),
        };
        if params.inputs > inputs.len() || !method.spec().parameters.iter().all(given) {
            return Err(wrong(at));
        }
        let cost = cost(method, &params, shape).map_err(|p| Error::recipe(at, p))?;
        let group = t["group"].as_u64().map(|g| g as usize);
        Ok(Action::Compute { method, params: Box::new(params), base, inputs, apart, cost, group })
    }

    fn place(&self, at: &str, value: &Value) -> Result<Place> {
        let model = self.labels.iter().position(|l| value[0] == **l).ok_or_else(|| wrong(at))?;
        let tensor = value[1].as_str().and_then(|name| self.models[model].find(name)).ok_or_else(|| wrong(at))?;
        Ok(Place { model, tensor })
    }

    fn view(&self, at: &str, value: &Value) -> Result<View> {
        if value.is_array() {
            return self.place(at, value).map(View::Plain);
        }
        let run = |r: &Value| {
            let number = |i: usize| r[i].as_u64().ok_or_else(|| wrong(at));
            Ok(Run { from: self.place(at, &r[0])?, start: number(1)?, len: number(2)? })
        };
        Ok(View::Runs(Runs {
            runs: list(value, "runs")?.iter().map(run).collect::<Result<_>>()?,
            times: whole(value, "times")?,
            stride: whole(value, "stride")?,
        }))
    }
}

fn parameter(value: &Value) -> Option<Param> {
    match value {
        Value::Bool(b) => Some(Param::Bool(*b)),
        Value::Number(n) => n.as_f64().map(Param::Number),
        Value::String(s) => Some(Param::Word(s.clone())),
        _ => None,
    }
}
