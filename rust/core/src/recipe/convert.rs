//! The convert recipe: one model, and the dtype it is written in.

use std::path::PathBuf;

use serde_json::Value;

use super::fields::Fields;
use crate::dtype::Dtype;
use crate::error::Result;

/// A convert recipe.
#[derive(Debug, Clone)]
pub struct Convert {
    /// Path of the model.
    pub model: PathBuf,
    /// Dtype of the output's floats, if not the model's.
    pub dtype: Option<Dtype>,
}

pub(super) fn parse(value: &Value) -> Result<Convert> {
    let mut fields = Fields::new("", value)?;
    let model = super::path("model", fields.need("model")?)?;
    let dtype = fields.text("dtype")?.map(|name| super::parse_dtype("dtype", name)).transpose()?;
    fields.finish()?;
    Ok(Convert { model, dtype })
}
