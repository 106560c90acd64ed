//! What models tie, once an adapter has changed a part of it: an adapter is trained with the other part as it was.

use std::path::Path;
use std::sync::Arc;

use super::made::{Made, Sum};
use super::{Checkpoint, Tensor};
use crate::model::tied;

impl Checkpoint {
    /// Whether an adapter made a tensor what it is.
    pub fn adapted(&self, tensor: &Tensor) -> bool {
        match tensor.made.as_deref() {
            None | Some(Made::Coded(_)) => self.files[tensor.file].adapter,
            Some(Made::Sum(_) | Made::Exact(_)) => true,
            Some(Made::Rows(rows)) => rows.tables.iter().flatten().any(|t| self.adapted(t)),
        }
    }

    /// Keeps a tied head as it was before the adapter at `by` changed the table alone; `before` are the tables as they were. Where
    /// it is not known what the head would be called, it changes with the table, and is told of.
    pub(super) fn keep_head(&mut self, before: &[Tensor], by: &Path) {
        let changed = |t: &&Tensor| self.find(&t.name).is_some_and(|i| self.adapted(&self.tensors[i]));
        let head_too = || self.tensors.iter().any(|t| tied::is_head(&t.name) && self.adapted(t));
        let Some(table) = before.iter().filter(|t| !self.adapted(t)).find(changed) else { return };
        if self.tied() != Some(true) || head_too() {
            return;
        }
        let names = self.tensors.iter().map(|t| t.name.as_str());
        let head = self.config.as_ref().and_then(|config| tied::head_of(config, &table.name, names));
        let what = if head.is_some() {
            "the head stays as it was trained with, and is a tensor of its own"
        } else {
            "the head changes with it"
        };
        let (by, name) = (by.display(), &table.name);
        self.warnings.push(format!("{by}: changes `{name}`, to which the model ties its head; {what}"));
        match head {
            Some(head) => {
                let sum = Sum { parts: vec![(table.clone(), 1.0)], ..Sum::default() };
                self.put(Tensor { name: head.to_owned(), made: Some(Arc::new(Made::Sum(sum))), ..table.clone() });
            }
            None => {
                let copied = |t: &&Tensor| self.original(&t.name).is_some_and(|o| o.name == *name);
                let copies: Vec<String> = self.tensors.iter().filter(copied).map(|t| t.name.clone()).collect();
                self.tensors.retain(|t| !copies.contains(&t.name));
                self.reindex();
            }
        }
    }
}
