//! Compiles a merge recipe: which tensor of which model goes into which output tensor, with which parameters.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;

use super::modules::ByModule;
use super::select::{InputRules, Position, depth, resolve};
use super::{Computation, Draft, Models, OutputConfig};
use crate::error::{Error, Result};
use crate::methods::{Base, Kind, Spec, Value};
use crate::model::names::{is_before_layers, split_layer};
use crate::recipe::{Merge, ModelUse, Part, Slice};
use crate::view::{Place, View};

/// A source with its model opened and its layers known.
struct Source<'a> {
    entry: &'a ModelUse,
    model: usize,
    start: usize,
}

/// A slice ready to be laid down.
struct Stage<'a> {
    slice: &'a Slice,
    base: Option<Source<'a>>,
    inputs: Vec<Source<'a>>,
    /// Number of layers.
    count: usize,
    /// Output layer its first layer becomes.
    first: usize,
}

/// Compiles a merge; `seed` feeds random methods.
///
/// # Errors
/// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
pub fn build(merge: &Merge, seed: u64) -> Result<Draft> {
    let spec = merge.method.spec();
    let slices = || merge.parts.iter().flat_map(|p| &p.slices);
    refuse_misplaced(slices(), spec)?;
    let mut models = Models::default();
    // The output's config is the base's, else the first model's; never at random.
    let from = match (&merge.base, slices().next()) {
        (Some(base), _) => models.open(base)?,
        (None, Some(first)) => models.open(&first.sources[0].model)?,
        (None, None) => return Err(Error::recipe("slices", "is empty")),
    };
    for path in slices().flat_map(|s| s.base.iter().chain(s.sources.iter().map(|m| &m.model))) {
        models.open(path)?;
    }
    refuse_adapters(&models)?;
    let by_module = ByModule::new(&merge.parts, &models)?;
    let mut parts = Vec::new();
    for (index, part) in merge.parts.iter().enumerate() {
        let holds = |name: &str| by_module.holds(index, name);
        let mut stages = Vec::new();
        let mut first = 0;
        for slice in &part.slices {
            let stage = stage(merge, slice, spec, &mut models, first, &holds)?;
            first += stage.count;
            stages.push(stage);
        }
        parts.push(stages);
    }
    // Of several modules only one can have the layers that config.json counts: the first that is cut into slices.
    let sliced = merge.parts.iter().zip(&parts).find(|(part, _)| !part.whole).map(|(_, stages)| stages);
    let layers = sliced.map(|stages| {
        stages.iter().flat_map(|s| (0..s.count).map(|i| (lead(s).model, lead(s).start + i))).collect::<Vec<_>>()
    });
    let config = OutputConfig { from, layers, dtype: merge.dtype, mostly: None, untied: false };
    let labels = models.labels();
    let mut draft = Draft::new(format!("merge {}", spec.name), models, config);
    for (index, (part, stages)) in merge.parts.iter().zip(&parts).enumerate() {
        let holds = |name: &str| by_module.holds(index, name);
        let layers = stages.iter().map(|s| s.count).sum();
        let builder = Builder { merge, part, spec, labels: &labels, seed, holds: &holds, layers };
        if part.whole {
            builder.whole(&mut draft, &stages[0])?;
        } else {
            builder.sliced(&mut draft, stages)?;
        }
    }
    draft.settle_head();
    draft.warnings.extend(unused_rules(merge));
    Ok(draft)
}

/// Rules of the recipe that decide nothing, or not what they seem to.
fn unused_rules(merge: &Merge) -> Vec<String> {
    let slices = || merge.parts.iter().flat_map(|p| &p.slices);
    let all = slices()
        .flat_map(|s| s.sources.iter().map(|m| &m.parameters).chain([&s.parameters]))
        .chain(merge.parts.iter().map(|p| &p.parameters))
        .chain([&merge.parameters]);
    let mut warnings = Vec::new();
    for rule in all.flatten().flat_map(|s| &s.rules) {
        match (&rule.filter, rule.used.get(), rule.crowded.get()) {
            (Some(filter), false, _) => {
                warnings.push(format!("{}: filter `{}` decides 0 tensors", rule.at, filter.text()));
            }
            (_, _, Some(n)) => warnings.push(format!(
                "{}: the gradient has more values than the {n} layer{} it is spread over; not all of them are reached",
                rule.at,
                if n == 1 { "" } else { "s" }
            )),
            _ => {}
        }
    }
    warnings
}

/// The source whose tensors name and order the output's.
fn lead<'a, 'b>(stage: &'b Stage<'a>) -> &'b Source<'a> {
    stage.base.as_ref().unwrap_or(&stage.inputs[0])
}

/// The base, if there is one, and the inputs.
fn members<'a, 'b>(stage: &'b Stage<'a>) -> impl Iterator<Item = &'b Source<'a>> {
    stage.base.iter().chain(&stage.inputs)
}

/// Names of the tensors of a slice's models: the lead's in their order, then what only others have.
fn union(draft: &Draft, stage: &Stage) -> Vec<String> {
    let mut seen = HashSet::new();
    std::iter::once(lead(stage))
        .chain(members(stage))
        .flat_map(|s| &draft.models.get(s.model).tensors)
        .filter(|t| seen.insert(t.name.as_str()))
        .map(|t| t.name.clone())
        .collect()
}

/// Names outside the layers, of the first and the last slice: those before the layers and those after.
fn outside(draft: &Draft, first: &Stage, last: &Stage, stack: &str, holds: Holds) -> (Vec<String>, Vec<String>) {
    let mut names = union(draft, first);
    let known: HashSet<String> = names.iter().cloned().collect();
    names.extend(union(draft, last).into_iter().filter(|n| !known.contains(n)));
    names.retain(|n| holds(n) && split_layer(n).is_none_or(|l| l.stack != stack));
    names.into_iter().partition(|n| is_before_layers(n))
}

/// The stack of layers that all slices share.
fn one_stack(draft: &Draft, stages: &[Stage], holds: Holds) -> Result<String> {
    let mut stack = None;
    for source in stages.iter().flat_map(members) {
        let (own, _) = draft.models.stack_among(source.model, holds)?;
        let first = stack.get_or_insert_with(|| own.clone());
        if *first != own {
            let path = &draft.models.get(source.model).path;
            return Err(Error::checkpoint(
                path,
                format!(
                    "its layers are called `{own}`, those of the first model `{first}`; these are different architectures"
                ),
            ));
        }
    }
    Ok(stack.unwrap_or_default())
}

/// The factors of adapters mean something only as products: merged one by one they would be another model.
fn refuse_adapters(models: &Models) -> Result<()> {
    for checkpoint in &models.checkpoints {
        if let Some(t) = checkpoint.tensors.iter().find(|t| t.name.contains(".lora_")) {
            let problem = "is a factor of an adapter; adapters cannot be merged yet: fold them into their models first";
            return Err(Error::tensor(&checkpoint.path, &t.name, problem));
        }
    }
    Ok(())
}

/// A parameter of the whole tensor set under one model would have no effect.
fn refuse_misplaced<'a>(slices: impl Iterator<Item = &'a Slice>, spec: &Spec) -> Result<()> {
    for source in slices.flat_map(|s| &s.sources) {
        for setting in &source.parameters {
            if spec.parameter(setting.name).is_some_and(|p| !p.per_input) {
                return Err(Error::recipe(
                    format!("{}.parameters.{}", source.at, setting.name),
                    format!("`{}` holds for all models together; move it to the outer `parameters`", setting.name),
                ));
            }
        }
    }
    Ok(())
}

/// Tells whether a tensor belongs to the module at hand.
type Holds<'a> = &'a dyn Fn(&str) -> bool;

fn stage<'a>(
    merge: &'a Merge,
    slice: &'a Slice,
    spec: &Spec,
    models: &mut Models,
    first: usize,
    holds: Holds,
) -> Result<Stage<'a>> {
    let base_path = slice.base.as_ref().or(merge.base.as_ref());
    let mut sources: Vec<Source> = Vec::new();
    let mut count = None;
    for entry in &slice.sources {
        let model = models.open(&entry.model)?;
        let layers = models.stack_among(model, holds).map_or(0, |(_, n)| n);
        let (start, end) = entry.layers.unwrap_or((0, layers));
        if end > layers {
            return Err(Error::recipe(
                format!("{}.layer_range", entry.at),
                format!("ends at {end}, but {} has {layers} layers", entry.model.display()),
            ));
        }
        let n = end - start;
        match count {
            None => count = Some(n),
            Some(c) if c == n => {}
            Some(c) => {
                return Err(Error::recipe(
                    &entry.at,
                    format!(
                        "{} gives {n} layers, the first model gives {c}; they must be as many",
                        entry.model.display()
                    ),
                ));
            }
        }
        if sources.iter().any(|s| s.model == model) {
            return Err(Error::recipe(
                &entry.at,
                format!("{} is listed twice; give it one entry and one weight", entry.model.display()),
            ));
        }
        sources.push(Source { entry, model, start });
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
        (Base::None, Err(model)) if model != usize::MAX => {
            return Err(Error::recipe(
                "base_model",
                format!("method {} takes no base; remove base_model, or list it under `models` too", spec.name),
            ));
        }
        (Base::None, _) => (None, sources),
        (Base::Optional, Err(usize::MAX)) => (None, sources),
        (Base::Required | Base::Optional, Ok(i)) => (Some(sources.remove(i)), sources),
        (Base::First, Ok(i)) => {
            let base = sources.remove(i);
            sources.insert(0, base);
            (None, sources)
        }
        (_, Err(model)) => {
            // A base that is not listed lends the layers that the models start from.
            let start = sources[0].start;
            if sources.iter().any(|s| s.start != start) {
                return Err(Error::recipe(
                    &slice.at,
                    "the sources take different layers; list the base among them with the layers it gives",
                ));
            }
            let entry = sources[0].entry;
            let base = Source { entry, model, start };
            if spec.base == Base::First {
                let mut all = vec![base];
                all.append(&mut sources);
                (None, all)
            } else {
                (Some(base), sources)
            }
        }
    };
    let (least, most) = spec.inputs;
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

struct Builder<'a> {
    merge: &'a Merge,
    part: &'a Part,
    spec: &'a Spec,
    labels: &'a [String],
    seed: u64,
    holds: Holds<'a>,
    /// Layers of the output's part.
    layers: usize,
}

impl Builder<'_> {
    /// `models:`: every tensor under its own name, in the order of the lead's bytes.
    fn whole(&self, draft: &mut Draft, stage: &Stage) -> Result<()> {
        let stack = draft.models.stack_among(lead(stage).model, self.holds).ok().map(|(s, _)| s);
        for name in union(draft, stage).into_iter().filter(|n| (self.holds)(n)) {
            let position =
                split_layer(&name).filter(|l| Some(l.stack) == stack.as_deref()).map(|l| (l.layer, stage.count));
            self.tensor(draft, stage, &name, position, |_| name.clone())?;
        }
        Ok(())
    }

    /// `slices:`: embeddings of the first slice's models, each slice's layers renumbered, the rest of the last's.
    fn sliced(&self, draft: &mut Draft, stages: &[Stage]) -> Result<()> {
        let (Some(first), Some(last)) = (stages.first(), stages.last()) else { return Ok(()) };
        let stack = one_stack(draft, stages, self.holds)?;
        let (before, after) = outside(draft, first, last, &stack, self.holds);
        for name in before {
            self.either(draft, first, last, &name)?;
        }
        for stage in stages {
            let mut by_layer: HashMap<usize, Vec<String>> = HashMap::new();
            let mut seen = HashSet::new();
            for source in members(stage) {
                for t in &draft.models.get(source.model).tensors {
                    let Some(l) = split_layer(&t.name).filter(|l| l.stack == stack) else { continue };
                    if let Some(i) = l.layer.checked_sub(source.start).filter(|i| *i < stage.count)
                        && seen.insert((i, l.rest.to_owned()))
                    {
                        by_layer.entry(i).or_default().push(l.rest.to_owned());
                    }
                }
            }
            for i in 0..stage.count {
                for rest in by_layer.remove(&i).unwrap_or_default() {
                    let output = format!("{stack}{}.{rest}", stage.first + i);
                    let name_in = |s: &Source| format!("{stack}{}.{rest}", s.start + i);
                    self.tensor(draft, stage, &output, Some((i, stage.count)), name_in)?;
                }
            }
        }
        for name in after {
            self.either(draft, last, first, &name)?;
        }
        Ok(())
    }

    /// A tensor outside the layers, from the models of one slice or, if these lack it, of another.
    fn either(&self, draft: &mut Draft, wanted: &Stage, other: &Stage, name: &str) -> Result<()> {
        let have = |draft: &Draft, stage: &Stage| members(stage).all(|s| draft.models.find(s.model, name).is_some());
        let stage = if !have(draft, wanted) && have(draft, other) { other } else { wanted };
        self.tensor(draft, stage, name, None, |_| name.to_owned())
    }

    /// True if the tensor is merged, false if it stays that of the base or of the first model.
    fn selects(&self, name: &str) -> bool {
        let included = self.merge.include.as_ref().is_none_or(|list| list.iter().any(|f| f.matches(name)));
        included && !self.merge.exclude.iter().any(|f| f.matches(name))
    }

    fn tensor(
        &self,
        draft: &mut Draft,
        stage: &Stage,
        output: &str,
        position: Position,
        name_in: impl Fn(&Source) -> String,
    ) -> Result<()> {
        let holder = members(stage).find(|s| draft.models.get(s.model).find(&name_in(s)).is_some());
        let wanted_by = draft.models.get(holder.unwrap_or(lead(stage)).model).path.clone();
        let need = |draft: &Draft, s: &Source| draft.models.need(s.model, &name_in(s), &wanted_by);
        if !self.selects(output) {
            // What the first model lacks and the recipe leaves out is left out.
            return match draft.models.find(lead(stage).model, &name_in(lead(stage))) {
                Some(from) => draft.copy(output.to_owned(), from, self.merge.dtype),
                None => Ok(()),
            };
        }
        let base = stage.base.as_ref().map(|s| need(draft, s)).transpose()?;
        let mut inputs: Vec<Place> = stage.inputs.iter().map(|s| need(draft, s)).collect::<Result<_>>()?;
        let names: Vec<String> = stage.inputs.iter().map(&name_in).collect();
        let rules: Vec<InputRules> = stage
            .inputs
            .iter()
            .zip(&names)
            .map(|(s, name)| InputRules { own: &s.entry.parameters, name, label: &self.labels[s.model] })
            .collect();
        let levels = [&stage.slice.parameters, &self.part.parameters, &self.merge.parameters];
        let mut params = resolve(self.spec, output, position, &rules, &levels, self.seed)?;
        params.based = base.is_some();
        params.layered = split_layer(output).is_some();
        // Gradients run over the slice, depth over all layers.
        params.depth = position.and_then(|(i, _)| depth(Some((stage.first + i, self.layers))));
        let computes = base.iter().chain(&inputs).all(|p| draft.models.tensor(*p).dtype.computes());
        for p in self.spec.parameters.iter().filter(|p| computes && matches!(p.kind, Kind::Checkpoint)) {
            for (value, name) in params.per_input.get(p.name).into_iter().flatten().zip(&names) {
                let Value::Word(path) = value else { continue };
                let model = draft.models.open(&PathBuf::from(path))?;
                inputs.push(draft.models.need(model, name, &wanted_by)?);
            }
        }
        let name = output.to_owned();
        match inputs[..] {
            // One model and nothing beside it, given back as it is.
            [only] if base.is_none() && self.merge.method.identity(&params) => draft.copy(name, only, self.merge.dtype),
            _ => draft.compute(Computation {
                name,
                method: self.merge.method,
                params,
                base: base.map(View::from),
                inputs: inputs.into_iter().map(View::from).collect(),
                dtype: self.merge.dtype,
                at: stage.slice.at.clone(),
            }),
        }
    }
}
