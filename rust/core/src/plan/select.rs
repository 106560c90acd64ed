//! From rules to the parameters of one tensor: precedence, filters, gradients.
//!
//! As mergekit has it: the source's own parameters, then the slice's, then the merge's; the first rule whose filter
//! is part of the name counts; a parameter of the whole tensor is filtered by the output's name, a parameter of one
//! input by that input's; a gradient spreads over the layers of the slice, tensors outside the layers get its first
//! value, and a slice of one layer its last.

use std::sync::Arc;

use crate::error::{Error, Result};
use crate::methods::{Default, Params, Spec, Value};
use crate::model::names::split_layer;
use crate::recipe::{Settings, Shape};

/// Where a tensor stands in its slice: layer `.0` of `.1`, or outside the layers.
pub type Position = Option<(usize, usize)>;

/// An input as far as its parameters go.
pub struct InputRules<'a> {
    /// Its own parameters.
    pub own: &'a Settings,
    /// The name its tensor has.
    pub name: &'a str,
    /// Its label, for errors.
    pub label: &'a str,
}

/// Resolves every parameter of `spec` for one output tensor.
///
/// # Errors
/// [`Error::Recipe`] if a required parameter has no value.
pub fn resolve(
    spec: &Spec,
    output: &str,
    position: Position,
    inputs: &[InputRules],
    levels: &[&Settings],
    seed: u64,
) -> Result<Params> {
    let mut params = Params { seed, inputs: inputs.len(), depth: depth(position), ..Params::default() };
    for p in spec.parameters {
        let default = |whose: &str| match p.default {
            Default::Number(n) => Ok(Value::Number(n)),
            Default::Switch(b) => Ok(Value::Bool(b)),
            Default::Word(w) => Ok(Value::Word(w.to_owned())),
            Default::Required => Err(Error::recipe(
                "",
                format!(
                    "method {} needs `{name}`{whose}, and there is none for `{output}`; it goes under `parameters`, of the model \
                     or of the whole",
                    spec.name,
                    name = p.name
                ),
            )),
        };
        let mut sources = Vec::new();
        if p.per_input {
            let mut values = Vec::new();
            for i in inputs {
                let found = std::iter::once(&i.own).chain(levels).find_map(|l| lookup(l, p.name, i.name, position));
                let (value, at) = match found {
                    Some((value, at)) => (value, Some(at)),
                    None => (default(&format!(" for {}", i.label))?, None),
                };
                values.push(value);
                sources.push(at);
            }
            params.per_input.insert(p.name, values);
        } else {
            let found = levels.iter().find_map(|l| lookup(l, p.name, output, position));
            let (value, at) = match found {
                Some((value, at)) => (value, Some(at)),
                None => (default("")?, None),
            };
            params.shared.insert(p.name, value);
            sources.push(at);
        }
        if sources.iter().any(Option::is_some) {
            params.from.insert(p.name, sources);
        }
    }
    Ok(params)
}

/// How deep in its slice a tensor lies, from 0 (first layer) to 1 (last, or only, layer).
pub fn depth(position: Position) -> Option<f64> {
    position.map(|(i, n)| if n > 1 { i as f64 / (n - 1) as f64 } else { 1.0 })
}

/// The value a set of rules gives a tensor, and where it stands.
fn lookup(settings: &Settings, parameter: &str, name: &str, position: Position) -> Option<(Value, Arc<str>)> {
    let setting = settings.iter().find(|s| s.name == parameter)?;
    let rule = setting.rules.iter().find(|r| r.filter.as_ref().is_none_or(|f| f.matches(name)))?;
    let value = match &rule.shape {
        Shape::Constant(v) => v.clone(),
        Shape::Gradient(anchors) => {
            if let Some((_, n)) = position.filter(|(_, n)| anchors.len() > *n) {
                rule.crowded.set(Some(rule.crowded.get().map_or(n, |least| least.min(n))));
            }
            at(anchors, position)
        }
        Shape::Layers(layers, default) => {
            // Coefficients by layer are those of the stack that positions are in.
            let own = position.and_then(|_| split_layer(name)).and_then(|l| layers.get(&l.layer));
            own.or(default.as_ref())?.clone()
        }
    };
    rule.used.set(true);
    Some((value, rule.at.clone()))
}

fn at(anchors: &[Value], position: Position) -> Value {
    let s = depth(position).unwrap_or(0.0) * (anchors.len() - 1) as f64;
    let (low, share) = (s as usize, s.fract());
    match (&anchors[low], &anchors[(low + 1).min(anchors.len() - 1)]) {
        (Value::Number(a), Value::Number(b)) => Value::Number((1.0 - share) * a + share * b),
        (other, _) => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gradients_run_over_the_layers_of_a_slice() {
        let anchors: Vec<Value> = [0.0, 1.0, 0.0].map(Value::Number).to_vec();
        let number = |p| match at(&anchors, p) {
            Value::Number(n) => n,
            _ => f64::NAN,
        };
        assert_eq!(number(None), 0.0);
        assert_eq!(number(Some((0, 5))), 0.0);
        assert_eq!(number(Some((1, 5))), 0.5);
        assert_eq!(number(Some((2, 5))), 1.0);
        assert_eq!(number(Some((4, 5))), 0.0);
        assert_eq!(at(&[Value::Number(1.0), Value::Number(7.0)], Some((0, 1))), Value::Number(7.0));
        let words = [Value::Bool(true), Value::Bool(false)];
        assert_eq!(at(&words, Some((1, 3))), Value::Bool(true));
    }
}
