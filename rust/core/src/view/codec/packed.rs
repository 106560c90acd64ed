//! Integers packed along the inputs, row by row (`pack-quantized` of compressed-tensors).

use std::ops::Range;

use super::{Codec, Piece, by_row, field, number, rows_of, word};
use crate::kernels::codes::{FEW, scaled_bytes, scaled_groups, scaled_nibbles};
use crate::model::coding::{Packed, Zeros};

impl Packed {
    /// Words of zeros, along the rows, that `rows` need.
    fn zero_words(&self, rows: &Range<u64>) -> Range<u64> {
        rows.start * self.bits / 32..(rows.end * self.bits).div_ceil(32)
    }

    /// The field `k` of a row that begins at the word `row` of `words`.
    #[inline]
    fn field(&self, words: &[u8], row: usize, k: u64) -> u32 {
        if self.crossing {
            return field(|i| word(words, row + i), self.bits, k);
        }
        let per = 32 / self.bits;
        (word(words, row + (k / per) as usize) >> (k % per * self.bits)) & ((1u64 << self.bits) - 1) as u32
    }
}

impl Codec for Packed {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let rows = rows_of(elements, self.columns);
        let own = |per: u64| rows.start * per..rows.end * per;
        let mut out = vec![Piece::run(0, own(self.words)), Piece::run(1, own(self.groups))];
        match self.zeros {
            Zeros::None => {}
            Zeros::Int8 => out.push(Piece::run(2, own(self.groups))),
            Zeros::Packed => {
                let words = self.zero_words(&rows);
                out.push(Piece::run(2, words.start * self.groups..words.end * self.groups));
            }
        }
        if self.ordered {
            out.push(Piece::run(2 + usize::from(self.zeros != Zeros::None), 0..self.columns));
        }
        out
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let rows = rows_of(of, self.columns);
        let groups = self.groups as usize;
        let mut few = [(0, 0.0); FEW];
        let half = 1i32 << (self.bits - 1);
        let first_zeros = self.zero_words(&rows).start as usize;
        by_row(part, self.columns, |row, columns, place| {
            let out = &mut out[place];
            let at = (row - rows.start) as usize;
            // The fields hold what is meant and an offset, and so do packed zeros.
            let zero = |g: usize| match self.zeros {
                Zeros::None => half,
                Zeros::Int8 => half + raw[2].get(at * groups + g).map_or(0, |z| i32::from(*z as i8)),
                Zeros::Packed => field(|k| word(raw[2], (k - first_zeros) * groups + g), self.bits, row) as i32,
            };
            let scale = |g: usize| number(self.scale, raw[1], at * groups + g);
            let begin = at * self.words as usize;
            if self.ordered {
                let order = raw[raw.len() - 1];
                let mut done = 0;
                if self.bits == 4 && groups <= FEW && columns.start.is_multiple_of(8) {
                    (0..groups).for_each(|g| few[g] = (zero(g), scale(g)));
                    done = out.len() / 8 * 8;
                    let words = &raw[0].as_chunks::<4>().0[begin + (columns.start / 8) as usize..];
                    let order = &order.as_chunks::<4>().0[columns.start as usize..];
                    scaled_groups(words, order, &few, &mut out[..done]);
                }
                for (o, i) in out[done..].iter_mut().zip(columns.start + done as u64..columns.end) {
                    let g = (word(order, i as usize) as usize).min(groups - 1);
                    *o = (self.field(raw[0], begin, i) as i32 - zero(g)) as f32 * scale(g);
                }
                return;
            }
            let mut done = 0;
            let last = columns.end.div_ceil(self.group).min(self.groups);
            for g in (columns.start / self.group).min(self.groups - 1)..last {
                let end = if g + 1 == self.groups { columns.end } else { columns.end.min((g + 1) * self.group) };
                let own = columns.start.max(g * self.group)..end;
                let (zero, scale) = (zero(g as usize), scale(g as usize));
                let out = &mut out[done..done + (own.end - own.start) as usize];
                done += out.len();
                let mut one = |i: u64| {
                    out[(i - own.start) as usize] = (self.field(raw[0], begin, i) as i32 - zero) as f32 * scale;
                };
                if self.bits == 8 {
                    let first = 4 * begin + own.start as usize;
                    scaled_bytes(&raw[0][first..first + out.len()], zero, scale, out);
                    continue;
                }
                if self.bits != 4 {
                    own.clone().for_each(one);
                    continue;
                }
                // Whole words, and what is left at the ends.
                let whole = own.start.next_multiple_of(8).min(own.end)..(own.end / 8 * 8).max(own.start);
                if whole.start >= whole.end {
                    own.clone().for_each(one);
                    continue;
                }
                (own.start..whole.start).chain(whole.end..own.end).for_each(&mut one);
                let words =
                    &raw[0].as_chunks::<4>().0[begin + (whole.start / 8) as usize..begin + (whole.end / 8) as usize];
                let place = (whole.start - own.start) as usize..(whole.end - own.start) as usize;
                scaled_nibbles(words, zero, scale, &mut out[place]);
            }
        });
    }
}
