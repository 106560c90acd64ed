//! Statistics over tensors that lie in several parts of a plan: found in rounds, a part of each by every part.
//!
//! A round measures layers, or is one pass of every group that has one left. What the parts have found is joined in the plan's
//! order, and kept: whoever makes tensors then plays it to the kernels again, as if it had scanned all by itself.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::found::Found;
use super::measure::Measures;
use super::statistics::{Partial, merge};
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::plan::parts::{divide, of_tensors};

/// What rounds have found so far.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Settled {
    /// How many there were.
    pub rounds: usize,
    /// What was measured.
    measures: Measures,
    /// What each pass over a group has found, by the group.
    groups: BTreeMap<usize, Vec<Partial>>,
}

/// What one part has found in a round.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Round {
    /// Which round, from 1.
    pub round: usize,
    /// What it has measured.
    pub measures: Measures,
    /// What it has found of each group.
    pub groups: BTreeMap<usize, Partial>,
}

/// What a round is to find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// Nothing: tensors can be made.
    Nothing,
    /// Measures of these tensors.
    Measures(Vec<usize>),
    /// The next pass over these groups.
    Groups(Vec<usize>),
}

impl Settled {
    /// What was measured, by tensor.
    pub fn measures(&self) -> &Measures {
        &self.measures
    }

    /// Starts a group, and has it take what rounds have found of it.
    ///
    /// # Errors
    /// As [`Found::begin`] and [`Found::settle`].
    pub fn replay(&self, plan: &Plan, group: usize, found: &mut Found) -> Result<()> {
        found.begin(plan, group)?;
        let passes = self.groups.get(&group).into_iter().flatten();
        passes.cloned().try_for_each(|pass| found.settle(plan, group, vec![pass]))
    }

    /// What is still to be found before `n` parts of a plan can be made, each by itself. What lies in one part it finds itself.
    ///
    /// # Errors
    /// [`Error::Data`] if what was found does not allow to go on.
    pub fn wanted(&self, plan: &Plan, n: usize) -> Result<Wanted> {
        let part_of = of_tensors(plan, &divide(plan, n));
        let spread = |tensors: &mut dyn Iterator<Item = usize>| {
            tensors.map(|t| part_of[t]).collect::<BTreeSet<usize>>().len() > 1
        };
        let mut measured = Vec::new();
        for stack in plan.scaled().values() {
            let all = || stack.scaled.values().flatten().copied();
            if spread(&mut all()) {
                measured.extend(all().filter(|t| !self.measures.contains_key(t)));
            }
        }
        if !measured.is_empty() {
            return Ok(Wanted::Measures(measured));
        }
        let mut open = Vec::new();
        for (group, of) in plan.groups.iter().enumerate() {
            if spread(&mut of.tensors.iter().copied()) {
                let mut found = Found::default();
                self.replay(plan, group, &mut found)?;
                if found.scanner(group).is_some() {
                    open.push(group);
                }
            }
        }
        Ok(if open.is_empty() { Wanted::Nothing } else { Wanted::Groups(open) })
    }

    /// Takes what all `n` parts have found in the next round.
    ///
    /// # Errors
    /// [`Error::Recipe`] if they have not found what was wanted: a part is missing, or was of another plan.
    pub fn settle(mut self, plan: &Plan, n: usize, parts: Vec<Round>) -> Result<Self> {
        let wrong =
            || Error::recipe("round", "the parts have not scanned what this round is of; scan all of them again");
        let wanted = self.wanted(plan, n)?;
        let mut measures = Measures::new();
        let mut groups: BTreeMap<usize, Vec<Partial>> = BTreeMap::new();
        for part in parts {
            measures.extend(part.measures);
            part.groups.into_iter().for_each(|(group, found)| groups.entry(group).or_default().push(found));
        }
        match wanted {
            Wanted::Nothing => return Err(Error::recipe("round", "nothing is left to be found; make the parts")),
            Wanted::Measures(tensors) => {
                if !tensors.iter().all(|t| measures.contains_key(t)) {
                    return Err(wrong());
                }
            }
            Wanted::Groups(wanted) => {
                for group in wanted {
                    let joined = merge(groups.remove(&group).unwrap_or_default());
                    let mut scanned: Vec<usize> = joined.tensors.iter().map(|t| t.tensor).collect();
                    let mut all = plan.groups[group].tensors.clone();
                    scanned.sort_unstable();
                    all.sort_unstable();
                    if scanned != all {
                        return Err(wrong());
                    }
                    self.groups.entry(group).or_default().push(joined);
                }
            }
        }
        self.measures.extend(measures);
        self.rounds += 1;
        Ok(self)
    }
}
