//! Compiles a merge recipe: which tensor of which model goes into which output tensor, with which parameters.

use std::collections::HashMap;

use super::select::{InputRules, Position, resolve};
use super::{Draft, Models, Operand, OutputConfig};
use crate::error::{Error, Result};
use crate::methods::{Base, Spec, Value};
use crate::names::{is_before_layers, split_layer};
use crate::recipe::{Merge, ModelUse, Slice};

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

pub(super) fn build(merge: &Merge, seed: u64) -> Result<Draft> {
    let spec = merge.method.spec();
    refuse_misplaced(merge, spec)?;
    let mut models = Models::default();
    // The output's config is the base's, else the first model's; never at random.
    let from = match &merge.base {
        Some(base) => models.open(base)?,
        None => models.open(&merge.slices[0].sources[0].model)?,
    };
    let mut stages = Vec::new();
    let mut first = 0;
    for slice in &merge.slices {
        let stage = stage(merge, slice, spec, &mut models, first)?;
        first += stage.count;
        stages.push(stage);
    }
    let layers = (!merge.whole).then(|| {
        stages.iter().flat_map(|s| (0..s.count).map(|i| (lead(s).model, lead(s).start + i))).collect::<Vec<_>>()
    });
    let config = OutputConfig { from, layers, dtype: merge.dtype, untied: false };
    let labels = models.labels();
    let mut draft = Draft::new(format!("merge {}", spec.name), models, config);
    let builder = Builder { merge, spec, labels, seed };
    if merge.whole {
        builder.whole(&mut draft, &stages[0])?;
    } else {
        builder.sliced(&mut draft, &stages)?;
    }
    Ok(draft)
}

/// The source whose tensors name and order the output's.
fn lead<'a, 'b>(stage: &'b Stage<'a>) -> &'b Source<'a> {
    stage.base.as_ref().unwrap_or(&stage.inputs[0])
}

/// A parameter of the whole tensor set under one model would have no effect.
fn refuse_misplaced(merge: &Merge, spec: &Spec) -> Result<()> {
    for source in merge.slices.iter().flat_map(|s| &s.sources) {
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

fn stage<'a>(merge: &'a Merge, slice: &'a Slice, spec: &Spec, models: &mut Models, first: usize) -> Result<Stage<'a>> {
    let base_path = slice.base.as_ref().or(merge.base.as_ref());
    let mut sources: Vec<Source> = Vec::new();
    let mut count = None;
    for entry in &slice.sources {
        let model = models.open(&entry.model)?;
        let layers = models.get(model).main_stack().map_or(0, |(_, n)| n);
        let (start, end) = entry.layers.unwrap_or((0, layers));
        if end > layers {
            return Err(Error::recipe(
                format!("{}.layer_range", entry.at),
                format!("ends at {end}, but {} has {layers} layers", entry.model),
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
        sources.push(Source { entry, model, start });
    }
    let listed = match base_path {
        Some(path) => {
            let base = models.open(path)?;
            sources.iter().position(|s| s.model == base).ok_or(base)
        }
        None if spec.base != Base::None => {
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
        (Base::Required, Ok(i)) => (Some(sources.remove(i)), sources),
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
    spec: &'a Spec,
    labels: Vec<String>,
    seed: u64,
}

impl Builder<'_> {
    /// `models:`: every tensor under its own name, in the order of the lead's bytes.
    fn whole(&self, draft: &mut Draft, stage: &Stage) -> Result<()> {
        let lead_model = lead(stage).model;
        let names: Vec<String> = draft.models.get(lead_model).tensors.iter().map(|t| t.name.clone()).collect();
        let stack = draft.models.get(lead_model).main_stack().map(|(s, _)| s);
        for name in &names {
            let position =
                split_layer(name).filter(|l| Some(l.stack) == stack.as_deref()).map(|l| (l.layer, stage.count));
            self.tensor(draft, stage, name, position, |_| name.clone())?;
        }
        // What another model has and the lead lacks is a mistake, unless the lead ties it to its embedding.
        for source in stage.base.iter().chain(&stage.inputs) {
            let own = draft.models.get(source.model);
            let path = own.path.clone();
            let missing = own.tensors.iter().filter(|t| draft.models.get(lead_model).find(&t.name).is_none());
            for name in missing.map(|t| t.name.clone()).collect::<Vec<_>>() {
                draft.models.need(lead_model, &name, &path)?;
                if !draft.config.untied {
                    draft.config.untied = true;
                    draft.warnings.push(format!(
                        "{} ties its head to its embedding and {} does not; the output gets a head of its own",
                        draft.models.get(lead_model).path.display(),
                        path.display()
                    ));
                    self.tensor(draft, stage, &name, None, |_| name.clone())?;
                }
            }
        }
        Ok(())
    }

    /// `slices:`: embeddings of the first slice's models, each slice's layers renumbered, the rest of the last's.
    fn sliced(&self, draft: &mut Draft, stages: &[Stage]) -> Result<()> {
        let (Some(first), Some(last)) = (stages.first(), stages.last()) else { return Ok(()) };
        self.outside(draft, first, true)?;
        for stage in stages {
            let (model, start) = (lead(stage).model, lead(stage).start);
            let (stack, _) = draft.models.stack(model)?;
            let mut by_layer: HashMap<usize, Vec<String>> = HashMap::new();
            for t in &draft.models.get(model).tensors {
                if let Some(l) = split_layer(&t.name).filter(|l| l.stack == stack) {
                    by_layer.entry(l.layer).or_default().push(l.rest.to_owned());
                }
            }
            for i in 0..stage.count {
                for rest in by_layer.remove(&(start + i)).unwrap_or_default() {
                    let output = format!("{stack}{}.{rest}", stage.first + i);
                    self.tensor(draft, stage, &output, Some((i, stage.count)), |s| {
                        format!("{stack}{}.{rest}", s.start + i)
                    })?;
                }
            }
        }
        self.outside(draft, last, false)
    }

    fn outside(&self, draft: &mut Draft, stage: &Stage, before: bool) -> Result<()> {
        let model = lead(stage).model;
        let (stack, _) = draft.models.stack(model)?;
        let names: Vec<String> = draft
            .models
            .get(model)
            .tensors
            .iter()
            .filter(|t| split_layer(&t.name).is_none_or(|l| l.stack != stack) && is_before_layers(&t.name) == before)
            .map(|t| t.name.clone())
            .collect();
        for name in names {
            self.tensor(draft, stage, &name, None, |_| name.clone())?;
        }
        Ok(())
    }

    fn tensor(
        &self,
        draft: &mut Draft,
        stage: &Stage,
        output: &str,
        position: Position,
        name_in: impl Fn(&Source) -> String,
    ) -> Result<()> {
        let wanted_by = draft.models.get(lead(stage).model).path.clone();
        let need = |draft: &Draft, s: &Source| draft.models.need(s.model, &name_in(s), &wanted_by);
        let base = stage.base.as_ref().map(|s| need(draft, s)).transpose()?;
        let inputs: Vec<Operand> = stage.inputs.iter().map(|s| need(draft, s)).collect::<Result<_>>()?;
        let names: Vec<String> = stage.inputs.iter().map(&name_in).collect();
        let rules: Vec<InputRules> = stage
            .inputs
            .iter()
            .zip(&names)
            .map(|(s, name)| InputRules { own: &s.entry.parameters, name, label: &self.labels[s.model] })
            .collect();
        let levels = [&stage.slice.parameters, &self.merge.parameters];
        let params = resolve(self.spec, output, position, &rules, &levels, self.seed)?;
        let name = output.to_owned();
        let dtype = self.merge.dtype;
        if self.spec.name == "passthrough" && params.per_input.get("scale") == Some(&vec![Value::Number(1.0)]) {
            return draft.copy(name, inputs[0], dtype);
        }
        draft.merge(name, self.spec.name, params, base, inputs, dtype)
    }
}
