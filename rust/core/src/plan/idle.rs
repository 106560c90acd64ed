//! Rules of a merge that decide nothing, or not what they seem to.

use std::cell::LazyCell;
use std::collections::{BTreeSet, HashSet};

use super::{Action, Draft};
use crate::error::{Error, Result};
use crate::model::names::split_layer;
use crate::recipe::{Filter, Merge, Rule, Shape};

/// What is to be told of them.
///
/// # Errors
/// [`Error::Recipe`] for an `include` that merges nothing, and for a value of a layer that is nowhere.
pub fn told(draft: &Draft, merge: &Merge) -> Result<Vec<String>> {
    let mut warnings = filters(draft, merge)?;
    let slices = || merge.parts.iter().flat_map(|p| &p.slices);
    let all = slices()
        .flat_map(|s| s.sources.iter().map(|m| &m.parameters).chain([&s.parameters]))
        .chain(merge.parts.iter().map(|p| &p.parameters))
        .chain([&merge.parameters]);
    let layers = LazyCell::new(|| names(draft).filter_map(|n| Some(split_layer(n)?.layer)).collect());
    for rule in all.flatten().flat_map(|s| &s.rules) {
        missing_layer(rule, &layers)?;
        match (&rule.filter, rule.used.get(), rule.crowded.get()) {
            (Some(filter), false, _) => warnings.push(format!("{}: {} decides 0 tensors", rule.at, shown(filter))),
            (_, _, Some(n)) => warnings.push(format!(
                "{}: the gradient has more values than the {n} layer{} it is spread over; not all of them are reached",
                rule.at,
                if n == 1 { "" } else { "s" }
            )),
            _ => {}
        }
    }
    warnings.extend(parameters(draft));
    Ok(warnings)
}

/// Parameters that the recipe sets and that do nothing for any tensor beside the others.
fn parameters(draft: &Draft) -> Vec<String> {
    let (mut idle, mut used) = (BTreeSet::new(), BTreeSet::new());
    for item in &draft.items {
        let Action::Compute { method, params, .. } = &item.action else { continue };
        for key in params.from.keys() {
            if method.idle(params, key) { &mut idle } else { &mut used }.insert((*key, method.spec().name));
        }
    }
    let told = |(key, method): &(&str, &str)| {
        format!("`{key}` does nothing here; `suture methods {method}` says what it goes with")
    };
    idle.difference(&used).map(told).collect()
}

/// Names of tensors, of the output and of all models.
fn names(draft: &Draft) -> impl Iterator<Item = &str> + Clone {
    let made = draft.items.iter().map(|i| i.name.as_str());
    made.chain(draft.models.checkpoints.iter().flat_map(|c| c.tensors.iter().map(|t| t.name.as_str())))
}

/// Filters of `include` and `exclude` that match no tensor.
fn filters(draft: &Draft, merge: &Merge) -> Result<Vec<String>> {
    let idle = |f: &&Filter| !names(draft).any(|name| f.matches(name));
    let include: Vec<&Filter> = merge.include.iter().flatten().collect();
    let out: Vec<&Filter> = include.iter().copied().filter(|f| idle(f)).collect();
    if !include.is_empty() && out.len() == include.len() {
        let listed = out.iter().map(|f| shown(f)).collect::<Vec<_>>().join(", ");
        return Err(Error::recipe("include", format!("{listed} matches no tensor, so that nothing would be merged")));
    }
    let told = |key: &str, f: &Filter| format!("{key}: {} matches no tensor", shown(f));
    let excluded = merge.exclude.iter().filter(|f| idle(f)).map(|f| told("exclude", f));
    Ok(out.iter().map(|f| told("include", f)).chain(excluded).collect())
}

/// A filter, and how it is written if it was meant as a glob.
fn shown(filter: &Filter) -> String {
    let text = filter.text();
    let plain = !text.contains(':') && text.contains(['*', '?']);
    let hint = if plain { " (a part of a name; a glob is written with `glob:` before it)" } else { "" };
    format!("filter `{text}`{hint}")
}

/// Complains about a value of a layer that neither the models nor the output have.
fn missing_layer(rule: &Rule, layers: &LazyCell<HashSet<usize>, impl FnOnce() -> HashSet<usize>>) -> Result<()> {
    let Shape::Layers(values, _) = &rule.shape else { return Ok(()) };
    match values.keys().find(|l| !layers.contains(l)) {
        None => Ok(()),
        Some(layer) => {
            let last = layers.iter().max().map_or("no tensor is in a layer".to_owned(), |l| format!("the last is {l}"));
            Err(Error::recipe(&*rule.at, format!("layer {layer} does not exist; {last}")))
        }
    }
}
