//! A model with adapters in it: the checkpoint, whose tensors are made of its own and the adapters'.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::adapter::{Adapter, CONFIG, Parts};
use super::experts::{called_otherwise, is_packed};
use super::fitting::{experts, stacks, told_by, told_by_model};
use super::made::{Factor, Made, Product, Sum};
use super::reference::called;
use super::renamed::Prefixes;
use super::{Applied, Checkpoint, Packing, Tensor};
use crate::error::{Error, Result};
use crate::model::lora::{LoraConfig, Role};
use crate::model::tied;

impl Checkpoint {
    /// Folds an adapter in, without touching what is stored.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Tensor`] if it is no adapter, or not one of this model: whatever of it matches nothing,
    /// or has another shape or rank than it should, is named.
    pub(super) fn fold(&mut self, applied: &Applied) -> Result<()> {
        if let Some(t) = self.factor() {
            let problem = "is a factor of an adapter, and adapters are folded into models; name the model first";
            return Err(Error::tensor(&self.path, &t.name, problem));
        }
        let Adapter { checkpoint: adapter, config, said, mut modules } = Adapter::open(&applied.path)?;
        let path = &adapter.path;
        let first_file = self.files.len();
        let about = crate::digest::hex(crate::digest::of_bytes(format!("{said} {}", applied.weight()).as_bytes()));
        for mut file in adapter.files.iter().cloned() {
            // What the config and the weight say decides what is made as much as the header does.
            file.header_digest = format!("{}{about}", file.header_digest);
            file.metadata.clear();
            file.adapter = true;
            self.files.push(file);
        }
        modules.values_mut().flat_map(BTreeMap::values_mut).for_each(|t| t.file += first_file);
        let (path, weight) = (path.clone(), applied.weight());
        // A bias under two names is one.
        let twins: Vec<_> = modules.keys().filter_map(|(m, d)| Some(((tied::bias(m)?, *d), (m.clone(), *d)))).collect();
        for (twin, copy) in twins {
            if modules.contains_key(&twin) && self.find_alike(&copy.0).is_none() {
                modules.remove(&copy);
            }
        }
        let weights = modules.keys().take(SOUGHT).map(|(module, _)| format!("{module}.weight"));
        let shift = weights.filter(|w| self.find_alike(w).is_none()).find_map(|w| self.prefixes(&w));
        let whole =
            |((name, _), parts): (&(String, usize), &Parts)| parts.contains_key(&Role::Whole) && is_packed(name);
        let packed = config.parameters.iter().any(|p| is_packed(p)) || modules.iter().any(whole);
        if packed && self.packing() == Some(Packing::Apart) {
            *self = self.with_experts(Packing::Packed, self)?;
            self.folded.push("experts are packed, as the adapter has them".to_owned());
        }
        let stacks = stacks(self, &config);
        let tables: Vec<Tensor> = self.tables().iter().map(|i| self.tensors[*i].clone()).collect();
        let mut fold =
            Fold { path, config, weight, transposed: None, stacks, shift, tables, changed: 0, missing: vec![] };
        let told = modules.iter().find_map(|((module, _), parts)| fold.tells_transposed(self, module, parts));
        fold.transposed = told.or_else(|| told_by_model(self));
        let bare = fold.config.bare && !modules.is_empty();
        if !bare && modules.values().all(|parts| parts.contains_key(&Role::Whole)) {
            return Err(Error::checkpoint(&fold.path, "changes nothing: it holds no factors"));
        }
        // What was saved whole first: of a table that is adapted too PEFT saves the table itself beside the factors.
        let (whole, factors): (Vec<_>, Vec<_>) = modules.iter().partition(|(_, p)| p.contains_key(&Role::Whole));
        let names =
            |list: &[(&'_ (String, usize), &Parts)]| list.iter().map(|((m, _), _)| m.clone()).collect::<Vec<_>>();
        let (wholes, with_factors) = (names(&whole), names(&factors));
        for ((module, depth), parts) in whole.into_iter().chain(factors) {
            fold.module(self, module, *depth, parts)?;
        }
        if let Some(first) = fold.missing.first() {
            let n = fold.missing.len();
            let problem = format!(
                "belongs to a module that {} lacks{}; the adapter is of another model",
                self.path.display(),
                if n == 1 { String::new() } else { format!(", as {n} of its {} modules do", modules.len()) }
            );
            return Err(Error::tensor(&fold.path, first, problem));
        }
        let n = fold.changed;
        let times = if applied.weight() == 1.0 { String::new() } else { format!(", {} times", applied.weight()) };
        // Not where it lies, which is nobody's business who gets the output.
        let name = called(&fold.path);
        let some = self.some_layers(with_factors.iter().chain(&wholes)).unwrap_or_default();
        self.folded.push(format!("{name}{times}: {n} tensor{}{some}", if n == 1 { "" } else { "s" }));
        self.warnings.extend(adapter.warnings);
        let biased = self.tensors.iter().any(|t| t.name.ends_with(".bias"));
        for lacking in fold.config.lacking(&wholes, &with_factors, biased) {
            let problem = "and the adapter holds nothing of it: what the model has stays";
            self.warnings.push(format!("{}: {CONFIG}: {lacking}, {problem}", fold.path.display()));
        }
        self.keep_head(&fold.tables, &fold.path);
        Ok(())
    }
}

/// So many modules are looked for under another prefix: it is one for all, and a model may lack thousands.
const SOUGHT: usize = 8;

/// An adapter being folded in.
struct Fold {
    path: std::path::PathBuf,
    config: LoraConfig,
    weight: f64,
    /// Whether matrices are kept as [in, out], as far as the shapes of the others tell.
    transposed: Option<bool>,
    /// The model's tensors of stacked experts that it may change.
    stacks: Vec<usize>,
    /// The model's tables of tokens as they were before.
    tables: Vec<Tensor>,
    /// What its names have in front, and what the model's have instead, where these differ.
    shift: Option<Prefixes>,
    /// Tensors changed.
    changed: usize,
    /// Names of modules, or tensors, that the model lacks.
    missing: Vec<String>,
}

impl Fold {
    fn wrong<T>(&self, tensor: &Tensor, problem: String) -> Result<T> {
        Err(Error::tensor(&self.path, &tensor.name, problem))
    }

    /// The tensor of the model that the adapter means by `name`: one of that name, or another of its family, or one that differs
    /// by a prefix.
    fn meant(&self, model: &Checkpoint, name: &str) -> Option<usize> {
        let otherwise = || model.find(&called_otherwise(name)?);
        model.find_alike(name).or_else(|| model.find(&self.named(name))).or_else(otherwise)
    }

    /// The name that a tensor has in the model, as far as prefixes go.
    fn named(&self, name: &str) -> String {
        self.shift.as_ref().and_then(|p| p.ours_of(name)).unwrap_or_else(|| name.to_owned())
    }

    /// Whether a module's weight is kept as [in, out], if its shape tells.
    fn tells_transposed(&self, model: &Checkpoint, module: &str, parts: &Parts) -> Option<bool> {
        let (a, b) = (parts.get(&Role::A)?, parts.get(&Role::B)?);
        told_by(module, &model.tensors[self.meant(model, &format!("{module}.weight"))?], a, b)
    }

    fn module(&mut self, model: &mut Checkpoint, module: &str, depth: usize, parts: &Parts) -> Result<()> {
        if let Some(whole) = parts.get(&Role::Whole) {
            return self.whole(model, module, whole);
        }
        if parts.keys().all(|role| *role == Role::Base) {
            return Ok(());
        }
        let (a, b, embedding) = match (parts.get(&Role::A), parts.get(&Role::EmbeddingA)) {
            (Some(a), None) => (a, parts.get(&Role::B), false),
            (None, Some(a)) => (a, parts.get(&Role::EmbeddingB), true),
            _ => {
                let first = parts.values().next();
                return first
                    .map_or(Ok(()), |t| self.wrong(t, "has no factor A beside it; the adapter is not whole".into()));
            }
        };
        let Some(b) = b else { return self.wrong(a, "has no factor B beside it; the adapter is not whole".into()) };
        let weight = self.meant(model, &format!("{module}.weight"));
        let stacked = || self.stacked(model, module, depth, a, b);
        let Some(index) = weight
            .or_else(|| model.table_of(&format!("{module}.weight")).ok().flatten())
            .map_or_else(stacked, |i| Ok(Some(i)))?
        else {
            self.missing.push(a.name.clone());
            return Ok(());
        };
        let head = if weight.is_none() { self.table_of(model, &format!("{module}.weight")) } else { None };
        let target = head.clone().unwrap_or_else(|| model.tensors[index].clone());
        for (t, of) in [(a, "the adapter"), (b, "the adapter"), (&target, "the model")] {
            self.computes(t, a, of)?;
        }
        // Patterns know a parameter by its own name.
        let own = target.name.rsplit('.').next().filter(|_| target.shape.len() == 3);
        let key = own.map_or_else(|| self.config.key(module, depth), |own| format!("{module}.{own}"));
        let product = self.product(model, &target, &key, a, b, embedding)?;
        let scale = product.scale;
        let under = self.under(model, &target, parts)?;
        let mut sum = Sum { parts: vec![(under, 1.0)], ..Sum::default() };
        // Products of several adapters join into one sum, but for what was given lengths in between.
        if let Some(Made::Sum(before)) = target.made.as_deref()
            && before.magnitude.is_none()
        {
            sum = before.clone();
        }
        sum.products.push(product);
        if let Some(lengths) = parts.get(&Role::Magnitude) {
            self.lengths(&target, lengths, sum.products.last().is_some_and(|p| p.left.tensor.name == a.name))?;
            sum.magnitude = Some(lengths.clone());
        } else if self.config.lengths {
            return self.wrong(a, format!("has no lengths of rows beside it, and {CONFIG} says that it is of DoRA"));
        }
        // The head of a model that ties is its table until now.
        let name = if head.is_some() { self.named(&format!("{module}.weight")) } else { target.name.clone() };
        self.put(model, Tensor { name, made: Some(Arc::new(Made::Sum(sum))), ..target });
        let bias = parts.get(&Role::ProductBias);
        if let Some(bias) = bias.filter(|bias| bias.shape != b.shape[..1]) {
            return self.wrong(bias, format!("has shape {:?}, expected one number for each row of B", bias.shape));
        }
        match bias {
            Some(bias) => self.bias(model, module, bias, scale),
            None => Ok(()),
        }
    }

    /// The tensor of stacked experts that a module's factors belong to: the one whose shape they fit.
    fn stacked(&self, model: &Checkpoint, module: &str, depth: usize, a: &Tensor, b: &Tensor) -> Result<Option<usize>> {
        let inside = |i: &usize| {
            let before = model.tensors[*i].name.rsplit_once('.').map_or("", |(before, _)| before);
            let is = |m: &str| before == m || before.ends_with(&format!(".{m}")) || m.ends_with(&format!(".{before}"));
            is(module) || called_otherwise(module).is_some_and(|m| is(&m))
        };
        let fits: Vec<usize> = self
            .stacks
            .iter()
            .copied()
            .filter(inside)
            .filter(|i| experts(model, &model.tensors[*i], &a.shape, &b.shape).is_some())
            .collect();
        match fits[..] {
            [only] => Ok(Some(only)),
            [] => Ok(None),
            _ => {
                // PEFT wraps parameters in the order the module has them, in which the inner one comes first.
                let last = |i: &&usize| model.tensors[**i].name.ends_with("down_proj") == (depth == 0);
                match fits.iter().filter(last).collect::<Vec<_>>()[..] {
                    [only] => Ok(Some(*only)),
                    _ => self.wrong(
                        a,
                        format!("fits {} parameters of its module; nothing tells which is meant", fits.len()),
                    ),
                }
            }
        }
    }

    /// The product that a module's factors are, laid as the weight is.
    fn product(
        &self,
        model: &Checkpoint,
        target: &Tensor,
        key: &str,
        a: &Tensor,
        b: &Tensor,
        embedding: bool,
    ) -> Result<Product> {
        let misfit = |rank: u64| {
            let problem = format!(
                "{:?} and {:?} of its partner are no factors of rank {rank} of `{}`, {:?}; the adapter is of another model",
                a.shape, b.shape, target.name, target.shape
            );
            Error::tensor(&self.path, &a.name, problem)
        };
        let factor = |t: &Tensor, block, rank, step| Factor { tensor: t.clone(), block, rank, step };
        let inner = |t: &Tensor| t.shape.get(1..).map_or(1, |s| s.iter().product::<u64>());
        let scale = self.config.scale(key) * self.weight;
        let (Some(across), Some(outputs)) = (a.shape.first(), b.shape.first()) else { return Err(misfit(0)) };
        if let Some((experts, old)) = experts(model, target, &a.shape, &b.shape) {
            let (rows, columns) = (target.shape[1], target.shape[2]);
            let rank = across / experts;
            self.same_rank(a, key, rank)?;
            // [rank * experts, columns] and [rows, rank * experts], the experts outermost in the one, innermost in the other.
            let of_a = |n| factor(a, rank * n, n, 1);
            let of_b = factor(b, 1, experts, *across);
            let (left, right) = if old { (of_a(rows), of_b) } else { (of_b, of_a(columns)) };
            return Ok(Product { left, middle: None, right, rank, rows, columns, scale });
        }
        let rank = *across;
        let (inputs, outputs) = (inner(a), *outputs);
        if inner(b) != rank || target.shape.is_empty() {
            return Err(misfit(self.config.rank(key)));
        }
        self.same_rank(a, key, rank)?;
        let (rows, columns) = (target.shape[0], inner(target));
        let plain = rows == outputs && a.shape.get(1..) == target.shape.get(1..);
        let turned = (rows, columns) == (inputs, outputs) && target.shape.len() == 2 && a.shape.len() == 2;
        let turn =
            if embedding || !plain { turned } else { turned && self.transposed.unwrap_or(self.config.transposed) };
        if !turn && (!plain || embedding) {
            return Err(misfit(rank));
        }
        let (left, right) = if turn {
            (factor(a, 0, inputs, 1), factor(b, 0, 1, rank))
        } else {
            (factor(b, 0, 1, rank), factor(a, 0, inputs, 1))
        };
        Ok(Product { left, middle: None, right, rank, rows, columns, scale })
    }

    fn same_rank(&self, a: &Tensor, key: &str, rank: u64) -> Result<()> {
        let said = self.config.rank(key);
        if said == rank && rank > 0 {
            return Ok(());
        }
        self.wrong(a, format!("has rank {rank}, and {CONFIG} says {said}; the scale of the change is not known"))
    }

    /// Refuses what no arithmetic is done on: the factor `a` belongs to it.
    fn computes(&self, tensor: &Tensor, a: &Tensor, of: &str) -> Result<()> {
        if tensor.dtype.computes() {
            return Ok(());
        }
        let name = if tensor.name == a.name { String::new() } else { format!("`{}` ", tensor.name) };
        self.wrong(a, format!("{name}is {} in {of}; expected F64, F32, F16 or BF16", tensor.dtype.name()))
    }

    /// Refuses lengths of rows that are none.
    fn lengths(&self, target: &Tensor, lengths: &Tensor, turned: bool) -> Result<()> {
        self.computes(lengths, lengths, "the adapter")?;
        if turned || target.shape.len() != 2 || self.weight != 1.0 {
            let what = if self.weight != 1.0 { "a weight other than 1" } else { "weights other than [out, in]" };
            return self
                .wrong(lengths, format!("is of DoRA, which is not folded here with {what}; fold it with PEFT first"));
        }
        if lengths.elements() != target.shape[0] {
            return self.wrong(
                lengths,
                format!("has shape {:?}, expected one number for each row of `{}`", lengths.shape, target.name),
            );
        }
        Ok(())
    }

    /// A bias that belongs to the product: scaled as it is, and added.
    fn bias(&mut self, model: &mut Checkpoint, module: &str, bias: &Tensor, scale: f64) -> Result<()> {
        self.computes(bias, bias, "the adapter")?;
        let mut parts = Vec::new();
        let mut like = bias.clone();
        like.name = self.named(&format!("{module}.bias"));
        if let Some(i) = self.meant(model, &format!("{module}.bias")) {
            like = model.tensors[i].clone();
            self.computes(&like, bias, "the model")?;
            if like.shape != bias.shape {
                return self
                    .wrong(bias, format!("has shape {:?}, and `{}` has {:?}", bias.shape, like.name, like.shape));
            }
            parts.push((like.clone(), 1.0));
        }
        parts.push((bias.clone(), scale));
        let sum = Sum { parts, ..Sum::default() };
        self.put(model, Tensor { made: Some(Arc::new(Made::Sum(sum))), ..like });
        Ok(())
    }

    /// What the factors are on top of: the model's tensor, or another that the adapter has in its place.
    fn under(&mut self, model: &mut Checkpoint, target: &Tensor, parts: &Parts) -> Result<Tensor> {
        let Some(base) = parts.get(&Role::Base) else { return Ok(target.clone()) };
        if base.shape != target.shape {
            return self.resized(model, target, base);
        }
        let own = match target.made.as_deref() {
            Some(Made::Sum(sum)) => sum.parts.first().map_or(target, |(t, _)| t),
            _ => target,
        };
        if model.hold_alike(own, base)? {
            return Ok(target.clone());
        }
        if target.made.is_some() {
            return self
                .wrong(base, format!("is not what `{}` was before the adapters; fold each by itself", own.name));
        }
        let problem =
            format!("was trained on another `{}` than the model's, which it holds: that one is used", own.name);
        model.warnings.push(format!("{}: {problem}", self.path.display()));
        Ok(Tensor { name: target.name.clone(), ..base.clone() })
    }

    /// Refuses a tensor of another shape than the model's.
    fn resized<T>(&self, model: &Checkpoint, own: &Tensor, trained: &Tensor) -> Result<T> {
        let way = if tied::is_table(&own.name) || tied::is_head(&own.name) {
            "; the adapter was trained on another vocabulary: resize the model's tables to its first (transformers' \
             resize_token_embeddings), with the adapter's tokenizer"
        } else {
            ""
        };
        let problem = format!("has shape {:?}, and {:?} in {}{way}", trained.shape, own.shape, model.path.display());
        self.wrong(trained, problem)
    }

    /// A tensor that was trained as a whole, in the place of the model's.
    fn whole(&mut self, model: &mut Checkpoint, name: &str, trained: &Tensor) -> Result<()> {
        let Some(index) = self.meant(model, name) else {
            if let Some(table) = self.table_of(model, name) {
                return self.instead(model, Tensor { name: self.named(name), ..table }, trained);
            }
            // A head for a task may be new to the model.
            if self.weight != 1.0 || !self.config.saves(name) {
                self.missing.push(trained.name.clone());
                return Ok(());
            }
            self.put(model, Tensor { name: self.named(name), ..trained.clone() });
            return Ok(());
        };
        let own = model.tensors[index].clone();
        if self.weight == 1.0 && model.adapted(&own) {
            let problem = format!("replaces `{}`, which an adapter before it has changed", own.name);
            model.warnings.push(format!("{}: {problem}", self.path.display()));
        }
        self.instead(model, own, trained)
    }

    /// Puts a tensor that was trained as a whole in the place of `own`, or so much of it as the adapter counts.
    fn instead(&mut self, model: &mut Checkpoint, own: Tensor, trained: &Tensor) -> Result<()> {
        if own.shape != trained.shape {
            return self.resized(model, &own, trained);
        }
        let parts = if self.weight == 1.0 {
            if own.dtype == trained.dtype {
                // Its bytes as they are, under the model's name.
                self.put(model, Tensor { name: own.name, ..trained.clone() });
                return Ok(());
            }
            vec![(trained.clone(), 1.0)]
        } else {
            vec![(own.clone(), 1.0 - self.weight), (trained.clone(), self.weight)]
        };
        if !own.dtype.computes() || !trained.dtype.computes() {
            return self.wrong(trained, format!("is {}, and {} in the model", trained.dtype.name(), own.dtype.name()));
        }
        let sum = Sum { parts, ..Sum::default() };
        self.put(model, Tensor { made: Some(Arc::new(Made::Sum(sum))), ..own });
        Ok(())
    }

    /// The table that a head is tied to which the model does not store, as it was before.
    fn table_of(&self, model: &Checkpoint, head: &str) -> Option<Tensor> {
        let table = &model.tensors[model.table_of(head).ok().flatten()?];
        Some(self.tables.iter().find(|t| t.name == table.name).unwrap_or(table).clone())
    }

    fn put(&mut self, model: &mut Checkpoint, tensor: Tensor) {
        self.changed += 1;
        model.put(tensor);
    }
}
