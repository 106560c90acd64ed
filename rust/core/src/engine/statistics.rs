//! Statistics while they are joined: the spans of a tensor in their order, then the tensors of a group in the plan's.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::kernels::search::{LIST, gather};
use crate::methods::Totals;

/// Sums added in the order of their index, whoever finishes first.
pub struct Ordered {
    total: Vec<f64>,
    next: u64,
    early: BTreeMap<u64, Vec<f64>>,
}

impl Ordered {
    /// `width` sums of nothing.
    pub fn new(width: usize) -> Self {
        Self { total: vec![0.0; width], next: 0, early: BTreeMap::new() }
    }

    /// Takes the sums with number `index`; every number comes once.
    pub fn put(&mut self, index: u64, sums: Vec<f64>) {
        self.early.insert(index, sums);
        while let Some(sums) = self.early.remove(&self.next) {
            add(&mut self.total, &sums);
            self.next += 1;
        }
    }

    /// The totals.
    pub fn total(self) -> Vec<f64> {
        self.total
    }
}

fn add(total: &mut [f64], sums: &[f64]) {
    total.iter_mut().zip(sums).for_each(|(t, s)| *t += s);
}

/// What a scan found in one tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OfTensor {
    /// Index in the plan.
    pub tensor: usize,
    /// As [`Totals::sums`].
    #[serde(with = "bits")]
    pub sums: Vec<f64>,
    /// Ranks of each span.
    pub ranks: Vec<Vec<u64>>,
}

/// What a scan found in a part of the tensors of a group. Parts are joined by [`join`], whoever scanned them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Partial {
    /// As [`Totals::counts`], over the part: whole numbers, whose order of addition does not matter.
    pub counts: Vec<Vec<u64>>,
    /// As [`Totals::lists`], over the part.
    pub lists: Vec<Vec<u32>>,
    /// Its tensors.
    pub tensors: Vec<OfTensor>,
}

/// Floats in JSON by their bits: exact, and whatever they are.
mod bits {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub fn serialize<S: Serializer>(values: &[f64], s: S) -> Result<S::Ok, S::Error> {
        values.iter().map(|v| v.to_bits()).collect::<Vec<u64>>().serialize(s)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<f64>, D::Error> {
        Ok(Vec::<u64>::deserialize(d)?.into_iter().map(f64::from_bits).collect())
    }
}

/// What was found in several parts as of one, which joins with others as they would.
pub fn merge(parts: Vec<Partial>) -> Partial {
    let mut all = Partial::default();
    for part in parts {
        all.counts.resize_with(part.counts.len().max(all.counts.len()), Vec::new);
        for (total, counts) in all.counts.iter_mut().zip(part.counts) {
            if total.is_empty() {
                *total = counts;
            } else {
                total.iter_mut().zip(counts).for_each(|(t, c)| *t += c);
            }
        }
        all.lists.resize_with(part.lists.len().max(all.lists.len()), Vec::new);
        gather(&mut all.lists, &part.lists, LIST);
        all.tensors.extend(part.tensors);
    }
    all
}

/// Ranks counted before each span of a tensor, by the tensor's index.
pub type Before = Vec<(usize, Vec<Vec<u64>>)>;

/// The totals of a scan, and the running ranks before each span; `sums` and `ranks` are their numbers, `order` is that of
/// the tensors.
pub fn join(parts: Vec<Partial>, order: &[usize], sums: usize, ranks: usize) -> (Totals, Before) {
    let Partial { counts, lists, mut tensors } = merge(parts);
    let mut totals = Totals { sums: vec![0.0; sums], counts, ranks: vec![0; ranks], lists };
    let place: HashMap<usize, usize> = order.iter().enumerate().map(|(place, t)| (*t, place)).collect();
    tensors.sort_unstable_by_key(|t| place.get(&t.tensor));
    let mut before = Before::new();
    for t in tensors {
        add(&mut totals.sums, &t.sums);
        let running = t.ranks.iter().map(|row| {
            let so_far = totals.ranks.clone();
            totals.ranks.iter_mut().zip(row).for_each(|(t, r)| *t += r);
            so_far
        });
        before.push((t.tensor, running.collect()));
    }
    (totals, before)
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Law 3: totals do not depend on who scanned which tensors, to the last bit.
        #[test]
        fn parts_do_not_matter(values in proptest::collection::vec((-1e6f64..1e6, 0u64..9), 1..20), cut in 0usize..20) {
            let tensors: Vec<OfTensor> = values.iter().enumerate()
                .map(|(tensor, (sum, rank))| OfTensor { tensor, sums: vec![sum * 1e-3], ranks: vec![vec![*rank], vec![1]] })
                .collect();
            let part = |tensors: &[OfTensor]| Partial {
                counts: vec![vec![tensors.len() as u64]], lists: vec![], tensors: tensors.to_vec(),
            };
            let order: Vec<usize> = (0..tensors.len()).rev().collect();
            let (whole, before) = join(vec![part(&tensors)], &order, 1, 1);
            let (first, last) = tensors.split_at(cut.min(tensors.len()));
            let (parts, again) = join(vec![part(last), part(first)], &order, 1, 1);
            proptest::prop_assert_eq!(whole.sums[0].to_bits(), parts.sums[0].to_bits());
            proptest::prop_assert_eq!((&whole.counts, &whole.ranks), (&parts.counts, &parts.ranks));
            proptest::prop_assert_eq!(before, again);
        }
    }
}
