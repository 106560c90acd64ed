//! The 8-bit form: a scale for each tile of 128 rows and 128 columns.

use std::sync::atomic::{AtomicU32, Ordering};

use super::{Part, TILE};
use crate::kernels::encode::{peaks, rate, scale, timed};
use crate::kernels::scratch;
use crate::methods::{Cost, Halt, Kernel, Operands, Results, Stats, Tile, Totals, Wants};

/// A kernel whose results are written as codes, or as the scales of these.
///
/// It hands over each value times the rate of its tile, which is then rounded to a code, once.
pub struct Tiled {
    kernel: Box<dyn Kernel>,
    columns: usize,
    part: Part,
    /// The largest magnitude of each tile so far, as bits.
    seen: Vec<AtomicU32>,
    /// By what the values of each tile are multiplied, once all are seen.
    rates: Vec<f32>,
}

impl Tiled {
    /// Of values of these dimensions, of which the last two are multiples of 128.
    pub fn new(kernel: Box<dyn Kernel>, shape: &[u64], part: Part) -> Self {
        let columns = shape.last().copied().unwrap_or(1);
        let tiles = match kernel.cost().span {
            crate::methods::Span::Fixed => shape.iter().product::<u64>() / (TILE * TILE),
            crate::methods::Span::Whole { .. } => 0,
        };
        let seen = (0..tiles).map(|_| AtomicU32::new(0)).collect();
        Self { kernel, columns: columns as usize, part, seen, rates: Vec::new() }
    }
}

fn found(seen: &[AtomicU32]) -> impl Iterator<Item = f32> {
    seen.iter().map(|peak| f32::from_bits(peak.load(Ordering::Relaxed)))
}

impl Kernel for Tiled {
    fn cost(&self) -> Cost {
        self.kernel.cost()
    }

    fn wants(&self) -> Option<Wants> {
        let last = (self.rates.is_empty() && !self.seen.is_empty()).then(Wants::default);
        self.kernel.wants().or(last)
    }

    fn scan(&self, tile: &Tile, stats: &mut Stats) {
        if self.kernel.wants().is_some() {
            return self.kernel.scan(tile, stats);
        }
        let len = tile.base.or(tile.inputs.first().copied()).map_or(0, <[f32]>::len);
        let mut values = scratch::values(len);
        self.kernel.apply(tile, &mut stats.before, &mut values);
        peaks(&values, tile.start as usize, self.columns, &self.seen);
    }

    fn take(&mut self, totals: Totals) -> Result<(), String> {
        if self.kernel.wants().is_some() {
            return self.kernel.take(totals);
        }
        self.rates = found(&self.seen).map(rate).collect();
        Ok(())
    }

    fn whole(&self, read: &mut dyn Operands, write: &mut dyn Results) -> Result<Vec<(String, f64)>, Halt> {
        let seen = (0..self.columns as u64 / TILE).map(|_| AtomicU32::new(0)).collect();
        let mut bands = Bands { write, columns: self.columns, part: self.part, seen, band: Vec::new() };
        self.kernel.whole(read, &mut bands)
    }

    fn casts(&self) -> bool {
        self.kernel.casts()
    }

    fn found(&self) -> Vec<(String, f64)> {
        self.kernel.found()
    }

    fn gathered(&self, from: usize, out: &mut [f32]) {
        for (o, peak) in out.iter_mut().zip(found(self.seen.get(from..).unwrap_or_default())) {
            *o = scale(peak);
        }
    }

    fn untouched(&self, tile: &Tile, out: &mut [f32]) {
        self.kernel.untouched(tile, out);
        timed(out, tile.start as usize, self.columns, &self.rates);
    }

    fn apply(&self, tile: &Tile, ranks: &mut [u64], out: &mut [f32]) {
        self.kernel.apply(tile, ranks, out);
        timed(out, tile.start as usize, self.columns, &self.rates);
    }
}

/// Takes values in order, and hands over those of a row of tiles as soon as it is whole.
struct Bands<'a> {
    write: &'a mut dyn Results,
    columns: usize,
    part: Part,
    seen: Vec<AtomicU32>,
    band: Vec<f32>,
}

impl Results for Bands<'_> {
    fn push(&mut self, mut values: &[f32]) -> Result<(), Halt> {
        let whole = TILE as usize * self.columns;
        while !values.is_empty() {
            let (own, rest) = values.split_at(values.len().min(whole - self.band.len()));
            self.band.extend_from_slice(own);
            values = rest;
            if self.band.len() < whole {
                continue;
            }
            self.seen.iter_mut().for_each(|peak| *peak.get_mut() = 0);
            peaks(&self.band, 0, self.columns, &self.seen);
            if self.part == Part::Scales {
                let scales: Vec<f32> = found(&self.seen).map(scale).collect();
                self.write.push(&scales)?;
            } else {
                let rates: Vec<f32> = found(&self.seen).map(rate).collect();
                timed(&mut self.band, 0, self.columns, &rates);
                self.write.push(&self.band)?;
            }
            self.band.clear();
        }
        Ok(())
    }
}
