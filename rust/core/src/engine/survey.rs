//! Scans over more than one tensor: for methods whose statistics are taken over a module, a layer or the whole model.
//!
//! One kernel scans every tensor of a group, pass after pass; what it found then goes to the kernels of the single
//! tensors, which only apply it. Sums are added and ranks counted in the order of the output's tensors.

use std::collections::HashMap;
use std::sync::Mutex;

use super::job::Ordered;
use super::observer::Observer;
use super::threads;
use super::worker::{Scratch, Shared};
use crate::error::{Error, Result};
use crate::kernels::select::BINS;
use crate::methods::{Kernel, Stats, Totals};
use crate::plan::Action;
use crate::sizes::SPAN;

/// What the scans over groups have found.
#[derive(Default)]
pub struct Survey {
    groups: HashMap<usize, Group>,
    /// For a tensor and each of its spans: the running ranks before it.
    before: HashMap<usize, Vec<Vec<u64>>>,
}

struct Group {
    kernel: Box<dyn Kernel>,
    passes: usize,
}

impl Survey {
    /// Scans every group that has a tensor left to make.
    ///
    /// # Errors
    /// Input that cannot be read, parameters that do not go together, [`Error::Interrupted`].
    pub fn take(
        shared: &Shared,
        threads: usize,
        observer: &dyn Observer,
        left: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let mut survey = Self::default();
        for (index, group) in shared.plan.groups.iter().enumerate() {
            if group.tensors.iter().any(|t| left(*t)) {
                let found = survey.group(shared, &group.tensors, threads, observer)?;
                survey.groups.insert(index, found);
            }
        }
        Ok(survey)
    }

    fn group(&mut self, shared: &Shared, tensors: &[usize], threads: usize, observer: &dyn Observer) -> Result<Group> {
        let plan = shared.plan;
        let Some((Action::Merge { method, params, .. }, first)) =
            tensors.first().map(|t| (&plan.tensors[*t].action, &plan.tensors[*t].name))
        else {
            return Err(Error::Interrupted);
        };
        let wrong = |p| Error::recipe("", format!("tensor `{first}`: {p}"));
        let all = tensors.iter().map(|t| plan.tensors[*t].elements()).sum();
        let mut kernel = method.bind(params, &[all]).map_err(wrong)?;
        let tasks: Vec<(usize, u64)> = tensors
            .iter()
            .flat_map(|t| (0..plan.tensors[*t].elements().div_ceil(SPAN)).map(move |span| (*t, span)))
            .collect();
        let mut passes = 0;
        while let Some(wants) = kernel.wants() {
            // Histograms of a thread are kept from task to task: adding them up for each of thousands of small tensors
            // would take longer than the tensors.
            let pool: Mutex<Vec<(Stats, Scratch)>> = Mutex::default();
            let sums = Mutex::new(Ordered::new(wants.sums));
            let ranks = Mutex::new(vec![Vec::new(); tasks.len()]);
            let counts = Mutex::new(vec![vec![0u64; BINS]; wants.histograms]);
            let scanner = &*kernel;
            let poisoned = || Error::Interrupted;
            let before = &self.before;
            threads::each(tasks.len(), threads, shared.progress, observer, |i, _: &mut ()| {
                let kept = pool.lock().map_err(|_| poisoned())?.pop();
                let (mut stats, mut scratch) = kept.unwrap_or_else(|| {
                    let mut stats = Stats::default();
                    stats.reset(wants);
                    (stats, Scratch::default())
                });
                let (tensor, span) = tasks[i];
                stats.before = before.get(&tensor).map_or(vec![], |b| b[span as usize].clone());
                let own = (&mut stats, &mut scratch);
                shared.survey(&plan.tensors[tensor], span, scanner, passes == 0, own)?;
                sums.lock()
                    .map_err(|_| poisoned())?
                    .put(i as u64, std::mem::replace(&mut stats.sums, vec![0.0; wants.sums]));
                ranks.lock().map_err(|_| poisoned())?[i] = std::mem::replace(&mut stats.ranks, vec![0; wants.ranks]);
                // Bins are 32 bits wide; a span has 22.
                stats.spans += 1;
                if stats.spans == 1 << 9 {
                    join(&counts, &mut stats);
                }
                pool.lock().map_err(|_| poisoned())?.push((stats, scratch));
                Ok(())
            })?;
            for (mut stats, _) in pool.into_inner().map_err(|_| poisoned())? {
                join(&counts, &mut stats);
            }
            let (mut total, mut running) = (vec![0; wants.ranks], Vec::new());
            for row in ranks.into_inner().map_err(|_| poisoned())? {
                running.push(total.clone());
                total.iter_mut().zip(row).for_each(|(t, r)| *t += r);
            }
            if wants.ranks > 0 {
                self.before.retain(|t, _| !tensors.contains(t));
                for ((tensor, _), before) in tasks.iter().zip(running) {
                    self.before.entry(*tensor).or_default().push(before);
                }
            }
            let totals = Totals {
                sums: sums.into_inner().map_err(|_| poisoned())?.total(),
                counts: counts.into_inner().map_err(|_| poisoned())?,
                ranks: total,
            };
            kernel.take(totals).map_err(wrong)?;
            passes += 1;
        }
        Ok(Group { kernel, passes })
    }

    /// The kernel that applies what was found to a tensor, and the passes it took; `None` for tensors outside groups.
    ///
    /// # Errors
    /// As [`Kernel::on`].
    pub fn kernel(&self, plan: &crate::plan::Plan, tensor: usize) -> Result<Option<(Box<dyn Kernel>, usize)>> {
        let t = &plan.tensors[tensor];
        let Action::Merge { params, group: Some(group), .. } = &t.action else { return Ok(None) };
        let Some(found) = self.groups.get(group) else { return Ok(None) };
        let kernel = found.kernel.on(params, &t.shape);
        kernel.map(|k| Some((k, found.passes))).map_err(|p| Error::recipe("", format!("tensor `{}`: {p}", t.name)))
    }

    /// Running ranks before each span of a tensor, if its group has counted any.
    pub fn before(&self, tensor: usize) -> Vec<Vec<u64>> {
        self.before.get(&tensor).cloned().unwrap_or_default()
    }
}

fn join(counts: &Mutex<Vec<Vec<u64>>>, stats: &mut Stats) {
    if let Ok(mut counts) = counts.lock() {
        for (total, part) in counts.iter_mut().zip(&mut stats.counts) {
            for (t, p) in total.iter_mut().zip(part) {
                *t += u64::from(std::mem::take(p));
            }
        }
    }
    stats.spans = 0;
}
