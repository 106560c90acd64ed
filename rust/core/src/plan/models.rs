//! The checkpoints a recipe names, opened once each, and the lookup of tensors in them.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::{Counted, TensorPlan};
use crate::checkpoint::reference::{called, on_hub};
use crate::checkpoint::{Checkpoint, Packing, Reference, Tensor};
use crate::error::{Error, Result};
use crate::model::anatomy::{Anatomy, Stack};
use crate::model::families::Families;
use crate::view::Place;

/// The models of a plan, in the order they are first named.
#[derive(Default)]
pub struct Models {
    /// The checkpoints.
    pub checkpoints: Vec<Arc<Checkpoint>>,
    by_name: HashMap<Reference, usize>,
    /// Opened before they are asked for, and what came of it.
    ahead: HashMap<Reference, Result<Checkpoint>>,
    /// The quantised weights of each.
    families: Vec<OnceLock<Families>>,
    /// The model whose tensors' names those of the others are brought to.
    lead: Option<usize>,
    /// What was done to them, for people: the model, and what its names have in front.
    pub named: Vec<(String, String)>,
    /// Those that lend rows of their tables, and nothing else.
    pub lent: BTreeSet<usize>,
    /// Those that made tensors are of, which no output reads itself.
    pub read: BTreeSet<Place>,
    /// Whether quantised weights are decoded, of models that are opened from now on.
    pub decode: bool,
}

impl Models {
    /// None yet; whether quantised weights of those to come are decoded.
    pub fn opening(decode: bool) -> Self {
        Self { decode, ..Self::default() }
    }

    /// Opens models side by side, a thread each, for [`Self::open`] to take: with 50,000 tensors one takes a tenth of a second.
    /// What is wrong with one is an error where it is asked for.
    pub fn ahead<'a>(&mut self, models: impl Iterator<Item = &'a Reference>) {
        let wanted: HashMap<Reference, &Reference> = models.map(|model| (model.real(), model)).collect();
        let wanted: Vec<(Reference, &Reference)> = wanted.into_iter().collect();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        if wanted.len() < 2 || cores < 2 {
            return;
        }
        for some in wanted.chunks(cores) {
            let opened: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|(_, model)| scope.spawn(|| Checkpoint::of(model))).collect();
                threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
            });
            // One that panicked is opened again, and panics where its caller sees it.
            let opened = some.iter().zip(opened).filter_map(|((real, _), found)| Some((real.clone(), found.ok()?)));
            self.ahead.extend(opened);
        }
    }

    /// The index of a model, opened at its first mention.
    ///
    /// # Errors
    /// As [`Checkpoint::of`].
    pub fn open(&mut self, model: &Reference) -> Result<usize> {
        // One model may be written in several ways; it is one model.
        let real = model.real();
        if let Some(i) = self.by_name.get(&real) {
            return Ok(*i);
        }
        let opened = self.ahead.remove(&real).unwrap_or_else(|| Checkpoint::of(model))?;
        let opened = if self.decode { opened.plain()? } else { opened };
        self.checkpoints.push(Arc::new(opened));
        self.families.push(OnceLock::new());
        self.by_name.insert(real, self.checkpoints.len() - 1);
        self.name(self.checkpoints.len() - 1)?;
        Ok(self.checkpoints.len() - 1)
    }

    /// Brings the tensors of all other models, those opened later too, to the names that the model at `lead` has them by,
    /// where one prefix makes the difference, and their experts to the form that it stores them in; or to `experts`, which
    /// then holds for it too.
    ///
    /// # Errors
    /// As [`Checkpoint::with_experts`].
    pub fn named_by(&mut self, lead: usize, experts: Option<Packing>) -> Result<()> {
        let own = Arc::clone(&self.checkpoints[lead]);
        if let (Some(form), Some(found)) = (experts, own.packing())
            && form != found
        {
            self.checkpoints[lead] = Arc::new(own.with_experts(form, &own)?);
        }
        self.lead = Some(lead);
        (0..self.checkpoints.len()).try_for_each(|model| self.name(model))
    }

    fn name(&mut self, model: usize) -> Result<()> {
        let Some(lead) = self.lead.filter(|lead| *lead != model) else { return Ok(()) };
        let other = Arc::clone(&self.checkpoints[lead]);
        // Adapters name the parts of a model, and are compared with each other.
        if other.adapter() != self.checkpoints[model].adapter() {
            return Ok(());
        }
        let own = &self.checkpoints[model];
        if let (Some(form), true) = (other.packing(), own.stores_experts_unlike(&other)) {
            let how = match form {
                Packing::Packed if own.packing() != Some(form) => "packed",
                Packing::Apart if own.packing() != Some(form) => "taken apart",
                _ => "called",
            };
            self.named.push((own.name(), format!("experts are {how} as in {}", other.name())));
            self.checkpoints[model] = Arc::new(own.with_experts(form, &other)?);
            self.families[model] = OnceLock::new();
        }
        let other = &*other;
        if let Some((named, prefixes, n)) = self.checkpoints[model].named_as(other) {
            let text = match (prefixes.ours.as_str(), prefixes.theirs.as_str()) {
                (ours, "") => format!("{n} without `{ours}`, as in {}", other.name()),
                ("", theirs) => format!("{n} with `{theirs}` in front, as in {}", other.name()),
                (ours, theirs) => format!("{n} with `{theirs}` for `{ours}`, as in {}", other.name()),
            };
            self.named.push((named.name(), text));
            self.checkpoints[model] = Arc::new(named);
            self.families[model] = OnceLock::new();
        }
        if let Some(named) = self.checkpoints[model].with_aliases_of(other) {
            self.checkpoints[model] = Arc::new(named);
            self.families[model] = OnceLock::new();
        }
        Ok(())
    }

    /// The index of a model, if it was opened.
    pub fn index(&self, model: &Reference) -> Option<usize> {
        self.by_name.get(&model.real()).copied()
    }

    /// The model at `index`.
    pub fn get(&self, index: usize) -> &Checkpoint {
        &self.checkpoints[index]
    }

    /// The tensor at a place.
    pub fn tensor(&self, place: Place) -> &Tensor {
        place.tensor(&self.checkpoints)
    }

    /// The module of the quantised weight that the tensor at `place` is or comes with.
    pub fn family(&self, place: Place) -> Option<&str> {
        let tensors = || self.checkpoints[place.model].tensors.iter().map(|t| (t.name.as_str(), t.dtype));
        self.families[place.model].get_or_init(|| Families::of(tensors())).module(place.tensor)
    }

    /// What stands for the tensor called `name` in a model; see [`Checkpoint::counterpart`].
    pub fn find(&self, model: usize, name: &str) -> Option<Place> {
        self.checkpoints[model].counterpart(name).map(|tensor| Place { model, tensor })
    }

    /// As [`Self::find`], for a tensor that has to be there because the model `wanted_by` has it.
    ///
    /// # Errors
    /// [`Error::Tensor`] if it is not, with how many others are not and what it looks like.
    pub fn need(&self, model: usize, name: &str, wanted_by: usize) -> Result<Place> {
        self.find(model, name).ok_or_else(|| {
            let (path, other) = (&self.get(model).path, self.get(wanted_by).path.display());
            let problem = match self.get(model).table_of(name) {
                Err(tables) => format!(
                    "is missing, {other} has it, and it cannot be told which of {} it is tied to; write the head out",
                    tables.join(", ")
                ),
                Ok(_) => format!(
                    "is missing, and {other} has it{}; models must have the same tensors; what is to be left out is \
                     named (--ignore, `exclude`), and in a merge --missing base or skip goes on",
                    self.unlike(model, wanted_by)
                ),
            };
            Error::tensor(path, name, problem)
        })
    }

    /// How many tensors of `other` are missing in `model`, and the prefix that explains it, if one does.
    fn unlike(&self, model: usize, other: usize) -> String {
        let (model, other) = (self.get(model), self.get(other));
        let missing: Vec<&str> =
            other.tensors.iter().map(|t| t.name.as_str()).filter(|n| model.find_alike(n).is_none()).collect();
        let Some(first) = missing.first() else { return String::new() };
        if missing.len() == 1 {
            return String::new();
        }
        let count = format!("; {} of {} names differ", missing.len(), other.tensors.len());
        let Some(prefixes) = model.prefixes(first) else { return count };
        let explains = |n: &&&str| prefixes.ours_of(n).is_some_and(|n| model.find(&n).is_some());
        let explained = missing.iter().filter(explains).count();
        let (prefix, whose) =
            if prefixes.theirs.is_empty() { (&prefixes.ours, model) } else { (&prefixes.theirs, other) };
        format!("{count}, {explained} of them by the prefix `{prefix}` in {}", whose.path.display())
    }

    /// The model's stack called `asked`, or else its main one.
    ///
    /// # Errors
    /// [`Error::Checkpoint`] if there is none, or nothing tells which of several is meant.
    pub fn stack(&self, model: usize, asked: Option<&str>) -> Result<&Stack> {
        let checkpoint = self.get(model);
        checkpoint.anatomy().choose(asked).map_err(|problem| unclear(checkpoint, problem))
    }

    /// The stacks among the tensors of a model whose names `holds` accepts.
    pub fn anatomy_among(&self, model: usize, holds: impl Fn(&str) -> bool) -> Anatomy {
        let checkpoint = self.get(model);
        let names = checkpoint.tensors.iter().filter(|t| holds(&t.name)).map(|t| (t.name.as_str(), t.elements()));
        Anatomy::of(names, checkpoint.config.as_ref())
    }

    /// What each model gives `tensors`: the stacks that it gives layers of; and the models that give quantised weights.
    pub(super) fn given(&self, tensors: &[TensorPlan]) -> (Vec<Vec<Counted>>, Vec<usize>) {
        let mut stacks: Vec<BTreeSet<usize>> = vec![BTreeSet::new(); self.checkpoints.len()];
        let mut quantised = BTreeSet::new();
        for place in tensors.iter().flat_map(|t| t.action.places()) {
            let (stack, _) = self.get(place.model).anatomy().place(&self.tensor(place).name).unzip();
            stacks[place.model].extend(stack);
            if self.family(place).is_some() {
                quantised.insert(place.model);
            }
        }
        let counted = |(model, stacks): (&Arc<Checkpoint>, &BTreeSet<usize>)| {
            stacks.iter().map(|i| Counted::of(&model.anatomy().stacks[*i])).collect()
        };
        (self.checkpoints.iter().zip(&stacks).map(counted).collect(), quantised.into_iter().collect())
    }

    /// Labels of the models, as [`labels`].
    pub fn labels(&self) -> Vec<String> {
        labels(self.checkpoints.iter().map(|c| (c.path.as_path(), &c.reference)))
    }
}

/// Why no stack of a checkpoint is meant: it has none, or the recipe has to say which.
pub fn unclear(checkpoint: &Checkpoint, problem: String) -> Error {
    if checkpoint.anatomy().stacks.is_empty() {
        return Error::checkpoint(&checkpoint.path, problem);
    }
    Error::recipe("stack", format!("{} {problem}", checkpoint.path.display()))
}

/// What models are called, by where they lie and how they were named: by their name, or that of their folder or file; where
/// these repeat, with as much of the path before them as tells them apart; and with their adapters.
pub fn labels<'a>(models: impl Iterator<Item = (&'a Path, &'a Reference)>) -> Vec<String> {
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.to_owned());
    // An adapter is called after its folder, as the model is.
    let adapted = |r: &Reference| {
        let weight = |w: f64| if w == 1.0 { String::new() } else { format!("*{w}") };
        r.adapters.iter().map(|a| format!("+{}{}", called(&a.path), weight(a.weight()))).collect::<String>()
    };
    let models: Vec<(PathBuf, &Reference)> = models.map(|(path, r)| (real(path), r)).collect();
    let mut distinct: Vec<PathBuf> = models.iter().map(|(path, _)| path.clone()).collect();
    distinct.sort();
    distinct.dedup();
    let bare = bare_labels(&distinct);
    let own = |(path, r): &(PathBuf, &Reference)| {
        let folder = || distinct.binary_search(path).map(|i| bare[i].clone()).unwrap_or_default();
        r.name.clone().or_else(|| on_hub(path)).unwrap_or_else(folder) + &adapted(r)
    };
    let mut out: Vec<String> = models.iter().map(own).collect();
    // Two adapters of one name, in other folders.
    for i in 1..out.len() {
        let again = out[..i].iter().filter(|l| **l == out[i]).count();
        if again > 0 {
            out[i] = format!("{} ({})", out[i], again + 1);
        }
    }
    out
}

/// The names of folders or files; where they repeat, with as much of the path before them as tells them apart.
fn bare_labels(real: &[PathBuf]) -> Vec<String> {
    let tail = |path: &Path, parts: usize| {
        let mut tail: Vec<_> = path.iter().rev().take(parts).map(|p| p.to_string_lossy().into_owned()).collect();
        tail.reverse();
        tail.join("/")
    };
    let label = |path: &PathBuf| {
        let most = path.iter().count().max(1);
        let unique = |parts: &usize| real.iter().filter(|other| tail(other, *parts) == tail(path, *parts)).count() == 1;
        tail(path, (1..most).find(unique).unwrap_or(most))
    };
    real.iter().map(label).collect()
}

/// Checks that tensors have one shape.
///
/// # Errors
/// [`Error::Tensor`] naming the first that differs.
pub fn same_shape(models: &Models, places: &[Place]) -> Result<()> {
    let Some(first) = places.first() else { return Ok(()) };
    let want = models.tensor(*first);
    for p in places {
        let t = models.tensor(*p);
        if t.shape != want.shape {
            return Err(Error::tensor(
                &models.get(p.model).path,
                &t.name,
                format!(
                    "has shape {:?}, but {:?} in {}; models must have the same shapes",
                    t.shape,
                    want.shape,
                    models.get(first.model).path.display()
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_as_long_as_it_takes_to_tell_them_apart() {
        let of = |paths: &[&str]| {
            let references: Vec<Reference> = paths.iter().map(|p| Path::new(p).into()).collect();
            labels(references.iter().map(|r| (r.path.as_path(), r)))
        };
        assert_eq!(of(&["/x/a/model", "/x/b/other"]), ["model", "other"]);
        assert_eq!(of(&["/x/a/model", "/x/b/model", "/x/other"]), ["a/model", "b/model", "other"]);
        // Whichever is named first.
        assert_eq!(of(&["/x/b/model", "/x/a/model"]), ["b/model", "a/model"]);
    }
}
