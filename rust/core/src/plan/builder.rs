//! The tensors of a merge's part, laid down one by one: which tensor of which model goes into each, with which parameters.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::models::unclear;
use super::select::{InputRules, Position, depth, resolve};
use super::stage::{Holds, Loose, Source, Stage, one_stack, outside};
use super::{Computation, Draft, gram};
use crate::error::Result;
use crate::methods::{Kind, Spec, Value};
use crate::model::names::{is_router, split_layer};
use crate::recipe::{Merge, Missing, Part};
use crate::view::{Place, View};

/// What one part of a merge is built with.
pub(super) struct Builder<'a> {
    pub merge: &'a Merge,
    pub part: &'a Part,
    pub spec: &'a Spec,
    pub labels: &'a [String],
    pub seed: u64,
    pub holds: Holds<'a>,
    /// Layers of the output's part.
    pub layers: usize,
    /// The model of the base, and the one that routers come from.
    pub base: Option<usize>,
    pub routers: Option<usize>,
}

/// A tensor of the output.
struct Wanted<'a> {
    stage: &'a Stage<'a>,
    /// Its name.
    output: &'a str,
    /// Its layer.
    position: Position,
    /// Its name in each source.
    name_in: &'a dyn Fn(&Source) -> String,
    /// A model that has it.
    by: usize,
}

impl Builder<'_> {
    /// `models:`: every tensor under its own name, in the order of the lead's bytes.
    pub fn whole(&self, draft: &mut Draft, stage: &Stage) -> Result<()> {
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
    pub fn sliced(&self, draft: &mut Draft, stages: &[Stage]) -> Result<()> {
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
        if let (Some(model), true) = (self.routers, is_router(output)) {
            let from = draft.models.need(model, &name_in(stage.lead()), wanted_by)?;
            return draft.copy(output.to_owned(), from, self.merge.dtype);
        }
        let have = |draft: &Draft, s: &Source| draft.models.find(s.model, &name_in(s)).is_some();
        let lacks: Vec<usize> = stage.members().filter(|s| !have(draft, s)).map(|s| s.model).collect();
        if !lacks.is_empty() && self.merge.missing != Missing::Error {
            let Some(holder) = holder else { return Ok(()) };
            let wanted = Wanted { stage, output, position, name_in: &name_in, by: holder.model };
            return self.without(draft, &wanted, holder);
        }
        let all: Vec<&Source> = stage.inputs.iter().collect();
        self.merged(draft, &Wanted { stage, output, position, name_in: &name_in, by: wanted_by }, &all, None)
    }

    /// A tensor that some of the models lack, as `missing` says; `holder` is one that has it.
    fn without(&self, draft: &mut Draft, wanted: &Wanted, holder: &Source) -> Result<()> {
        let stage = wanted.stage;
        let find = |draft: &Draft, s: &Source| draft.models.find(s.model, &(wanted.name_in)(s));
        let lacking = stage.members().filter(|s| find(draft, s).is_none());
        let lacking: Vec<String> = lacking.map(|s| self.labels[s.model].clone()).collect();
        draft.lacking(wanted.output, &lacking);
        let own = stage.base.as_ref().or(stage.members().find(|s| Some(s.model) == self.base));
        if let (Missing::Base, Some(base)) = (self.merge.missing, own.and_then(|s| find(draft, s))) {
            let all: Vec<&Source> = stage.inputs.iter().collect();
            return self.merged(draft, wanted, &all, Some(base));
        }
        let kept: Vec<&Source> = stage.inputs.iter().filter(|s| find(draft, s).is_some()).collect();
        let base_lacks = stage.base.as_ref().is_some_and(|s| find(draft, s).is_none());
        if base_lacks || kept.len() < self.spec.inputs.0.max(1) {
            // Nothing is left to merge, or to change.
            let from = draft.models.need(holder.model, &(wanted.name_in)(holder), holder.model)?;
            return draft.copy(wanted.output.to_owned(), from, self.merge.dtype);
        }
        self.merged(draft, wanted, &kept, None)
    }

    /// A tensor of the models in `kept`; `stand_in` is what stands for it in those that lack it.
    fn merged(&self, draft: &mut Draft, wanted: &Wanted, kept: &[&Source], stand_in: Option<Place>) -> Result<()> {
        let Wanted { stage, output, position, name_in, by: wanted_by } = *wanted;
        let need = |draft: &Draft, s: &Source| match stand_in {
            Some(base) if draft.models.find(s.model, &name_in(s)).is_none() => Ok(base),
            _ => draft.models.need(s.model, &name_in(s), wanted_by),
        };
        let base = stage.base.as_ref().map(|s| need(draft, s)).transpose()?;
        if let ([], Some(base)) = (kept, base) {
            return draft.copy(output.to_owned(), base, self.merge.dtype);
        }
        let mut inputs: Vec<Place> = kept.iter().map(|s| need(draft, s)).collect::<Result<_>>()?;
        let names: Vec<String> = kept.iter().map(|s| name_in(s)).collect();
        let rules: Vec<InputRules> = kept
            .iter()
            .zip(&names)
            .map(|(s, name)| InputRules { own: &s.entry.parameters, name, label: &self.labels[s.model] })
            .collect();
        let levels = [&stage.slice.parameters, &self.part.parameters, &self.merge.parameters];
        let mut params = resolve(self.spec, output, position, &rules, &levels, self.seed)?;
        params.based = base.is_some();
        params.twin = twin(draft, stage, output, name_in);
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
        let mut beside = Vec::new();
        for p in self.spec.parameters.iter().filter(|p| computes && matches!(p.kind, Kind::Gram)) {
            for (value, name) in params.per_input.get(p.name).into_iter().flatten().zip(&names) {
                let Value::Word(path) = value else { continue };
                let file = draft.models.open(&Path::new(path).into())?;
                draft.grams.insert(file);
                beside.push(gram::Beside { file, name });
            }
        }
        let apart = inputs.first().map_or(Ok(Vec::new()), |own| gram::of(&draft.models, *own, &beside))?;
        params.apart = apart.len();
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
                apart,
                dtype: self.merge.dtype,
                at: stage.slice.at.clone(),
            }),
        }
    }
}

/// The tensor whose random masks the one called `output` takes: the one it is a copy of in every model that has both.
fn twin(draft: &Draft, stage: &Stage, output: &str, name_in: &dyn Fn(&Source) -> String) -> Option<String> {
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
