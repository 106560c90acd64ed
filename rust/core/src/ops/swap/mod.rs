//! Layer swapping (Bandarkar et al., "Layer swapping for zero-shot cross-lingual transfer in LLMs", arXiv 2410.01335).
//!
//! Layers come from donors, those at the borders are blended, everything else is the recipient's. What is not blended is
//! moved bit for bit.

mod adapters;
mod heads;
mod notes;
mod outside;
mod shares;

use std::collections::HashSet;

use crate::error::{Error, Result};
use crate::methods::{Params, Value, registry};
use crate::model::anatomy::Stack;
use crate::model::attention::{Attention, Cut};
use crate::model::names::{inside, module, module_kind};
use crate::plan::{Computation, Draft, Models, OutputConfig, same_shape};
use crate::recipe::{Swap, To};
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

/// Modules that are listed at most where none is found.
const MODULES: usize = 24;

struct Builder<'a> {
    swap: &'a Swap,
    draft: Draft,
    into: usize,
    base: Option<usize>,
    givers: Vec<Giver>,
    stack: Stack,
    /// Elements of a query head, as far as the recipient's tensors tell.
    head_size: Option<u64>,
    /// Whether its matrices are kept transposed.
    transposed: bool,
    /// Whether a donor has given anything.
    given: bool,
}

/// Compiles a swap; `keep_shards` leaves every tensor in the shard it has in the recipient.
///
/// # Errors
/// Layers that do not exist, models with different layers, tensors or shapes, layers that two donors give.
pub fn build(swap: &Swap, keep_shards: bool) -> Result<Draft> {
    let mut models = Models::opening(swap.to.is_some());
    let into = models.open(&swap.into)?;
    models.named_by(into, None)?;
    let mut stack = models.stack(into, swap.stack.as_deref())?.clone();
    for donor in &swap.donors {
        let model = models.open(&donor.from)?;
        let other = same_layers(&models, into, &stack, model, swap.adapters)?;
        // An adapter may leave layers out; what counts is where any of them ends.
        stack.layers = stack.layers.max(other);
    }
    let layers = stack.layers;
    let mut givers = Vec::new();
    for donor in &swap.donors {
        let model = models.open(&donor.from)?;
        let base = donor.base.as_ref().map(|b| models.open(b)).transpose()?;
        givers.push(Giver { model, base, shares: shares(donor, layers)? });
    }
    let base = swap.base.as_ref().map(|b| models.open(b)).transpose()?;
    if swap.to.is_some() {
        models.all_decoded()?
    } else {
        models.stored_alike()?
    };
    for giver in &mut givers {
        // From the same base the donor's weights are base and change already.
        giver.base = giver.base.filter(|b| Some(*b) != base);
    }
    let config = OutputConfig::of(into, swap.dtype);
    let mut draft = Draft::new(if swap.revert { "revert" } else { "swap" }.into(), models, config);
    draft.form = swap.to.and_then(To::form);
    draft.stack = swap.stack.clone();
    draft.keep_shards_of = keep_shards.then_some(into);
    draft.stem = if swap.adapters { "adapter_model" } else { "model" };
    let all: Vec<&[f64]> = givers.iter().map(|g| g.shares.as_slice()).collect();
    let donors: Vec<usize> = givers.iter().map(|g| g.model).collect();
    let alone = draft.models.get(into).anatomy().stacks.len() == 1;
    draft.notes = notes::notes(swap, &stack, &all, &draft.models.labels(), &donors, alone);
    draft.notes.extend(notes::stacks(&stack, draft.models.get(into).anatomy(), &draft.models.labels()[into]));
    let mut builder =
        Builder { swap, draft, into, base, givers, stack, head_size: None, transposed: false, given: false };
    builder.find_heads()?;
    if swap.adapters {
        builder.adapters()?;
    } else {
        builder.layers()?;
    }
    let names = || builder.draft.models.checkpoints.iter().flat_map(|c| &c.tensors);
    if let Some(idle) = swap.ignore.iter().find(|f| !names().any(|t| f.matches(&t.name))) {
        return Err(Error::recipe("ignore", format!("`{}` matches no tensor of these models", idle.text())));
    }
    if !builder.given {
        return Err(builder.nothing());
    }
    let Builder { mut draft, givers, .. } = builder;
    draft.settle_head()?;
    if givers.iter().any(|g| g.model == into) {
        draft.warnings.push("donor and recipient are the same checkpoint".into());
    }
    Ok(draft)
}

/// The number of a donor's layers, which must be the recipient's; an adapter may be without some.
fn same_layers(models: &Models, into: usize, stack: &Stack, donor: usize, adapters: bool) -> Result<usize> {
    let path = &models.get(donor).path;
    let anatomy = models.get(donor).anatomy();
    let Some(own) = anatomy.alike(stack) else {
        let problem = format!(
            "has no layers called `{}`, and the recipient has {} of them; it has {}",
            stack.prefix,
            stack.layers,
            if anatomy.stacks.is_empty() { "no layers".to_owned() } else { anatomy.list() }
        );
        return Err(Error::checkpoint(path, problem));
    };
    if own.layers != stack.layers && !adapters {
        let problem =
            format!("has {} layers `{}`, the recipient has {}; they must match", own.layers, own.prefix, stack.layers);
        return Err(Error::checkpoint(path, problem));
    }
    if let (Some(heads), Some(want)) = (own.heads, stack.heads)
        && heads != want
        && !adapters
    {
        let problem = format!(
            "expected {} attention heads with {} for keys and values as {} has, found {} with {}",
            want.query,
            want.shared,
            models.get(into).path.display(),
            heads.query,
            heads.shared
        );
        return Err(Error::checkpoint(path, problem));
    }
    Ok(own.layers)
}

impl Builder<'_> {
    /// The layer of the recipient's stack that a tensor is in.
    fn layer(&self, name: &str) -> Option<usize> {
        self.stack.layer(name)
    }

    /// What is known of the attention of the layers.
    ///
    /// # Errors
    /// [`Error::Recipe`] if heads are to move and it is not known how many there are.
    fn attention(&self) -> Result<Attention<'_>> {
        let heads = self.stack.heads.ok_or_else(|| {
            let problem = format!(
                "the number of heads in `{}` is not known; the recipient needs a config.json that tells, alike for all layers",
                self.stack.label
            );
            Error::recipe("heads", problem)
        })?;
        Ok(Attention { heads, family: self.stack.family.as_deref(), size: self.head_size, transposed: self.transposed })
    }

    /// Where heads are to move: learns their size, and that every layer concerned has some.
    fn find_heads(&mut self) -> Result<()> {
        if self.swap.donors.iter().all(|d| d.heads.is_none()) || self.swap.adapters {
            return Ok(());
        }
        let checkpoint = self.draft.models.get(self.into);
        let tensors = || checkpoint.tensors.iter().filter(|t| self.layer(&t.name).is_some());
        let attention = checkpoint.attention(&self.stack).map_or_else(|| self.attention(), Ok)?;
        let cut =
            |t: &&crate::checkpoint::Tensor| matches!(attention.cut(&t.name, &t.shape), Cut::Pieces(_) | Cut::Unknown);
        let with: HashSet<usize> = tensors().filter(cut).filter_map(|t| self.layer(&t.name)).collect();
        for (donor, giver) in self.swap.donors.iter().zip(&self.givers).filter(|(d, _)| d.heads.is_some()) {
            if let Some(layer) = (0..giver.shares.len()).find(|l| giver.shares[*l] > 0.0 && !with.contains(l)) {
                let problem = format!("layer {layer} has no attention heads; move the whole layer, or leave it out");
                return Err(Error::recipe(donor.place("heads"), problem));
            }
        }
        (self.head_size, self.transposed) = (attention.size, attention.transposed);
        Ok(())
    }

    /// Why nothing would be swapped.
    fn nothing(&self) -> Error {
        let named = self.givers.iter().any(|g| g.shares.iter().any(|s| *s > 0.0));
        if !named {
            return Error::recipe(
                "",
                "nothing is swapped: no layer is named, and none proposed; give --bottom, --top or --layers",
            );
        }
        if self.swap.donors.iter().all(|d| d.modules_text.is_none() && d.heads.is_none()) {
            if self.swap.ignore.is_empty() {
                let problem =
                    "nothing is swapped: the donor gives nothing that the recipient has not; are they the same?";
                return Error::recipe("", problem);
            }
            let filters = self.swap.ignore.iter().map(|f| f.text()).collect::<Vec<_>>().join(", ");
            return Error::recipe(
                "ignore",
                format!("nothing is swapped: every tensor of these layers is left out by {filters}"),
            );
        }
        let mut modules: Vec<String> = Vec::new();
        for t in &self.draft.models.get(self.into).tensors {
            if self.layer(&t.name).is_some() && !modules.contains(&module_kind(&t.name)) {
                modules.push(module_kind(&t.name));
            }
        }
        let more = modules.len().saturating_sub(MODULES);
        modules.truncate(MODULES);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let problem =
            format!("nothing is swapped: no module of these layers is named; there are {}{more}", modules.join(", "));
        Error::recipe("modules", problem)
    }

    /// The module of a tensor of the recipient; that of a quantised weight for all that comes with it.
    fn module(&self, own: Place, name: &str) -> String {
        let whole = self.draft.models.family(own);
        whole.map_or_else(|| module(name), inside).into_owned()
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
        let (mut claims, mut left) = (Vec::new(), false);
        for (donor, giver) in swap.donors.iter().zip(&self.givers) {
            let share = giver.shares[layer];
            if share == 0.0 {
                continue;
            }
            let moves = donor.modules.contain(&self.module(own, &name), &name);
            if moves && self.stays(&name, own, &[giver.model]) {
                if !self.ignored(&name) {
                    left = true;
                }
                continue;
            }
            let moved = match &donor.heads {
                Some(_) => {
                    let quantised = self.draft.models.family(own).is_some();
                    heads::moved(&self.attention()?, donor, &name, &shape, moves, quantised)?
                }
                None => Heads::Whole,
            };
            match moved {
                _ if !moves => {}
                Heads::Stay => {}
                Heads::Whole => claims.push((giver.model, giver.base, share, None)),
                Heads::Some { taken, slicing } => {
                    claims.push((giver.model, giver.base, share, Some((taken, slicing))));
                }
            }
        }
        if left {
            self.draft.leave_buffer(&name);
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
        if let [(model, base, share, Some((taken, slicing)))] = claims.as_slice() {
            let donor = self.draft.models.need(*model, &name, self.into)?;
            if base.is_some() || *share != 1.0 {
                return Err(Error::recipe(
                    "heads",
                    "move bit for bit; blends and a donor's own base do not go with them",
                ));
            }
            same_shape(&self.draft.models, &[own, donor])?;
            if let Some(made) = [own, donor].iter().find(|p| self.draft.models.tensor(**p).made.is_some()) {
                let problem = "is decoded, or made with an adapter, as it is read, and heads move bit for bit; write the model first (`suture convert`, `suture lora fold`)";
                return Err(Error::tensor(&self.draft.models.get(made.model).path, &name, problem));
            }
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
            parts.push((self.draft.models.need(model, &name, self.into)?, share));
            if let (Some(donor_base), Some(base)) = (base, self.base) {
                parts.push((self.draft.models.need(base, &name, self.into)?, share));
                parts.push((self.draft.models.need(donor_base, &name, self.into)?, -share));
            }
        }
        self.mix(name, own, parts)
    }

    /// Whether the recipe leaves a tensor out.
    fn ignored(&self, name: &str) -> bool {
        self.swap.ignore.iter().any(|f| f.matches(name))
    }

    /// Whether a tensor stays the recipient's whatever is asked: it is left out, or a buffer that not all of `lenders` have alike.
    fn stays(&self, name: &str, own: Place, lenders: &[usize]) -> bool {
        let (models, tensor) = (&self.draft.models, self.draft.models.tensor(own));
        let alike = |m: &usize| models.find(*m, name).is_some_and(|p| models.tensor(p).shape == tensor.shape);
        self.ignored(name) || (tensor.is_buffer() && !lenders.iter().all(alike))
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
            apart: Vec::new(),
            dtype: Some(dtype),
            at: String::new(),
        })
    }

    /// A tensor inside the layers that only a donor has would be lost.
    fn refuse_extra(&mut self) -> Result<()> {
        let mut buffers = Vec::new();
        for giver in &self.givers {
            let models = &self.draft.models;
            let checkpoint = models.get(giver.model);
            let Some(stack) = checkpoint.anatomy().alike(&self.stack) else { continue };
            for t in checkpoint.tensors.iter().filter(|t| stack.layer(&t.name).is_some() && !self.ignored(&t.name)) {
                if t.is_buffer() && models.find(self.into, &t.name).is_none() {
                    buffers.push(t.name.clone());
                } else {
                    models.need(self.into, &t.name, giver.model)?;
                }
            }
        }
        buffers.iter().for_each(|name| self.draft.leave_buffer(name));
        Ok(())
    }
}
