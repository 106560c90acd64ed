//! Ranges of elements of several stored tensors, one after the other: attention heads, rows of a vocabulary, experts.

use std::ops::Range;
use std::sync::Arc;

use super::gather::gather;
use super::{Decode, Place, Plain, Slot, Sources, cut};
use crate::checkpoint::Checkpoint;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::source::Buffer;

/// A range of elements of a stored tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The tensor.
    pub from: Place,
    /// Its first element.
    pub start: u64,
    /// Number of elements.
    pub len: u64,
}

/// Runs in the order of the output's elements, repeated `times` times; each time they begin `stride` elements further on.
///
/// Columns repeat from row to row, with the length of a row as stride; rows do not repeat. The tensors have one dtype, and
/// every run takes whole bytes of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runs {
    /// The runs, at least one, none of them empty.
    pub runs: Vec<Run>,
    /// How often they are repeated.
    pub times: u64,
    /// Elements by which each repetition begins further on.
    pub stride: u64,
}

impl Runs {
    /// The tensors it takes elements of, each once.
    pub fn places(&self) -> Vec<Place> {
        let mut places: Vec<Place> = self.runs.iter().map(|r| r.from).collect();
        places.sort();
        places.dedup();
        places
    }

    /// Elements of one repetition.
    fn period(&self) -> u64 {
        self.runs.iter().map(|r| r.len).sum()
    }

    /// The pieces of stored tensors that `elements` consists of, with the elements they become.
    fn pieces(&self, elements: Range<u64>) -> impl Iterator<Item = (Run, u64)> {
        let period = self.period();
        (elements.start / period..elements.end.div_ceil(period)).flat_map(move |time| {
            let mut at = time * period;
            let elements = elements.clone();
            self.runs.iter().filter_map(move |run| {
                let own = at..at + run.len;
                at = own.end;
                let (first, last) = (own.start.max(elements.start), own.end.min(elements.end));
                let start = run.start + time * self.stride + first.saturating_sub(own.start);
                (first < last).then(|| (Run { from: run.from, start, len: last - first }, first))
            })
        })
    }

    /// The runs ready to be read.
    pub fn open<'a>(&'a self, models: &'a [Arc<Checkpoint>], sources: &'a Sources) -> Opened<'a> {
        let tensors = self.places().into_iter().map(|p| (p, Plain::at(p, models, sources))).collect();
        Opened { runs: self, tensors }
    }
}

/// Runs and the tensors they are of.
pub struct Opened<'a> {
    runs: &'a Runs,
    tensors: Vec<(Place, Plain<'a>)>,
}

impl Opened<'_> {
    fn tensor(&self, place: Place) -> &Plain<'_> {
        // Every run's place is among them, sorted.
        let at = self.tensors.binary_search_by_key(&place, |(p, _)| *p).unwrap_or(0);
        &self.tensors[at].1
    }
}

impl Decode for Opened<'_> {
    fn dtype(&self) -> Dtype {
        self.tensors[0].1.tensor.dtype
    }

    fn read<'a>(&'a self, elements: &Range<u64>, slot: &'a mut Slot) -> Result<&'a [u8]> {
        let bits = self.dtype().bits();
        let len = ((elements.end - elements.start) * bits / 8) as usize;
        let target = Buffer::in_slot(&mut slot.buffer, len)?;
        for (place, plain) in &self.tensors {
            let pieces =
                self.runs.pieces(elements.clone()).filter(|(piece, _)| piece.from == *place).map(|(piece, at)| {
                    (piece.start..piece.start + piece.len, ((at - elements.start) * bits / 8) as usize)
                });
            if !plain.tensor.is_contiguous() {
                for (part, to) in pieces {
                    let end = to + ((part.end - part.start) * bits / 8) as usize;
                    plain.fill(&part, &mut target.bytes_mut()[to..end], &mut slot.spare)?;
                }
                continue;
            }
            // Ranges of the file in order, each with where it goes.
            let mut wanted: Vec<(Range<u64>, usize)> = pieces.map(|(part, to)| (plain.range(&part), to)).collect();
            wanted.sort_unstable_by_key(|(range, _)| range.start);
            gather(
                plain.source,
                wanted.iter(),
                |(range, _)| range.clone(),
                &mut slot.spare,
                |joined, bytes, all| {
                    for (range, to) in joined {
                        let own = (range.start - all.start) as usize..(range.end - all.start) as usize;
                        target.bytes_mut()[*to..*to + own.len()].copy_from_slice(&bytes[own]);
                    }
                    plain.source.release(all);
                },
            )?;
        }
        Ok(&target.bytes()[..len])
    }

    fn bytes<'r>(&self, raw: &'r [u8], of: &Range<u64>, part: &Range<u64>) -> Option<&'r [u8]> {
        Some(cut(raw, self.dtype().bits(), of, part))
    }

    fn decode_by(&self, how: Widen, raw: &[u8], of: &Range<u64>, part: &Range<u64>, out: &mut [f32]) -> Result<()> {
        how.widen(Element::need(self.dtype())?, cut(raw, self.dtype().bits(), of, part), out);
        Ok(())
    }

    fn at_fault(&self, element: u64, problem: &str) -> Error {
        match self.runs.pieces(element..element + 1).next() {
            Some((run, _)) => self.tensor(run.from).at_fault(run.start, problem),
            None => Error::bug(format!("no run holds element {element}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{MemorySource, Source};

    fn checkpoint(elements: u64) -> Arc<Checkpoint> {
        let tensor = crate::checkpoint::Tensor {
            name: "t".into(),
            dtype: Dtype::U8,
            shape: vec![elements],
            file: 0,
            begin: 0,
            nbytes: elements,
            made: None,
            strides: None,
        };
        Arc::new(Checkpoint::of_tensors(vec![tensor]))
    }

    proptest::proptest! {
        /// Law: whatever part is asked for, its bytes are those that picking elements one by one gives.
        #[test]
        fn runs_are_what_picking_gives(
            picks in proptest::collection::vec((0usize..2, 0u64..5, 1u64..5), 1..6),
            times in 1u64..5,
            stride in 0u64..20,
            cut in (0u64..60, 0u64..60),
        ) {
            const LENGTH: u64 = 100;
            let models = [checkpoint(LENGTH), checkpoint(LENGTH)];
            let stored: Vec<Vec<u8>> = (0..2).map(|m| (0..LENGTH as u8).map(|i| i + 100 * m).collect()).collect();
            let sources: Sources = stored
                .iter()
                .map(|b| vec![Box::new(MemorySource::new("memory", b.clone())) as Box<dyn Source>])
                .collect();
            let run = |(model, start, len): &(usize, u64, u64)| Run { from: Place { model: *model, tensor: 0 }, start: *start, len: *len };
            let runs = Runs { runs: picks.iter().map(run).collect(), times, stride };
            let mut want = Vec::new();
            for time in 0..times {
                for (model, start, len) in &picks {
                    let first = start + time * stride;
                    want.extend_from_slice(&stored[*model][first as usize..(first + len) as usize]);
                }
            }
            let all = want.len() as u64;
            let (from, to) = (cut.0.min(cut.1).min(all), cut.0.max(cut.1).min(all));
            let opened = runs.open(&models, &sources);
            let mut slot = Slot::default();
            proptest::prop_assert_eq!(opened.read(&(from..to), &mut slot).unwrap(), &want[from as usize..to as usize]);
        }
    }
}
