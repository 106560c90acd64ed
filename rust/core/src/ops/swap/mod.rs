//! Layer swapping (Bandarkar et al., "Layer swapping for zero-shot cross-lingual transfer in LLMs", arXiv 2410.01335).
//!
//! Layers come from donors, those at the borders are blended, everything else is the recipient's. What is not blended is
//! moved bit for bit.

mod heads;
mod notes;
mod shares;

use std::collections::HashSet;
use std::path::Path;

use crate::error::{Error, Result};
use crate::methods::{Params, Value, registry};
use crate::model::names::{module, split_layer};
use crate::plan::{Computation, Draft, Models, OutputConfig, same_shape};
use crate::recipe::{NonLayer, Swap};
use crate::view::{Place, View};
use heads::Heads;
use shares::shares;

/// A donor with its model opened.
struct Giver {
    model: usize,
    /// The model it was tuned from, where its change moves and not its weights.
    base: Option<usize>,
    /// Its share in each layer.
    shares: Vec<f64>,
}

struct Builder<'a> {
    swap: &'a Swap,
    draft: Draft,
    into: usize,
    base: Option<usize>,
    givers: Vec<Giver>,
    stack: String,
    /// Elements of a query head, as far as the recipient's tensors tell.
    head_size: Option<u64>,
    /// Whether a donor has given anything.
    given: bool,
}

/// Compiles a swap; `keep_shards` leaves every tensor in the shard it has in the recipient.
///
/// # Errors
/// Layers that do not exist, models with different layers, tensors or shapes, layers that two donors give.
pub fn build(swap: &Swap, keep_shards: bool) -> Result<Draft> {
    let mut models = Models::default();
    let into = models.open(&swap.into)?;
    let (stack, mut layers) = models.stack(into)?;
    if swap.adapters {
        // An adapter may leave layers out; what counts is where any of them ends.
        for donor in &swap.donors {
            let model = models.open(&donor.from)?;
            layers = layers.max(models.stack(model)?.1);
        }
    }
    let mut givers = Vec::new();
    for donor in &swap.donors {
        let model = models.open(&donor.from)?;
        same_layers(&models, into, model, swap.adapters)?;
        let base = donor.base.as_ref().map(|b| models.open(b)).transpose()?;
        givers.push(Giver { model, base, shares: shares(donor, layers)? });
    }
    let base = swap.base.as_ref().map(|b| models.open(b)).transpose()?;
    for giver in &mut givers {
        // From the same base the donor's weights are base and change already.
        giver.base = giver.base.filter(|b| Some(*b) != base);
    }
    let config = OutputConfig { from: into, layers: None, dtype: swap.dtype, mostly: None, untied: false };
    let mut draft = Draft::new("swap".into(), models, config);
    draft.keep_shards_of = keep_shards.then_some(into);
    draft.stem = if swap.adapters { "adapter_model" } else { "model" };
    let all: Vec<&[f64]> = givers.iter().map(|g| g.shares.as_slice()).collect();
    draft.notes = notes::notes(swap, &all, &draft.models.labels(), &givers.iter().map(|g| g.model).collect::<Vec<_>>());
    let head_size = draft.models.get(into).tensors.iter().find_map(|t| heads::size(swap, &t.name, &t.shape));
    let mut builder = Builder { swap, draft, into, base, givers, stack, head_size, given: false };
    if swap.adapters {
        builder.adapters()?;
    } else {
        builder.layers()?;
    }
    let Builder { mut draft, givers, given, .. } = builder;
    draft.settle_head();
    if givers.iter().any(|g| g.model == into) {
        draft.warnings.push("donor and recipient are the same checkpoint".into());
    }
    if !given {
        draft.warnings.push("no layer is swapped; give --bottom, --top or --layers, and modules that there are".into());
    }
    Ok(draft)
}

/// Checks that a donor has the recipient's layers; an adapter may be without some.
fn same_layers(models: &Models, into: usize, donor: usize, adapters: bool) -> Result<()> {
    let ((stack, layers), (own_stack, own)) = (models.stack(into)?, models.stack(donor)?);
    if stack == own_stack && (layers == own || adapters) {
        return Ok(());
    }
    let problem =
        format!("has {own} layers `{own_stack}`, the recipient has {layers} layers `{stack}`; they must match");
    Err(Error::checkpoint(&models.get(donor).path, problem))
}

impl Builder<'_> {
    /// The layer of the recipient's stack that a tensor is in.
    fn layer(&self, name: &str) -> Option<usize> {
        split_layer(name).filter(|l| l.stack == self.stack).map(|l| l.layer)
    }

    /// The module of a tensor of the recipient; that of a quantised weight for all that comes with it.
    fn module(&self, own: Place, name: &str) -> String {
        let whole = self.draft.models.family(own);
        let inside = whole.map(|stem| split_layer(stem).map_or(stem, |l| l.rest));
        inside.unwrap_or_else(|| module(name)).to_owned()
    }

    fn layers(&mut self) -> Result<()> {
        self.refuse_extra()?;
        let names: Vec<String> = self.draft.models.get(self.into).tensors.iter().map(|t| t.name.clone()).collect();
        for (tensor, name) in names.into_iter().enumerate() {
            let own = Place { model: self.into, tensor };
            match self.layer(&name) {
                Some(layer) => self.inside(name, own, layer)?,
                None => self.outside(name, own)?,
            }
        }
        self.only_elsewhere()
    }

    /// A tensor of a layer.
    fn inside(&mut self, name: String, own: Place, layer: usize) -> Result<()> {
        let swap = self.swap;
        let shape = self.draft.models.tensor(own).shape.clone();
        let mut claims = Vec::new();
        for (donor, giver) in swap.donors.iter().zip(&self.givers) {
            let share = giver.shares[layer];
            if share == 0.0 {
                continue;
            }
            heads::understood(swap, donor, &name, &shape, self.head_size)?;
            if !donor.modules.contain(&self.module(own, &name)) {
                continue;
            }
            match heads::moved(swap, donor, &name, &shape)? {
                Heads::Stay => {}
                Heads::Whole => claims.push((giver.model, giver.base, share, None)),
                Heads::Some { taken, slicing } => {
                    claims.push((giver.model, giver.base, share, Some((taken, slicing))));
                }
            }
        }
        self.given |= !claims.is_empty();
        let total: f64 = claims.iter().map(|c| c.2).sum();
        if total > 1.0 + 1e-9 || (claims.len() > 1 && claims.iter().any(|c| c.3.is_some())) {
            let givers: Vec<String> =
                claims.iter().map(|c| self.draft.models.get(c.0).path.display().to_string()).collect();
            let problem =
                format!("layer {layer} (`{}`) is given by {}; expected one donor", module(&name), givers.join(" and "));
            return Err(Error::recipe("donors", problem));
        }
        let wanted_by = self.draft.models.get(self.into).path.clone();
        if let [(model, base, share, Some((taken, slicing)))] = claims.as_slice() {
            let donor = self.draft.models.need(*model, &name, &wanted_by)?;
            if base.is_some() || *share != 1.0 {
                return Err(Error::recipe(
                    "heads",
                    "move bit for bit; blends and a donor's own base do not go with them",
                ));
            }
            same_shape(&self.draft.models, &[own, donor])?;
            let (mine, theirs) = (self.draft.models.tensor(own).dtype, self.draft.models.tensor(donor).dtype);
            if mine != theirs {
                let problem = format!(
                    "is {}, and {} in the recipient; heads move between tensors of one dtype",
                    theirs.name(),
                    mine.name()
                );
                return Err(Error::tensor(&self.draft.models.get(donor.model).path, &name, problem));
            }
            let runs = heads::runs(own, donor, taken, slicing, shape.iter().product());
            return self.draft.copy(name, View::Runs(runs), self.swap.dtype);
        }
        let mut parts = vec![(own, 1.0 - total)];
        for (model, base, share, _) in claims {
            parts.push((self.draft.models.need(model, &name, &wanted_by)?, share));
            if let (Some(donor_base), Some(base)) = (base, self.base) {
                parts.push((self.draft.models.need(base, &name, &wanted_by)?, share));
                parts.push((self.draft.models.need(donor_base, &name, &wanted_by)?, -share));
            }
        }
        self.mix(name, own, parts)
    }

    /// A tensor that the recipient has outside the layers.
    fn outside(&mut self, name: String, own: Place) -> Result<()> {
        let wanted_by = self.draft.models.get(self.into).path.clone();
        let mut parts = vec![(own, 1.0)];
        self.given |= self.swap.non_layer != NonLayer::Into;
        match self.swap.non_layer {
            NonLayer::Into => {}
            NonLayer::From => parts = vec![(self.draft.models.need(self.givers[0].model, &name, &wanted_by)?, 1.0)],
            NonLayer::Base => {
                if let Some(base) = self.base {
                    parts = vec![(self.draft.models.need(base, &name, &wanted_by)?, 1.0)];
                }
            }
            NonLayer::Mean | NonLayer::Share(_) => parts = self.everyone(&name, &wanted_by)?,
        }
        self.mix(name, own, parts)
    }

    /// Tensors outside the layers that the recipient does not have: most often a head that it ties to its embedding.
    fn only_elsewhere(&mut self) -> Result<()> {
        let lenders = match self.swap.non_layer {
            NonLayer::Into => return Ok(()),
            NonLayer::Base => self.base.into_iter().collect(),
            _ => self.donors(),
        };
        let mut known: HashSet<String> = HashSet::new();
        let every = |lender: &usize| {
            let tensors = &self.draft.models.get(*lender).tensors;
            tensors.iter().enumerate().map(|(i, t)| (*lender, i, t.name.clone())).collect::<Vec<_>>()
        };
        for (lender, tensor, name) in lenders.iter().flat_map(every).collect::<Vec<_>>() {
            let there = self.layer(&name).is_some() || self.draft.models.get(self.into).find(&name).is_some();
            if there || !known.insert(name.clone()) {
                continue;
            }
            let own = Place { model: lender, tensor };
            let mut parts = vec![(own, 1.0)];
            if matches!(self.swap.non_layer, NonLayer::Mean | NonLayer::Share(_)) {
                parts = self.everyone(&name, &self.draft.models.get(lender).path.clone())?;
            }
            self.mix(name, own, parts)?;
        }
        Ok(())
    }

    /// The donors, each once.
    fn donors(&self) -> Vec<usize> {
        let mut models: Vec<usize> = Vec::new();
        for giver in &self.givers {
            if !models.contains(&giver.model) {
                models.push(giver.model);
            }
        }
        models
    }

    /// A tensor outside the layers that is mixed: the recipient's and every donor's, with their shares.
    fn everyone(&self, name: &str, wanted_by: &Path) -> Result<Vec<(Place, f64)>> {
        let donors = self.donors();
        let share = match self.swap.non_layer {
            NonLayer::Share(share) => share,
            _ => 1.0 / (donors.len() + 1) as f64,
        };
        let need = |model, share| Ok((self.draft.models.need(model, name, wanted_by)?, share));
        let own = need(self.into, 1.0 - share * donors.len() as f64);
        std::iter::once(own).chain(donors.into_iter().map(|donor| need(donor, share))).collect()
    }

    /// Adds a tensor that is `parts` with their shares: a copy where it is one of them, else computed in f64.
    fn mix(&mut self, name: String, own: Place, parts: Vec<(Place, f64)>) -> Result<()> {
        let mut mixed: Vec<(Place, f64)> = Vec::new();
        for (place, share) in parts.into_iter().filter(|(_, share)| *share != 0.0) {
            match mixed.iter_mut().find(|(p, _)| *p == place) {
                Some((_, sum)) => *sum += share,
                None => mixed.push((place, share)),
            }
        }
        mixed.retain(|(_, share)| share.abs() > 1e-12);
        let places: Vec<Place> = mixed.iter().map(|(p, _)| *p).collect();
        same_shape(&self.draft.models, &[&[own], places.as_slice()].concat())?;
        if let [(place, share)] = mixed.as_slice()
            && *share == 1.0
        {
            return self.draft.take(name, *place, own, self.swap.dtype);
        }
        // The donor first, as a blend is told: its share, then the recipient's.
        mixed.sort_by_key(|(p, _)| p.model == self.into);
        let mut params = Params { inputs: mixed.len(), ..Params::default() };
        params.shared.insert("normalize", Value::Bool(false));
        params.per_input.insert("weight", mixed.iter().map(|(_, share)| Value::Number(*share)).collect());
        let dtype = self.swap.dtype.unwrap_or(self.draft.models.tensor(own).dtype);
        self.draft.compute(Computation {
            name,
            method: registry::LINEAR,
            params,
            base: None,
            inputs: mixed.into_iter().map(|(p, _)| p.into()).collect(),
            dtype: Some(dtype),
            at: String::new(),
        })
    }

    /// A tensor inside the layers that only a donor has would be lost.
    fn refuse_extra(&self) -> Result<()> {
        let models = &self.draft.models;
        for giver in &self.givers {
            for t in &models.get(giver.model).tensors {
                if self.layer(&t.name).is_some() && models.get(self.into).find(&t.name).is_none() {
                    models.need(self.into, &t.name, &models.get(giver.model).path)?;
                }
            }
        }
        Ok(())
    }

    /// Adapters: in the layers a donor gives, its tensors and no others; the product of two factors cannot be blended
    /// by blending the factors.
    fn adapters(&mut self) -> Result<()> {
        if self.givers.iter().any(|g| g.base.is_some() || g.shares.iter().any(|s| *s != 0.0 && *s != 1.0)) {
            return Err(Error::recipe(
                "blend",
                "adapters cannot be blended layer by layer; fold them into their models first",
            ));
        }
        if self.swap.donors.iter().any(|d| d.heads.is_some()) {
            return Err(Error::recipe("heads", "adapters have no heads to move; fold them into their models first"));
        }
        if self.swap.non_layer != NonLayer::Into && self.swap.non_layer != NonLayer::From {
            return Err(Error::recipe("non_layer", "expected into or from: adapters cannot be blended"));
        }
        // Which model each tensor of each layer comes from; at most one donor may claim it.
        let owner = |builder: &Self, name: &str| -> Result<usize> {
            let Some(layer) = builder.layer(name) else {
                return Ok(if builder.swap.non_layer == NonLayer::From {
                    builder.givers[0].model
                } else {
                    builder.into
                });
            };
            let module = name.split(".lora_").next().unwrap_or(name);
            let module = module_of(module);
            let claim = |(_, g): &(&crate::recipe::Donor, &Giver)| g.shares.get(layer).is_some_and(|s| *s == 1.0);
            let mut claims = builder
                .swap
                .donors
                .iter()
                .zip(&builder.givers)
                .filter(claim)
                .filter(|(d, _)| d.modules.contain(module));
            let first = claims.next().map(|(_, g)| g.model);
            if claims.next().is_some() {
                return Err(Error::recipe("donors", format!("layer {layer} (`{module}`) is given by two donors")));
            }
            Ok(first.unwrap_or(builder.into))
        };
        let mut models = vec![self.into];
        models.extend(self.donors().into_iter().filter(|m| *m != self.into));
        // An adapter has one dtype; what the recipient has no factor for becomes like its others.
        let like = Place { model: self.into, tensor: 0 };
        for model in models {
            let names: Vec<String> = self.draft.models.get(model).tensors.iter().map(|t| t.name.clone()).collect();
            for (tensor, name) in names.into_iter().enumerate() {
                if owner(self, &name)? == model {
                    self.given |= model != self.into;
                    let own = self.draft.models.find(self.into, &name).unwrap_or(like);
                    self.draft.take(name, Place { model, tensor }, own, self.swap.dtype)?;
                }
            }
        }
        Ok(())
    }
}

/// The module of an adapter's tensor, whose name ends before `.lora_A`.
fn module_of(name: &str) -> &str {
    split_layer(name).map_or(name, |l| l.rest)
}
