//! Compiles a merge recipe: which tensor of which model goes into which output tensor, with which parameters.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::models::unclear;
use super::modules::ByModule;
use super::select::{InputRules, Position, depth, resolve};
use super::stage::{Holds, Loose, Source, Stage, one_stack, outside, stage};
use super::{Computation, Draft, Models, OutputConfig, Relaid, Vocabulary, idle, notes};
use crate::checkpoint::Reference;
use crate::error::{Error, Result};
use crate::methods::{Base, Kind, Spec, Value};
use crate::model::names::split_layer;
use crate::recipe::{Merge, Part, Slice};
use crate::view::{Place, View};

/// Compiles a merge; `seed` feeds random methods, and `vocabulary` is what models of different ones are brought to.
///
/// # Errors
/// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
pub fn build(merge: &Merge, seed: u64, vocabulary: Option<&Vocabulary>) -> Result<Draft> {
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
    if let Some(vocabulary) = vocabulary {
        models.align(vocabulary)?;
    }
    refuse_adapters(&models)?;
    let by_module = ByModule::new(&merge.parts, &models)?;
    let mut parts = Vec::new();
    for (index, part) in merge.parts.iter().enumerate() {
        let holds = |name: &str| by_module.holds(index, name);
        let mut stages = Vec::new();
        let mut first = 0;
        for slice in &part.slices {
            let stage = stage(merge, part, slice, spec, &mut models, first, &holds)?;
            first += stage.count;
            stages.push(stage);
        }
        parts.push(stages);
    }
    let sliced = merge.parts.iter().zip(&parts).filter(|(part, _)| !part.whole);
    let stacks = sliced.map(|(_, stages)| relaid(&models, from, stages)).collect();
    let config = OutputConfig { stacks, ..OutputConfig::of(from, merge.dtype) };
    let labels = models.labels();
    let mut draft = Draft::new(format!("merge {}", spec.name), models, config);
    let anatomy = draft.models.get(from).anatomy();
    if let (2.., Ok(stack)) = (anatomy.stacks.len(), anatomy.choose(merge.parts[0].stack.as_deref())) {
        let told = format!("`{}` ({}, {} layers: `{}`)", stack.label, stack.role.name(), stack.layers, stack.prefix);
        draft.notes.push(("stack".to_owned(), told));
    }
    draft.warnings.extend(merge.idle.iter().cloned());
    draft.warnings.extend(base_unmerged(merge, &draft.models));
    draft.stack = merge.parts.iter().find_map(|p| p.stack.clone());
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
    let stages: Vec<_> = merge.parts.iter().map(|p| p.whole).zip(parts).collect();
    let named = merge.parts.iter().map(|p| p.name.as_deref()).collect::<Vec<_>>();
    draft.notes.extend(notes::notes(&draft, spec, &stages));
    draft.notes.extend(notes::modules(&draft, &named, &by_module));
    draft.settle_head()?;
    draft.warnings.extend(idle::told(&draft, merge)?);
    Ok(draft)
}

/// The tensor whose random masks the one called `output` takes: the one it is a copy of in every model that has both.
fn twin(draft: &Draft, stage: &Stage, output: &str, name_in: &impl Fn(&Source) -> String) -> Option<String> {
    // Only tensors outside the layers are tied, and these have the same name everywhere.
    if split_layer(output).is_some() {
        return None;
    }
    let original = |s: &Source| Some(draft.models.get(s.model).original(&name_in(s))?.name.clone());
    let mut found = stage.members().map(original);
    let first = found.next()??;
    found.all(|o| o.as_ref() == Some(&first)).then_some(first)
}

/// Whether a source's model has a tensor of this shape.
fn same(draft: &Draft, source: &Source, name: &str, shape: &[u64]) -> bool {
    draft.models.find(source.model, name).is_some_and(|p| draft.models.tensor(p).shape == shape)
}

/// Whether the lead of a slice has stacks of layers, of which nothing tells which is meant.
fn several(draft: &Draft, stage: &Stage) -> bool {
    !draft.models.get(stage.lead().model).anatomy().stacks.is_empty()
}

/// Which layers of which models the output's layers of a part are, and which key of each model's config counts them.
fn relaid(models: &Models, from: usize, stages: &[Stage]) -> Relaid {
    let layers = stages.iter().flat_map(|s| (0..s.count).map(|i| (s.lead().model, s.lead().start + i)));
    let key = |source: &Source| Some(source.stack.as_ref().ok()?.count.as_ref()?.key.clone());
    let mut keys: Vec<(usize, Option<String>)> =
        stages.iter().map(Stage::lead).map(|lead| (lead.model, key(lead))).collect();
    let lead = stages.first().and_then(|s| s.lead().stack.as_ref().ok());
    let own = lead.and_then(|stack| models.get(from).anatomy().alike(stack));
    keys.push((from, own.and_then(|s| Some(s.count.as_ref()?.key.clone()))));
    for source in stages.iter().flat_map(Stage::members) {
        keys.push((source.model, key(source)));
    }
    keys.sort_by_key(|(model, key)| (*model, key.is_none()));
    keys.dedup_by_key(|(model, _)| *model);
    let merged = stages.iter().flat_map(|s| {
        let others = s.members().filter(|m| m.model != s.lead().model);
        others.flat_map(|m| (0..s.count).map(|i| (s.first + i, m.model, m.start + i)))
    });
    let (stack, prefix) = lead.map_or(Default::default(), |s| (s.label.clone(), s.prefix.clone()));
    Relaid { stack, prefix, layers: layers.collect(), merged: merged.collect(), keys }
}

/// What is to be said of a base that the method starts from nothing with.
fn base_unmerged(merge: &Merge, models: &Models) -> Option<String> {
    let base = merge.base.as_ref()?;
    let same = |model: &Reference| models.index(model).is_some_and(|i| models.index(base) == Some(i));
    let mut sources = merge.parts.iter().flat_map(|p| &p.slices).flat_map(|s| &s.sources);
    let listed = sources.any(|s| same(&s.model));
    let name = merge.method.spec().name;
    match merge.method.spec().base {
        Base::None if !listed => {
            Some(format!("base_model: {name} has no base; {base} gives the config and the files beside it"))
        }
        Base::Input if !listed => {
            Some(format!("base_model: {name} has no base; {base} is merged as one of the models"))
        }
        _ => None,
    }
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
        let stack = match &stage.lead().stack {
            Ok(stack) => Some(stack),
            Err(problem) if self.part.stack.is_some() || (self.by_layer(stage) && several(draft, stage)) => {
                return Err(unclear(draft.models.get(stage.lead().model), problem.clone()));
            }
            Err(_) => None,
        };
        let position = |name: &str| {
            let own = split_layer(name).zip(stack).filter(|(l, s)| l.stack() == s.prefix && l.layer < s.layers);
            own.map(|(l, _)| (l.layer, stage.count))
        };
        for name in stage.union(draft).into_iter().filter(|n| (self.holds)(n)) {
            self.tensor(draft, stage, &name, position(&name), |_| name.clone())?;
        }
        Ok(())
    }

    /// Whether a parameter of a slice differs from layer to layer.
    fn by_layer(&self, stage: &Stage) -> bool {
        let own = stage.members().map(|s| &s.entry.parameters);
        let levels = [&stage.slice.parameters, &self.part.parameters, &self.merge.parameters];
        own.chain(levels).flatten().flat_map(|s| &s.rules).any(|r| r.shape.by_layer())
    }

    /// `slices:`: embeddings of the first slice's models, each slice's layers renumbered, the final norm and the head of the last's;
    /// other parts of the model come from the first slice's models whole.
    fn sliced(&self, draft: &mut Draft, stages: &[Stage]) -> Result<()> {
        let (Some(first), Some(last)) = (stages.first(), stages.last()) else { return Ok(()) };
        let stack = one_stack(draft, stages)?;
        let (early, late) = outside(draft, first, last, self.layers, self.holds);
        for loose in early {
            self.either(draft, first, last, &loose)?;
        }
        for stage in stages {
            // Tensors of a layer by the layer's place in the slice: the name in any layer, of the first that has it.
            let mut by_layer: HashMap<usize, Vec<String>> = HashMap::new();
            let mut seen = HashSet::new();
            for source in stage.members() {
                for t in &draft.models.get(source.model).tensors {
                    let own = source.stack.as_ref().map_or(&stack.prefix, |s| &s.prefix);
                    let Some(l) = split_layer(&t.name).filter(|l| l.stack() == own) else { continue };
                    // Another model may call its layers otherwise, as its family did at another time.
                    let named = |layer: usize| l.at(layer).replacen(own.as_str(), &stack.prefix, 1);
                    if let Some(i) = l.layer.checked_sub(source.start).filter(|i| *i < stage.count)
                        && seen.insert((i, named(0)))
                    {
                        by_layer.entry(i).or_default().push(named(l.layer));
                    }
                }
            }
            for i in 0..stage.count {
                for name in by_layer.remove(&i).unwrap_or_default() {
                    let at = |layer: usize| split_layer(&name).map_or(name.clone(), |l| l.at(layer));
                    let name_in = |s: &Source| at(s.start + i);
                    self.tensor(draft, stage, &at(stage.first + i), Some((i, stage.count)), name_in)?;
                }
            }
        }
        for loose in late {
            self.either(draft, last, first, &loose)?;
        }
        Ok(())
    }

    /// A tensor outside the layers, from the models of one slice or, if these lack it, of another.
    fn either(&self, draft: &mut Draft, wanted: &Stage, other: &Stage, loose: &Loose) -> Result<()> {
        let have = |draft: &Draft, stage: &Stage| {
            stage.members().all(|s| draft.models.find(s.model, &loose.name_in(s)).is_some())
        };
        let stage = if !have(draft, wanted) && have(draft, other) { other } else { wanted };
        self.tensor(draft, stage, &loose.output, None, |s| loose.name_in(s))
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
        let holder = stage.members().find(|s| draft.models.get(s.model).find(&name_in(s)).is_some());
        let wanted_by = holder.unwrap_or(stage.lead()).model;
        let need = |draft: &Draft, s: &Source| draft.models.need(s.model, &name_in(s), wanted_by);
        let buffer = holder.is_some_and(|s| {
            let found = draft.models.find(s.model, &name_in(s)).map(|p| draft.models.tensor(p));
            found.is_some_and(|t| t.is_buffer() && !stage.members().all(|o| same(draft, o, &name_in(o), &t.shape)))
        });
        if buffer {
            draft.leave_buffer(output);
        }
        if buffer || !self.selects(output) {
            // What the first model lacks and the recipe leaves out is left out.
            return match draft.models.find(stage.lead().model, &name_in(stage.lead())) {
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
        params.twin = twin(draft, stage, output, &name_in);
        params.layered = split_layer(output).is_some();
        // Gradients run over the slice, depth over all layers.
        params.depth = position.and_then(|(i, _)| depth(Some((stage.first + i, self.layers))));
        let computes = base.iter().chain(&inputs).all(|p| draft.models.tensor(*p).dtype.computes());
        for p in self.spec.parameters.iter().filter(|p| computes && matches!(p.kind, Kind::Checkpoint)) {
            for (value, name) in params.per_input.get(p.name).into_iter().flatten().zip(&names) {
                let Value::Word(path) = value else { continue };
                let model = draft.models.open(&Path::new(path).into())?;
                inputs.push(draft.models.need(model, name, wanted_by)?);
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
