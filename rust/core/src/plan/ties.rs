//! Tensors that are one in the model whose config the output has, and what that means for the output.

use std::collections::HashMap;

use super::item::Item;
use super::{Action, Draft};
use crate::error::{Error, Result};
use crate::model::tied;

/// Whether two actions make the same of tensors that are copies of each other in every model.
fn alike(a: &Action, b: &Action) -> bool {
    let models = |a: &Action| a.places().iter().map(|p| p.model).collect::<Vec<_>>();
    let same = match (a, b) {
        (Action::Move { .. }, Action::Move { .. }) => true,
        (Action::Compute { method: m, params: p, .. }, Action::Compute { method: n, params: q, .. }) => {
            m.spec().name == n.spec().name && p.shared == q.shared && p.per_input == q.per_input
        }
        _ => false,
    };
    same && models(a) == models(b)
}

impl Draft {
    /// Where the model that lends its config has a head of its own, and those merged tie theirs: the output has none, and no loader
    /// would make one of the table. What is made of the table is written as the head too.
    fn write_head_out(&mut self) {
        let model = self.models.get(self.config.from);
        let Some(head) = model.tensors.iter().map(|t| &t.name).find(|n| tied::is_head(n)) else { return };
        if self.items.iter().any(|i| tied::is_head(&i.name)) {
            return;
        }
        let Some(table) = self.items.iter().find(|i| tied::is_table(&i.name)) else { return };
        let from = table.action.places();
        if from.is_empty() || from.iter().any(|p| self.models.get(p.model).tied() != Some(true)) {
            return;
        }
        let told = format!(
            "the models that are merged tie their head to their table, and {} does not: what `{}` becomes is written as `{head}` too",
            model.name(),
            table.name
        );
        let item = table.named(head.clone());
        self.warnings.push(told);
        self.items.push(item);
    }

    /// Notes whether the output has a head of its own though the model its config comes from ties it to the embedding.
    ///
    /// # Errors
    /// [`Error::Tensor`] for another copy of a table that is made otherwise than the table: no config can say that.
    pub fn settle_head(&mut self) -> Result<()> {
        let model = self.models.get(self.config.from);
        if model.tied() == Some(false) {
            self.write_head_out();
            return Ok(());
        }
        let by_name: HashMap<&str, &Item> = self.items.iter().map(|i| (i.name.as_str(), i)).collect();
        let made_otherwise = |i: &Item| {
            let original = model.original(&i.name).and_then(|t| by_name.get(t.name.as_str()));
            original.filter(|o| !alike(&i.action, &o.action)).map(|o| o.name.as_str())
        };
        let copies = self.items.iter().filter(|i| !tied::is_head(&i.name));
        if let Some((copy, original)) = copies.filter_map(|i| Some((&i.name, made_otherwise(i)?))).next() {
            let problem =
                format!("is one tensor with `{original}`, and would be made otherwise; merge, move or leave out both");
            return Err(Error::tensor(&model.path, copy, problem));
        }
        let own = |i: &&Item| {
            // A model that ties and stores its head too has no head of its own.
            let of_its_own = || {
                i.action.places().iter().any(|p| {
                    let (other, tensor) = (self.models.get(p.model), self.models.tensor(*p));
                    // An adapter that changes the head of a model that ties makes it one of its own.
                    tensor.name == i.name && (other.tied() != Some(true) || other.adapted(tensor))
                })
            };
            let stored = model.find_alike(&i.name).is_some();
            let own = of_its_own() && (!stored || model.tied() == Some(true));
            tied::is_head(&i.name) && (own || made_otherwise(i).is_some())
        };
        if let Some(head) = self.items.iter().find(own) {
            self.warnings.push(format!(
                "{} ties its head to its embedding, the output has a head of its own (`{}`)",
                model.path.display(),
                head.name
            ));
            self.config.untied = true;
            // Loaders look for its bias under the second name then.
            let twin = head.name.replace(".weight", ".bias");
            let bias = tied::bias(&twin).and_then(|b| self.items.iter().find(|i| i.name == b));
            if let Some(bias) = bias.filter(|_| self.items.iter().all(|i| i.name != twin)) {
                let item = bias.named(twin);
                self.items.push(item);
            }
        }
        Ok(())
    }
}
