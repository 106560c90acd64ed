//! A slice ready to be laid down: its models opened, the layers they give known.

use std::collections::HashSet;

use super::models::unclear;
use super::{Draft, Models};
use crate::error::{Error, Result};
use crate::methods::{Base, Spec};
use crate::model::anatomy::Stack;
use crate::model::names::{is_before_layers, other_names, split_layer};
use crate::recipe::{Merge, ModelUse, Part, Slice};

/// A source with its model opened and its layers known.
pub struct Source<'a> {
    /// The entry of the recipe.
    pub entry: &'a ModelUse,
    /// Its model.
    pub model: usize,
    /// The first layer it gives.
    pub start: usize,
    /// The stack its layers are in; in words why not, where it has none or nothing tells which is meant.
    pub stack: std::result::Result<Stack, String>,
}

impl Source<'_> {
    /// Layers of its stack.
    fn layers(&self) -> usize {
        self.stack.as_ref().map_or(0, |s| s.layers)
    }
}

/// A slice ready to be laid down.
pub struct Stage<'a> {
    /// The slice of the recipe.
    pub slice: &'a Slice,
    /// The base, for methods that work on changes.
    pub base: Option<Source<'a>>,
    /// The models merged.
    pub inputs: Vec<Source<'a>>,
    /// Number of layers.
    pub count: usize,
    /// Output layer its first layer becomes.
    pub first: usize,
}

impl<'a> Stage<'a> {
    /// The source whose tensors name and order the output's.
    pub fn lead(&self) -> &Source<'a> {
        // One of them is there; a base may be alone.
        self.base.as_ref().unwrap_or_else(|| &self.inputs[0])
    }

    /// The base, if there is one, and the inputs.
    pub fn members(&self) -> impl Iterator<Item = &Source<'a>> {
        self.base.iter().chain(&self.inputs)
    }

    /// Names of the tensors of its models: the lead's in their order, then what only others have.
    pub fn union(&self, draft: &Draft) -> Vec<String> {
        let mut seen = HashSet::new();
        let lead = draft.models.get(self.lead().model);
        std::iter::once(self.lead())
            .chain(self.members())
            .flat_map(|s| &draft.models.get(s.model).tensors)
            .filter(|t| seen.insert(t.name.as_str()))
            // What the lead has under another name is that tensor.
            .filter(|t| lead.find_alike(&t.name).is_none_or(|i| lead.tensors[i].name == t.name))
            .map(|t| t.name.clone())
            .collect()
    }
}

/// Tells whether a tensor belongs to the module at hand.
pub type Holds<'a> = &'a dyn Fn(&str) -> bool;

/// Makes a slice of `part` ready; its layers become those from `first` on of the output's.
///
/// # Errors
/// [`Error::Recipe`] for layers that are not there, models listed twice, a base that is missing or too much.
pub fn stage<'a>(
    merge: &'a Merge,
    part: &Part,
    slice: &'a Slice,
    spec: &Spec,
    models: &mut Models,
    first: usize,
    holds: Holds,
) -> Result<Stage<'a>> {
    let base_path = slice.base.as_ref().or(merge.base.as_ref());
    // Where a model does not tell which of its stacks is meant, another may.
    let mut decided = None;
    for entry in &slice.sources {
        let model = models.open(&entry.model)?;
        decided = decided.or_else(|| stack_of(models, model, part, holds).ok());
    }
    let decide = |models: &Models, model: usize| {
        stack_of(models, model, part, holds).or_else(|problem| {
            decided.as_ref().and_then(|s| models.get(model).anatomy().alike(s)).cloned().ok_or(problem)
        })
    };
    let mut sources: Vec<Source> = Vec::new();
    let mut count = None;
    for entry in &slice.sources {
        let model = models.open(&entry.model)?;
        let stack = decide(models, model);
        let layers = stack.as_ref().map_or(0, |s| s.layers);
        if entry.layers.is_none() && !part.whole {
            let problem =
                format!("is missing; say which layers of {} the slice takes, [first, one past the last]", entry.model);
            return Err(Error::recipe(format!("{}.layer_range", entry.at), problem));
        }
        let (start, end) = entry.layers.unwrap_or((0, layers));
        if let (Some(_), Err(problem)) = (entry.layers, &stack) {
            return Err(unclear(models.get(model), problem.clone()));
        }
        if end > layers {
            return Err(Error::recipe(
                format!("{}.layer_range", entry.at),
                format!("ends at {end}, but {} has {layers} layers{}", entry.model, of(&stack)),
            ));
        }
        let n = end - start;
        match count {
            None => count = Some(n),
            Some(c) if c == n => {}
            Some(c) => {
                return Err(Error::recipe(
                    &entry.at,
                    format!("{} gives {n} layers, the first model gives {c}; they must be as many", entry.model),
                ));
            }
        }
        if sources.iter().any(|s| s.model == model) {
            return Err(Error::recipe(
                &entry.at,
                format!("{} is listed twice; give it one entry and one weight", entry.model),
            ));
        }
        sources.push(Source { entry, model, start, stack });
    }
    let listed = match base_path {
        Some(path) => {
            let base = models.open(path)?;
            sources.iter().position(|s| s.model == base).ok_or(base)
        }
        None if matches!(spec.base, Base::Required | Base::First) => {
            return Err(Error::recipe("base_model", format!("is missing; method {} needs it", spec.name)));
        }
        None => Err(usize::MAX),
    };
    let (base, inputs) = match (spec.base, listed) {
        (Base::None, _) | (Base::Input, Ok(_)) | (Base::Optional | Base::Input, Err(usize::MAX)) => (None, sources),
        (Base::Required | Base::Optional, Ok(i)) => (Some(sources.remove(i)), sources),
        (Base::First, Ok(i)) => {
            let base = sources.remove(i);
            sources.insert(0, base);
            (None, sources)
        }
        (_, Err(model)) => {
            if !part.whole && spec.base != Base::Input {
                let base = base_path.map(ToString::to_string).unwrap_or_default();
                let problem = format!(
                    "the base, {base}, is not among the sources of this slice; list it too, with the layers that the others were \
                     tuned from"
                );
                return Err(Error::recipe(&slice.at, problem));
            }
            let start = sources[0].start;
            let entry = sources[0].entry;
            let base = Source { entry, model, start, stack: decide(models, model) };
            match spec.base {
                Base::First => sources.insert(0, base),
                Base::Input => sources.push(base),
                _ => return checked(slice, spec, Some(base), sources, count, first),
            }
            (None, sources)
        }
    };
    checked(slice, spec, base, inputs, count, first)
}

/// The slice, if the method takes so many models.
fn checked<'a>(
    slice: &'a Slice,
    spec: &Spec,
    base: Option<Source<'a>>,
    inputs: Vec<Source<'a>>,
    count: Option<usize>,
    first: usize,
) -> Result<Stage<'a>> {
    let (least, most) = spec.inputs;
    // A base to which nothing is added is the base: so people fold adapters by a merge.
    let alone = inputs.is_empty() && base.is_some() && spec.base == Base::Required && least == 1;
    if alone {
        return Ok(Stage { slice, base, inputs, count: count.unwrap_or(0), first });
    }
    if inputs.len() < least || inputs.len() > most {
        let want = if least == most { format!("exactly {least}") } else { format!("at least {least}") };
        let but = if base.is_some() { " besides the base" } else { "" };
        return Err(Error::recipe(
            if slice.at.is_empty() { "models".to_owned() } else { slice.at.clone() },
            format!("method {} takes {want} models{but}, found {}", spec.name, inputs.len()),
        ));
    }
    Ok(Stage { slice, base, inputs, count: count.unwrap_or(0), first })
}

/// The stack whose layers a part's slices take, among the tensors that the part holds.
fn stack_of(models: &Models, model: usize, part: &Part, holds: Holds) -> std::result::Result<Stack, String> {
    let asked = part.stack.as_deref();
    if part.name.is_none() {
        return models.get(model).anatomy().choose(asked).cloned();
    }
    models.anatomy_among(model, holds).choose(asked).cloned()
}

/// A stack in a message, where its name says more than that there are layers.
fn of(stack: &std::result::Result<Stack, String>) -> String {
    stack.as_ref().map_or(String::new(), |s| format!(" in `{}`", s.label))
}

/// The stack of layers that all slices share.
///
/// # Errors
/// [`Error::Checkpoint`] if a model has no layers, or other ones.
pub fn one_stack(draft: &Draft, stages: &[Stage]) -> Result<Stack> {
    let mut found: Option<&Stack> = None;
    for source in stages.iter().flat_map(Stage::members) {
        let path = &draft.models.get(source.model).path;
        let own = source.stack.as_ref().map_err(|problem| unclear(draft.models.get(source.model), problem.clone()))?;
        let first = found.get_or_insert(own);
        let alike = first.prefix == own.prefix || other_names(&own.prefix).any(|n| n == first.prefix);
        if !alike {
            return Err(Error::checkpoint(
                path,
                format!(
                    "its layers are called `{}`, those of the first model `{}`; these are different architectures",
                    own.prefix, first.prefix
                ),
            ));
        }
    }
    found.cloned().ok_or_else(|| Error::bug("a part without slices"))
}

/// A tensor of a sliced model that is in none of the layers.
pub struct Loose {
    /// Its name in the output.
    pub output: String,
    /// Its name in the models.
    name: String,
    /// Of a block counted on from the last layer: how far behind it.
    behind: Option<usize>,
}

impl Loose {
    /// Its name in a source's model, whose last layer may have another number.
    pub fn name_in(&self, source: &Source) -> String {
        let split = self.behind.and_then(|k| Some((k, split_layer(&self.name)?)));
        split.map_or_else(|| self.name.clone(), |(k, l)| l.at(source.layers() + k))
    }
}

/// The tensors that are in none of the output's `layers` layers, of the first and the last slice's models: those that come from
/// the first (embeddings, and whatever belongs to another part of the model, which comes from one model whole), and those that
/// come from the last (final norm, head).
pub fn outside(draft: &Draft, first: &Stage, last: &Stage, layers: usize, holds: Holds) -> (Vec<Loose>, Vec<Loose>) {
    let mut seen = HashSet::new();
    let mut out = (Vec::new(), Vec::new());
    let own = draft.models.get(first.lead().model).anatomy();
    let predicts = own.stacks.iter().any(|s| s.first > 0);
    for stage in [first, last] {
        for source in std::iter::once(stage.lead()).chain(stage.members()) {
            let model = draft.models.get(source.model);
            for t in model.tensors.iter().filter(|t| holds(&t.name)) {
                let own = split_layer(&t.name).filter(|l| source.stack.as_ref().is_ok_and(|s| s.prefix == l.stack()));
                let behind = match own {
                    Some(l) if l.layer < source.layers() => continue,
                    // The config that is lent counts no block behind the last layer.
                    Some(_) if !predicts => continue,
                    Some(l) => Some(l.layer - source.layers()),
                    None => None,
                };
                let output = own.zip(behind).map_or_else(|| t.name.clone(), |(l, k)| l.at(layers + k));
                // What the first has under another name is that tensor.
                let lead = draft.models.get(first.lead().model);
                let known = lead.find_alike(&t.name).is_some_and(|i| lead.tensors[i].name != t.name);
                if known || !seen.insert(output.clone()) {
                    continue;
                }
                let early = behind.is_some()
                    || is_before_layers(&t.name)
                    || source.stack.as_ref().is_ok_and(|s| !model.anatomy().beside(&t.name, s));
                let loose = Loose { output, name: t.name.clone(), behind };
                if early { out.0.push(loose) } else { out.1.push(loose) }
            }
        }
    }
    out
}
