//! How a change is spread over its elements: a histogram of |d| by the bits of its f32 value.
//!
//! The bits of |d| order as |d| does. A first pass counts their high 18 bits and adds up the low 13, so the number and
//! the sum of the elements of every bin are exact. Questions that fall inside a bin (which element is the median?) are
//! answered by a second pass over its low bits, unless these are all zero, as they mostly are between bf16 checkpoints.

/// Bits below those that make the bin.
const LOW: u32 = 13;
/// Bins of a histogram.
const BINS: usize = 1 << (31 - LOW);
/// Values inside a bin.
pub const LOWS: usize = 1 << LOW;
/// A cell of the dense histogram holds the count above this bit, the sum of the low bits below it. A span has 2^22
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

/// A histogram being filled, by one thread over one span.
pub struct Counter {
    cells: Vec<u64>,
    touched: Vec<u32>,
}

impl Default for Counter {
    fn default() -> Self {
        Self { cells: vec![0; BINS], touched: Vec::new() }
    }
}

impl Counter {
    /// Counts changes, all of them finite.
    pub fn add(&mut self, changes: &[f32]) {
        for d in changes {
            let (bin, low) = split(*d);
            let cell = &mut self.cells[bin];
            if *cell == 0 {
                self.touched.push(bin as u32);
            }
            *cell += (1 << COUNT) | low;
        }
    }

    /// Counts elements that did not change.
    pub fn add_unchanged(&mut self, elements: u64) {
        if self.cells[0] == 0 && elements > 0 {
            self.touched.push(0);
        }
        self.cells[0] += elements << COUNT;
    }

    /// What was counted.
    pub fn finish(mut self) -> Spread {
        self.touched.sort_unstable();
        let bin = |bin: &u32| {
            let cell = self.cells[*bin as usize];
            Bin { bin: *bin, count: cell >> COUNT, low: cell & ((1 << COUNT) - 1) }
        };
        Spread { bins: self.touched.iter().map(bin).collect() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Bin {
    bin: u32,
    count: u64,
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
            let mut joined = Bin { bin: next, count: 0, low: 0 };
            for side in [&mut a, &mut b] {
                if let Some(x) = side.next_if(|x| x.bin == next) {
                    joined.count += x.count;
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
    /// Inside a bin, 0.1 % wide, the values are taken as evenly spread, but where all are the same.
    pub fn gini(&self) -> f64 {
        let (n, total) = (self.elements() as f64, self.bins.iter().map(Bin::sum).sum::<f64>());
        if total == 0.0 {
            return 0.0;
        }
        let (mut before, mut ranked) = (0.0, 0.0);
        for b in &self.bins {
            let count = b.count as f64;
            let middle = b.low as f64 / count;
            let width = 2.0 * middle.min((LOWS - 1) as f64 - middle) * step(b.bin);
            ranked += b.sum() * (before + (count + 1.0) / 2.0) + width * (count * count - 1.0) / 12.0;
            before += count;
        }
        (2.0 * ranked / (n * total) - (n + 1.0) / n).clamp(0.0, 1.0)
    }

    /// Puts a question to the histogram.
    pub fn ask(&self, what: Ask) -> Question {
        let mut q = Question { what, bin: 0, inside: 0, known: 0.0, total: self.elements(), answer: None };
        match what {
            Ask::Quantile(share) => {
                let mut rank = ((share * q.total as f64).ceil() as u64).clamp(1, q.total.max(1));
                for b in &self.bins {
                    if rank <= b.count {
                        (q.bin, q.inside) = (b.bin, rank);
                        return q.settled(b, |_| value(b.bin, 0));
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
                        (q.bin, q.inside) = (b.bin, left);
                        q.what = Ask::Top(sum);
                        return q.settled(b, |q| q.known + q.inside as f64 * value(b.bin, 0)).over(sum);
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
                let total = q.total as f64;
                return match self.bins.iter().find(|b| b.bin == q.bin) {
                    Some(b) => q.settled(b, |q| q.known).over(total),
                    None => Question { answer: Some(q.known), ..q }.over(total),
                };
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
    /// Rank from the bottom, number from the top, or place of the threshold inside the bin.
    inside: u64,
    /// What the bins above it add up to.
    known: f64,
    total: u64,
    answer: Option<f64>,
}

impl Question {
    /// The answer, where all of the bin lies at its lower end.
    fn settled(mut self, bin: &Bin, answer: impl Fn(&Self) -> f64) -> Self {
        if bin.low == 0 {
            self.answer = Some(answer(&self));
        }
        self
    }

    fn over(mut self, all: f64) -> Self {
        self.answer = self.answer.map(|a| super::metrics::ratio(a, all));
        self
    }

    /// The answer; `None` as long as it takes a look into [`Self::open`].
    pub fn answer(&self) -> Option<f64> {
        self.answer
    }

    /// The bin whose inside has to be known for the answer.
    pub fn open(&self) -> Option<u32> {
        self.answer.is_none().then_some(self.bin)
    }

    /// Answers from the counts of every place inside the bin.
    pub fn look(&mut self, lows: &[u64]) {
        let mut left = self.inside;
        let answer = match self.what {
            Ask::Quantile(_) => {
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
    /// For each bin, 1 + its index in `lows`; 0 for bins nobody asked for.
    slots: Vec<u8>,
    lows: Vec<Vec<u32>>,
}

impl Insides {
    /// Counters for at most 255 bins.
    pub fn of(bins: &[u32]) -> Self {
        let mut slots = vec![0; BINS];
        for (i, bin) in bins.iter().enumerate() {
            slots[*bin as usize] = i as u8 + 1;
        }
        Self { slots, lows: vec![vec![0; LOWS]; bins.len()] }
    }

    /// Counts changes, all of them finite.
    pub fn add(&mut self, changes: &[f32]) {
        for d in changes {
            let (bin, low) = split(*d);
            let slot = self.slots[bin];
            if slot != 0 {
                self.lows[slot as usize - 1][low as usize] += 1;
            }
        }
    }

    /// Counts elements that did not change.
    pub fn add_unchanged(&mut self, elements: u64) {
        if self.slots[0] != 0 {
            self.lows[self.slots[0] as usize - 1][0] += elements as u32;
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
            let mut counter = Counter::default();
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
            let mut counter = Counter::default();
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
