//! What a merge does, in a few lines for people: its models with what the recipe sets for them, its layers, whose config it has.

use std::collections::BTreeMap;

use super::modules::ByModule;
use super::stage::Stage;
use super::{Action, Draft};
use crate::methods::{Kind, Spec, Value};
use crate::model::names::ranges;

/// At most so many models, and so many slices, are told of.
const LISTED: usize = 8;

/// A title and a text for each. `parts` hold the slices of every part of the recipe, and whether it is a whole model.
pub fn notes(draft: &Draft, spec: &Spec, parts: &[(bool, Vec<Stage>)]) -> Vec<(String, String)> {
    let labels = draft.models.labels();
    let (each, shared) = settings(draft, spec);
    let mut models: Vec<usize> = Vec::new();
    let mut bases: Vec<usize> = Vec::new();
    for stage in parts.iter().flat_map(|(_, stages)| stages) {
        stage.inputs.iter().map(|s| s.model).for_each(|m| insert(&mut models, m));
        stage.base.iter().map(|s| s.model).for_each(|m| insert(&mut bases, m));
    }
    let told = |m: &usize| match each.get(m) {
        Some(set) => format!("{} ({})", labels[*m], said(set)),
        None => labels[*m].clone(),
    };
    let mut out = vec![("models".to_owned(), list(models.iter().map(told).collect(), ", "))];
    if !bases.is_empty() {
        out.push(("base".to_owned(), list(bases.iter().map(|m| labels[*m].clone()).collect(), ", ")));
    }
    if !shared.is_empty() {
        out.push(("parameters".to_owned(), said(&shared)));
    }
    out.extend(cuts_nothing(draft, spec));
    for (_, stages) in parts.iter().filter(|(whole, _)| !whole) {
        let count: usize = stages.iter().map(|s| s.count).sum();
        let pieces = stages.iter().map(|s| piece(s, &labels)).collect();
        out.push(("layers".to_owned(), format!("{count}: {}", list(pieces, "; "))));
        // Where slices merge several models, or modules stand beside each other, there is no short way to say it.
        if let ([first, .., last], 1) = (stages.as_slice(), parts.len())
            && first.lead().model != last.lead().model
            && [first, last].iter().all(|s| s.members().count() == 1)
        {
            let (first, last) = (&labels[first.lead().model], &labels[last.lead().model]);
            let text = format!("the final norm and the head of {last}, all else of {first}");
            out.push(("outside".to_owned(), text));
        }
    }
    out.push(("config".to_owned(), format!("that of {}", labels[draft.config.from])));
    out
}

/// Of a method with another inside that keeps a share of the elements: that it keeps all, if nothing is said.
fn cuts_nothing(draft: &Draft, spec: &Spec) -> Option<(String, String)> {
    spec.parameter("inner").and(spec.parameter("density"))?;
    let word = draft.items.iter().find_map(|item| match &item.action {
        Action::Compute { method, params, .. } if method.spec().name == spec.name => {
            let all = !params.from.contains_key("density") && !method.idle(params, "density");
            all.then(|| params.word("inner").to_owned())
        }
        _ => None,
    })?;
    Some(("density".to_owned(), format!("none is given, so it is 1, and `{word}` drops nothing")))
}

/// What each module of a recipe that has several holds.
pub fn modules(draft: &Draft, names: &[Option<&str>], by_module: &ByModule) -> Vec<(String, String)> {
    if names.len() < 2 {
        return Vec::new();
    }
    let told = |(part, name): (usize, &Option<&str>)| {
        let count = draft.items.iter().filter(|i| by_module.holds(part, &i.name)).count();
        let rest = if by_module.is_rest(part) { ", all that the others do not hold" } else { "" };
        (
            "module".to_owned(),
            format!("`{}`: {count} tensor{}{rest}", name.unwrap_or_default(), if count == 1 { "" } else { "s" }),
        )
    };
    names.iter().enumerate().map(told).collect()
}

/// The layers of a slice, and whose they are.
fn piece(stage: &Stage, labels: &[String]) -> String {
    let of = |start: usize, model: usize| format!("{} of {}", ranges(start..start + stage.count), labels[model]);
    list(stage.inputs.iter().map(|s| of(s.start, s.model)).collect(), " with ")
}

fn insert(models: &mut Vec<usize>, model: usize) {
    if !models.contains(&model) {
        models.push(model);
    }
}

/// The values that a parameter has over all tensors.
enum Values {
    /// The least and the greatest.
    Numbers(f64, f64),
    /// Words and switches, each once.
    Words(Vec<String>),
}

type Set = BTreeMap<&'static str, Values>;

/// What the recipe sets, for each model and for all together.
fn settings(draft: &Draft, spec: &Spec) -> (BTreeMap<usize, Set>, Set) {
    let (mut each, mut shared): (BTreeMap<usize, Set>, Set) = Default::default();
    // Where models lie is nobody's business: reports go with outputs.
    let told = |key: &str| spec.parameter(key).is_some_and(|p| !matches!(p.kind, Kind::Checkpoint | Kind::Gram));
    for item in &draft.items {
        let Action::Compute { method, params, inputs, .. } = &item.action else { continue };
        // A cast is computed by another method.
        let own = method.spec().name == spec.name;
        for key in params.from.keys().filter(|key| own && told(key) && !method.idle(params, key)) {
            let given = params.per_input.get(key).into_iter().flatten().zip(inputs);
            for (value, view) in given {
                add(each.entry(view.like().model).or_default(), key, value);
            }
            params.shared.get(key).into_iter().for_each(|value| add(&mut shared, key, value));
        }
    }
    (each, shared)
}

fn add(set: &mut Set, key: &'static str, value: &Value) {
    match value {
        Value::Number(n) => match set.entry(key).or_insert(Values::Numbers(*n, *n)) {
            Values::Numbers(least, most) => (*least, *most) = (least.min(*n), most.max(*n)),
            Values::Words(words) => words.push(n.to_string()),
        },
        Value::Bool(_) | Value::Word(_) => {
            let word = match value {
                Value::Word(word) => word.clone(),
                other => (*other == Value::Bool(true)).to_string(),
            };
            if let Values::Words(words) = set.entry(key).or_insert_with(|| Values::Words(Vec::new()))
                && !words.contains(&word)
            {
                words.push(word);
            }
        }
    }
}

fn said(set: &Set) -> String {
    let text = |(key, values): (&&str, &Values)| match values {
        Values::Numbers(least, most) if least == most => format!("{key} {least}"),
        Values::Numbers(least, most) => format!("{key} {least} to {most}"),
        Values::Words(words) => format!("{key} {}", words.join(" or ")),
    };
    set.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn list(mut items: Vec<String>, between: &str) -> String {
    let more = items.len().saturating_sub(LISTED);
    items.truncate(LISTED);
    let listed = items.join(between);
    if more > 0 { format!("{listed} and {more} more") } else { listed }
}
