//! AWQ: 4-bit integers, eight outputs a word in an order of their own (`gemm`), or row by row in plain order (`gemv`).

use std::ops::Range;

use super::{Codec, Piece, by_row, number, rows_of, word};
use crate::kernels::codes::scaled_column;
use crate::model::coding::Awq;

/// The nibble of a word that each of its eight columns sits in.
const NIBBLE: [u32; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

#[inline]
fn nibble(word: u32, k: u32) -> i32 {
    ((word >> (4 * k)) & 15) as i32
}

impl Codec for Awq {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let rows = rows_of(elements, self.inputs);
        if let Some(words) = self.rowwise {
            let own = |per: u64| rows.start * per..rows.end * per;
            return vec![
                Piece::run(0, elements.start / 8..elements.end.div_ceil(8)),
                Piece::run(1, own(words)),
                Piece::run(2, own(8 * words)),
            ];
        }
        let words = rows.start / 8..rows.end.div_ceil(8);
        vec![
            Piece::band(0, 0..self.inputs, words.clone(), self.outputs / 8).turned(),
            Piece::band(1, 0..self.groups, words, self.outputs / 8),
            Piece::band(2, 0..self.groups, rows, self.outputs),
        ]
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let rows = rows_of(of, self.inputs);
        let first = rows.start / 8;
        let (width, words) = ((rows.end - rows.start) as usize, (rows.end.div_ceil(8) - first) as usize);
        by_row(part, self.inputs, |row, columns, place| {
            let out = &mut out[place];
            let (at, nth) = ((row - rows.start) as usize, NIBBLE[(row % 8) as usize]);
            let column = (row / 8 - first) as usize;
            let mut done = 0;
            for g in columns.start / self.group..columns.end.div_ceil(self.group) {
                let own = columns.start.max(g * self.group)..columns.end.min((g + 1) * self.group);
                let g = g as usize;
                let (zero, scale) = match self.rowwise {
                    Some(n) => {
                        let zeros = word(raw[1], at * n as usize + g / 8);
                        (nibble(zeros, (g % 8) as u32), number(self.scale, raw[2], at * 8 * n as usize + g))
                    }
                    None => {
                        let zeros = word(raw[1], g * words + column);
                        (nibble(zeros, nth), number(self.scale, raw[2], g * width + at))
                    }
                };
                let own_out = &mut out[done..done + (own.end - own.start) as usize];
                done += own_out.len();
                if self.rowwise.is_none() {
                    let line = column * self.inputs as usize;
                    let own = &raw[0].as_chunks::<4>().0[line + own.start as usize..line + own.end as usize];
                    scaled_column(own, 4 * nth, zero, scale, own_out);
                    continue;
                }
                for (o, i) in own_out.iter_mut().zip(own) {
                    let element = row * self.inputs + i;
                    let q = nibble(word(raw[0], (element / 8 - of.start / 8) as usize), (element % 8) as u32);
                    *o = (q - zero) as f32 * scale;
                }
            }
        });
    }
}
