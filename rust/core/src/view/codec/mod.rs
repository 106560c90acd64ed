//! Quantised weights, decoded as they are read: one file a form. What is read are the bytes of the codes and of the scales that belong
//! to them; numbers are made of them tile by tile.

mod awq;
mod beside;
mod blocks;
mod flat;
mod fp4;
#[cfg(test)]
mod gguf_files;
mod gptq;
mod opened;
mod packed;
mod scaled;
mod turned;
mod woven;

use std::ops::Range;

pub use opened::Opened;

use crate::kernels::codes::{exponent, float8};
use crate::model::coding::{Coding, Number};

/// Elements of a part that are read: `count` ranges of `width`, each `pitch` behind the one before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// Which part.
    pub part: usize,
    /// The first element.
    pub first: u64,
    /// Elements of a range.
    pub width: u64,
    /// Elements from the begin of one range to that of the next.
    pub pitch: u64,
    /// Number of ranges.
    pub count: u64,
    /// Whether they are laid down the other way round: the first element of each range, then the second of each, ...
    pub turned: bool,
}

impl Piece {
    /// A range in one piece.
    pub fn run(part: usize, elements: Range<u64>) -> Self {
        let width = elements.end.saturating_sub(elements.start);
        Self { part, first: elements.start, width, pitch: width, count: 1, turned: false }
    }

    /// Columns of some rows of a matrix `pitch` wide.
    pub fn band(part: usize, rows: Range<u64>, columns: Range<u64>, pitch: u64) -> Self {
        let (width, count) = (columns.end - columns.start, rows.end - rows.start);
        Self { part, first: rows.start * pitch + columns.start, width, pitch, count, turned: false }
    }

    /// The same, laid down column by column: of what is stored as the transpose of what is wanted.
    pub fn turned(self) -> Self {
        Self { turned: true, ..self }
    }

    /// Elements in all.
    pub fn elements(&self) -> u64 {
        self.width * self.count
    }
}

/// Makes numbers of a quantised weight's bytes. It reads nothing: it says what has to be read, and is given the bytes.
pub trait Codec: Send + Sync {
    /// What of the parts has to be read for `elements`.
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece>;

    /// Makes numbers, in f32, of the elements `part`; `raw` holds the bytes of each piece that was read for `of`, its ranges one behind
    /// the other.
    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]);
}

/// The codec of a form.
pub fn codec(coding: &Coding) -> Box<dyn Codec> {
    match coding {
        Coding::Scaled(s) => Box::new(scaled::Codes::new(s)),
        Coding::Fp4(f) => Box::new(fp4::Codes::new(f)),
        Coding::Turned(t) => Box::new(turned::Codes::new(t)),
        Coding::Gptq(g) => Box::new(g.clone()),
        Coding::Awq(a) => Box::new(a.clone()),
        Coding::Packed(p) => Box::new(p.clone()),
        Coding::Flat(f) => Box::new(f.clone()),
        Coding::Blocks(b) => Box::new(blocks::Codes::new(b)),
        Coding::Woven(w) => Box::new(woven::Codes::new(w)),
    }
}

/// The number at `index` of those stored in `bytes`.
#[inline]
fn number(how: Number, bytes: &[u8], index: usize) -> f32 {
    match how {
        Number::F32 => bytes.as_chunks::<4>().0.get(index).map_or(0.0, |b| f32::from_le_bytes(*b)),
        Number::F16 => bytes.as_chunks::<2>().0.get(index).map_or(0.0, |b| half::f16::from_le_bytes(*b).to_f32()),
        Number::Bf16 => bytes.as_chunks::<2>().0.get(index).map_or(0.0, |b| half::bf16::from_le_bytes(*b).to_f32()),
        Number::E8m0 => bytes.get(index).map_or(0.0, |b| exponent(*b)),
        Number::E4m3 => bytes.get(index).map_or(0.0, |b| float8(*b, 4, 7, false)),
    }
}

/// The word at `index`.
#[inline]
fn word(bytes: &[u8], index: usize) -> u32 {
    bytes.as_chunks::<4>().0.get(index).map_or(0, |b| u32::from_le_bytes(*b))
}

/// The field `k` of `bits` bits of words that `at` gives, as one stream of bits.
#[inline]
fn field(at: impl Fn(usize) -> u32, bits: u64, k: u64) -> u32 {
    let (first, shift) = ((k * bits / 32) as usize, k * bits % 32);
    let mut window = u64::from(at(first)) >> shift;
    if shift + bits > 32 {
        window |= u64::from(at(first + 1)) << (32 - shift);
    }
    (window & ((1 << bits) - 1)) as u32
}

/// Calls `f` with the rows that `part` touches: the row, its columns, and their place in `part`.
fn by_row(part: &Range<u64>, columns: u64, mut f: impl FnMut(u64, Range<u64>, Range<usize>)) {
    let mut at = part.start;
    while at < part.end {
        let (row, column) = (at / columns, at % columns);
        let end = (at - column + columns).min(part.end);
        let place = (at - part.start) as usize..(end - part.start) as usize;
        f(row, column..column + (end - at), place);
        at = end;
    }
}

/// The rows that `elements` touch.
fn rows_of(elements: &Range<u64>, columns: u64) -> Range<u64> {
    elements.start / columns..elements.end.div_ceil(columns).max(elements.start / columns)
}
