//! The recipe of a copy: one model, written anew.

use serde_json::Value;

use super::To;
use super::fields::Fields;
use crate::checkpoint::Reference;
use crate::dtype::Dtype;
use crate::error::Result;

/// A copy.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The model.
    pub model: Reference,
    /// What is done, for people: `fold`, `convert`.
    pub title: String,
    /// Dtype of the output, if not the model's.
    pub dtype: Option<Dtype>,
    /// Whether it was asked that everything quantised is decoded, to that dtype.
    pub to: Option<To>,
    /// Whether quantised weights are moved as they are stored.
    pub as_stored: bool,
}

pub(super) fn parse(value: &Value) -> Result<Copy> {
    let mut fields = Fields::new("copy", value)?;
    let model = super::model("copy.model", fields.need("model")?)?;
    let title = fields.text("title")?.unwrap_or("copy").to_owned();
    // What it was made of before: told in the report, and read by nobody.
    let _ = fields.list("of")?;
    // What was asked of a verb whose rows a vocabulary says: told in the same way.
    let _ = fields.text("asked")?;
    let dtype = fields.text("dtype")?.map(|name| super::parse_dtype("dtype", name)).transpose()?;
    let to = super::to(&mut fields)?;
    let as_stored = fields.get("as_stored").and_then(Value::as_bool).unwrap_or(false);
    fields.finish()?;
    Ok(Copy { model, title, dtype: to.and_then(To::dtype).or(dtype), to, as_stored })
}
