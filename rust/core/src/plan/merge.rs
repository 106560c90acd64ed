//! Compiles a merge recipe: which tensor of which model goes into which output tensor, with which parameters.

use super::builder::Builder;
use super::modules::ByModule;
use super::stage::{Source, Stage, stage};
use super::{Draft, Models, OutputConfig, Relaid, Vocabulary, gram, idle, layers, notes};
use crate::checkpoint::Reference;
use crate::error::{Error, Result};
use crate::methods::{Base, Spec};
use crate::model::names::{is_expert, is_router};
use crate::recipe::{Merge, Slice, To};

/// Compiles a merge; `seed` feeds random methods, and `vocabulary` is what models of different ones are brought to.
///
/// # Errors
/// Every mistake that headers and recipe show: names, shapes, dtypes, ranges, parameters.
pub fn build(merge: &Merge, seed: u64, vocabulary: Option<&Vocabulary>) -> Result<Draft> {
    let spec = merge.method.spec();
    let slices = || merge.parts.iter().flat_map(|p| &p.slices);
    refuse_misplaced(slices(), spec)?;
    // What is moved and not computed is moved as it is stored.
    let moves = spec.name == "passthrough" && merge.to.is_none();
    let mut models = Models::opening(!moves);
    let sources = || slices().flat_map(|s| s.base.iter().chain(s.sources.iter().map(|m| &m.model)));
    models.ahead(merge.base.iter().chain(sources()));
    // The output's config is the base's, else the first model's; never at random.
    let from = match (&merge.base, slices().next()) {
        (Some(base), _) => models.open(base)?,
        (None, Some(first)) => models.open(&first.sources[0].model)?,
        (None, None) => return Err(Error::recipe("slices", "is empty")),
    };
    for path in sources() {
        models.open(path)?;
    }
    if merge.to.is_some() {
        models.all_decoded()?
    };
    if moves {
        models.stored_alike()?
    };
    models.named_by(from, merge.experts)?;
    if let Some(vocabulary) = vocabulary {
        models.align(vocabulary)?;
    }
    refuse_adapters(&models)?;
    let base = merge.base.as_ref().and_then(|b| models.index(b));
    let routers = merge.routers.as_ref().map(|model| models.open(model)).transpose()?;
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
    draft.form = merge.to.and_then(To::form);
    draft.warnings.extend(merge.idle.iter().cloned());
    draft.warnings.extend(base_unmerged(merge, &draft.models));
    draft.stack = merge.parts.iter().find_map(|p| p.stack.clone());
    for (index, (part, stages)) in merge.parts.iter().zip(&parts).enumerate() {
        let holds = |name: &str| by_module.holds(index, name);
        let layers = stages.iter().map(|s| s.count).sum();
        let builder = Builder { merge, part, spec, labels: &labels, seed, holds: &holds, layers, base, routers };
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
    layers::settle(&mut draft)?;
    gram::tell(&mut draft)?;
    draft.settle_head()?;
    draft.warnings.extend(routers_averaged(&draft));
    draft.warnings.extend(idle::told(&draft, merge)?);
    Ok(draft)
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

/// What is to be said where both experts and the routers that choose among them are computed: an expert that is none of the
/// parents' gets the tokens of a router that is none of theirs.
fn routers_averaged(draft: &Draft) -> Option<String> {
    let mut computed = draft.computed();
    let router = computed.clone().find(|name| is_router(name))?;
    computed.any(is_expert).then(|| {
        format!("experts and their routers (`{router}`, ...) are merged alike; `routers_from: MODEL` (--routers-from) keeps one model's")
    })
}

/// The factors of adapters mean something only as products: merged one by one they would be another model.
fn refuse_adapters(models: &Models) -> Result<()> {
    for checkpoint in &models.checkpoints {
        if let Some(t) = checkpoint.factor() {
            let problem = "is a factor of an adapter; name the model it is of, `model+adapter`, or merge adapters by `suture lora merge`";
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
