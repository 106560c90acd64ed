//! A byte an element, an 8-bit float or integer, and a scale for each tile, row, column or tensor.

use std::ops::Range;

use super::{Codec, Piece, by_row, number, rows_of};
use crate::dtype::Dtype;
use crate::kernels::codes::{floats, integers, scaled, scaled_e4m3, scaled_each, scaled_from};
use crate::model::coding::{Rule, Scaled, Table};

/// 1/127 as LLM.int8 has it.
const OVER_127: f32 = f32::from_bits(0x3C01_0204);

/// The codec.
pub struct Codes {
    form: Scaled,
    table: Box<[f32; 256]>,
}

impl Codes {
    /// Of a form.
    pub fn new(form: &Scaled) -> Self {
        let table = match form.table {
            Table::Float(dtype) => floats(dtype),
            Table::Int8 => integers(),
        };
        Self { form: form.clone(), table: Box::new(table) }
    }

    /// The row of scales, over all matrices, that a row's are.
    fn scales_of(&self, row: u64) -> u64 {
        let f = &self.form;
        row / f.rows * f.grid.0 + (row % f.rows / f.tile.0).min(f.grid.0 - 1)
    }

    /// The rows of scales that `elements` need.
    fn grid_rows(&self, elements: &Range<u64>) -> Range<u64> {
        let rows = rows_of(elements, self.form.columns);
        if rows.is_empty() { 0..0 } else { self.scales_of(rows.start)..self.scales_of(rows.end - 1) + 1 }
    }
}

impl Codec for Codes {
    fn pieces(&self, elements: &Range<u64>) -> Vec<Piece> {
        let (grid, along) = (self.grid_rows(elements), self.form.grid.1);
        let mut out = vec![Piece::run(0, elements.clone()), Piece::run(1, grid.start * along..grid.end * along)];
        if self.form.zeros {
            out.push(Piece { part: 2, ..out[1].clone() });
        }
        out
    }

    fn decode(&self, raw: &[&[u8]], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) {
        let (f, table) = (&self.form, &*self.table);
        let first = self.grid_rows(of).start;
        let codes = &raw[0][(part.start - of.start) as usize..(part.end - of.start) as usize];
        let mut wide = Vec::new();
        by_row(part, f.columns, |row, columns, place| {
            let (codes, out) = (&codes[place.clone()], &mut out[place]);
            let scales = ((self.scales_of(row) - first) * f.grid.1) as usize;
            if f.tile.1 == 1 && f.grid.1 > 1 && !f.zeros {
                wide.clear();
                wide.extend(columns.map(|c| number(f.scale, raw[1], scales + c as usize)));
                return scaled_each(codes, table, &wide, out);
            }
            let mut at = columns.start;
            while at < columns.end {
                let tile = (at / f.tile.1).min(f.grid.1 - 1);
                let end = if tile + 1 == f.grid.1 { columns.end } else { ((tile + 1) * f.tile.1).min(columns.end) };
                let own = (at - columns.start) as usize..(end - columns.start) as usize;
                let (codes, out) = (&codes[own.clone()], &mut out[own]);
                let index = scales + tile as usize;
                let scale = number(f.scale, raw[1], index);
                match f.rule {
                    Rule::Times if f.zeros => {
                        let zero = raw[2].get(index).map_or(0.0, |z| f32::from(*z as i8));
                        scaled_from(codes, table, zero, scale, out);
                    }
                    Rule::Times if f.table == Table::Float(Dtype::F8E4m3) => scaled_e4m3(codes, scale, out),
                    Rule::Times => scaled(codes, table, scale, out),
                    Rule::Over127 => {
                        scaled(codes, table, scale, out);
                        out.iter_mut().for_each(|o| *o *= OVER_127);
                    }
                }
                at = end;
            }
        });
    }
}
