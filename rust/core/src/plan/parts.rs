//! Parts of a plan: sets of whole shards, for several processes or machines to make.
//!
//! A division is a function of the plan and of the number of parts alone, so that every machine finds the same.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::{Action, Plan};

/// A part of a plan. One without shards has nothing to do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Indices into [`Plan::shards`], in their order.
    pub shards: Vec<usize>,
    /// Number of tensors in these.
    pub tensors: usize,
    /// Bytes read, as [`Plan::read_bytes`] counts them.
    pub read_bytes: u64,
    /// Bytes of the files written.
    pub write_bytes: u64,
    /// Input files read, by model and number.
    pub inputs: BTreeSet<(usize, usize)>,
}

impl Part {
    fn add(&mut self, own: &Self) {
        self.shards.extend(&own.shards);
        self.tensors += own.tensors;
        self.read_bytes += own.read_bytes;
        self.write_bytes += own.write_bytes;
        self.inputs.extend(&own.inputs);
    }

    fn cost(&self) -> u64 {
        self.read_bytes + self.write_bytes
    }
}

/// What each shard reads and writes.
pub fn of_shards(plan: &Plan) -> Vec<Part> {
    let of =
        |(i, s): (usize, &crate::checkpoint::Shard)| Part { shards: vec![i], write_bytes: s.size(), ..Part::default() };
    let mut all: Vec<Part> = plan.shards.iter().enumerate().map(of).collect();
    for t in plan.tensors.iter() {
        let own = &mut all[t.shard];
        own.tensors += 1;
        own.read_bytes += t.action.cost().reads as u64 * plan.input_bytes(t);
        own.inputs.extend(t.action.places().iter().map(|p| (p.model, plan.tensor(*p).file)));
    }
    all
}

/// Divides a plan into `n` parts, each of shards that follow one another: these mostly read the same input files, so that few files
/// are read by two parts. The part that reads and writes most does so as little as can be; none is empty unless
/// there are more parts than shards.
pub fn divide(plan: &Plan, n: usize) -> Vec<Part> {
    let shards = of_shards(plan);
    let costs: Vec<u64> = shards.iter().map(Part::cost).collect();
    let mut parts: Vec<Part> = cut(&costs, n.min(shards.len()))
        .into_iter()
        .map(|own| {
            let mut part = Part::default();
            shards[own].iter().for_each(|s| part.add(s));
            part
        })
        .collect();
    parts.resize_with(n, Part::default);
    parts
}

/// Cuts a row of costs into `n` pieces (as many as there are costs, at most) of which none costs more than it must, and
/// that are otherwise as even as one walk makes them.
fn cut(costs: &[u64], n: usize) -> Vec<std::ops::Range<usize>> {
    let total: u64 = costs.iter().sum();
    let (mut low, mut high) = (costs.iter().copied().max().unwrap_or(0), total);
    while low < high {
        let middle = low + (high - low) / 2;
        if fewest(costs, middle)[0] <= n { high = middle } else { low = middle + 1 }
    }
    let fewest = fewest(costs, low);
    let (mut pieces, mut start, mut spent) = (Vec::new(), 0, 0u64);
    for piece in 0..n {
        let after = n - piece - 1;
        let goal = (u128::from(total) * (piece as u128 + 1) / n as u128) as u64;
        let (mut end, mut own) = (start, 0);
        // At least one, as long as the rest can go into the pieces after it, and near to its share of the whole.
        while end < costs.len() - after {
            let next = own + costs[end];
            let must = end == start || fewest[end] > after;
            let nearer = (spent + next).abs_diff(goal) <= (spent + own).abs_diff(goal);
            if !must && (next > low || !nearer) {
                break;
            }
            (end, own) = (end + 1, next);
        }
        pieces.push(start..end);
        (start, spent) = (end, spent + own);
    }
    pieces
}

/// For each place in the row, the fewest pieces of at most `most` that what lies from there on goes into.
fn fewest(costs: &[u64], most: u64) -> Vec<usize> {
    let mut ends = vec![0; costs.len() + 1];
    let (mut end, mut sum) = (costs.len(), 0);
    for start in (0..costs.len()).rev() {
        sum += costs[start];
        while sum > most && end > start + 1 {
            end -= 1;
            sum -= costs[end];
        }
        ends[start] = ends[end] + 1;
    }
    ends
}

/// The part of each tensor of a plan that is divided so.
pub fn of_tensors(plan: &Plan, parts: &[Part]) -> Vec<usize> {
    let shards: BTreeMap<usize, usize> =
        parts.iter().enumerate().flat_map(|(i, p)| p.shards.iter().map(move |s| (*s, i))).collect();
    plan.tensors.iter().map(|t| shards[&t.shard]).collect()
}

/// The tensors of a shard in the order of their bytes, by number, each with the input file and the first byte where it lies as it is
/// to be; `None` if one of them does not, or must be read to know whether others are the same.
pub fn in_place(plan: &Plan, shard: usize) -> Option<Vec<(usize, &Path, u64)>> {
    let mut own: Vec<usize> = (0..plan.tensors.len()).filter(|t| plan.tensors[*t].shard == shard).collect();
    own.sort_unstable_by_key(|t| (plan.tensors[*t].offset, plan.tensors[*t].nbytes));
    let place = |t: usize| {
        let Action::Move { from, same } = &plan.tensors[t].action else { return None };
        let source = from.in_place(&plan.models).filter(|_| same.is_empty())?;
        Some((t, &*plan.models[from.like().model].files[source.file].path, source.begin))
    };
    own.into_iter().map(place).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Every cost is in one piece, pieces are in order, none is empty, and no division into as many has a smaller largest.
        #[test]
        fn a_row_is_cut_evenly(costs in proptest::collection::vec(0u64..50, 1..9), n in 1usize..9) {
            let n = n.min(costs.len());
            let pieces = cut(&costs, n);
            let mut at = 0;
            for piece in &pieces {
                proptest::prop_assert!(piece.start == at && piece.end > at);
                at = piece.end;
            }
            proptest::prop_assert_eq!((pieces.len(), at), (n, costs.len()));
            let largest = |cuts: &[std::ops::Range<usize>]| {
                cuts.iter().map(|p| costs[p.clone()].iter().sum::<u64>()).max().unwrap_or(0)
            };
            // Every way to put n - 1 borders among the costs.
            let least = (0u32..1 << (costs.len() - 1)).filter(|b| b.count_ones() as usize == n - 1).map(|borders| {
                let (mut cuts, mut start) = (Vec::new(), 0);
                for i in 1..costs.len() {
                    if borders & (1 << (i - 1)) != 0 {
                        cuts.push(start..i);
                        start = i;
                    }
                }
                cuts.push(start..costs.len());
                largest(&cuts)
            });
            proptest::prop_assert_eq!(Some(largest(&pieces)), least.min());
        }
    }
}
