//! Weights written in a quantised form: which they are, and the tensors that they become.

use std::collections::{BTreeSet, HashSet};

use super::item::{Item, as_it_is};
use super::{Action, Draft, Encoded};
use crate::checkpoint::Checkpoint;
use crate::error::{Error, Result};
use crate::kernels::encode::GROUP;
use crate::methods::encoded::{Encode, Form, Part, TILE, Undone};
use crate::model::names::is_router;

impl Draft {
    /// Has every weight that a form is for written in it.
    ///
    /// # Errors
    /// [`Error::Recipe`] if there is none, or if the output is an adapter.
    pub(super) fn encode(&mut self, form: Form) -> Result<()> {
        if self.stem != "model" {
            return Err(Error::recipe("to", format!("adapters are not written as {}", form.name())));
        }
        if form == Form::Q8_0 {
            return self.as_gguf();
        }
        let lead = self.models.get(self.config.from);
        let upright = upright(&self.items);
        let (mut items, mut plain, mut count) = (Vec::new(), Vec::new(), 0);
        let mut coded = HashSet::new();
        for item in std::mem::take(&mut self.items) {
            let weight = item.dtype.computes() && item.shape.len() >= 2;
            if !weight || !encodes(form, lead, &item, upright) {
                plain.extend(module(&item.name).filter(|_| weight).map(str::to_owned));
                items.push(item);
                continue;
            }
            count += 1;
            coded.extend(item.name.split('.').map(str::to_owned));
            for part in [Part::Codes, Part::Scales] {
                items.push(encoded(&item, form, part)?);
            }
        }
        self.items = items;
        if count == 0 {
            let problem = format!(
                "none of the output's weights can be written as {}: it is for matrices of layers whose {}",
                form.name(),
                match form {
                    Form::Fp8 => format!("sides are multiples of {TILE}"),
                    Form::Mxfp4 | Form::Q8_0 => format!("rows are multiples of {GROUP} long"),
                }
            );
            return Err(Error::recipe("to", problem));
        }
        plain.sort();
        plain.dedup();
        let weights = if count == 1 { "weight is" } else { "weights are" };
        let told = format!("{count} {weights} written as {}; {} modules stay plain", form.name(), plain.len());
        self.notes.push(("encoded".to_owned(), told));
        // The first word that says which part of the model it is; numbers of layers say nothing of that.
        let own = |word: &&str| !coded.contains(*word) && word.parse::<u64>().is_err();
        let words: BTreeSet<String> =
            plain.iter().filter_map(|name| name.split('.').find(own)).map(str::to_owned).collect();
        self.config.encoded = Some(Encoded { form, plain, words: words.into_iter().collect() });
        Ok(())
    }
}

/// One of the tensors that a weight becomes.
fn encoded(item: &Item, form: Form, part: Part) -> Result<Item> {
    let encode = Encode { form, part, shape: item.shape.clone(), weight: item.name.clone(), change: Undone::Nothing };
    let name = encode.name();
    becomes(item, name, encode)
}

/// What a tensor becomes that is encoded.
pub(super) fn becomes(item: &Item, name: String, encode: Encode) -> Result<Item> {
    let action = match &item.action {
        Action::Move { from, .. } => as_it_is(from.clone())?,
        computed => computed.clone(),
    };
    let Action::Compute { method, params, base, inputs, apart, cost, group } = action else {
        return Err(Error::bug(format!("`{}` is not computed", item.name)));
    };
    let action = Action::Compute { cost: encode.cost(cost), method, params, base, inputs, apart, group };
    let (dtype, shape) = encode.tensor();
    Ok(Item { name, dtype, shape, action, encode: Some(Box::new(encode)) })
}

/// The module that a tensor is of, as a loader knows it: experts in one tensor are the module `experts`.
fn module(name: &str) -> Option<&str> {
    name.strip_suffix(".weight").or_else(|| packed(name).map(|_| name.rsplit_once('.').map_or(name, |(of, _)| of)))
}

/// The name of packed experts inside their module.
fn packed(name: &str) -> Option<&str> {
    let (of, own) = name.rsplit_once('.')?;
    (of.ends_with(".experts") && ["gate_up_proj", "down_proj"].contains(&own)).then_some(own)
}

/// Whether packed experts are kept with a row for each output, by the first of them.
fn upright(items: &[Item]) -> bool {
    let find = |own: &str| items.iter().find(|i| packed(&i.name) == Some(own)).map(|i| i.shape.as_slice());
    match (find("gate_up_proj"), find("down_proj")) {
        (Some([_, up, hidden]), Some([_, out, inner])) => hidden == out && *up == 2 * inner,
        _ => false,
    }
}

/// Whether a loader of the form takes a matrix in it: linear layers of language models, without routers; of packed experts those
/// that are `upright`.
fn encodes(form: Form, model: &Checkpoint, item: &Item, upright: bool) -> bool {
    let sides = &item.shape[item.shape.len() - 2..];
    let fits = match form {
        Form::Fp8 => sides.iter().all(|n| *n > 0 && n % TILE == 0),
        Form::Q8_0 => false,
        Form::Mxfp4 => sides[0] > 0 && sides[1] > 0 && sides[1].is_multiple_of(GROUP as u64),
    };
    let linear = item.name.ends_with(".weight") && item.shape.len() == 2 && !is_router(&item.name);
    // Matrices that are kept transposed are of another class.
    let conv1d = [".c_attn.weight", ".c_proj.weight", ".c_fc.weight"].iter().any(|end| item.name.ends_with(end));
    let kind =
        (linear && !conv1d) || (packed(&item.name).is_some() && item.shape.len() == 3 && upright && form == Form::Fp8);
    // A stack may have grown.
    fits && kind && model.anatomy().stack_of(&item.name).is_some_and(|stack| stack.role.leads())
}
