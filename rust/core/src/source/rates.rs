//! Which way of reading a cold file is the fastest, found out while reading: no choice is right for every disk.
//!
//! Measured on two machines (cold, ext4): around the page cache 3.8 GB/s and through it 0.6 on the one, 1.2 and 1.7 on the
//! other. So the first ranges of a device are read by each way in turn, and the others by the one that was faster; when it gets
//! slow, both are tried again. Whichever reads, the bytes are the same.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;

/// Bytes that are read by each way before the faster one is taken: two chunks, or many short ranges where memory is short.
const TRIED: f64 = (4 << 20) as f64;
/// Shorter ranges tell more of the system than of the disk: a rate is not held to have fallen by them.
const TELLING: usize = 256 << 10;
/// A way that falls to this share of the rate it was chosen for is held against the other again.
const FALLEN: f64 = 0.5;
/// The share of a new figure in a running one.
const FRESH: f64 = 0.125;

/// A way of reading what is not cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cold {
    /// Around the page cache.
    Direct,
    /// Through it.
    Cached,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tried {
    begun: u32,
    bytes: f64,
    seconds: f64,
}

#[derive(Debug, Default)]
struct State {
    /// Around the cache, and through it.
    tried: [Tried; 2],
    /// The way that was faster, the rate it was chosen for, and its running rate, in bytes a second.
    chosen: Option<(Cold, f64, f64)>,
}

/// The rates of a device.
#[derive(Debug, Default)]
pub struct Rates(Mutex<State>);

impl Rates {
    /// Those of the device with this number, for the whole process.
    pub fn of(device: u64) -> Arc<Self> {
        static KNOWN: OnceLock<Mutex<BTreeMap<u64, Arc<Rates>>>> = OnceLock::new();
        Arc::clone(KNOWN.get_or_init(Mutex::default).lock().entry(device).or_default())
    }

    /// The way to read the next range.
    pub fn next(&self) -> Cold {
        let mut state = self.0.lock();
        if let Some((way, ..)) = state.chosen {
            return way;
        }
        let [direct, cached] = state.tried.map(|t| t.begun);
        let way = if direct <= cached { Cold::Direct } else { Cold::Cached };
        state.tried[way as usize].begun += 1;
        way
    }

    /// What the tries found last, around the page cache and through it, in bytes a second; `None` before.
    pub fn found(&self) -> Option<[f64; 2]> {
        let state = self.0.lock();
        state.chosen.map(|_| state.tried.map(|t| t.bytes / t.seconds))
    }

    /// The way that ranges are read by now.
    pub fn now(&self) -> Cold {
        self.0.lock().chosen.map_or(Cold::Direct, |(way, ..)| way)
    }

    /// Takes note of a range that was read.
    pub fn took(&self, way: Cold, bytes: usize, time: Duration) {
        let seconds = time.as_secs_f64().max(1e-9);
        let mut state = self.0.lock();
        if let Some((chosen, first, running)) = &mut state.chosen {
            if *chosen == way && bytes >= TELLING {
                *running += FRESH * (bytes as f64 / seconds - *running);
                if *running < FALLEN * *first {
                    *state = State::default();
                }
            }
            return;
        }
        let own = &mut state.tried[way as usize];
        (own.bytes, own.seconds) = (own.bytes + bytes as f64, own.seconds + seconds);
        if state.tried.iter().all(|t| t.bytes >= TRIED) {
            let [direct, cached] = state.tried.map(|t| t.bytes / t.seconds);
            let (way, rate) = if direct >= cached { (Cold::Direct, direct) } else { (Cold::Cached, cached) };
            state.chosen = Some((way, rate, rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads of 1 MiB at these rates, in MiB a second, around the cache and through it; how many were read by each.
    fn read(rates: &Rates, n: usize, direct: f64, cached: f64) -> [usize; 2] {
        let mut by = [0; 2];
        for _ in 0..n {
            let way = rates.next();
            by[way as usize] += 1;
            rates.took(way, 1 << 20, Duration::from_secs_f64(1.0 / [direct, cached][way as usize]));
        }
        by
    }

    /// Law: but for the tries all ranges are read by the faster way, and when it gets slow both are asked again.
    #[test]
    fn the_faster_way_is_taken() {
        let tries = TRIED as usize >> 20;
        for (rates, faster) in [((3800.0, 600.0), 0), ((1200.0, 1700.0), 1)] {
            let found = Rates::default();
            let by = read(&found, 100, rates.0, rates.1);
            assert_eq!(by[faster], 100 - tries);
            let [direct, cached] = found.found().unwrap().map(|rate| (rate / f64::from(1 << 20)).round());
            assert_eq!((direct, cached), rates);
            // Half as fast: after some reads it is found out.
            let slow = if faster == 0 { (rates.0 / 10.0, rates.1) } else { (rates.0, rates.1 / 10.0) };
            let by = read(&found, 200, slow.0, slow.1);
            assert!(by[1 - faster] > 150, "{by:?}");
        }
    }

    /// Law: few short ranges say nothing, and do not keep one way from being tried; many do.
    #[test]
    fn short_ranges_are_read_in_turn() {
        let rates = Rates::default();
        let mut by = [0; 2];
        for _ in 0..10 {
            let way = rates.next();
            by[way as usize] += 1;
            rates.took(way, 4096, Duration::from_millis(1));
        }
        assert_eq!(by, [5, 5]);
        assert_eq!(rates.now(), Cold::Direct);
        for _ in 0..4096 {
            let way = rates.next();
            rates.took(way, 4096, Duration::from_micros(if way == Cold::Direct { 80 } else { 5 }));
        }
        assert_eq!(rates.now(), Cold::Cached);
    }
}
