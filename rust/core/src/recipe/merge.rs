//! The merge recipe: mergekit's grammar (models, slices, base_model, parameters, dtype, out_dtype).

use serde_json::Value;

use super::fields::{Fields, wrong};
use super::setting::{self, Settings};
use crate::dtype::Dtype;
use crate::error::{Error, Result, nearest};
use crate::methods::{Method, registry};

/// A model where it is used, with its own parameters.
#[derive(Debug, Clone)]
pub struct ModelUse {
    /// Path of the model.
    pub model: String,
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
    pub base: Option<String>,
    /// Parameters of this slice.
    pub parameters: Settings,
    /// Key path of the entry.
    pub at: String,
}

/// A merge recipe.
#[derive(Clone)]
pub struct Merge {
    /// The method.
    pub method: &'static dyn Method,
    /// Path of the base model.
    pub base: Option<String>,
    /// The slices; a recipe with `models` is one slice of whole models.
    pub slices: Vec<Slice>,
    /// True if the recipe was written with `models`.
    pub whole: bool,
    /// Parameters of the whole merge.
    pub parameters: Settings,
    /// Dtype of the output, if not the inputs'.
    pub dtype: Option<Dtype>,
}

impl std::fmt::Debug for Merge {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("Merge").field("method", &self.method.spec().name).field("slices", &self.slices).finish()
    }
}

/// Parts of mergekit's grammar that are not built yet: refused by name, never ignored.
const NOT_YET: [&str; 4] = ["modules", "tokenizer", "tokenizer_source", "chat_template"];

pub(super) fn parse(value: &Value) -> Result<Merge> {
    let mut fields = Fields::new("", value)?;
    let name = match fields.text("merge_method")? {
        Some(name) => name,
        None => fields.need("merge_method")?.as_str().unwrap_or_default(),
    };
    let method = registry::find(name).ok_or_else(|| {
        let names = registry::METHODS.iter().map(|m| m.spec().name);
        let mut near = nearest(name, names.clone());
        if near.is_empty() {
            near = format!("; there are {}", names.collect::<Vec<_>>().join(", "));
        }
        Error::recipe("merge_method", format!("unknown method `{name}`{near}"))
    })?;
    for key in NOT_YET {
        if fields.get(key).is_some() {
            return Err(Error::recipe(key, "is not supported yet; remove it, and see the README for what is"));
        }
    }
    let base = fields.get("base_model").map(|v| model("base_model", v)).transpose()?;
    let parameters = parameters(&mut fields, method)?;
    let dtype = |fields: &mut Fields, key| -> Result<Option<Dtype>> {
        fields.text(key)?.map(|name| super::parse_dtype(key, name)).transpose()
    };
    let compute = dtype(&mut fields, "dtype")?;
    let out = dtype(&mut fields, "out_dtype")?;
    let models = fields.list("models")?;
    let slices = fields.list("slices")?;
    fields.finish()?;
    let (slices, whole) = match (models, slices) {
        (Some(models), None) => {
            let ranged = models.iter().enumerate().find(|(_, m)| m.get("layer_range").is_some());
            if let Some((i, m)) = ranged {
                let at = format!("models[{i}].layer_range");
                return Err(wrong(&at, "no layer range under `models`; use `slices`", &m["layer_range"]));
            }
            let slice = Slice {
                sources: sources("models", models, method)?,
                base: None,
                parameters: vec![],
                at: String::new(),
            };
            (vec![slice], true)
        }
        (None, Some(slices)) => {
            (slices.iter().enumerate().map(|(i, s)| parse_slice(i, s, method)).collect::<Result<_>>()?, false)
        }
        (Some(_), Some(_)) => return Err(Error::recipe("", "give `models` or `slices`, not both")),
        (None, None) => return Err(Error::recipe("", "`models` is missing; give `models` or `slices`")),
    };
    if slices.is_empty() {
        return Err(Error::recipe("slices", "is empty; give at least one slice"));
    }
    Ok(Merge { method, base, slices, whole, parameters, dtype: out.or(compute) })
}

fn parse_slice(i: usize, value: &Value, method: &'static dyn Method) -> Result<Slice> {
    let at = format!("slices[{i}]");
    let mut fields = Fields::new(&at, value)?;
    let base = fields.get("base_model").map(|v| model(&format!("{at}.base_model"), v)).transpose()?;
    let parameters = parameters(&mut fields, method)?;
    let path = fields.path("sources");
    let list = match fields.list("sources")? {
        Some(list) => list,
        None => return Err(Error::recipe(at, "`sources` is missing")),
    };
    // Read and unused by mergekit, too.
    fields.get("residual_weight");
    fields.finish()?;
    Ok(Slice { sources: sources(&path, list, method)?, base, parameters, at })
}

fn sources(at: &str, list: &[Value], method: &'static dyn Method) -> Result<Vec<ModelUse>> {
    if list.is_empty() {
        return Err(Error::recipe(at, "is empty; list at least one model"));
    }
    list.iter()
        .enumerate()
        .map(|(i, v)| {
            let at = format!("{at}[{i}]");
            let mut fields = Fields::new(&at, v)?;
            let path = fields.path("model");
            let model = model(&path, fields.need("model")?)?;
            let parameters = parameters(&mut fields, method)?;
            let path = fields.path("layer_range");
            let layers = fields.get("layer_range").map(|v| layer_range(&path, v)).transpose()?;
            fields.finish()?;
            Ok(ModelUse { model, layers, parameters, at })
        })
        .collect()
}

fn parameters(fields: &mut Fields, method: &'static dyn Method) -> Result<Settings> {
    let at = fields.path("parameters");
    fields.get("parameters").map_or(Ok(vec![]), |v| setting::parse(&at, v, method.spec()))
}

fn layer_range(at: &str, value: &Value) -> Result<(usize, usize)> {
    let pair = value.as_array().filter(|a| a.len() == 2).and_then(|a| Some((a[0].as_u64()?, a[1].as_u64()?)));
    let (start, end) = pair.ok_or_else(|| wrong(at, "two layer numbers, [first, one past the last]", value))?;
    if start >= end {
        return Err(Error::recipe(at, format!("[{start}, {end}] holds no layer; the end is one past the last layer")));
    }
    Ok((start as usize, end as usize))
}

fn model(at: &str, value: &Value) -> Result<String> {
    let text = value.as_str().ok_or_else(|| wrong(at, "the path of a model", value))?;
    if text.is_empty() {
        return Err(wrong(at, "the path of a model", value));
    }
    Ok(text.to_owned())
}
