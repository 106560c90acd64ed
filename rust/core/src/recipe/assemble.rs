//! The recipe of an assembly: every tensor of the output by what it is of several models.

use serde_json::Value;

use super::To;
use super::fields::{Fields, number, wrong};
use crate::checkpoint::Reference;
use crate::dtype::Dtype;
use crate::error::Result;

/// An assembly.
#[derive(Debug, Clone)]
pub struct Assemble {
    /// The models; the first lends what stands beside the tensors.
    pub models: Vec<Reference>,
    /// What is done, for people: `moe`, `modules`.
    pub title: String,
    /// Dtype of the output, if not the tensors'.
    pub dtype: Option<Dtype>,
    /// What weights are written as.
    pub to: Option<To>,
    /// The output's tensors.
    pub pieces: Vec<Piece>,
}

/// A tensor of the output.
#[derive(Debug, Clone)]
pub struct Piece {
    /// What it is called.
    pub name: String,
    /// What it is.
    pub of: Of,
    /// Its shape, if not that of its first tensor, or of its rows as a matrix.
    pub shape: Option<Vec<u64>>,
    /// Its dtype, if neither its first tensor's nor the output's.
    pub dtype: Option<Dtype>,
}

/// What a tensor of the output is.
#[derive(Debug, Clone)]
pub enum Of {
    /// A tensor, times a number.
    Whole(Source, f64),
    /// Rows of tensors, one after the other.
    Rows(Vec<(Source, Option<(u64, u64)>)>),
    /// The mean of tensors.
    Mean(Vec<Source>),
}

/// A tensor of a model.
#[derive(Debug, Clone)]
pub struct Source {
    /// The model, by its number in the recipe.
    pub model: usize,
    /// The tensor.
    pub tensor: String,
}

pub(super) fn parse(value: &Value) -> Result<Assemble> {
    let mut fields = Fields::new("assemble", value)?;
    let at = fields.path("models");
    let listed = fields.need("models")?.as_array().cloned().unwrap_or_default();
    let model = |(i, m): (usize, &Value)| {
        let mut fields = Fields::new(format!("{at}[{i}]"), m)?;
        let own = super::model(&fields.path("model"), fields.need("model")?)?;
        fields.finish().map(|()| own)
    };
    let models: Vec<Reference> = listed.iter().enumerate().map(model).collect::<Result<_>>()?;
    let title = fields.text("title")?.unwrap_or("assemble").to_owned();
    // What was asked of a verb that says the tensors itself: told in the report, and read by nobody.
    let _ = fields.text("asked")?;
    let dtype = fields.text("dtype")?.map(|name| super::parse_dtype("dtype", name)).transpose()?;
    let to = super::to(&mut fields)?;
    let at = fields.path("tensors");
    let pieces = fields.list("tensors")?.into_iter().flatten().enumerate();
    let pieces = pieces.map(|(i, p)| piece(&format!("{at}[{i}]"), p, models.len())).collect::<Result<_>>()?;
    fields.finish()?;
    Ok(Assemble { models, title, dtype: to.and_then(To::dtype).or(dtype), to, pieces })
}

fn piece(at: &str, value: &Value, models: usize) -> Result<Piece> {
    let mut fields = Fields::new(at, value)?;
    let name = fields.text("name")?.unwrap_or_default().to_owned();
    let source = |at: &str, v: &Value| match (v[0].as_u64(), v[1].as_str()) {
        (Some(model), Some(tensor)) if (model as usize) < models => {
            Ok(Source { model: model as usize, tensor: tensor.to_owned() })
        }
        _ => Err(wrong(at, "the number of a model and the name of a tensor", v)),
    };
    let all = |at: &str, list: &Vec<Value>| list.iter().map(|v| source(at, v)).collect::<Result<Vec<_>>>();
    let scale = match fields.get("scale") {
        None => 1.0,
        Some(v) => number(v).ok_or_else(|| wrong(&format!("{at}.scale"), "a finite number", v))?,
    };
    let places = ["of", "rows", "mean"].map(|key| fields.path(key));
    let of = match (fields.get("of"), fields.list("rows")?, fields.list("mean")?) {
        (Some(v), None, None) => Of::Whole(source(&places[0], v)?, scale),
        (None, Some(list), None) if !list.is_empty() => {
            let range = |v: &Value| match (v.get(2), v.get(3)) {
                (None, None) => Ok(None),
                (Some(from), Some(count)) if count.as_u64() > Some(0) => Ok(from.as_u64().zip(count.as_u64())),
                _ => Err(wrong(&places[1], "the first row and how many there are", v)),
            };
            let row = |v: &Value| Ok((source(&places[1], v)?, range(v)?));
            Of::Rows(list.iter().map(row).collect::<Result<_>>()?)
        }
        (None, None, Some(list)) if !list.is_empty() => Of::Mean(all(&places[2], list)?),
        _ => return Err(wrong(at, "one of `of`, `rows` and `mean`", value)),
    };
    let place = fields.path("shape");
    let shape = match fields.list("shape")? {
        None => None,
        Some(list) => {
            let sizes: Option<Vec<u64>> = list.iter().map(Value::as_u64).collect();
            Some(sizes.ok_or_else(|| wrong(&place, "a list of sizes", &Value::Array(list.clone())))?)
        }
    };
    let dtype = fields.text("dtype")?.map(|name| super::parse_dtype(&fields.path("dtype"), name)).transpose()?;
    fields.finish()?;
    Ok(Piece { name, of, shape, dtype })
}
