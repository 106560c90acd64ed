//! A tensor that is changed bit by bit: blocks are unpacked as they are read.

use std::ops::Range;

use parking_lot::Mutex;

use super::{Decode, Slot, cut, read_part, stored};
use crate::checkpoint::made::Exact;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::kernels::packed::{self, Unpacker, change};
use crate::sizes::PACKED;
use crate::source::{Buffer, Source};

/// A changed tensor ready to be read.
pub struct Opened<'a> {
    exact: &'a Exact,
    under: Box<dyn Decode + 'a>,
    blocks: Box<dyn Decode + 'a>,
    last: Mutex<Last>,
}

/// The block that was unpacked last.
#[derive(Default)]
struct Last {
    block: Option<u64>,
    change: Vec<u8>,
    unpacker: Option<Unpacker>,
    slot: Slot,
}

impl<'a> Opened<'a> {
    /// Opens it.
    pub fn new(exact: &'a Exact, files: &'a [Box<dyn Source>]) -> Self {
        let (under, blocks) = (stored(&exact.under, files), stored(&exact.blocks, files));
        Self { exact, under, blocks, last: Mutex::default() }
    }

    fn wrong(&self, problem: String) -> Error {
        Error::tensor(&self.exact.delta, &self.exact.blocks.name, problem)
    }

    /// Where the blocks begin.
    fn starts(&self) -> Result<&[u64]> {
        if let Some(starts) = self.exact.starts.get() {
            return Ok(starts);
        }
        let (all, count) = (self.exact.blocks.nbytes, self.exact.count());
        let table = all.checked_sub(4 * count).ok_or_else(|| {
            self.wrong(format!("holds {all} bytes, too few for the lengths of {count} blocks; it is damaged"))
        })?;
        let mut slot = Slot::default();
        let mut starts = vec![0u64];
        for length in self.blocks.read(&(table..all), &mut slot)?.as_chunks::<4>().0 {
            starts.push(starts[starts.len() - 1] + u64::from(u32::from_le_bytes(*length)));
        }
        if starts[starts.len() - 1] != table {
            return Err(self.wrong("its blocks do not have the lengths it says; it is damaged".into()));
        }
        Ok(self.exact.starts.get_or_init(|| starts))
    }

    /// Changes the bytes of `elements` in `out`.
    fn change(&self, elements: &Range<u64>, out: &mut [u8]) -> Result<()> {
        let (starts, bits, all) = (self.starts()?, self.exact.under.dtype.bits(), self.exact.under.elements());
        let bytes = |elements: u64| (elements * bits / 8) as usize;
        let mut last = self.last.lock();
        let last = &mut *last;
        for block in elements.start / PACKED..elements.end.div_ceil(PACKED) {
            let place = starts[block as usize]..starts[block as usize + 1];
            if place.is_empty() {
                continue;
            }
            let own = block * PACKED..((block + 1) * PACKED).min(all);
            if last.block != Some(block) {
                last.block = None;
                let len = bytes(own.end - own.start);
                // A length is a claim: no block takes more than its elements do, but for what zstd adds.
                if place.end - place.start > zstd::zstd_safe::compress_bound(len) as u64 {
                    return Err(self.wrong(format!("block {block} is longer than what it holds; it is damaged")));
                }
                if last.unpacker.is_none() {
                    last.unpacker = Some(Unpacker::new()?);
                }
                let Some(unpacker) = &mut last.unpacker else { continue };
                last.change.resize(len, 0);
                let packed = self.blocks.read(&place, &mut last.slot)?;
                let found = unpacker.unpack(packed, packed::width(bits), &mut last.change);
                found.map_err(|p| self.wrong(format!("block {block} {p}; it is damaged")))?;
                last.block = Some(block);
            }
            let shared = own.start.max(elements.start)..own.end.min(elements.end);
            let (to, from) = (bytes(shared.start - elements.start), bytes(shared.start - own.start));
            let len = bytes(shared.end - shared.start);
            change(&mut out[to..to + len], &last.change[from..from + len]);
        }
        Ok(())
    }
}

impl Decode for Opened<'_> {
    fn dtype(&self) -> Dtype {
        self.exact.under.dtype
    }

    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]> {
        let len = self.raw_len(elements);
        let Slot { buffer, inner, .. } = slot;
        inner.resize_with(inner.len().max(1), Slot::default);
        let target = &mut Buffer::in_slot(buffer, len)?.bytes_mut()[..len];
        read_part(&*self.under, &self.exact.under, elements, &mut inner[0], target)?;
        self.change(elements, target)?;
        Ok(target)
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        Some(cut(raw, self.dtype().bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        how.widen(Element::need(self.dtype())?, cut(raw, self.dtype().bits(), of, part), out);
        Ok(())
    }

    fn ahead(&self, elements: &Range<u64>) {
        self.under.ahead(elements);
        if let Some(place) = self.place(elements) {
            self.blocks.ahead(&place);
        }
    }

    fn release(&self, elements: &Range<u64>) {
        self.under.release(elements);
        if let Some(place) = self.place(elements) {
            self.blocks.release(&place);
        }
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        self.under.at_fault(element, &format!("(with its delta) {problem}"))
    }
}

impl Opened<'_> {
    /// Where the blocks of `elements` lie, if that is known.
    fn place(&self, elements: &Range<u64>) -> Option<Range<u64>> {
        let starts = self.exact.starts.get()?;
        let at = |block: u64| starts.get(block as usize).copied();
        Some(at(elements.start / PACKED)?..at(elements.end.div_ceil(PACKED))?).filter(|place| !place.is_empty())
    }
}
