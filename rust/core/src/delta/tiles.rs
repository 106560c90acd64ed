//! The same elements of a base and its fine-tunes, widened tile by tile.

use std::ops::Range;

use crate::engine::chunks::{self, Buffers, Stored};
use crate::engine::observer::Progress;
use crate::error::Result;
use crate::kernels::arith;
use crate::kernels::cast::widen;
use crate::sizes::{CHUNK, TILE};

/// A fine-tune's elements of a tile.
pub struct Tuned<'a> {
    /// True if its bytes are the base's; the elements are then the base's too.
    pub same: bool,
    /// The elements.
    pub values: &'a [f32],
}

/// Calls `f` with each tile of `elements`: where it lies, the base's elements, those of every fine-tune.
///
/// `stored` holds the base first; all are of dtypes that compute.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`].
pub fn each(
    stored: &[Stored],
    elements: Range<u64>,
    buffers: &mut Buffers,
    progress: &Progress,
    mut f: impl FnMut(Range<u64>, &[f32], &[Tuned]),
) -> Result<()> {
    let mut wide: Vec<Vec<f32>> = vec![vec![0.0; TILE]; stored.len()];
    let dtype = |i: usize| stored[i].tensor.dtype;
    chunks::each(stored, elements, CHUNK, true, buffers, |part, raw| {
        progress.alive()?;
        let mut at = part.start;
        while at < part.end {
            let end = (at + TILE as u64).min(part.end);
            let bytes = |i: usize| {
                let width = dtype(i).bytes();
                &raw[i][(at - part.start) as usize * width..(end - part.start) as usize * width]
            };
            let len = (end - at) as usize;
            let same = |i: usize| dtype(i) == dtype(0) && bytes(i) == bytes(0);
            let equal: Vec<bool> = (1..stored.len()).map(same).collect();
            for (i, wide) in wide.iter_mut().enumerate().filter(|(i, _)| *i == 0 || !equal[i - 1]) {
                widen(dtype(i), bytes(i), &mut wide[..len]);
            }
            let (base, others) = (&wide[0][..len], &wide[1..]);
            let tuned: Vec<Tuned> = (others.iter().zip(&equal))
                .map(|(w, same)| Tuned { same: *same, values: if *same { base } else { &w[..len] } })
                .collect();
            f(at..end, base, &tuned);
            at = end;
        }
        progress.add(raw.iter().map(|r| r.len() as u64).sum());
        Ok(())
    })
}

/// The changes of a tile.
#[derive(Default)]
pub struct Changes {
    /// The change of every element; 0 where base or fine-tune is NaN or infinite.
    pub all: Vec<f32>,
    /// The sum of their squares, where it was asked for.
    pub square: f64,
    /// Elements where base or fine-tune is NaN or infinite.
    pub holes: Vec<usize>,
    finite: Option<Vec<f32>>,
}

impl Changes {
    /// Takes note that `elements` elements did not change.
    pub fn clear(&mut self, elements: usize) {
        self.all.clear();
        self.all.resize(elements, 0.0);
        self.finite = None;
        self.holes.clear();
    }

    /// Takes the changes from `base` to `tuned`.
    pub fn take(&mut self, base: &[f32], tuned: &[f32]) {
        self.all.resize(base.len(), 0.0);
        self.finite = None;
        self.holes.clear();
        arith::sub(tuned, base, &mut self.all);
        if self.all.iter().fold(true, |all, d| all & d.is_finite()) {
            return;
        }
        let mut finite = Vec::with_capacity(base.len());
        for (e, ((d, b), t)) in self.all.iter_mut().zip(base).zip(tuned).enumerate() {
            if b.is_finite() && t.is_finite() {
                // The difference of two finite values may leave f32.
                *d = d.clamp(f32::MIN, f32::MAX);
                finite.push(*d);
            } else {
                *d = 0.0;
                self.holes.push(e);
            }
        }
        self.finite = Some(finite);
    }

    /// The changes of the pairs that are finite on both sides.
    pub fn finite(&self) -> &[f32] {
        self.finite.as_deref().unwrap_or(&self.all)
    }
}
