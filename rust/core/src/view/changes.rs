//! What is added to a tensor besides products: single elements, and signs times a number. Both are read window by window.

use std::ops::Range;

use parking_lot::Mutex;

use super::{Decode, Slot, stored};
use crate::checkpoint::made::{self, WINDOW};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::source::Source;

/// Changes of single elements, ready to be read.
pub struct Sparse<'a> {
    of: &'a made::Sparse,
    index: Box<dyn Decode + 'a>,
    values: Box<dyn Decode + 'a>,
    file: &'a dyn Source,
    window: Mutex<Window>,
}

/// What was read last.
#[derive(Default)]
struct Window {
    elements: Range<u64>,
    /// The entry behind the last that is in it.
    next: u64,
    places: Vec<u64>,
    values: Vec<f64>,
    slot: Slot,
}

impl<'a> Sparse<'a> {
    /// Opens them.
    pub fn new(of: &'a made::Sparse, files: &'a [Box<dyn Source>]) -> Self {
        let file = &*files[of.index.file];
        Self { of, index: stored(&of.index, files), values: stored(&of.values, files), file, window: Mutex::default() }
    }

    /// Adds those of `part` to `out`.
    ///
    /// # Errors
    /// As [`Source::read`]; [`Error::Tensor`] if the places are not ascending.
    pub fn add(&self, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        let mut window = self.window.lock();
        let mut at = part.start;
        while at < part.end {
            if !window.elements.contains(&at) {
                self.load(&mut window, at / WINDOW * WINDOW)?;
            }
            let end = part.end.min(window.elements.end);
            let first = window.places.partition_point(|p| *p < at);
            for (place, value) in window.places[first..].iter().zip(&window.values[first..]) {
                if *place >= end {
                    break;
                }
                let out = &mut out[(place - part.start) as usize];
                *out = self.of.scale.mul_add(*value, *out);
            }
            at = end;
        }
        Ok(())
    }

    fn load(&self, window: &mut Window, start: u64) -> Result<()> {
        let (elements, count) = (start..start + WINDOW, self.of.index.elements());
        let first = if window.elements.end == start && start > 0 { window.next } else { self.behind(start, 0, count)? };
        let last = self.behind(elements.end, first, count.min(first + WINDOW))?;
        window.elements = 0..0;
        window.places.clear();
        // With the neighbours, between which all there is of the window must lie.
        let shown = first.saturating_sub(1)..(last + 1).min(count);
        let raw = self.index.read(&shown, &mut window.slot)?;
        self.numbers(raw, &mut window.places);
        let inside = |i: u64, place: u64| match i {
            i if i < first => place < elements.start,
            i if i < last => elements.contains(&place),
            _ => place >= elements.end,
        };
        let ascending = window.places.windows(2).all(|w| w[0] < w[1]);
        if !ascending || !shown.clone().zip(&window.places).all(|(i, place)| inside(i, *place)) {
            let problem = "its places are not ascending; it is damaged";
            return Err(Error::tensor(self.file.path(), &self.of.index.name, problem));
        }
        if shown.start < first {
            window.places.remove(0);
        }
        window.places.truncate((last - first) as usize);
        window.values.resize((last - first) as usize, 0.0);
        let own = first..last;
        let raw = self.values.read(&own, &mut window.slot)?;
        self.values.decode_exactly(raw, &own, &own, &mut window.values)?;
        (window.elements, window.next) = (elements, last);
        Ok(())
    }

    /// The first entry from `from` on, before `to`, whose place is not before `place`; `to` if there is none.
    fn behind(&self, place: u64, mut from: u64, mut to: u64) -> Result<u64> {
        let (mut slot, mut found) = (Slot::default(), Vec::new());
        while from < to {
            let middle = from + (to - from) / 2;
            found.clear();
            self.numbers(self.index.read(&(middle..middle + 1), &mut slot)?, &mut found);
            if found.first().is_some_and(|p| *p < place) { from = middle + 1 } else { to = middle }
        }
        Ok(from)
    }

    fn numbers(&self, raw: &[u8], out: &mut Vec<u64>) {
        match self.of.index.dtype {
            Dtype::U64 => out.extend(raw.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))),
            _ => out.extend(raw.as_chunks::<4>().0.iter().map(|b| u64::from(u32::from_le_bytes(*b)))),
        }
    }
}

/// Signs, ready to be read.
pub struct Signs<'a> {
    of: &'a made::Signs,
    bits: Box<dyn Decode + 'a>,
    window: Mutex<(Range<u64>, Vec<u8>, Slot)>,
}

impl<'a> Signs<'a> {
    /// Opens them.
    pub fn new(of: &'a made::Signs, files: &'a [Box<dyn Source>]) -> Self {
        Self { of, bits: stored(&of.bits, files), window: Mutex::default() }
    }

    /// Adds those of `part` to `out`.
    ///
    /// # Errors
    /// As [`Source::read`].
    pub fn add(&self, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        let mut window = self.window.lock();
        let (elements, bits, slot) = &mut *window;
        for (out, at) in out.iter_mut().zip(part.clone()) {
            if !elements.contains(&at) {
                let start = at / WINDOW * WINDOW;
                *elements = 0..0;
                let own = start / 8..((start + WINDOW) / 8).min(self.of.bits.nbytes);
                bits.clear();
                bits.extend_from_slice(self.bits.read(&own, slot)?);
                *elements = start..start + WINDOW;
            }
            let i = (at - elements.start) as usize;
            let up = bits.get(i / 8).is_some_and(|byte| byte >> (i % 8) & 1 == 1);
            *out += if up { self.of.scale } else { -self.of.scale };
        }
        Ok(())
    }
}
