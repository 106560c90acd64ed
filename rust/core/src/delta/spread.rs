//! How a change is spread over its elements: a histogram of |d| by the bits of its f32 value.
//!
//! The bits of |d| order as |d| does. A first pass counts their high 18 bits and adds up the low 13, so the number and
//! the sum of the elements of every bin are exact. Questions that fall inside a bin (which element is the median?) are
//! answered by a second pass over its low bits, unless they fall on elements whose low bits are zero, as those of most
//! changes between bf16 checkpoints are.

/// Bits below those that make the bin.
const LOW: u32 = 13;
/// Bins of a histogram.
const BINS: usize = 1 << (31 - LOW);
/// Values inside a bin.
pub const LOWS: usize = 1 << LOW;
/// The cell of elements inside a bin holds their count above this bit, the sum of their low bits below it. A span has 2^22
/// elements, so neither overflows.
const COUNT: u32 = 40;

/// Splits |d| into its bin and the place inside.
#[inline(always)]
fn split(d: f32) -> (usize, u64) {
    let key = d.to_bits() & 0x7fff_ffff;
    ((key >> LOW) as usize, u64::from(key & (LOWS as u32 - 1)))
}

/// The value of a place inside a bin.
fn value(bin: u32, low: u64) -> f64 {
    f64::from(f32::from_bits((bin << LOW) | low as u32))
}

/// Distance of the values in a bin.
fn step(bin: u32) -> f64 {
    value(bin, 1) - value(bin, 0)
}

/// Elements up to which the bins that hold something are remembered, not looked for among all: of 20,000 small tensors
/// each would cost a walk through 2 MB.
const FEW: usize = 1 << 14;

/// Changes that are counted together.
const TOGETHER: usize = 64;

/// A histogram being filled, by one thread over one span.
///
/// Those at the lower end of a bin, whose low bits are all zero, are counted apart. Most changes between bf16 checkpoints are such,
/// so that this answers most questions without a second pass, and their counts, of 32 bits and without a sum, stay in the cache.
pub struct Counter {
    round: Box<[u32; BINS]>,
    inside: Box<[u64; BINS]>,
    touched: Vec<u32>,
    elements: usize,
}

impl Counter {
    /// An empty histogram.
    pub fn new() -> Option<Self> {
        // Zeroed by the system, page by page as it is touched.
        let round = vec![0; BINS].into_boxed_slice().try_into().ok()?;
        let inside = vec![0; BINS].into_boxed_slice().try_into().ok()?;
        Some(Self { round, inside, touched: Vec::new(), elements: 0 })
    }

    /// Counts changes, all of them finite.
    pub fn add(&mut self, changes: &[f32]) {
        if self.elements < FEW {
            self.touched.extend(changes.iter().map(|d| split(*d).0 as u32));
        }
        self.elements += changes.len();
        for changes in changes.chunks(TOGETHER) {
            if changes.iter().fold(0, |all, d| all | d.to_bits()) & (LOWS as u32 - 1) == 0 {
                changes.iter().for_each(|d| self.round[split(*d).0] += 1);
                continue;
            }
            for d in changes {
                match split(*d) {
                    (bin, 0) => self.round[bin] += 1,
                    (bin, low) => self.inside[bin] += (1 << COUNT) | low,
                }
            }
        }
    }

    /// Counts elements that did not change.
    pub fn add_unchanged(&mut self, elements: u64) {
        self.touched.push(0);
        self.round[0] += elements as u32;
    }

    /// What was counted.
    pub fn finish(mut self) -> Spread {
        self.touched.sort_unstable();
        self.touched.dedup();
        let bin = |bin: u32| {
            let (round, others) = (u64::from(self.round[bin as usize]), self.inside[bin as usize]);
            Bin { bin, count: round + (others >> COUNT), round, low: others & ((1 << COUNT) - 1) }
        };
        if self.elements <= FEW {
            return Spread { bins: self.touched.iter().map(|b| bin(*b)).filter(|b| b.count > 0).collect() };
        }
        let all = self.round.iter().zip(&*self.inside).enumerate().filter(|(_, (r, i))| **r != 0 || **i != 0);
        Spread { bins: all.map(|(b, _)| bin(b as u32)).collect() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bin {
    bin: u32,
    count: u64,
    /// Those of them at its lower end.
    round: u64,
    /// Sum of the places inside the bin.
    low: u64,
}

impl Bin {
    fn sum(&self) -> f64 {
        self.count as f64 * value(self.bin, 0) + self.low as f64 * step(self.bin)
    }
}

/// The bins that hold something, in order. Counts and sums are whole numbers: in whatever order histograms are added,
/// the result is the same.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Spread {
    bins: Vec<Bin>,
}

impl Spread {
    /// Adds another histogram.
    pub fn add(&mut self, other: &Self) {
        let mut out = Vec::with_capacity(self.bins.len().max(other.bins.len()));
        let (mut a, mut b) = (self.bins.iter().peekable(), other.bins.iter().peekable());
        while let Some(next) = [a.peek(), b.peek()].into_iter().flatten().map(|x| x.bin).min() {
            let mut joined = Bin { bin: next, count: 0, round: 0, low: 0 };
            for side in [&mut a, &mut b] {
                if let Some(x) = side.next_if(|x| x.bin == next) {
                    joined.count += x.count;
                    joined.round += x.round;
                    joined.low += x.low;
                }
            }
            out.push(joined);
        }
        self.bins = out;
    }

    /// Elements counted.
    pub fn elements(&self) -> u64 {
        self.bins.iter().map(|b| b.count).sum()
    }

    /// The Gini coefficient of |d|: 0 if all elements changed alike, towards 1 if few hold all of the change.
    ///
    /// Inside a bin, 0.1 % wide, the values that are not at its lower end are taken as evenly spread. Where changes go
    /// over many magnitudes, as those of a training do, this is exact to 1e-6; where all lie in a few bins, to 1e-4.
    pub fn gini(&self) -> f64 {
        let (n, total) = (self.elements() as f64, self.bins.iter().map(Bin::sum).sum::<f64>());
        if total == 0.0 {
            return 0.0;
        }
        let (mut before, mut ranked) = (0.0, 0.0);
        for b in &self.bins {
            let (round, others) = (b.round as f64, (b.count - b.round) as f64);
            ranked += round * value(b.bin, 0) * (before + (round + 1.0) / 2.0);
            before += round;
            if others > 0.0 {
                let middle = b.low as f64 / others;
                let width = 2.0 * middle.min((LOWS - 1) as f64 - middle) * step(b.bin);
                let sum = b.sum() - round * value(b.bin, 0);
                ranked += sum * (before + (others + 1.0) / 2.0) + width * (others * others - 1.0) / 12.0;
                before += others;
            }
        }
        (2.0 * ranked / (n * total) - (n + 1.0) / n).clamp(0.0, 1.0)
    }

    /// Puts a question to the histogram.
    pub fn ask(&self, what: Ask) -> Question {
        let total = self.elements();
        let mut q = Question { what, bin: 0, round: 0, inside: 0, known: 0.0, total, answer: None };
        match what {
            Ask::Quantile(share) => {
                let mut rank = ((share * q.total as f64).ceil() as u64).clamp(1, q.total.max(1));
                for b in &self.bins {
                    if rank <= b.count {
                        (q.bin, q.round, q.inside) = (b.bin, b.round, rank);
                        q.answer = (rank <= b.round).then(|| value(b.bin, 0));
                        return q;
                    }
                    rank -= b.count;
                }
                q.answer = Some(0.0);
            }
            Ask::Top(share) => {
                let sum: f64 = self.bins.iter().map(Bin::sum).sum();
                let mut left = (share * q.total as f64).ceil() as u64;
                q.known = 0.0;
                for b in self.bins.iter().rev() {
                    if left <= b.count {
                        (q.bin, q.round, q.inside) = (b.bin, b.round, left);
                        q.what = Ask::Top(sum);
                        let all = q.known + left as f64 * value(b.bin, 0) + b.low as f64 * step(b.bin);
                        q.answer = (left >= b.count - b.round).then(|| super::metrics::ratio(all, sum));
                        return q;
                    }
                    left -= b.count;
                    q.known += b.sum();
                }
                q.answer = Some(0.0);
            }
            Ask::Above(threshold) => {
                // The largest f32 that is not above it: an f32 lies above the one if it lies above the other.
                let mut floor = threshold as f32;
                if f64::from(floor) > threshold {
                    floor = floor.next_down();
                }
                let (bin, low) = split(floor.max(0.0));
                (q.bin, q.inside) = (bin as u32, low);
                q.known = self.bins.iter().filter(|b| b.bin > q.bin).map(|b| b.count).sum::<u64>() as f64;
                let here = self.bins.iter().find(|b| b.bin == q.bin);
                let others = here.map_or(0, |b| b.count - b.round);
                if others == 0 || low == 0 {
                    q.answer = Some(super::metrics::ratio(q.known + others as f64, q.total as f64));
                }
            }
        }
        q
    }
}

/// What is asked of a histogram.
#[derive(Debug, Clone, Copy)]
pub enum Ask {
    /// The smallest |d| that at least this share of the elements does not exceed.
    Quantile(f64),
    /// The share of all change that this share of the elements, those that changed most, holds. In a [`Question`]: the
    /// sum of all change.
    Top(f64),
    /// The share of the elements with |d| above this.
    Above(f64),
}

/// A question, with its answer or the bin that hides it.
#[derive(Debug, Clone)]
pub struct Question {
    what: Ask,
    bin: u32,
    /// Elements at the lower end of the bin.
    round: u64,
    /// Rank from the bottom, number from the top, or place of the threshold inside the bin.
    inside: u64,
    /// What the bins above it add up to.
    known: f64,
    total: u64,
    answer: Option<f64>,
}

impl Question {
    /// The answer; `None` as long as it takes a look into [`Self::open`].
    pub fn answer(&self) -> Option<f64> {
        self.answer
    }

    /// The bin whose inside has to be known for the answer.
    pub fn open(&self) -> Option<u32> {
        self.answer.is_none().then_some(self.bin)
    }

    /// Answers from the counts of every place inside the bin but its lower end.
    pub fn look(&mut self, lows: &[u64]) {
        let mut left = self.inside;
        let answer = match self.what {
            Ask::Quantile(_) => {
                left -= self.round;
                let place = lows.iter().position(|n| {
                    let here = left <= *n;
                    left -= if here { 0 } else { *n };
                    here
                });
                value(self.bin, place.unwrap_or(0) as u64)
            }
            Ask::Top(sum) => {
                let mut found = self.known;
                for (place, n) in lows.iter().enumerate().rev() {
                    let taken = left.min(*n);
                    found += taken as f64 * value(self.bin, place as u64);
                    left -= taken;
                }
                super::metrics::ratio(found, sum)
            }
            Ask::Above(_) => {
                let above: u64 = lows[left as usize + 1..].iter().sum();
                super::metrics::ratio(self.known + above as f64, self.total as f64)
            }
        };
        self.answer = Some(answer);
    }
}

/// Counts the places inside some bins.
pub struct Insides {
    /// A bit for each bin that is asked for: small enough to stay in the nearest cache.
    asked: Box<[u64; BINS / 64]>,
    bins: Vec<u32>,
    lows: Vec<Vec<u32>>,
}

impl Insides {
    /// Counters for some bins, which come in order.
    pub fn of(bins: &[u32]) -> Self {
        let mut asked = Box::new([0; BINS / 64]);
        for bin in bins {
            asked[*bin as usize / 64] |= 1 << (bin % 64);
        }
        Self { asked, bins: bins.to_vec(), lows: vec![vec![0; LOWS]; bins.len()] }
    }

    /// Counts changes, all of them finite, but those at the lower end of their bin.
    pub fn add(&mut self, changes: &[f32]) {
        for d in changes {
            let (bin, low) = split(*d);
            if low != 0
                && self.asked[bin / 64] >> (bin % 64) & 1 == 1
                && let Ok(slot) = self.bins.binary_search(&(bin as u32))
            {
                self.lows[slot][low as usize] += 1;
            }
        }
    }

    /// The counts, in the order of the bins; at most 2^32 - 1 elements may have been added.
    pub fn finish(self) -> Vec<Vec<u32>> {
        self.lows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(x: &[f32], cut: usize, what: Ask) -> f64 {
        let cut = cut.min(x.len());
        let mut all = Spread::default();
        for part in [&x[..cut], &x[cut..]] {
            let mut counter = Counter::new().unwrap();
            counter.add(part);
            all.add(&counter.finish());
        }
        let mut q = all.ask(what);
        if let Some(bin) = q.open() {
            let mut insides = Insides::of(&[bin]);
            insides.add(x);
            let lows: Vec<u64> = insides.finish()[0].iter().map(|n| u64::from(*n)).collect();
            q.look(&lows);
        }
        q.answer().unwrap()
    }

    proptest::proptest! {
        /// Law 4: quantiles, sums of the largest and shares above a threshold are those of a sort, ties and all.
        #[test]
        fn questions_are_answered_as_by_a_sort(
            x in proptest::collection::vec(proptest::prop_oneof![-1f32..1.0, (-4i8..4).prop_map(f32::from)], 1..200),
            share in 0.001f64..1.0, cut in 0usize..200,
        ) {
            let mut sorted: Vec<f64> = x.iter().map(|v| f64::from(v.abs())).collect();
            sorted.sort_by(f64::total_cmp);
            let n = sorted.len() as f64;
            let rank = (share * n).ceil() as usize;
            proptest::prop_assert_eq!(asked(&x, cut, Ask::Quantile(share)), sorted[rank - 1]);
            let sum: f64 = sorted.iter().sum();
            let top: f64 = sorted[sorted.len() - rank..].iter().sum();
            let got = asked(&x, cut, Ask::Top(share));
            let held = if sum == 0.0 { 0.0 } else { top / sum };
            proptest::prop_assert!((got - held).abs() < 1e-9);
            for t in [share, 0.0, 1.0, f64::from(x[0].abs())] {
                let above = sorted.iter().filter(|v| **v > t).count() as f64 / n;
                proptest::prop_assert_eq!(asked(&x, cut, Ask::Above(t)), above);
            }
        }

        #[test]
        fn gini_is_that_of_a_sort(x in proptest::collection::vec(-1f32..1.0, 1..300)) {
            let mut counter = Counter::new().unwrap();
            counter.add(&x);
            let mut sorted: Vec<f64> = x.iter().map(|v| f64::from(v.abs())).collect();
            sorted.sort_by(f64::total_cmp);
            let (n, sum) = (sorted.len() as f64, sorted.iter().sum::<f64>());
            let ranked: f64 = sorted.iter().enumerate().map(|(i, v)| (2.0 * (i as f64 + 1.0) - n - 1.0) * v).sum();
            let got = counter.finish().gini();
            proptest::prop_assert!((got - ranked / (n * sum)).abs() < 1e-4, "{} {}", got, ranked / (n * sum));
        }
    }

    use proptest::strategy::Strategy;
}
