//! Two 4-bit floats a byte and a scale for each group along a row: MXFP4, NVFP4. Rows are whole groups, so they need not be known.

use std::ops::Range;

use super::{Codec, Piece, number};
use crate::kernels::codes::{E2M1, pairs, scaled_pairs};
use crate::model::coding::{Fp4, Whole};

/// The codec.
pub struct Codes {
    form: Fp4,
    table: Box<[[f32; 2]; 256]>,
}

impl Codes {
    /// Of a form.
    pub fn new(form: &Fp4) -> Self {
        let mut values = E2M1;
        if form.whole == Whole::Times {
            values[8] = 0.0;
        }
        Self { form: form.clone(), table: Box::new(pairs(&values)) }
    }
}

impl Codec for Codes {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let group = self.form.group;
        let mut out = vec![
            Piece::run(0, elements.start / 2..elements.end.div_ceil(2)),
            Piece::run(1, elements.start / group..elements.end.div_ceil(group)),
        ];
        if self.form.whole != Whole::None {
            out.push(Piece::run(2, 0..1));
        }
        out
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let group = self.form.group;
        let whole = raw.get(2).map_or(1.0, |w| number(crate::model::coding::Number::F32, w, 0));
        let (bytes, scales) = (of.start / 2, of.start / group);
        let code =
            |element: u64| self.table[usize::from(raw[0][(element / 2 - bytes) as usize])][(element % 2) as usize];
        let mut at = part.start;
        while at < part.end {
            let end = ((at / group + 1) * group).min(part.end);
            let scale = number(self.form.scale, raw[1], (at / group - scales) as usize);
            let scale = match self.form.whole {
                Whole::None => scale,
                Whole::Over => scale / whole,
                Whole::Times => scale * whole,
            };
            let mut put = |element: u64| out[(element - part.start) as usize] = code(element) * scale;
            // A byte of which one half is asked for, at either end.
            if at % 2 == 1 {
                put(at);
                at += 1;
            }
            let even = if end % 2 == 1 && end > at { end - 1 } else { end };
            if even < end {
                put(even);
            }
            let codes = &raw[0][(at / 2 - bytes) as usize..];
            let own = (at - part.start) as usize..even.max(at) as usize - part.start as usize;
            scaled_pairs(codes, &self.table, scale, &mut out[own]);
            at = end;
        }
    }
}
