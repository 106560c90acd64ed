//! What of a model lies in no layer: where it comes from.

use std::collections::HashSet;

use super::Builder;
use crate::error::Result;
use crate::recipe::NonLayer;
use crate::view::Place;

impl Builder<'_> {
    /// The models that tensors outside the layers come from, besides the recipient.
    pub(super) fn lenders(&self) -> Vec<usize> {
        match self.swap.non_layer {
            NonLayer::Into => Vec::new(),
            NonLayer::Base => self.base.into_iter().collect(),
            _ => self.donors(),
        }
    }

    /// A tensor that the recipient has outside the layers.
    pub(super) fn outside(&mut self, name: String, own: Place) -> Result<()> {
        let mut parts = vec![(own, 1.0)];
        let into = self.draft.models.get(self.into);
        let anatomy = into.anatomy();
        // A copy goes with what it is a copy of.
        let known = into.original(&name).map_or_else(|| name.clone(), |t| t.name.clone());
        // Other stacks, and what belongs to them, stay the recipient's.
        let mut elsewhere = anatomy.place(&known).is_some() || !anatomy.beside(&known, &self.stack);
        if !elsewhere && self.stays(&name, own, &self.lenders()) {
            elsewhere = true;
            if !self.ignored(&name) {
                self.draft.leave_buffer(&name);
            }
        }
        self.given |= self.swap.non_layer != NonLayer::Into && !elsewhere;
        match self.swap.non_layer {
            _ if elsewhere => {}
            NonLayer::Into => {}
            NonLayer::From => parts = vec![(self.draft.models.need(self.givers[0].model, &name, self.into)?, 1.0)],
            NonLayer::Base => {
                if let Some(base) = self.base {
                    parts = vec![(self.draft.models.need(base, &name, self.into)?, 1.0)];
                }
            }
            NonLayer::Mean | NonLayer::Share(_) => parts = self.everyone(&name, self.into)?,
        }
        self.mix(name, own, parts)
    }

    /// Tensors outside the layers that the recipient does not have: most often a head that it ties to its embedding.
    pub(super) fn only_elsewhere(&mut self) -> Result<()> {
        let lenders = self.lenders();
        let mut known: HashSet<String> = HashSet::new();
        let every = |lender: &usize| {
            let tensors = &self.draft.models.get(*lender).tensors;
            tensors.iter().enumerate().map(|(i, t)| (*lender, i, t.name.clone())).collect::<Vec<_>>()
        };
        for (lender, tensor, name) in lenders.iter().flat_map(every).collect::<Vec<_>>() {
            let anatomy = self.draft.models.get(lender).anatomy();
            let own = anatomy.alike(&self.stack).unwrap_or(&self.stack);
            let elsewhere = anatomy.place(&name).is_some() || !anatomy.beside(&name, own);
            // A copy of what the recipient has, in a model that ties as it does.
            let into = self.draft.models.get(self.into);
            let theirs = self.draft.models.get(lender);
            let made = theirs.adapted(&theirs.tensors[tensor]);
            let copy = into.original(&name).is_some() && theirs.tied() == Some(true) && !made;
            let there = elsewhere || copy || into.find_alike(&name).is_some();
            if there || self.ignored(&name) || !known.insert(name.clone()) {
                continue;
            }
            if self.draft.models.get(lender).tensors[tensor].is_buffer() {
                self.draft.leave_buffer(&name);
                continue;
            }
            let own = Place { model: lender, tensor };
            let mut parts = vec![(own, 1.0)];
            if matches!(self.swap.non_layer, NonLayer::Mean | NonLayer::Share(_)) {
                parts = self.everyone(&name, lender)?;
            }
            self.mix(name, own, parts)?;
        }
        Ok(())
    }

    /// The donors, each once.
    pub(super) fn donors(&self) -> Vec<usize> {
        let mut models: Vec<usize> = Vec::new();
        for giver in &self.givers {
            if !models.contains(&giver.model) {
                models.push(giver.model);
            }
        }
        models
    }

    /// A tensor outside the layers that is mixed: the recipient's and every donor's, with their shares.
    pub(super) fn everyone(&self, name: &str, wanted_by: usize) -> Result<Vec<(Place, f64)>> {
        let donors = self.donors();
        let share = match self.swap.non_layer {
            NonLayer::Share(share) => share,
            _ => 1.0 / (donors.len() + 1) as f64,
        };
        let need = |model, share| Ok((self.draft.models.need(model, name, wanted_by)?, share));
        let own = need(self.into, 1.0 - share * donors.len() as f64);
        std::iter::once(own).chain(donors.into_iter().map(|donor| need(donor, share))).collect()
    }
}
