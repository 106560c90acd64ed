//! 4 bits of bitsandbytes (nf4, fp4): indices into a table that is stored, blocks over the ends of rows, scales that may be codes
//! themselves.

use std::ops::Range;

use super::{Codec, Piece, number};
use crate::kernels::codes::scaled_pairs;
use crate::model::coding::{Flat, Number};

impl Codec for Flat {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let blocks = elements.start / self.block..elements.end.div_ceil(self.block);
        let mut out = vec![Piece::run(0, elements.start / 2..elements.end.div_ceil(2)), Piece::run(1, 0..16)];
        out.push(Piece::run(2, blocks.clone()));
        if let Some((nested, _)) = self.nested {
            out.push(Piece::run(3, blocks.start / nested..blocks.end.div_ceil(nested)));
            out.push(Piece::run(4, 0..256));
        }
        out
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let f32_at = |part: usize, index: usize| number(Number::F32, raw[part], index);
        let map: [f32; 16] = std::array::from_fn(|i| f32_at(1, i));
        // The even element is the high half of a byte.
        let table: [[f32; 2]; 256] = std::array::from_fn(|byte| [map[byte >> 4], map[byte & 15]]);
        let first = of.start / self.block;
        let scale = |block: u64| match self.nested {
            None => f32_at(2, (block - first) as usize),
            Some((nested, offset)) => {
                let code = raw[2].get((block - first) as usize).copied().unwrap_or(0);
                f32_at(4, usize::from(code)) * f32_at(3, (block / nested - first / nested) as usize) + offset
            }
        };
        let bytes = of.start / 2;
        let one = |e: u64| table[usize::from(raw[0][(e / 2 - bytes) as usize])][(e % 2) as usize];
        let mut at = part.start;
        while at < part.end {
            let end = ((at / self.block + 1) * self.block).min(part.end);
            let scale = scale(at / self.block);
            if at % 2 == 1 {
                out[(at - part.start) as usize] = one(at) * scale;
                at += 1;
            }
            let even = if end % 2 == 1 && end > at { end - 1 } else { end };
            if even < end {
                out[(even - part.start) as usize] = one(even) * scale;
            }
            let codes = &raw[0][(at / 2 - bytes) as usize..];
            let own = (at - part.start) as usize..even.max(at) as usize - part.start as usize;
            scaled_pairs(codes, &table, scale, &mut out[own]);
            at = end;
        }
    }
}
