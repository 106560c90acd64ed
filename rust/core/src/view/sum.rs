//! A tensor that is a sum: a stored weight and the change that adapters make, put together as it is decoded.
//!
//! What is read are the bytes of the weight; the products are formed as tiles are asked for. All is f64, but for what is computed
//! with: a weight of 16 bits is then as near with products in f32, which take half the time.

use std::ops::Range;

use parking_lot::Mutex;

use super::changes::{Signs, Sparse};
use super::factor::{Left, Right};
use super::products::Products;
use super::{Decode, Slot, fault, stored};
use crate::checkpoint::made::{Product, Sum};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::kernels::low_rank::add;
use crate::source::{Buffer, Source};

/// Elements put together at a time in f64.
const TILE: usize = 1024;

/// A sum ready to be read.
pub struct Opened<'a> {
    parts: Vec<(Box<dyn Decode + 'a>, f64)>,
    factors: Vec<(&'a Product, Left<'a>, Right<'a>)>,
    sparse: Vec<Sparse<'a>>,
    signs: Vec<Signs<'a>>,
    magnitude: Option<Box<dyn Decode + 'a>>,
    /// Elements of a row.
    columns: u64,
    exact: Products<f64>,
    near: Products<f32>,
    lengths: Mutex<Lengths>,
}

/// Rows, and what each is multiplied by so that it has its length.
#[derive(Default)]
struct Lengths {
    rows: Range<u64>,
    factors: Vec<f64>,
}

impl<'a> Opened<'a> {
    /// Opens what `sum`, of this shape, is made of.
    pub fn new(sum: &'a Sum, shape: &[u64], files: &'a [Box<dyn Source>]) -> Self {
        Self {
            parts: sum.parts.iter().map(|(t, c)| (stored(t, files), *c)).collect(),
            factors: sum.products.iter().map(|p| (p, Left::new(p, files), Right::new(p, files))).collect(),
            sparse: sum.sparse.iter().map(|s| Sparse::new(s, files)).collect(),
            signs: sum.signs.iter().map(|s| Signs::new(s, files)).collect(),
            magnitude: sum.magnitude.as_ref().map(|m| stored(m, files)),
            columns: sum.columns(shape),
            exact: Products::default(),
            near: Products::default(),
            lengths: Mutex::default(),
        }
    }

    /// What has to be read to form `elements`: whole rows, where these are given lengths.
    fn whole(&self, elements: &Range<u64>) -> Range<u64> {
        if self.magnitude.is_none() {
            return elements.clone();
        }
        elements.start / self.columns * self.columns..elements.end.next_multiple_of(self.columns)
    }

    /// The weight, if it and the products can be put together in f32.
    fn short(&self) -> Option<&dyn Decode> {
        match self.parts.as_slice() {
            [(only, 1.0)] if only.dtype().bits() == 16 && self.magnitude.is_none() && self.low_rank() => Some(&**only),
            _ => None,
        }
    }

    /// Whether what is added are products alone.
    fn low_rank(&self) -> bool {
        self.sparse.is_empty() && self.signs.is_empty()
    }

    /// Forms `part` before rows are given lengths; `raw` holds what was read for `of`.
    fn form(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        let whole = self.whole(of);
        let mut one = [0f64; TILE];
        let mut rest = raw;
        out.fill(0.0);
        for (i, (p, c)) in self.parts.iter().enumerate() {
            let (own, later) = rest.split_at(p.raw_len(&whole));
            rest = later;
            if i == 0 && *c == 1.0 {
                p.decode_exactly(own, &whole, part, out)?;
                continue;
            }
            for (out, start) in out.chunks_mut(TILE).zip((part.start..).step_by(TILE)) {
                let one = &mut one[..out.len()];
                p.decode_exactly(own, &whole, &(start..start + out.len() as u64), one)?;
                out.iter_mut().zip(one).for_each(|(o, v)| *o = c.mul_add(*v, *o));
            }
        }
        self.exact.each(&self.factors, self.columns, part, whole.end, |place, values| {
            out[place].iter_mut().zip(values).for_each(|(o, v)| *o += v);
        })?;
        self.sparse.iter().try_for_each(|s| s.add(part, out))?;
        self.signs.iter().try_for_each(|s| s.add(part, out))
    }

    /// As [`Self::form`], with rows that have their lengths.
    fn finish(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        self.form(raw, of, part, out)?;
        let Some(magnitude) = &self.magnitude else { return Ok(()) };
        let mut lengths = self.lengths.lock();
        self.scale(&mut lengths, &**magnitude, raw, of)?;
        for (value, element) in out.iter_mut().zip(part.clone()) {
            *value *= lengths.factors[(element / self.columns - lengths.rows.start) as usize];
        }
        Ok(())
    }

    /// What each row of `of` is multiplied by, so that it has the length that `magnitude` gives it.
    fn scale(&self, lengths: &mut Lengths, magnitude: &dyn Decode, raw: &[u8], of: &Range<u64>) -> Result<()> {
        let whole = self.whole(of);
        let rows = whole.start / self.columns..whole.end / self.columns;
        if lengths.rows == rows {
            return Ok(());
        }
        lengths.factors = vec![0.0; (rows.end - rows.start) as usize];
        let mut slot = Slot::default();
        let stored = magnitude.read(&rows, &mut slot)?;
        magnitude.decode_exactly(stored, &rows, &rows, &mut lengths.factors)?;
        let mut values = vec![0f64; self.columns as usize];
        for (row, factor) in rows.clone().zip(&mut lengths.factors) {
            self.form(raw, of, &(row * self.columns..(row + 1) * self.columns), &mut values)?;
            let norm = values.iter().map(|v| v * v).sum::<f64>().sqrt();
            *factor = if norm > 0.0 { *factor / norm } else { 0.0 };
        }
        lengths.rows = rows;
        Ok(())
    }
}

impl<'a> Decode for Opened<'a> {
    fn dtype(&self) -> Dtype {
        Dtype::F64
    }

    fn raw_len(&self, elements: &Range<u64>) -> usize {
        let whole = self.whole(elements);
        self.parts.iter().map(|(p, _)| p.raw_len(&whole)).sum()
    }

    fn read<'r>(&'r self, elements: &Range<u64>, slot: &'r mut Slot) -> Result<&'r [u8]> {
        let whole = self.whole(elements);
        if let [(only, _)] = self.parts.as_slice() {
            return only.read(&whole, slot);
        }
        let len = self.raw_len(elements);
        let Slot { buffer, inner, .. } = slot;
        inner.resize_with(inner.len().max(self.parts.len()), Slot::default);
        let target = Buffer::in_slot(buffer, len)?;
        let mut at = 0;
        for ((part, _), slot) in self.parts.iter().zip(inner) {
            let raw = part.read(&whole, slot)?;
            target.bytes_mut()[at..at + raw.len()].copy_from_slice(raw);
            at += raw.len();
        }
        Ok(&target.bytes()[..len])
    }

    fn bytes<'r>(&self, _: &'r [u8], _: &Range<u64>, _: &Range<u64>) -> Option<&'r [u8]> {
        None
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        if let (Widen::ToCompute, Some(weight)) = (how, self.short()) {
            weight.decode_by(how, raw, of, part, out)?;
            return self.near.each(&self.factors, self.columns, part, of.end, |place, values| {
                add(values, &mut out[place]);
            });
        }
        let (mut values, mut bytes) = ([0f64; TILE], [[0u8; 8]; TILE]);
        for (out, start) in out.chunks_mut(TILE).zip((part.start..).step_by(TILE)) {
            let (values, bytes) = (&mut values[..out.len()], &mut bytes[..out.len()]);
            self.finish(raw, of, &(start..start + out.len() as u64), values)?;
            bytes.iter_mut().zip(values).for_each(|(b, v)| *b = v.to_le_bytes());
            how.widen(Element::F64, bytes.as_flattened(), out);
        }
        Ok(())
    }

    fn decode_exactly(&self, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f64]) -> Result<()> {
        self.finish(raw, of, part, out)
    }

    fn ahead(&self, elements: &Range<u64>) {
        self.parts.iter().for_each(|(p, _)| p.ahead(elements));
    }

    fn release(&self, elements: &Range<u64>) {
        self.parts.iter().for_each(|(p, _)| p.release(elements));
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        let row = element / self.columns;
        let of_part = |(part, _): &(Box<dyn Decode + 'a>, f64)| fault(&**part, element, problem);
        let of_product = |(_, left, right): &(&Product, Left, Right)| {
            left.fault(row, problem).or_else(|| right.fault(row, element % self.columns, problem))
        };
        let of_length = || self.magnitude.as_ref().and_then(|m| fault(&**m, row, problem));
        let found = self.parts.iter().find_map(of_part);
        if let Some(error) = found.or_else(|| self.factors.iter().find_map(of_product)).or_else(of_length) {
            return error;
        }
        match self.parts.first() {
            Some((part, _)) => part.at_fault(element, &format!("(with its adapters) {problem}")),
            None => Error::bug(format!("element {element} of a sum of nothing {problem}")),
        }
    }
}
