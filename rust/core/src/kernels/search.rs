//! The search for k-th largest magnitudes, scan by scan.
//!
//! A sample gives a window in which the k-th probably lies, and a pass that counts what is above it proves it, at a third of what a
//! histogram costs. Changes between bf16 checkpoints take few distinct values: those of the window that are frequent are counted,
//! and all others in it listed. With adapters on both models `ties` took 1.3 times what it takes of folded ones (0.4 GB each), and by
//! histograms, each of which forms the products anew, 2.1 times (1.3 GB each). Where the window is wrong, or a list too long, the
//! histograms are made; what comes out does not depend on the sample.

use std::ops::Range;

pub use super::bounds::{LIST, SPAN_LIST, gather};
use super::bounds::{SIDES, Window};
use super::select::{Cut, count_high, count_low, is_round, join, kth_bin};
pub use super::wanted::{Into, Wanted};

/// Tensors with fewer elements are not sampled.
const SAMPLED: u64 = 1 << 19;

/// What the scans of a search find out, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Which values the k-th largest magnitudes may be, from a sample.
    Sample,
    /// Whether they are.
    Guess,
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
    /// True once it was found by a window.
    guessed: bool,
    /// Where it probably lies.
    window: Option<Window>,
    /// Which count of the window is that of the elements equal to the threshold, if these were counted there last.
    side: Option<usize>,
}

impl Selection {
    /// A search for the `keep` largest; of 0 it finds a cut that keeps nothing, without looking.
    fn new(keep: u64) -> Self {
        Self { keep, high: (0, 0), cut: Cut::NOTHING, ranked: keep == 0, guessed: false, window: None, side: None }
    }

    /// Adds values: `counts` is this selection's histogram, `rank` its count of ties.
    fn scan(&self, step: Step, x: &[f32], counts: Option<&mut Vec<u32>>, rank: Option<&mut u64>) {
        match (step, counts, rank) {
            // What is known is counted along, so that its ranks are there at the end.
            (Step::Low | Step::Ties, _, Some(rank)) if self.guessed => *rank += self.cut.count_equal(x),
            (Step::High | Step::Sample, Some(counts), _) => count_high(x, counts),
            (Step::Low, Some(counts), Some(rank)) => *rank += count_low(x, self.high.0, counts),
            (Step::Ties, _, Some(rank)) => *rank += self.cut.count_equal(x),
            _ => {}
        }
    }

    /// Takes what was counted and listed of the window, of `of` elements.
    fn check(&mut self, of: u64, counts: &[u64], list: &mut [u32]) {
        let found = self.window.take().and_then(|window| window.find(self.keep, of, counts, list));
        if let Some((cut, guess)) = found {
            (self.cut, self.guessed) = (cut, true);
            // Of guesses the spans have counted what equals them, after the ends of the window.
            (self.side, self.ranked) = (guess.map(|i| 2 + i), guess.is_some());
        }
    }

    /// Takes the totals of a scan; `inside` is the total of this selection's ranks.
    fn take(&mut self, step: Step, counts: &[u64], inside: u64) {
        if self.keep == 0 {
            return;
        }
        if self.guessed {
            self.ranked = matches!(step, Step::Low | Step::Ties);
            self.side = None;
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
            Step::Sample | Step::Guess | Step::Done => {}
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
    /// How many elements there are in all of each group, if it begins with a sample.
    of: u64,
}

impl Search {
    /// A search for cuts: `keep` has, for each group, how many of the largest each of its cuts keeps.
    pub fn cuts(keep: &[Vec<u64>]) -> Self {
        let groups: Vec<Vec<Selection>> =
            keep.iter().map(|group| group.iter().map(|k| Selection::new(*k)).collect()).collect();
        let step = if groups.iter().any(|g| !g.is_empty()) { Step::High } else { Step::Done };
        Self { groups, step, places: true, of: 0 }
    }

    /// The same, beginning with a sample of the `of` elements that each group has, if these are many.
    pub fn sampled(self, of: u64) -> Self {
        let sampled = self.step == Step::High && of >= SAMPLED;
        Self { of, step: if sampled { Step::Sample } else { self.step }, ..self }
    }

    /// Whether the next scan is of a sample.
    pub fn samples(&self) -> bool {
        self.step == Step::Sample
    }

    /// The same for the magnitudes alone, whatever the places of elements equal to them.
    pub fn values(keep: &[Vec<u64>]) -> Self {
        Self { places: false, ..Self::cuts(keep) }
    }

    /// What the next scan collects; `None` when all is found.
    pub fn wants(&self) -> Option<Wanted> {
        let slots = self.slots();
        let of = |histograms, ranks, lists| Some(Wanted { histograms, ranks, lists });
        match self.step {
            // How many are round.
            Step::Sample => of(self.groups.len(), self.groups.len(), 0),
            Step::High => of(self.groups.len(), 0, 0),
            Step::Guess => of(0, slots * SIDES, slots),
            Step::Low => of(slots, slots, 0),
            Step::Ties => of(0, slots, 0),
            Step::Done => None,
        }
    }

    /// The most scans of all elements it takes; one for places is not always needed, nor are histograms where a guess is right.
    pub fn scans(&self) -> usize {
        let sampled = usize::from(self.step == Step::Sample);
        match (self.slots(), self.places) {
            (0, _) => 0,
            (_, false) => 2 + sampled,
            (_, true) => 3 + sampled,
        }
    }

    /// The most of each that a scan collects.
    pub fn most(&self) -> Wanted {
        let slots = self.slots();
        let sampled = self.step == Step::Sample;
        Wanted {
            histograms: slots,
            ranks: if sampled { slots * SIDES } else { slots },
            lists: if sampled { slots } else { 0 },
        }
    }

    /// Whether the next scan looks at a group.
    pub fn looks_at(&self, group: usize) -> bool {
        let selections = &self.groups[group];
        !selections.is_empty() && (self.step != Step::High || selections.iter().any(|s| !s.guessed))
    }

    /// Adds values of a group to what a span has found.
    pub fn scan(&self, group: usize, x: &[f32], into: Into) {
        let Into { counts, ranks, lists } = into;
        let (selections, first) = (&self.groups[group], self.slot(group));
        if matches!(self.step, Step::High | Step::Sample) {
            if let (Some(any), Some(counts)) = (selections.first(), counts.get_mut(group))
                && self.looks_at(group)
            {
                any.scan(self.step, x, Some(counts), None);
                if let Some(round) = ranks.get_mut(group).filter(|_| self.samples()) {
                    *round += x.iter().filter(|x| **x != 0.0 && is_round(**x)).count() as u64;
                }
            }
            return;
        }
        if self.step == Step::Guess {
            for (slot, selection) in (first..).zip(selections) {
                if let (Some(window), Some(list)) = (&selection.window, lists.get_mut(slot)) {
                    window.scan(x, &mut ranks[slot * SIDES..(slot + 1) * SIDES], list);
                }
            }
            return;
        }
        for (slot, selection) in (first..).zip(selections) {
            selection.scan(self.step, x, counts.get_mut(slot), ranks.get_mut(slot));
        }
    }

    /// Takes the totals of a scan.
    pub fn take(&mut self, counts: &[Vec<u64>], ranks: &[u64], lists: &mut [Vec<u32>]) {
        if matches!(self.step, Step::Sample | Step::Guess) {
            return self.take_guesses(counts, ranks, lists);
        }
        let mut slot = 0;
        for (group, selections) in self.groups.iter_mut().enumerate() {
            for selection in selections {
                let histogram = if self.step == Step::High { group } else { slot };
                let counts = counts.get(histogram).map_or(&[][..], |c| c);
                selection.take(self.step, counts, ranks.get(slot).copied().unwrap_or(0));
                slot += 1;
            }
        }
        self.step = match self.step {
            Step::High => Step::Low,
            Step::Low => self.known(),
            _ => Step::Done,
        };
    }

    /// What comes after all magnitudes are known.
    fn known(&self) -> Step {
        let unranked = self.groups.iter().flatten().any(Selection::unranked);
        if self.places && unranked { Step::Ties } else { Step::Done }
    }

    /// Takes the totals of a scan that looks for guesses, or at them.
    fn take_guesses(&mut self, counts: &[Vec<u64>], ranks: &[u64], lists: &mut [Vec<u32>]) {
        let (of, sample) = (self.of, self.step == Step::Sample);
        let mut slot = 0;
        let mut guesses = false;
        for (group, selections) in self.groups.iter_mut().enumerate() {
            for selection in selections {
                if sample {
                    let round = ranks.get(group).copied().unwrap_or(0);
                    let counts = counts.get(group).map_or(&[][..], |c| c);
                    selection.window = Window::new(counts, round, selection.keep, of);
                    guesses |= selection.window.is_some();
                } else if selection.keep > 0 {
                    let list = lists.get_mut(slot).map_or(&mut [][..], |l| l);
                    selection.check(of, ranks.get(slot * SIDES..(slot + 1) * SIDES).unwrap_or_default(), list);
                }
                slot += 1;
            }
        }
        let all = self.groups.iter().flatten().all(|s| s.guessed || s.keep == 0);
        self.step = match (sample, guesses, all) {
            (true, true, _) => Step::Guess,
            (false, _, true) => self.known(),
            _ => Step::High,
        };
    }

    /// Before the totals of a sample, or of the first scan of all elements, are taken: how many the only cut of a group keeps
    /// after all.
    pub fn keep(&mut self, group: usize, keep: u64) {
        if let [only] = &mut self.groups[group][..] {
            (only.keep, only.ranked) = (keep, keep == 0);
        }
    }

    /// What was found for a group.
    pub fn group(&self, group: usize) -> &[Selection] {
        &self.groups[group]
    }

    /// Slot of a group's first selection.
    pub fn slot(&self, group: usize) -> usize {
        self.groups[..group].iter().map(Vec::len).sum()
    }

    /// Where among the ranks of the last scan that had any those of a group's selections are.
    pub fn ranks(&self, group: usize) -> impl Iterator<Item = usize> {
        let of = |(slot, s): (usize, &Selection)| s.side.map_or(slot, |side| slot * SIDES + side);
        (self.slot(group)..).zip(&self.groups[group]).map(of)
    }

    /// Number of selections.
    pub fn slots(&self) -> usize {
        self.slot(self.groups.len())
    }
}

/// Places of a span that a sample is of, evenly spread, and elements of each: a place costs a microsecond, and neighbours are alike.
const PLACES: u64 = 64;
const PLACE: u64 = 256;

/// The ranges of a sample of a range; all of it if it is short. Where each costs a request to a store (`far`) it is one, in the middle:
/// `pcb` of three models of 0.5 MB took 3,150 requests, most of 512 bytes.
pub fn sampled(own: &Range<u64>, far: bool) -> Vec<Range<u64>> {
    let len = own.end - own.start;
    let step = len / PLACES;
    if step <= 2 * PLACE {
        return vec![own.clone()];
    }
    if far {
        let at = own.start + (len - PLACES * PLACE) / 2;
        let one = at..at + PLACES * PLACE;
        return vec![one];
    }
    // Not at the same column of every row.
    let at = |i: u64| own.start + i * step + i.wrapping_mul(0x9e37_79b9) % (step - PLACE);
    (0..PLACES).map(|i| at(i)..at(i) + PLACE).collect()
}

#[cfg(test)]
mod tests {
    use super::super::select::{BINS, cut_here};
    use super::*;

    /// The cuts of several groups, each scanned in two parts; with a sample the first part is one.
    fn cuts(groups: &[(&[f32], Vec<u64>)], sampled: bool) -> (Vec<Vec<Cut>>, usize) {
        let keep: Vec<Vec<u64>> = groups.iter().map(|(_, k)| k.clone()).collect();
        let mut search = Search::cuts(&keep);
        if sampled && search.step == Step::High {
            search = Search { step: Step::Sample, of: groups[0].0.len() as u64, ..search };
        }
        let mut scans = 0;
        while let Some(Wanted { histograms, ranks, lists }) = search.wants() {
            let (mut counts, mut ranks) = (vec![vec![0u32; BINS]; histograms], vec![0; ranks]);
            let mut lists = vec![Vec::new(); lists];
            for (group, (x, _)) in groups.iter().enumerate() {
                let (a, b) = x.split_at(x.len() / 2);
                for part in [a, b].into_iter().take(if search.samples() { 1 } else { 2 }) {
                    let into = Into { counts: &mut counts, ranks: &mut ranks, lists: &mut lists };
                    search.scan(group, part, into);
                }
            }
            scans += usize::from(!search.samples());
            assert!(scans <= 4);
            let wide: Vec<Vec<u64>> = counts.iter().map(|c| c.iter().map(|n| u64::from(*n)).collect()).collect();
            search.take(&wide, &ranks, &mut lists);
        }
        ((0..groups.len()).map(|g| search.group(g).iter().map(|s| *s.cut()).collect()).collect(), scans)
    }

    /// Law: where values are few one pass proves what a sample proposes, and spans have counted what equals it.
    #[test]
    fn few_values_take_one_scan() {
        let x: Vec<f32> = (0..5000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 28) as f32 - 8.0).collect();
        let groups = [(&x[..], vec![1000, 2500])];
        let (found, scans) = cuts(&groups, true);
        assert_eq!(scans, 1);
        assert_eq!(found, cuts(&groups, false).0);
        assert!(found[0].iter().all(|c| c.ties < c.equal));
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
            let groups: [(&[f32], Vec<u64>); 3] = [(&other, vec![]), (&x, vec![k, k.div_ceil(2)]), (&other, vec![k])];
            let (found, _) = cuts(&groups, false);
            // Law 3: nor does a sample matter, whatever is in it.
            proptest::prop_assert_eq!(&found, &cuts(&groups, true).0);
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
