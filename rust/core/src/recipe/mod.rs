//! What the user asked for: one schema for config files and command lines.
//!
//! A merge recipe is mergekit's YAML grammar as JSON (see `shared` notes in ARCHITECTURE.md); a swap recipe is the
//! `swap` verb's options, a copy recipe those of `convert` and of what writes one model again, an assembly says every
//! tensor. Model references are
//! folders or files by the time they arrive here, with the folder of an adapter where one is added.

mod assemble;
mod copy;
pub mod fields;
mod filter;
pub mod idle;
mod merge;
mod setting;
mod swap;

pub use assemble::{Assemble, Of, Piece, Source as PieceOf};
pub use copy::Copy;
pub use filter::Filter;
pub use merge::{Merge, Missing, ModelUse, Part, Slice};
pub use setting::{Rule, Setting, Settings, Shape};
pub use swap::{Blend, Donor, Modules, NonLayer, Swap};

use std::path::PathBuf;

use serde_json::Value;

use self::fields::Fields;

use crate::checkpoint::delta::Delta;
use crate::checkpoint::{Applied, Reference};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::methods::encoded::Form;

/// A recipe.
#[derive(Debug, Clone)]
pub enum Recipe {
    /// Merge models by a method.
    Merge(Merge),
    /// Replace layers of one model by another's.
    Swap(Swap),
    /// Write one model anew.
    Copy(Copy),
    /// Put a model together of several.
    Assemble(Assemble),
}

impl Recipe {
    /// Reads a recipe: `{"swap": {...}}`, `{"copy": {...}}`, `{"assemble": {...}}` or a merge config.
    ///
    /// # Errors
    /// [`Error::Recipe`] with the key path of the mistake and, for a misspelt key, the nearest valid one.
    pub fn parse(value: &Value) -> Result<Self> {
        match ["swap", "copy", "assemble"].map(|verb| value.get(verb)) {
            [Some(swap), ..] => swap::parse(swap).map(Self::Swap),
            [_, Some(copy), _] => copy::parse(copy).map(Self::Copy),
            [.., Some(assembly)] => assemble::parse(assembly).map(Self::Assemble),
            [None, None, None] => merge::parse(value).map(Self::Merge),
        }
    }
}

pub(crate) fn parse_dtype(at: &str, name: &str) -> Result<Dtype> {
    Dtype::from_user(name)
        .ok_or_else(|| Error::recipe(at, format!("expected float32, bfloat16, float16 or float64, found `{name}`")))
}

/// What a recipe wants weights written as, whatever they are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// A float dtype.
    Plain(Dtype),
    /// A quantised form.
    Coded(Form),
}

impl To {
    /// The dtype of every float tensor.
    pub fn dtype(self) -> Option<Dtype> {
        if let Self::Plain(dtype) = self { Some(dtype) } else { None }
    }

    /// The form of the weights.
    pub fn form(self) -> Option<Form> {
        if let Self::Coded(form) = self { Some(form) } else { None }
    }
}

/// What a recipe says of that.
fn to(fields: &mut Fields) -> Result<Option<To>> {
    let at = fields.path("to");
    let Some(name) = fields.text("to")? else { return Ok(None) };
    let dtype = Dtype::from_user(name).filter(|d| *d != Dtype::F64).map(To::Plain);
    let found = dtype.or_else(|| Form::from_user(name).map(To::Coded));
    found
        .map(Some)
        .ok_or_else(|| Error::recipe(at, format!("expected bf16, f16, f32, fp8, mxfp4 or gguf:q8_0, found `{name}`")))
}

/// A model as a recipe has it: a path, or `{"path": ..., "adapters": [{"path": ..., "weight": 1.0}], "name": ...}`.
pub(crate) fn model(at: &str, value: &Value) -> Result<Reference> {
    if value.get("path").is_none() {
        return path(at, value).map(Reference::from);
    }
    let mut fields = Fields::new(at, value)?;
    let own = path(&fields.path("path"), fields.need("path")?)?;
    let name = fields.text("name")?.map(str::to_owned);
    let listed = fields.path("adapters");
    let mut adapters = Vec::new();
    for (i, adapter) in fields.list("adapters")?.into_iter().flatten().enumerate() {
        let mut fields = Fields::new(format!("{listed}[{i}]"), adapter)?;
        let path = path(&fields.path("path"), fields.need("path")?)?;
        let place = fields.path("weight");
        let weight = fields
            .get("weight")
            .map_or(Ok(1.0), |v| fields::number(v).ok_or_else(|| fields::wrong(&place, "a finite number", v)))?;
        let place = fields.path("revert");
        let back = match fields.get("revert") {
            None => false,
            Some(v) => v.as_bool().ok_or_else(|| fields::wrong(&place, "true or false", v))?,
        };
        fields.finish()?;
        if back && !Delta::is(&path) {
            return Err(Error::recipe(place, format!("{} is no delta, and only deltas are taken out", path.display())));
        }
        adapters.push(Applied::new(path, weight).taken(back));
    }
    fields.finish()?;
    Ok(Reference { path: own, adapters, name })
}

/// A path as a recipe has it: text, or `{"bytes": HEX}` where it is not UTF-8.
pub(crate) fn path(at: &str, value: &Value) -> Result<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let bytes =
        |hex: &str| (0..hex.len() / 2).map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()).collect();
    let hex = value.get("bytes").and_then(Value::as_str).filter(|h| h.len().is_multiple_of(2));
    let found = match (value.as_str(), hex.and_then(bytes)) {
        (Some(text), _) => Some(PathBuf::from(text)),
        (None, Some(bytes)) => Some(std::ffi::OsString::from_vec(bytes).into()),
        (None, None) => None,
    };
    found.filter(|p| !p.as_os_str().is_empty()).ok_or_else(|| fields::wrong(at, "the path of a model", value))
}
