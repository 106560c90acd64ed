//! What the scans over groups have found: the second phase, `settle`, of a run.

use std::collections::HashMap;
use std::sync::Arc;

use super::statistics::{Partial, join};
use crate::error::{Error, Result};
use crate::methods::{Kernel, Wants};
use crate::plan::{Action, Plan};

/// The scale of each model's change, of every tensor whose changes are scaled.
pub type Scales = HashMap<usize, Arc<[f64]>>;

/// What is found of groups of tensors, for the kernels that apply it.
#[derive(Default)]
pub struct Found {
    groups: HashMap<usize, Group>,
    /// For a tensor and each of its spans: the running ranks before it.
    before: HashMap<usize, Vec<Vec<u64>>>,
    /// How changes are scaled before all else.
    scales: Scales,
}

struct Group {
    kernel: Box<dyn Kernel>,
    passes: usize,
}

impl Found {
    /// Nothing yet, of changes that are scaled so.
    pub fn new(scales: Scales) -> Self {
        Self { scales, ..Self::default() }
    }

    /// The scale of each model's change of a tensor, if they are scaled.
    pub fn scales(&self, tensor: usize) -> Option<&Arc<[f64]>> {
        self.scales.get(&tensor)
    }

    /// Starts a group with the kernel that scans it.
    ///
    /// # Errors
    /// [`Error::Recipe`] for parameters the plan should have refused.
    pub fn begin(&mut self, plan: &Plan, group: usize) -> Result<()> {
        let tensors = &plan.groups[group].tensors;
        let Some(first) = tensors.first().map(|t| &plan.tensors[*t]) else { return Ok(()) };
        let Action::Compute { method, params, .. } = &first.action else {
            return Err(Error::bug(format!("`{}` is moved and has a group", first.name)));
        };
        let all = tensors.iter().map(|t| plan.tensors[*t].elements()).sum();
        let kernel =
            method.bind(params, &[all]).map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", first.name)))?;
        self.groups.insert(group, Group { kernel, passes: 0 });
        Ok(())
    }

    /// The kernel that scans a group, what it wants next, and the number of the pass; `None` when nothing is left to find.
    pub fn scanner(&self, group: usize) -> Option<(&dyn Kernel, Wants, usize)> {
        let group = self.groups.get(&group)?;
        group.kernel.wants().map(|wants| (&*group.kernel, wants, group.passes))
    }

    /// Takes what the scans of all parts of a group have found.
    ///
    /// # Errors
    /// [`Error::Data`] if the data do not allow to go on.
    pub fn settle(&mut self, plan: &Plan, group: usize, parts: Vec<Partial>) -> Result<()> {
        let Some(own) = self.groups.get_mut(&group) else { return Err(Error::bug("settled before it began")) };
        let Some(wants) = own.kernel.wants() else { return Err(Error::bug("settled once too often")) };
        let (totals, before) = join(parts, &plan.groups[group].tensors, wants.sums, wants.ranks);
        if wants.ranks > 0 {
            self.before.extend(before);
        }
        own.kernel.take(totals).map_err(|p| Error::data("", format!("{}: {p}", plan.groups[group].name)))?;
        own.passes += usize::from(!wants.sample);
        Ok(())
    }

    /// The kernel that applies what was found to a tensor, and the passes it took; `None` for tensors outside groups.
    ///
    /// # Errors
    /// As [`Kernel::on`].
    pub fn kernel(&self, plan: &Plan, tensor: usize) -> Result<Option<(Box<dyn Kernel>, usize)>> {
        let t = &plan.tensors[tensor];
        let Action::Compute { params, group: Some(group), .. } = &t.action else { return Ok(None) };
        let Some(found) = self.groups.get(group) else {
            return Err(Error::bug(format!("nothing was found for `{}`", t.name)));
        };
        let kernel = found.kernel.on(params, t.values());
        kernel.map(|k| Some((k, found.passes))).map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", t.name)))
    }

    /// Running ranks before each span of a tensor, if its group has counted any.
    pub fn before(&self, plan: &Plan, tensor: usize) -> Vec<Vec<u64>> {
        // Scales are of the same values as their codes, which are counted.
        let t = &plan.tensors[tensor];
        let codes = || match t.action {
            Action::Compute { group: Some(group), .. } if t.is_scales() => {
                plan.groups[group].tensors.iter().copied().find(|other| plan.tensors[*other].weight() == t.weight())
            }
            _ => None,
        };
        let found = self.before.get(&tensor).or_else(|| self.before.get(&codes()?));
        found.cloned().unwrap_or_default()
    }
}
