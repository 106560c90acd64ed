//! The same elements of a base and its fine-tunes, widened tile by tile.

use std::ops::Range;

use crate::dtype::Dtype;
use crate::engine::chunks::{self, Buffers};
use crate::engine::observer::Progress;
use crate::error::Result;
use crate::kernels::arith;
use crate::sizes::{CHUNK, TILE};
use crate::view::Decode;

/// Elements of one model.
#[derive(Clone, Copy)]
pub struct Elements<'a> {
    /// In f32.
    pub values: &'a [f32],
    /// In f64, where base or a fine-tune is stored in f64: of such, f32 would lose small changes.
    pub exact: Option<&'a [f64]>,
}

impl<'a> Elements<'a> {
    /// Some of them.
    pub fn part(&self, part: Range<usize>) -> Elements<'a> {
        Elements { values: &self.values[part.clone()], exact: self.exact.map(|e| &e[part]) }
    }
}

/// A fine-tune's elements of a tile.
pub struct Tuned<'a> {
    /// True if its bytes are the base's; the elements are then the base's too.
    pub same: bool,
    /// The elements.
    pub elements: Elements<'a>,
    /// Where base (or else the fine-tune) is quantised: its elements, and what is one step from each.
    pub steps: Option<[&'a [f32]; 2]>,
}

/// Calls `f` with each tile of `elements`: where it lies, the base's elements, those of every fine-tune.
///
/// `stored` holds the base first; all are of dtypes that compute.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`].
pub fn each(
    stored: &[Box<dyn Decode + '_>],
    elements: Range<u64>,
    buffers: &mut Buffers,
    progress: &Progress,
    mut f: impl FnMut(Range<u64>, &Elements, &[Tuned]),
) -> Result<()> {
    let mut wide: Vec<Vec<f32>> = vec![vec![0.0; TILE]; stored.len()];
    let exact_too = stored.iter().any(|s| s.dtype() == Dtype::F64);
    let mut exact: Vec<Vec<f64>> = vec![vec![0.0; if exact_too { TILE } else { 0 }]; stored.len()];
    let views: Vec<&dyn Decode> = stored.iter().map(|s| &**s).collect();
    let mut next: Vec<Vec<f32>> = vec![Vec::new(); stored.len()];
    chunks::each(&views, elements, CHUNK, true, buffers, |part, raw| {
        progress.alive()?;
        let mut at = part.start;
        // The steps of the base are those that count, so that those of its fine-tunes are made without it alone.
        let base = stored[0].beside(raw[0], &part);
        let steps_of = |i: usize| if base.is_none() { stored[i].beside(raw[i], &part) } else { None };
        let own: Vec<Option<Vec<u8>>> = (1..stored.len()).map(steps_of).collect();
        let beside: Vec<Option<Vec<u8>>> = std::iter::once(base).chain(own).collect();
        while at < part.end {
            let piece = at..(at + TILE as u64).min(part.end);
            let bytes = |i: usize| stored[i].bytes(raw[i], &part, &piece);
            let len = (piece.end - piece.start) as usize;
            let same = |i: usize| stored[i].dtype() == stored[0].dtype() && bytes(i).is_some() && bytes(i) == bytes(0);
            let equal: Vec<bool> = (1..stored.len()).map(same).collect();
            for i in (0..stored.len()).filter(|i| *i == 0 || !equal[*i - 1]) {
                stored[i].decode(raw[i], &part, &piece, &mut wide[i][..len])?;
                if exact_too {
                    stored[i].decode_exactly(raw[i], &part, &piece, &mut exact[i][..len])?;
                }
            }
            let changed = |i: usize| if i == 0 { equal.contains(&false) } else { !equal[i - 1] };
            for (i, next) in next.iter_mut().enumerate().filter(|(i, _)| changed(*i)) {
                if let Some(raw) = &beside[i] {
                    next.resize(TILE, 0.0);
                    stored[i].decode(raw, &part, &piece, &mut next[..len])?;
                }
            }
            let steps = |i: usize| beside[i].as_ref().map(|_| [&wide[i][..len], &next[i][..len]]);
            let of = |i: usize| Elements { values: &wide[i][..len], exact: exact_too.then(|| &exact[i][..len]) };
            let tuned: Vec<Tuned> = (equal.iter().enumerate())
                .map(|(i, same)| {
                    let steps = if *same { None } else { steps(0).or_else(|| steps(i + 1)) };
                    Tuned { same: *same, elements: of(if *same { 0 } else { i + 1 }), steps }
                })
                .collect();
            f(piece.clone(), &of(0), &tuned);
            at = piece.end;
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
    pub fn take(&mut self, base: &Elements, tuned: &Elements) {
        self.all.resize(base.values.len(), 0.0);
        self.finite = None;
        self.holes.clear();
        match (base.exact, tuned.exact) {
            (Some(base), Some(tuned)) => {
                self.all.iter_mut().zip(base).zip(tuned).for_each(|((d, b), t)| *d = (t - b) as f32);
            }
            _ => arith::sub(tuned.values, base.values, &mut self.all),
        }
        let (base, tuned) = (base.values, tuned.values);
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
