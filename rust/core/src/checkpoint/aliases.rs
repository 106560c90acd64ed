//! Tensors that are one in storage: `torch.save` keeps every name of what is tied, safetensors one of them.

use std::collections::HashMap;

use super::{Checkpoint, Tensor};

/// Where the elements of a tensor lie.
type Storage<'a> = (usize, u64, &'a [u64], Option<&'a [u64]>);

impl Checkpoint {
    /// The model with as many names of what it stores once as `lead` has; `None` where these are its own.
    ///
    /// A name that is another's in `lead` is given to what the other is here; one that is another's here, and of nothing in
    /// `lead`, is left out.
    pub fn with_aliases_of(&self, lead: &Self) -> Option<Self> {
        let lacks = |of: &Self, name: &str| of.counterpart(name).is_none();
        let more: Vec<Tensor> = lead
            .shared()
            .into_iter()
            .flat_map(|names| {
                let known = names.iter().find_map(|n| self.find_alike(n)).map(|i| &self.tensors[i]);
                let lacking = names.into_iter().filter(|n| lacks(self, n));
                lacking
                    .filter_map(move |n| known.map(|t| Tensor { name: n.to_owned(), ..t.clone() }))
                    .collect::<Vec<_>>()
            })
            .collect();
        let over: Vec<&str> = self
            .shared()
            .into_iter()
            .filter(|names| names.iter().any(|n| lead.find_alike(n).is_some()))
            .flat_map(|names| names.into_iter().filter(|n| lead.find_alike(n).is_none()).collect::<Vec<_>>())
            .collect();
        if more.is_empty() && over.is_empty() {
            return None;
        }
        let mut out = self.clone();
        out.tensors.retain(|t| !over.contains(&t.name.as_str()));
        out.tensors.extend(more);
        out.reindex();
        Some(out)
    }

    /// The names of each tensor that has several.
    fn shared(&self) -> Vec<Vec<&str>> {
        let plain = |t: &&Tensor| t.made.is_none() && t.nbytes > 0;
        // Parts of a safetensors file do not overlap.
        let may = |t: &&Tensor| self.files[t.file].path.extension().is_none_or(|e| e != "safetensors");
        let mut found: HashMap<Storage, Vec<&str>> = HashMap::new();
        for t in self.tensors.iter().filter(plain).filter(may) {
            let place = (t.file, t.begin, t.shape.as_slice(), t.strides.as_deref());
            found.entry(place).or_default().push(&t.name);
        }
        let mut groups: Vec<_> = found.into_values().filter(|names| names.len() > 1).collect();
        groups.sort_unstable();
        groups
    }
}
