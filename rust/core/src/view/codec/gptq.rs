//! GPTQ: integers packed along the inputs, stored input by input; groups of inputs in order, or in an order of their own.

use std::ops::Range;

use super::{Codec, Piece, by_row, field, number, rows_of, word};
use crate::kernels::codes::{FEW, scaled_bytes, scaled_groups, scaled_nibbles};
use crate::model::coding::Gptq;

impl Gptq {
    /// Words of zeros that the outputs `rows` need.
    fn zeros(&self, rows: &Range<u64>) -> Range<u64> {
        rows.start * self.bits / 32..(rows.end * self.bits).div_ceil(32)
    }
}

impl Codec for Gptq {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let rows = rows_of(elements, self.inputs);
        let words = (self.inputs * self.bits).div_ceil(32);
        let mut out = vec![
            Piece::band(0, 0..words, rows.clone(), self.outputs).turned(),
            Piece::band(1, 0..self.groups, self.zeros(&rows), (self.outputs * self.bits).div_ceil(32)),
            Piece::band(2, 0..self.groups, rows, self.outputs).turned(),
        ];
        if self.ordered {
            out.push(Piece::run(3, 0..self.inputs));
        }
        out
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let rows = rows_of(of, self.inputs);
        let zeros = self.zeros(&rows);
        let zero_words = (zeros.end - zeros.start) as usize;
        let (lines, own_groups) = ((self.inputs * self.bits).div_ceil(32) as usize, self.groups as usize);
        let (bits, mask) = (self.bits, ((1u64 << self.bits) - 1) as u32);
        // What is subtracted from the fields of a group, and what they are multiplied by.
        let mut groups: Vec<(i32, f32)> = Vec::new();
        let mut few = [(0, 0.0); FEW];
        by_row(part, self.inputs, |row, columns, place| {
            let at = (row - rows.start) as usize;
            groups.clear();
            groups.extend((0..self.groups as usize).map(|g| {
                let words = |k: usize| word(raw[1], g * zero_words + k - zeros.start as usize);
                let zero = field(words, bits, row).wrapping_add(self.add) & mask;
                (zero as i32, number(self.scale, raw[2], at * own_groups + g))
            }));
            let words = |k: usize| word(raw[0], at * lines + k);
            let out = &mut out[place];
            if self.ordered {
                let order = &raw[3].as_chunks::<4>().0[columns.start as usize..columns.end as usize];
                let own = &raw[0].as_chunks::<4>().0[at * lines..(at + 1) * lines];
                let mut done = 0;
                if bits == 4 && own_groups <= FEW && columns.start.is_multiple_of(8) {
                    few[..own_groups].copy_from_slice(&groups);
                    done = order.len() / 8 * 8;
                    let own = &own[(columns.start / 8) as usize..];
                    scaled_groups(own, &order[..done], &few, &mut out[..done]);
                }
                let rest = out[done..].iter_mut().zip(columns.start + done as u64..columns.end);
                for ((o, i), g) in rest.zip(&order[done..]) {
                    let (zero, scale) = groups[(u32::from_le_bytes(*g) as usize).min(own_groups - 1)];
                    let q = match bits {
                        // Divisions by what is not known take longer than all the rest.
                        4 => (u32::from_le_bytes(own[(i / 8) as usize]) >> (i % 8 * 4)) & 15,
                        _ => field(words, bits, i),
                    };
                    *o = (q as i32 - zero) as f32 * scale;
                }
                return;
            }
            let mut done = 0;
            for (g, (zero, scale)) in groups.iter().enumerate() {
                let last = g as u64 + 1 == self.groups;
                let end = if last { columns.end } else { ((g as u64 + 1) * self.group).min(columns.end) };
                let mut i = columns.start + done as u64;
                if bits == 8 && i < end {
                    let first = 4 * at * lines + i as usize;
                    let n = (end - i) as usize;
                    scaled_bytes(&raw[0][first..first + n], *zero, *scale, &mut out[done..done + n]);
                    done += n;
                    continue;
                }
                // Whole words of what is most common.
                if bits == 4 && i.is_multiple_of(8) && end >= i + 8 {
                    let n = ((end - i) / 8 * 8) as usize;
                    let first = at * lines + (i / 8) as usize;
                    let own = &raw[0].as_chunks::<4>().0[first..first + n / 8];
                    scaled_nibbles(own, *zero, *scale, &mut out[done..done + n]);
                    (done, i) = (done + n, i + n as u64);
                }
                while i < end {
                    // Fields that divide a word are taken a word at a time.
                    if 32 % bits == 0 {
                        let (per, w) = (32 / bits, words((i * bits / 32) as usize));
                        let stop = ((i / per + 1) * per).min(end);
                        for k in i % per..i % per + (stop - i) {
                            out[done] = (((w >> (k * bits)) & mask) as i32 - zero) as f32 * scale;
                            done += 1;
                        }
                        i = stop;
                    } else {
                        out[done] = (field(words, bits, i) as i32 - zero) as f32 * scale;
                        done += 1;
                        i += 1;
                    }
                }
            }
        });
    }
}
