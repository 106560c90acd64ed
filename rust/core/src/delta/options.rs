//! What a comparison is to look at, besides the sums over every tensor.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::recipe::fields::Fields;

/// The options of [`super::compare`].
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Whether to measure every attention head.
    pub heads: bool,
    /// Groups of neurons of a module to measure; 0 for none.
    pub neurons: u64,
    /// How many of the most changed rows of each vocabulary to list.
    pub tokens: usize,
    /// Whether to look at the distribution of the changes, and at which thresholds.
    pub spread: Option<Vec<Threshold>>,
    /// The layers to read, as [`crate::model::anatomy::Anatomy::layer_name`] calls them; all if `None`.
    pub layers: Option<BTreeSet<String>>,
}

/// A change to count the larger ones of.
#[derive(Debug, Clone, PartialEq)]
pub struct Threshold {
    /// As it was given: `1e-4`, or `0.1x`.
    pub text: String,
    /// Its number.
    pub value: f64,
    /// True if it is in units of the mean absolute value of the base.
    pub relative: bool,
}

/// Thresholds there may be: their bins have to fit into a byte.
const MOST: usize = 32;

impl Options {
    /// Reads options: `heads` (true or false), `neurons`, `tokens`, `spread`, `above`, `layers`.
    ///
    /// # Errors
    /// [`Error::Recipe`] with the key.
    pub fn parse(value: &Value) -> Result<Self> {
        let mut fields = Fields::new("", value)?;
        let heads = fields.get("heads").and_then(Value::as_bool).unwrap_or(false);
        let neurons = fields.count("neurons", 0)? as u64;
        let tokens = fields.count("tokens", 0)?;
        let spread = fields.get("spread").and_then(Value::as_bool).unwrap_or(false);
        let above = thresholds(fields.text("above")?.unwrap_or_default())?;
        let layers = fields.list("layers")?;
        fields.finish()?;
        let layers = layers.map(|all| all.iter().filter_map(Value::as_str).map(str::to_owned).collect());
        Ok(Self { heads, neurons, tokens, spread: spread.then_some(above), layers })
    }
}

fn thresholds(text: &str) -> Result<Vec<Threshold>> {
    let mut out: Vec<Threshold> = Vec::new();
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let (digits, relative) = part.strip_suffix('x').map_or((part, false), |d| (d, true));
        let value = digits.parse::<f64>().ok().filter(|v| *v >= 0.0 && v.is_finite());
        let value = value.ok_or_else(|| {
            Error::recipe(
                "above",
                format!("expected thresholds such as 1e-4 or 0.1x (times the mean of the base), found `{part}`"),
            )
        })?;
        if out.iter().all(|t| t.text != part) {
            out.push(Threshold { text: part.to_owned(), value, relative });
        }
    }
    if out.len() > MOST {
        return Err(Error::recipe("above", format!("expected at most {MOST} thresholds, found {}", out.len())));
    }
    Ok(out)
}
