//! Models whose tensors' names differ by what stands in front: `bert.encoder.` of one is `encoder.` of another.

use std::collections::HashSet;

use super::{Checkpoint, Tensor};
use crate::model::tied;

/// What names of a model have in front, and what those of another have instead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixes {
    /// In the model.
    pub ours: String,
    /// In the other.
    pub theirs: String,
}

impl Prefixes {
    /// The model's name of what the other calls `name`.
    pub fn ours_of(&self, name: &str) -> Option<String> {
        Some(format!("{}{}", self.ours, name.strip_prefix(self.theirs.as_str())?))
    }
}

impl Checkpoint {
    /// The model with its tensors under the names that `other` has them by, and the difference; `None` where no name differs,
    /// or they do not differ by one prefix alone.
    ///
    /// Names that both have stay as they are. It must be one prefix that explains most of those that differ, and no name may
    /// come to be there twice.
    pub fn named_as(&self, other: &Self) -> Option<(Self, Prefixes, usize)> {
        let lacks = |t: &&Tensor| self.find_alike(&t.name).is_none() && !t.is_buffer();
        let missing: Vec<&Tensor> = other.tensors.iter().filter(lacks).collect();
        // A head that is tied, or the copy of a table, need not be there: its name says nothing of the others'.
        let telling = || missing.iter().filter(|t| !tied::is_head(&t.name) && !tied::is_table(&t.name));
        let prefixes = telling().take(LOOKED).find_map(|t| self.prefixes(&t.name))?;
        let own = |t: &Tensor| Some((self.find(&prefixes.ours_of(&t.name)?)?, t.name.clone()));
        let found: Vec<(usize, String)> = missing.iter().filter_map(|t| own(t)).collect();
        let free = found.iter().all(|(i, _)| other.find_alike(&self.tensors[*i].name).is_none());
        let told = found.iter().filter(|(_, name)| !tied::is_head(name) && !tied::is_table(name)).count();
        let once: HashSet<usize> = found.iter().map(|(i, _)| *i).collect();
        if told * 2 < telling().count() || !free || once.len() < found.len() {
            return None;
        }
        let mut out = self.clone();
        for (i, name) in &found {
            let old = std::mem::replace(&mut out.tensors[*i].name, name.clone());
            out.by_name.remove(&old);
            out.by_name.insert(name.clone(), *i);
        }
        (out.anatomy, out.tables) = Default::default();
        Some((out, prefixes, found.len()))
    }

    /// By which prefixes the only tensor that can be meant by `name` differs from it.
    pub fn prefixes(&self, name: &str) -> Option<Prefixes> {
        let longer = |t: &Tensor| {
            let before = t.name.strip_suffix(name)?;
            (before.ends_with('.') && name.contains('.'))
                .then(|| Prefixes { ours: before.to_owned(), theirs: String::new() })
        };
        let shorter = || {
            name.match_indices('.').find_map(|(at, _)| {
                let (before, rest) = name.split_at(at + 1);
                (rest.contains('.') && self.find(rest).is_some())
                    .then(|| Prefixes { ours: String::new(), theirs: before.to_owned() })
            })
        };
        let mut found = self.tensors.iter().filter_map(longer);
        match (found.next(), found.next()) {
            (Some(only), None) => Some(only),
            (None, _) => shorter(),
            _ => None,
        }
    }
}

/// Names that are looked at to find the prefix.
const LOOKED: usize = 4;
