//! Gram matrices beside the models: which are a weight's, whether they fit it, and what is to be told of those that are there.

use std::collections::HashSet;

use super::item::Item;
use super::{Action, Draft, Models};
use crate::error::{Error, Result};
use crate::view::{Place, View};

/// A model's file of Gram matrices, and the name that the weight has in the model.
pub(super) struct Beside<'a> {
    pub file: usize,
    pub name: &'a str,
}

impl Beside<'_> {
    /// Its matrix, by the name of the weight or that of the weight's module.
    fn find(&self, models: &Models) -> Option<Place> {
        let file = models.get(self.file);
        let module = || self.name.strip_suffix(".weight").and_then(|module| file.find(module));
        file.find(self.name).or_else(module).map(|tensor| Place { model: self.file, tensor })
    }
}

/// The Gram matrices of the weight at `own`, in the order of the models; none if no file has one.
///
/// # Errors
/// [`Error::Tensor`] if only some files have one, or it is none of this weight's inputs.
pub(super) fn of(models: &Models, own: Place, beside: &[Beside]) -> Result<Vec<View>> {
    let weight = models.tensor(own);
    let found: Vec<Option<Place>> = beside.iter().map(|b| b.find(models)).collect();
    let Some(first) = found.iter().flatten().next().filter(|_| weight.elements() > 0) else { return Ok(Vec::new()) };
    let expected = match *weight.shape {
        [_, n] => vec![n, n],
        [count, _, n] => vec![count, n, n],
        _ => {
            let (file, gram) = (&models.get(first.model).path, models.tensor(*first));
            let problem = format!(
                "is the Gram matrix of a tensor of shape {:?}; expected that of a weight of two dimensions, or of stacked experts (three); \
                 take it out of the file",
                weight.shape
            );
            return Err(Error::tensor(file, &gram.name, problem));
        }
    };
    let mut out = Vec::new();
    for (beside, place) in beside.iter().zip(&found) {
        let path = &models.get(beside.file).path;
        let Some(place) = place else {
            let problem = format!(
                "has no Gram matrix in this file, and has one in {}; give one for every model, or for none (then the tensor gets the \
                 weighted mean)",
                models.get(first.model).path.display()
            );
            return Err(Error::tensor(path, beside.name, problem));
        };
        let gram = models.tensor(*place);
        let wrong = |problem: String| Err(Error::tensor(path, &gram.name, problem));
        if gram.shape != expected {
            let m = weight.shape[weight.shape.len() - 2];
            let turned = gram.shape.ends_with(&[m, m]);
            let turned = if turned { "; a weight stored with its inputs first is to be transposed" } else { "" };
            return wrong(format!(
                "has shape {:?}, expected {expected:?}: the inputs of `{}`, of shape {:?}, are its columns{turned}",
                gram.shape, beside.name, weight.shape
            ));
        }
        if !gram.dtype.computes() || models.family(*place).is_some() {
            return wrong(format!("is {}; expected a float dtype (f64, f32, f16 or bf16)", gram.dtype.name()));
        }
        out.push(View::from(*place));
    }
    Ok(out)
}

/// What is told of the Gram matrices of a merge: a note, and warnings of those that nothing reads.
///
/// # Errors
/// [`Error::Checkpoint`] for a file that has none of any merged tensor.
pub(super) fn tell(draft: &mut Draft) -> Result<()> {
    let computed = draft.items.iter().filter_map(|i| match &i.action {
        Action::Compute { method, apart, .. } => Some((i, method.spec().name, apart)),
        Action::Move { .. } => None,
    });
    // A cast is computed by another method.
    let name = computed.clone().find(|(_, _, apart)| !apart.is_empty()).map_or("", |(_, method, _)| method);
    let own = computed.filter(|(_, method, _)| name.is_empty() || *method == name);
    let (with, without): (Vec<_>, Vec<_>) = own.partition(|(_, _, apart)| !apart.is_empty());
    let used: HashSet<Place> = with.iter().flat_map(|(_, _, apart)| apart.iter().map(View::like)).collect();
    for file in &draft.grams {
        let checkpoint = draft.models.get(*file);
        let unread = |i: &usize| !used.contains(&Place { model: *file, tensor: *i });
        let unread: Vec<usize> = (0..checkpoint.tensors.len()).filter(unread).collect();
        let Some(first) = unread.first().map(|i| &checkpoint.tensors[*i].name) else { continue };
        if unread.len() < checkpoint.tensors.len() {
            let (n, are) = (unread.len(), if unread.len() == 1 { "matrix is" } else { "matrices are" });
            let path = checkpoint.path.display();
            draft
                .warnings
                .push(format!("{n} Gram {are} in {path} of no merged tensor, and not read (first: `{first}`)"));
        } else if let Some((Item { name: wanted, .. }, ..)) = without.iter().find(|(i, ..)| i.shape.len() > 1) {
            let problem = format!(
                "has no Gram matrix of any merged tensor: it has `{first}`, and names such as `{wanted}`, or that without `.weight`, are \
                 looked for"
            );
            return Err(Error::checkpoint(&checkpoint.path, problem));
        }
    }
    if !draft.grams.is_empty() {
        let mut told = format!("{} by the Gram matrices of their inputs", tensors(with.len()));
        if let Some((Item { name: first, .. }, ..)) = without.first() {
            told += &format!(", {} by the weighted mean (first: `{first}`)", tensors(without.len()));
        }
        draft.notes.push(("inputs".to_owned(), told));
    }
    Ok(())
}

fn tensors(n: usize) -> String {
    format!("{n} tensor{}", if n == 1 { "" } else { "s" })
}
