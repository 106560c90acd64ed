//! Blocks of several tensors whose columns take turns, or of one that is stored column by column: the experts of gpt-oss in GGUF.

use std::ops::Range;

use super::blocks::{Decoder, decoder};
use super::{Codec, Piece, by_row, rows_of};
use crate::kernels::ggml::mxfp4_at;
use crate::model::coding::Woven;

/// MXFP4, of which an element is had without the others of its block.
const MXFP4: u32 = 39;

/// The codec.
pub struct Codes {
    form: Woven,
    decoder: Option<Decoder>,
}

impl Codes {
    /// Of a form.
    pub fn new(form: &Woven) -> Self {
        Self { form: form.clone(), decoder: decoder(form.blocks.kind) }
    }

    /// Rows of a part's matrix, where it is turned, else values of its rows.
    fn stored(&self) -> u64 {
        self.form.columns / self.form.parts
    }

    /// The matrices that `elements` are of, and the blocks of their stored rows.
    fn bands(&self, elements: &Range<u64>) -> Vec<(u64, Range<u64>)> {
        let f = &self.form;
        let rows = rows_of(elements, f.columns);
        let band = |matrix: u64| {
            let (first, end) = (matrix * f.rows, (matrix + 1) * f.rows);
            let own = rows.start.max(first) - first..rows.end.min(end) - first;
            (matrix, own.start / f.blocks.elements..own.end.div_ceil(f.blocks.elements))
        };
        (rows.start / f.rows..rows.end.div_ceil(f.rows)).map(band).collect()
    }
}

impl Codec for Codes {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let (f, stored) = (&self.form, self.stored());
        let parts = 0..f.parts as usize;
        if !f.turned {
            let row = stored * f.blocks.bytes;
            let rows = rows_of(elements, f.columns);
            return parts.map(|part| Piece::run(part, rows.start * row..rows.end * row)).collect();
        }
        let pitch = f.rows / f.blocks.elements * f.blocks.bytes;
        let of = |(matrix, blocks): (u64, Range<u64>)| {
            let bytes = blocks.start * f.blocks.bytes..blocks.end * f.blocks.bytes;
            let rows = matrix * stored..(matrix + 1) * stored;
            parts.clone().map(move |part| Piece::band(part, rows.clone(), bytes.clone(), pitch))
        };
        self.bands(elements).into_iter().flat_map(of).collect()
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        // A plan has no kind that nothing decodes.
        let Some(decoder) = self.decoder else { return };
        let (f, parts) = (&self.form, self.form.parts as usize);
        let (size, per) = (f.blocks.bytes as usize, f.blocks.elements);
        let mut block = vec![0.0; per as usize];
        let mut element = |bytes: &[u8], index: usize| {
            if f.blocks.kind == MXFP4 {
                return mxfp4_at(bytes, index);
            }
            decoder(bytes, &mut block);
            block[index]
        };
        if !f.turned {
            let first = rows_of(of, f.columns).start;
            by_row(part, f.columns, |row, columns, place| {
                let row = (row - first) * self.stored();
                for (o, c) in out[place].iter_mut().zip(columns.start as usize..) {
                    let at = (row as usize + c / parts) * size;
                    *o = element(&raw[c % parts][at..at + size], 0);
                }
            });
            return;
        }
        let bands = self.bands(of);
        let Some(first) = bands.first().map(|(matrix, _)| *matrix) else { return };
        by_row(part, f.columns, |row, columns, place| {
            let (matrix, row) = ((row / f.rows - first) as usize, row % f.rows);
            let blocks = &bands[matrix].1;
            let (width, own) = ((blocks.end - blocks.start) as usize, (row / per - blocks.start) as usize);
            let raw = &raw[parts * matrix..];
            for (o, c) in out[place].iter_mut().zip(columns.start as usize..) {
                let at = (c / parts * width + own) * size;
                *o = element(&raw[c % parts][at..at + size], (row % per) as usize);
            }
        });
    }
}
