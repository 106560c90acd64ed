//! MXFP4 as gpt-oss keeps its experts: the transpose of each is stored, in blocks of 32 along what are rows of the plain model.

use std::ops::Range;

use super::{Codec, Piece, by_row, rows_of};
use crate::kernels::codes::scaled_halves;
use crate::model::coding::Turned;

/// Elements of a block, and its bytes.
const BLOCK: u64 = 32;
const BYTES: u64 = 16;

/// The codec.
pub struct Codes {
    form: Turned,
}

/// Blocks of an expert, of every stored row.
struct Band {
    expert: u64,
    blocks: Range<u64>,
}

impl Codes {
    /// Of a form.
    pub fn new(form: &Turned) -> Self {
        Self { form: form.clone() }
    }

    /// Blocks that hold `elements`, expert by expert.
    fn bands(&self, elements: &Range<u64>) -> Vec<Band> {
        let f = &self.form;
        let rows = rows_of(elements, f.columns);
        let band = |expert: u64| {
            let (first, end) = (expert * f.rows, (expert + 1) * f.rows);
            let own = rows.start.max(first) - first..rows.end.min(end) - first;
            Band { expert, blocks: own.start / BLOCK..own.end.div_ceil(BLOCK) }
        };
        (rows.start / f.rows..rows.end.div_ceil(f.rows)).map(band).collect()
    }
}

impl Codec for Codes {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let (stored, blocks) = (self.form.columns, self.form.rows / BLOCK);
        let of = |b: Band| {
            let rows = b.expert * stored..(b.expert + 1) * stored;
            let bytes = b.blocks.start * BYTES..b.blocks.end * BYTES;
            [
                Piece::band(0, rows.clone(), bytes, blocks * BYTES).turned(),
                Piece::band(1, rows, b.blocks, blocks).turned(),
            ]
        };
        self.bands(elements).into_iter().flat_map(of).collect()
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let f = &self.form;
        let bands = self.bands(of);
        let Some(first) = bands.first().map(|b| b.expert) else { return };
        by_row(part, f.columns, |row, columns, place| {
            let (expert, row) = ((row / f.rows - first) as usize, row % f.rows);
            let blocks = &bands[expert].blocks;
            let (codes, exponents) = (raw[2 * expert], raw[2 * expert + 1]);
            let block = row / BLOCK - blocks.start;
            let byte = block * BYTES + row % BLOCK / 2;
            let own =
                |line: u64| (line * f.columns + columns.start) as usize..(line * f.columns + columns.end) as usize;
            scaled_halves(&codes[own(byte)], (row % 2 * 4) as u32, &exponents[own(block)], &mut out[place]);
        });
    }
}
