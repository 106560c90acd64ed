//! Parameter values as a config writes them: a value, a gradient over layers, or either behind name filters.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use super::Filter;
use super::fields::{Fields, number, wrong};
use super::idle::Idle;
use crate::error::{Error, Result, nearest};
use crate::methods::{Kind, Parameter, Spec, Value as Param};

/// A value before the layer is known.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// The same everywhere.
    Constant(Param),
    /// Anchors spread evenly over the layers of the slice; numbers are interpolated, other values picked.
    Gradient(Vec<Param>),
    /// A value for each layer listed, by its number in the tensor's name, and one for all other tensors.
    Layers(BTreeMap<usize, Param>, Option<Param>),
}

impl Shape {
    /// Whether the value differs from layer to layer.
    pub fn by_layer(&self) -> bool {
        match self {
            Self::Constant(_) => false,
            Self::Gradient(anchors) => anchors.windows(2).any(|pair| pair[0] != pair[1]),
            Self::Layers(..) => true,
        }
    }
}

/// A value for the tensors whose name passes `filter` (all, if none).
#[derive(Debug, Clone)]
pub struct Rule {
    /// Which tensors.
    pub filter: Option<Filter>,
    /// The value.
    pub shape: Shape,
    /// Key path it stands at.
    pub at: Arc<str>,
    /// True once a tensor has got its value from here.
    pub used: Cell<bool>,
    /// The fewest layers this was spread over, if it is a gradient with more values than that.
    pub crowded: Cell<Option<usize>>,
}

/// The rules for one parameter; the first that matches a tensor counts.
#[derive(Debug, Clone)]
pub struct Setting {
    /// Parameter name.
    pub name: &'static str,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// The parameters at one place of a config.
pub type Settings = Vec<Setting>;

/// Reads a `parameters` object for a method.
///
/// # Errors
/// [`Error::Recipe`] for an unknown parameter (with the nearest one) or a value of the wrong type or range.
pub fn parse(at: &str, value: &Value, spec: &'static Spec, idle: &Idle) -> Result<Settings> {
    let Some(map) = value.as_object() else { return Err(wrong(at, "a mapping of parameters", value)) };
    map.iter()
        .filter_map(|(name, v)| {
            let at = format!("{at}.{name}");
            let Some(parameter) = spec.parameter(name) else {
                if idle.passes(name, &at, spec.name) {
                    return None;
                }
                let names = spec.parameters.iter().map(|p| p.name);
                let mut near = nearest(name, names.clone());
                if near.is_empty() {
                    let has = names.collect::<Vec<_>>().join(", ");
                    near = if has.is_empty() { "; it has none".to_owned() } else { format!("; it has {has}") };
                }
                let problem = format!("method {} has no parameter `{name}`{near}", spec.name);
                return Some(Err(Error::recipe(at, problem)));
            };
            Some(rules(&at, v, parameter).map(|rules| Setting { name: parameter.name, rules }))
        })
        .collect()
}

fn rules(at: &str, value: &Value, parameter: &Parameter) -> Result<Vec<Rule>> {
    match value {
        Value::Array(items) if items.iter().any(Value::is_object) => items
            .iter()
            .enumerate()
            .map(|(i, item)| {
                let at = format!("{at}[{i}]");
                if item.is_object() { rule(&at, item, parameter) } else { everywhere(&at, item, parameter) }
            })
            .collect(),
        Value::Object(map) if map.contains_key("layers") => Ok(vec![everywhere(at, value, parameter)?]),
        Value::Object(_) => Ok(vec![rule(at, value, parameter)?]),
        _ => Ok(vec![everywhere(at, value, parameter)?]),
    }
}

fn new_rule(filter: Option<Filter>, shape: Shape, at: &str) -> Rule {
    Rule { filter, shape, at: at.into(), used: Cell::new(false), crowded: Cell::new(None) }
}

fn everywhere(at: &str, value: &Value, parameter: &Parameter) -> Result<Rule> {
    Ok(new_rule(None, shape(at, value, parameter)?, at))
}

fn rule(at: &str, value: &Value, parameter: &Parameter) -> Result<Rule> {
    let mut fields = Fields::new(at, value)?;
    let place = fields.path("filter");
    let filter = fields.text("filter")?.filter(|f| *f != "*").map(|f| Filter::parse(&place, f)).transpose()?;
    let path = fields.path("value");
    let shape = shape(&path, fields.need("value")?, parameter)?;
    fields.finish()?;
    Ok(new_rule(filter, shape, &path))
}

fn shape(at: &str, value: &Value, parameter: &Parameter) -> Result<Shape> {
    match value {
        Value::Array(items) if items.is_empty() => Err(wrong(at, "at least one value", value)),
        Value::Array(items) => Ok(Shape::Gradient(
            items
                .iter()
                .enumerate()
                .map(|(i, v)| single(&format!("{at}[{i}]"), v, parameter))
                .collect::<Result<_>>()?,
        )),
        Value::Object(_) => {
            let mut fields = Fields::new(at, value)?;
            let path = fields.path("layers");
            let Some(map) = fields.need("layers")?.as_object() else {
                return Err(wrong(&path, "a mapping from layer to value", value));
            };
            let layers = map
                .iter()
                .map(|(layer, v)| {
                    let at = format!("{path}.{layer}");
                    let number = layer.parse().map_err(|_| Error::recipe(&at, "expected a layer number"))?;
                    Ok((number, single(&at, v, parameter)?))
                })
                .collect::<Result<_>>()?;
            let path = fields.path("default");
            let default = fields.get("default").map(|v| single(&path, v, parameter)).transpose()?;
            fields.finish()?;
            Ok(Shape::Layers(layers, default))
        }
        _ => Ok(Shape::Constant(single(at, value, parameter)?)),
    }
}

fn single(at: &str, value: &Value, parameter: &Parameter) -> Result<Param> {
    match parameter.kind {
        Kind::Number { min, max } => {
            let n = number(value).ok_or_else(|| wrong(at, "a number", value))?;
            if n < min || n > max {
                let least = if min == f64::MIN { String::new() } else { format!(" from {min}") };
                let most = if max == f64::MAX { String::new() } else { format!(" to {max}") };
                return Err(Error::recipe(at, format!("expected a number{least}{most}, found {n}")));
            }
            Ok(Param::Number(n))
        }
        Kind::Integer { min, max } => {
            let n = number(value).filter(|n| n.fract() == 0.0).ok_or_else(|| wrong(at, "a whole number", value))?;
            if n < min as f64 || n > max as f64 {
                return Err(Error::recipe(at, format!("expected a whole number from {min} to {max}, found {n}")));
            }
            Ok(Param::Number(n))
        }
        Kind::Checkpoint | Kind::Gram => match value.as_str() {
            Some(path) if !path.is_empty() => Ok(Param::Word(path.to_owned())),
            _ => Err(wrong(at, "the path of a checkpoint", value)),
        },
        Kind::Switch => match value {
            Value::Bool(b) => Ok(Param::Bool(*b)),
            // YAML files write switches as 0 and 1, too.
            _ => match value.as_f64() {
                Some(0.0) => Ok(Param::Bool(false)),
                Some(1.0) => Ok(Param::Bool(true)),
                _ => Err(wrong(at, "true or false", value)),
            },
        },
        Kind::Choice { words } => {
            // A choice that can be turned off is a switch, too: mergekit's `rescale: true`.
            let none = words.iter().copied().find(|w| *w == "none");
            let word = match value {
                Value::Bool(true) => none.and(words.first().copied()),
                Value::Bool(false) => none,
                Value::String(s) => words.iter().copied().find(|w| w == s),
                _ => None,
            };
            let switch = if none.is_some() { "true, false or " } else { "" };
            word.map(|w| Param::Word(w.to_owned()))
                .ok_or_else(|| wrong(at, &format!("{switch}one of {}", words.join(", ")), value))
        }
    }
}
