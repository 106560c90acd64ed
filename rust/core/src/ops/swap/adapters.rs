//! Layers of adapters: their factors move together, and are never blended.

use super::{Builder, Giver};
use crate::error::{Error, Result};
use crate::model::names::inside;
use crate::recipe::NonLayer;
use crate::view::Place;

impl Builder<'_> {
    /// Adapters: in the layers a donor gives, its tensors and no others; the product of two factors cannot be blended
    /// by blending the factors.
    pub(super) fn adapters(&mut self) -> Result<()> {
        if self.givers.iter().any(|g| g.base.is_some() || g.shares.iter().any(|s| *s != 0.0 && *s != 1.0)) {
            return Err(Error::recipe(
                "blend",
                "adapters cannot be blended layer by layer; fold them into their models first",
            ));
        }
        if self.swap.donors.iter().any(|d| d.heads.is_some()) {
            return Err(Error::recipe("heads", "adapters have no heads to move; fold them into their models first"));
        }
        if self.swap.non_layer != NonLayer::Into && self.swap.non_layer != NonLayer::From {
            return Err(Error::recipe("non_layer", "expected into or from: adapters cannot be blended"));
        }
        // Which model each tensor of each layer comes from; at most one donor may claim it.
        let owner = |builder: &Self, name: &str| -> Result<usize> {
            let Some(layer) = builder.layer(name) else {
                return Ok(if builder.swap.non_layer == NonLayer::From {
                    builder.givers[0].model
                } else {
                    builder.into
                });
            };
            let module = &*inside(name.split(".lora_").next().unwrap_or(name));
            let claim = |(_, g): &(&crate::recipe::Donor, &Giver)| g.shares.get(layer).is_some_and(|s| *s == 1.0);
            let mut claims = builder
                .swap
                .donors
                .iter()
                .zip(&builder.givers)
                .filter(claim)
                .filter(|(d, _)| d.modules.contain(module, name));
            let first = claims.next().map(|(_, g)| g.model);
            if claims.next().is_some() {
                return Err(Error::recipe("donors", format!("layer {layer} (`{module}`) is given by two donors")));
            }
            Ok(first.unwrap_or(builder.into))
        };
        let mut models = vec![self.into];
        models.extend(self.donors().into_iter().filter(|m| *m != self.into));
        // An adapter has one dtype; what the recipient has no factor for becomes like its others.
        let like = Place { model: self.into, tensor: 0 };
        for model in models {
            let names: Vec<String> = self.draft.models.get(model).tensors.iter().map(|t| t.name.clone()).collect();
            for (tensor, name) in names.into_iter().enumerate() {
                if owner(self, &name)? == model {
                    self.given |= model != self.into;
                    let own = self.draft.models.find(self.into, &name).unwrap_or(like);
                    self.draft.take(name, Place { model, tensor }, own, self.swap.dtype)?;
                }
            }
        }
        Ok(())
    }
}
