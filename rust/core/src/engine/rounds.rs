//! A round over a part of a plan: what its tensors have to be measured or scanned for before any can be made; see [`super::settled`].

use std::collections::HashSet;

use super::found::Found;
use super::measure;
use super::observer::Progress;
use super::settled::{Round, Settled, Wanted};
use super::tiles::Inputs;
use super::{Means, Options, publish, scan, sources};
use crate::error::{Error, Result};
use crate::plan::parts::{divide, of_tensors};
use crate::plan::{Plan, budget};

/// Scans what part `index` (from 0) of `n` has of the next round.
///
/// # Errors
/// As [`super::run`], and [`Error::Recipe`] if no round is wanted.
pub fn scan_part(
    plan: &Plan,
    (index, n): (usize, usize),
    settled: &Settled,
    options: &Options,
    means: &Means,
) -> Result<Round> {
    let budget = budget::fit(&[plan], options.memory, options.threads, options.chunk)?;
    let all = sources::of(&[plan], options.io);
    all.iter().try_for_each(publish::unchanged)?;
    let progress = Progress::default();
    let inputs = Inputs {
        plan,
        sources: &all[0],
        chunk: budget.chunk,
        allow_nonfinite: options.allow_nonfinite,
        progress: &progress,
    };
    let part_of = of_tensors(plan, &divide(plan, n));
    let own = |t: &usize| part_of[*t] == index;
    let mut round = Round { round: settled.rounds + 1, ..Round::default() };
    match settled.wanted(plan, n)? {
        Wanted::Nothing => return Err(Error::recipe("round", "nothing is left to be found; make the parts")),
        Wanted::Measures(tensors) => {
            let tensors: Vec<usize> = tensors.into_iter().filter(own).collect();
            round.measures = measure::of_tensors(&inputs, means, &tensors)?;
        }
        Wanted::Groups(groups) => {
            let left: HashSet<usize> =
                groups.iter().flat_map(|g| plan.groups[*g].tensors.iter().copied().filter(own)).collect();
            let scales = measure::scales(&inputs, means, settled.measures(), |t| left.contains(&t))?;
            let mut found = Found::new(scales);
            for group in groups {
                let tensors: Vec<usize> = plan.groups[group].tensors.iter().copied().filter(own).collect();
                if !tensors.is_empty() {
                    settled.replay(plan, group, &mut found)?;
                    round.groups.insert(group, scan::scan(&inputs, means, &found, group, &tensors)?);
                }
            }
        }
    }
    all.iter().try_for_each(publish::unchanged)?;
    Ok(round)
}
