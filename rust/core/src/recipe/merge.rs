//! The merge recipe: mergekit's grammar (models, slices, base_model, parameters, dtype, out_dtype).

use serde_json::Value;

use super::fields::{Fields, wrong};
use super::idle::Idle;
use super::setting::{self, Settings};
use super::{Filter, To};
use crate::checkpoint::{Packing, Reference};
use crate::dtype::Dtype;
use crate::error::{Error, Result, nearest};
use crate::methods::{Method, registry};

/// A model where it is used, with its own parameters.
#[derive(Debug, Clone)]
pub struct ModelUse {
    /// Path of the model.
    pub model: Reference,
    /// First layer and one past the last; `None` for all.
    pub layers: Option<(usize, usize)>,
    /// Its own parameters.
    pub parameters: Settings,
    /// Key path of the entry.
    pub at: String,
}

/// A run of output layers and the models it is made from.
#[derive(Debug, Clone)]
pub struct Slice {
    /// The models, all with the same number of layers.
    pub sources: Vec<ModelUse>,
    /// The base of this slice, if it has its own.
    pub base: Option<Reference>,
    /// Parameters of this slice.
    pub parameters: Settings,
    /// Key path of the entry.
    pub at: String,
}

/// A part of the models merged by slices of its own: a module of a model that has several, or all of it.
#[derive(Debug, Clone)]
pub struct Part {
    /// Name of the module, if the recipe was written with `modules`.
    pub name: Option<String>,
    /// The slices; a part with `models` is one slice of whole models.
    pub slices: Vec<Slice>,
    /// True if the part was written with `models`.
    pub whole: bool,
    /// The stack that layers are numbered in, if not the main one.
    pub stack: Option<String>,
    /// Parameters of this part.
    pub parameters: Settings,
}

/// A merge recipe.
#[derive(Clone)]
pub struct Merge {
    /// The method.
    pub method: &'static dyn Method,
    /// Path of the base model.
    pub base: Option<Reference>,
    /// The parts; one but for recipes with `modules`.
    pub parts: Vec<Part>,
    /// Tensors that are merged, if not all; the others are the base's, or the first model's, bit for bit.
    pub include: Option<Vec<Filter>>,
    /// Tensors that are not merged.
    pub exclude: Vec<Filter>,
    /// Parameters of the whole merge.
    pub parameters: Settings,
    /// Dtype of the output, if not the inputs'.
    pub dtype: Option<Dtype>,
    /// Whether quantised weights are decoded, to that dtype, where the method moves what is stored.
    pub to: Option<To>,
    /// What to do about a tensor that a model lacks.
    pub missing: Missing,
    /// How the output stores experts, if not as the model that lends its config.
    pub experts: Option<Packing>,
    /// The model that routers of experts come from, if they are not merged.
    pub routers: Option<Reference>,
    /// What it says and nobody reads, a sentence each.
    pub idle: Vec<String>,
}

/// What to do about a tensor that one of the models lacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// Refuse the merge.
    Error,
    /// The base's stands for it: that model has changed nothing of it.
    Base,
    /// The models that lack it have no part in it.
    Skip,
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Merge").field("method", &self.method.spec().name).field("parts", &self.parts).finish()
    }
}

/// What concerns the files beside the tensors, and is read by those who write them.
const BESIDE: [&str; 3] = ["tokenizer", "tokenizer_source", "chat_template"];

pub(super) fn parse(value: &Value) -> Result<Merge> {
    let idle = &Idle::new(value.get("ignore_unknown").and_then(Value::as_bool).unwrap_or(false));
    let mut fields = Fields::new("", value)?.lenient(idle, "a merge");
    fields.get("ignore_unknown");
    let name = match fields.text("merge_method")? {
        Some(name) => name,
        None => fields.need("merge_method")?.as_str().unwrap_or_default(),
    };
    let method = registry::find(name).ok_or_else(|| {
        let names = registry::METHODS.iter().map(|m| m.spec().name);
        let mut near = nearest(&name.to_lowercase(), names.clone());
        if near.is_empty() {
            near = format!("; there are {}", names.collect::<Vec<_>>().join(", "));
        }
        let whose = "mergekit 0.1.5 has none of this name either, a fork of it may";
        Error::recipe("merge_method", format!("unknown method `{name}` ({whose}){near}"))
    })?;
    for key in BESIDE {
        fields.get(key);
    }
    let base = fields.get("base_model").map(|v| super::model("base_model", v)).transpose()?;
    let parameters = parameters(&mut fields, method, idle)?;
    let dtype = |fields: &mut Fields, key| -> Result<Option<Dtype>> {
        fields.text(key)?.map(|name| super::parse_dtype(key, name)).transpose()
    };
    let missing = match fields.text("missing")? {
        None | Some("error") => Missing::Error,
        Some("base") if base.is_none() => {
            return Err(Error::recipe("missing", "`base` needs a base_model, whose tensors stand for what is missing"));
        }
        Some("base") => Missing::Base,
        Some("skip") => Missing::Skip,
        Some(other) => return Err(Error::recipe("missing", format!("expected error, base or skip, found `{other}`"))),
    };
    let experts =
        match fields.text("experts")? {
            None | Some("as-base") => None,
            Some(name) => Some(Packing::from_name(name).ok_or_else(|| {
                Error::recipe("experts", format!("expected packed, apart or as-base, found `{name}`"))
            })?),
        };
    let routers = fields.get("routers_from").map(|v| super::model("routers_from", v)).transpose()?;
    let compute = dtype(&mut fields, "dtype")?;
    let out = dtype(&mut fields, "out_dtype")?;
    let to = super::to(&mut fields)?;
    let (include, exclude) = (filters(&mut fields, "include")?, filters(&mut fields, "exclude")?);
    let modules = fields.get("modules");
    let parts = match modules {
        None => vec![part(&mut fields, None, method, idle)?],
        Some(value) => {
            for key in ["models", "slices", "stack"] {
                if fields.get(key).is_some() {
                    return Err(Error::recipe(
                        "modules",
                        format!("stands beside `{key}`, which goes inside of a module"),
                    ));
                }
            }
            let map = value.as_object().ok_or_else(|| wrong("modules", "a mapping from module to slices", value))?;
            map.iter()
                .map(|(name, value)| {
                    let mut fields = Fields::new(format!("modules.{name}"), value)?.lenient(idle, "a module");
                    let own = self::parameters(&mut fields, method, idle)?;
                    let part = part(&mut fields, Some(name.clone()), method, idle)?;
                    fields.finish()?;
                    Ok(Part { parameters: own, ..part })
                })
                .collect::<Result<_>>()?
        }
    };
    fields.finish()?;
    if parts.is_empty() {
        return Err(Error::recipe("modules", "is empty; give at least one module"));
    }
    let exclude = exclude.unwrap_or_default();
    let (dtype, idle) = (to.and_then(To::dtype).or(out).or(compute), idle.told());
    Ok(Merge { method, base, parts, include, exclude, parameters, dtype, to, missing, experts, routers, idle })
}

fn filters(fields: &mut Fields, key: &'static str) -> Result<Option<Vec<Filter>>> {
    fields.get(key).map(|v| Filter::list(key, v)).transpose()
}

/// The `models` or `slices` of a recipe or of one of its modules.
fn part(fields: &mut Fields, name: Option<String>, method: &'static dyn Method, idle: &Idle) -> Result<Part> {
    let (models_at, slices_at) = (fields.path("models"), fields.path("slices"));
    let at = name.as_ref().map_or(String::new(), |name| format!("modules.{name}"));
    let (slices, whole) = match (fields.list("models")?, fields.list("slices")?) {
        (Some(models), None) => {
            let ranged = models.iter().enumerate().find(|(_, m)| m.get("layer_range").is_some());
            if let Some((i, m)) = ranged {
                let at = format!("{models_at}[{i}].layer_range");
                return Err(wrong(&at, "no layer range under `models`; use `slices`", &m["layer_range"]));
            }
            let sources = sources(&models_at, models, method, idle)?;
            (vec![Slice { sources, base: None, parameters: vec![], at: at.clone() }], true)
        }
        (None, Some(slices)) => {
            let each =
                slices.iter().enumerate().map(|(i, s)| parse_slice(&format!("{slices_at}[{i}]"), s, method, idle));
            (each.collect::<Result<_>>()?, false)
        }
        (Some(_), Some(_)) => return Err(Error::recipe(at, "give `models` or `slices`, not both")),
        (None, None) => {
            let (near, remark) = fields.written_for("models");
            let at = if remark.is_empty() { at } else { near };
            return Err(Error::recipe(at, format!("`models` is missing; give `models` or `slices`{remark}")));
        }
    };
    if slices.is_empty() {
        return Err(Error::recipe(slices_at, "is empty; give at least one slice"));
    }
    let stack = fields.text("stack")?.map(str::to_owned);
    Ok(Part { name, slices, whole, stack, parameters: vec![] })
}

fn parse_slice(at: &str, value: &Value, method: &'static dyn Method, idle: &Idle) -> Result<Slice> {
    let mut fields = Fields::new(at, value)?.lenient(idle, "a slice");
    let base = fields.get("base_model").map(|v| super::model(&format!("{at}.base_model"), v)).transpose()?;
    let parameters = parameters(&mut fields, method, idle)?;
    let path = fields.path("sources");
    let list = match fields.list("sources")? {
        Some(list) => list,
        None => return Err(Error::recipe(at, "`sources` is missing")),
    };
    // Read and unused by mergekit, too.
    fields.get("residual_weight");
    fields.finish()?;
    Ok(Slice { sources: sources(&path, list, method, idle)?, base, parameters, at: at.to_owned() })
}

fn sources(at: &str, list: &[Value], method: &'static dyn Method, idle: &Idle) -> Result<Vec<ModelUse>> {
    if list.is_empty() {
        return Err(Error::recipe(at, "is empty; list at least one model"));
    }
    list.iter()
        .enumerate()
        .map(|(i, v)| {
            let at = format!("{at}[{i}]");
            let mut fields = Fields::new(&at, v)?.lenient(idle, "a model's entry");
            let path = fields.path("model");
            let model = super::model(&path, fields.need("model")?)?;
            let parameters = parameters(&mut fields, method, idle)?;
            let path = fields.path("layer_range");
            let layers = fields.get("layer_range").map(|v| layer_range(&path, v)).transpose()?;
            fields.finish()?;
            Ok(ModelUse { model, layers, parameters, at })
        })
        .collect()
}

fn parameters(fields: &mut Fields, method: &'static dyn Method, idle: &Idle) -> Result<Settings> {
    let at = fields.path("parameters");
    fields.get("parameters").map_or(Ok(vec![]), |v| setting::parse(&at, v, method.spec(), idle))
}

fn layer_range(at: &str, value: &Value) -> Result<(usize, usize)> {
    let pair = value.as_array().filter(|a| a.len() == 2).and_then(|a| Some((a[0].as_u64()?, a[1].as_u64()?)));
    let (start, end) = pair.ok_or_else(|| wrong(at, "two layer numbers, [first, one past the last]", value))?;
    if start >= end {
        return Err(Error::recipe(at, format!("[{start}, {end}] holds no layer; the end is one past the last layer")));
    }
    Ok((start as usize, end as usize))
}
