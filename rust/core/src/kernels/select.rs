//! Exact selection by magnitude in streaming passes: a radix histogram of the absolute values' bits.
//!
//! The bits of |x| order as |x| does. Pass one counts the high 16 of the 31 bits, pass two the low 15 inside the
//! bin the k-th value falls in; then the k-th magnitude is known to the last bit. Elements equal to it are kept in
//! index order until exactly k are.

/// Bins of a histogram: one per value of the high 16 bits; the low pass uses half of them.
pub const BINS: usize = 1 << 16;
const LOW: u32 = 15;

/// Bits of `|x|`: an integer that orders as the magnitude does.
#[inline(always)]
pub fn magnitude(x: f32) -> u32 {
    x.to_bits() & 0x7fff_ffff
}

/// Counts the high bits of every magnitude.
pub fn count_high(x: &[f32], counts: &mut [u32]) {
    let counts: &mut [u32; BINS] = match counts.try_into() {
        Ok(c) => c,
        Err(_) => return,
    };
    for x in x {
        counts[(magnitude(*x) >> LOW) as usize] += 1;
    }
}

/// Counts the low bits of the magnitudes whose high bits are `bin`; returns how many there are.
pub fn count_low(x: &[f32], bin: u32, counts: &mut [u32]) -> u64 {
    let mut found = 0;
    for x in x.chunks(1024) {
        let (inside, round) = in_bin(x, bin);
        found += u64::from(inside);
        if inside == round {
            // Changes between bf16 checkpoints have few significant bits: here a count of the round ones is all.
            counts[0] += inside;
        } else {
            count_low_each(x, bin, counts);
        }
    }
    found
}

/// Magnitudes in `bin`, and those of them whose low bits are zero.
#[multiversion::multiversion(targets("x86_64+avx2"))]
fn in_bin(x: &[f32], bin: u32) -> (u32, u32) {
    let (mut inside, mut round) = (0u32, 0u32);
    for x in x {
        let m = magnitude(*x);
        inside += u32::from(m >> LOW == bin);
        round += u32::from(m == bin << LOW);
    }
    (inside, round)
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn count_low_each(x: &[f32], bin: u32, counts: &mut [u32]) {
    for group in x.chunks(16) {
        // Most groups have nothing in the bin; that is found out sixteen at a time.
        if group.iter().fold(false, |any, x| any | (magnitude(*x) >> LOW == bin)) {
            for x in group {
                let m = magnitude(*x);
                if m >> LOW == bin {
                    counts[(m & ((1 << LOW) - 1)) as usize] += 1;
                }
            }
        }
    }
}

/// The bin in which the `k`-th largest value (from 1) falls, and how many values lie in higher bins.
pub fn kth_bin(counts: &[u64], k: u64) -> (u32, u64) {
    let mut above = 0;
    for (bin, n) in counts.iter().enumerate().rev() {
        if above + n >= k {
            return (bin as u32, above);
        }
        above += n;
    }
    (0, above)
}

/// Puts the two halves of a magnitude together.
pub fn join(high: u32, low: u32) -> u32 {
    (high << LOW) | low
}

/// What is kept of a tensor: magnitudes above `threshold`, and the first `ties` elements equal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// Magnitude bits of the k-th largest element.
    pub threshold: u32,
    /// Elements equal to the threshold that are kept, the first in index order.
    pub ties: u64,
    /// Elements equal to the threshold, kept or not.
    pub equal: u64,
}

impl Cut {
    /// Keeps no element.
    pub const NOTHING: Self = Self { threshold: 1 << 31, ties: 0, equal: 0 };

    /// Multiplies what is kept by `factor` and the rest by zero. `seen` counts the elements equal to the threshold met so
    /// far in the tensor.
    pub fn apply(&self, x: &mut [f32], factor: f32, seen: &mut u64) {
        if self.ties == self.equal {
            return keep_from(x, self.threshold, factor);
        }
        for x in x.chunks_mut(1024) {
            let equal = equal_to(x, self.threshold);
            if *seen + equal <= self.ties {
                keep_from(x, self.threshold, factor);
            } else if *seen >= self.ties {
                keep_from(x, self.threshold + 1, factor);
            } else {
                let mut left = self.ties - *seen;
                for x in x {
                    let m = magnitude(*x);
                    let keep = m > self.threshold || (m == self.threshold && left > 0);
                    left -= u64::from(keep && m == self.threshold);
                    *x *= if keep { factor } else { 0.0 };
                }
            }
            *seen += equal;
        }
    }

    /// Elements of `x` equal to the threshold.
    pub fn count_equal(&self, x: &[f32]) -> u64 {
        equal_to(x, self.threshold)
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn keep_from(x: &mut [f32], threshold: u32, factor: f32) {
    for x in x {
        // The factor is chosen, not the outcome: were one of them "unchanged", the compiler would store under a mask, and
        // masked stores ran at a tenth of the speed here. A NaN stays one, kept or not.
        *x *= if magnitude(*x) >= threshold { factor } else { 0.0 };
    }
}

#[multiversion::multiversion(targets("x86_64+avx2"))]
fn equal_to(x: &[f32], threshold: u32) -> u64 {
    let mut n = 0u32;
    for x in x {
        n += u32::from(magnitude(*x) == threshold);
    }
    u64::from(n)
}

/// What the scans of a search find out, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The high bits of the k-th largest magnitudes.
    High,
    /// Their low bits.
    Low,
    /// How many elements equal to them each span holds.
    Ties,
    Done,
}

/// A k-th largest magnitude being searched for.
#[derive(Debug, Clone)]
pub struct Selection {
    keep: u64,
    /// The histogram bin of the threshold, and how many elements lie above it.
    high: (u32, u64),
    cut: Cut,
    /// True if the elements equal to the threshold have been counted span by span.
    ranked: bool,
}

impl Selection {
    /// A search for the `keep` largest; of 0 it finds a cut that keeps nothing, without looking.
    fn new(keep: u64) -> Self {
        Self { keep, high: (0, 0), cut: Cut::NOTHING, ranked: keep == 0 }
    }

    /// Adds values: `counts` is this selection's histogram, `rank` its count of ties.
    fn scan(&self, step: Step, x: &[f32], counts: Option<&mut Vec<u32>>, rank: Option<&mut u64>) {
        match (step, counts, rank) {
            (Step::High, Some(counts), _) => count_high(x, counts),
            (Step::Low, Some(counts), Some(rank)) => *rank += count_low(x, self.high.0, counts),
            (Step::Ties, _, Some(rank)) => *rank += self.cut.count_equal(x),
            _ => {}
        }
    }

    /// Takes the totals of a scan; `inside` is the total of this selection's ranks.
    fn take(&mut self, step: Step, counts: &[u64], inside: u64) {
        if self.keep == 0 {
            return;
        }
        match step {
            Step::High => self.high = kth_bin(counts, self.keep),
            Step::Low => {
                let (bin, above) = self.high;
                let (low, more) = kth_bin(counts, self.keep - above);
                let equal = counts.get(low as usize).copied().unwrap_or(0);
                self.cut = Cut { threshold: join(bin, low), ties: (self.keep - above - more).min(equal), equal };
                // Where the bin holds nothing but ties, this scan has counted them span by span.
                self.ranked = equal == inside;
            }
            Step::Ties => self.ranked = true,
            Step::Done => {}
        }
    }

    /// True if ties are dropped whose place in the order of indices is not known yet.
    fn unranked(&self) -> bool {
        !self.ranked && self.cut.ties < self.cut.equal
    }

    /// What was found.
    pub fn cut(&self) -> &Cut {
        &self.cut
    }

    /// The k-th largest magnitude.
    pub fn value(&self) -> f32 {
        f32::from_bits(self.cut.threshold)
    }
}

/// A search, over several scans, for the k-th largest magnitudes of one or more groups of values. Each group may be cut
/// at several places, which share its first histogram.
///
/// A selection's *slot* is its place among all of them, group after group: there lie its histogram and its rank.
#[derive(Debug, Clone)]
pub struct Search {
    groups: Vec<Vec<Selection>>,
    step: Step,
    /// Whether elements equal to a cut are told apart by their place.
    places: bool,
}

impl Search {
    /// A search for cuts: `keep` has, for each group, how many of the largest each of its cuts keeps.
    pub fn cuts(keep: &[Vec<u64>]) -> Self {
        let groups: Vec<Vec<Selection>> =
            keep.iter().map(|group| group.iter().map(|k| Selection::new(*k)).collect()).collect();
        let step = if groups.iter().any(|g| !g.is_empty()) { Step::High } else { Step::Done };
        Self { groups, step, places: true }
    }

    /// The same for the magnitudes alone, whatever the places of elements equal to them.
    pub fn values(keep: &[Vec<u64>]) -> Self {
        Self { places: false, ..Self::cuts(keep) }
    }

    /// How many histograms and ranks the next scan collects; `None` when all is found.
    pub fn wants(&self) -> Option<(usize, usize)> {
        let slots = self.slots();
        match self.step {
            Step::High => Some((self.groups.len(), 0)),
            Step::Low => Some((slots, slots)),
            Step::Ties => Some((0, slots)),
            Step::Done => None,
        }
    }

    /// The most scans it takes; a third one, for places, is not always needed.
    pub fn scans(&self) -> usize {
        match (self.slots(), self.places) {
            (0, _) => 0,
            (_, false) => 2,
            (_, true) => 3,
        }
    }

    /// Adds values of a group to the histograms and ranks of a span.
    pub fn scan(&self, group: usize, x: &[f32], counts: &mut [Vec<u32>], ranks: &mut [u64]) {
        let (selections, first) = (&self.groups[group], self.slot(group));
        if self.step == Step::High {
            if let (Some(any), Some(counts)) = (selections.first(), counts.get_mut(group)) {
                any.scan(self.step, x, Some(counts), None);
            }
            return;
        }
        for (slot, selection) in (first..).zip(selections) {
            selection.scan(self.step, x, counts.get_mut(slot), ranks.get_mut(slot));
        }
    }

    /// Takes the totals of a scan.
    pub fn take(&mut self, counts: &[Vec<u64>], ranks: &[u64]) {
        let mut slot = 0;
        for (group, selections) in self.groups.iter_mut().enumerate() {
            for selection in selections {
                let histogram = if self.step == Step::High { group } else { slot };
                let counts = counts.get(histogram).map_or(&[][..], |c| c);
                selection.take(self.step, counts, ranks.get(slot).copied().unwrap_or(0));
                slot += 1;
            }
        }
        let unranked = || self.groups.iter().flatten().any(Selection::unranked);
        self.step = match self.step {
            Step::High => Step::Low,
            Step::Low if self.places && unranked() => Step::Ties,
            _ => Step::Done,
        };
    }

    /// Before the totals of the first scan are taken: how many the only cut of a group keeps after all.
    pub fn keep(&mut self, group: usize, keep: u64) {
        self.groups[group] = vec![Selection::new(keep)];
    }

    /// True until the first scan is taken.
    pub fn begins(&self) -> bool {
        self.step == Step::High
    }

    /// What was found for a group.
    pub fn group(&self, group: usize) -> &[Selection] {
        &self.groups[group]
    }

    /// Slot of a group's first selection.
    pub fn slot(&self, group: usize) -> usize {
        self.groups[..group].iter().map(Vec::len).sum()
    }

    /// Number of selections.
    pub fn slots(&self) -> usize {
        self.slot(self.groups.len())
    }
}

/// The cut that keeps the `keep` largest of `x`, all of which is here. `keys` is working memory of the same length.
pub fn cut_here(x: &[f32], keep: usize, keys: &mut [f32]) -> Cut {
    if keep == 0 {
        return Cut::NOTHING;
    }
    let n = x.len();
    for (k, x) in keys.iter_mut().zip(x) {
        *k = x.abs();
    }
    let keep = keep.min(n);
    // Magnitudes order as their bits do.
    let (above, kth, _) = keys[..n].select_nth_unstable_by_key(keep - 1, |k| !k.to_bits());
    let threshold = kth.to_bits();
    let strictly = above.iter().filter(|k| k.to_bits() > threshold).count();
    let equal = equal_to(x, threshold);
    Cut { threshold, ties: (keep - strictly) as u64, equal }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cuts of several groups, each scanned in two parts.
    fn cuts(groups: &[(&[f32], Vec<u64>)]) -> Vec<Vec<Cut>> {
        let keep: Vec<Vec<u64>> = groups.iter().map(|(_, k)| k.clone()).collect();
        let mut search = Search::cuts(&keep);
        while let Some((histograms, ranks)) = search.wants() {
            let (mut counts, mut ranks) = (vec![vec![0u32; BINS]; histograms], vec![0; ranks]);
            for (group, (x, _)) in groups.iter().enumerate() {
                let (a, b) = x.split_at(x.len() / 2);
                search.scan(group, a, &mut counts, &mut ranks);
                search.scan(group, b, &mut counts, &mut ranks);
            }
            let wide: Vec<Vec<u64>> = counts.iter().map(|c| c.iter().map(|n| u64::from(*n)).collect()).collect();
            search.take(&wide, &ranks);
        }
        (0..groups.len()).map(|g| search.group(g).iter().map(|s| *s.cut()).collect()).collect()
    }

    proptest::proptest! {
        /// Law 4: exactly k are kept, by magnitude and then by index, as a full sort would keep them.
        #[test]
        fn selection_equals_a_sort(x in proptest::collection::vec(-20i32..20, 1..300), share in 1u64..100) {
            let x: Vec<f32> = x.into_iter().map(|v| v as f32 * 0.37).collect();
            let k = (x.len() as u64 * share / 100).max(1);
            let mut order: Vec<usize> = (0..x.len()).collect();
            order.sort_by(|a, b| x[*b].abs().total_cmp(&x[*a].abs()).then(a.cmp(b)));
            let mut want = vec![0f32; x.len()];
            for i in &order[..k as usize] { want[*i] = x[*i]; }
            // Beside it in the search: nothing, another cut of the same values, and another group.
            let other: Vec<f32> = x.iter().map(|v| v * 3.0).collect();
            let found = cuts(&[(&other, vec![]), (&x, vec![k, k.div_ceil(2)]), (&other, vec![k])]);
            let cut = found[1][0];
            let (mut got, mut seen) = (x.clone(), 0);
            for part in got.chunks_mut(7) { cut.apply(part, 1.0, &mut seen); }
            proptest::prop_assert_eq!(got, want);
            let mut keys = vec![0f32; x.len()];
            let mut here = |x: &[f32], k: u64| cut_here(x, k as usize, &mut keys);
            proptest::prop_assert_eq!(found, vec![vec![], vec![here(&x, k), here(&x, k.div_ceil(2))], vec![here(&other, k)]]);
        }
    }
}
