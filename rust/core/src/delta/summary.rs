//! What the values of a checkpoint look like, for `inspect --stats`.

use serde::Serialize;

use crate::checkpoint::Checkpoint;
use crate::engine::chunks;
use crate::engine::observer::{Observer, Progress};
use crate::engine::spans;
use crate::error::Result;
use crate::kernels::reduce;
use crate::sizes::{CHUNK, TILE};
use crate::source::IoMode;
use crate::view::stored;

/// Figures of one tensor; NaN and infinite elements are counted and left out of the rest.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Summary {
    /// Number of elements.
    pub elements: u64,
    /// Exact zeros.
    pub zeros: u64,
    /// NaN or infinite elements.
    pub nonfinite: u64,
    /// Smallest value.
    pub min: f32,
    /// Largest value.
    pub max: f32,
    /// Sum of |x|.
    #[serde(skip)]
    pub abs: f64,
    /// Sum of x².
    #[serde(skip)]
    pub square: f64,
    /// Mean of |x|.
    pub mean_abs: f64,
    /// L2 norm.
    pub l2: f64,
}

impl Summary {
    const EMPTY: Self = Self {
        elements: 0,
        zeros: 0,
        nonfinite: 0,
        min: f32::INFINITY,
        max: f32::NEG_INFINITY,
        abs: 0.0,
        square: 0.0,
        mean_abs: 0.0,
        l2: 0.0,
    };

    fn add(&mut self, values: &mut [f32]) {
        self.elements += values.len() as u64;
        for v in values.iter_mut() {
            if v.is_finite() {
                self.zeros += u64::from(*v == 0.0);
                self.min = self.min.min(*v);
                self.max = self.max.max(*v);
            } else {
                self.nonfinite += 1;
                *v = 0.0;
            }
        }
        reduce::l1(values, &mut self.abs);
        reduce::dot(values, values, &mut self.square);
    }

    fn join(&mut self, o: &Self) {
        self.elements += o.elements;
        self.zeros += o.zeros;
        self.nonfinite += o.nonfinite;
        self.min = self.min.min(o.min);
        self.max = self.max.max(o.max);
        self.abs += o.abs;
        self.square += o.square;
    }

    fn close(mut self) -> Self {
        if self.elements == self.nonfinite {
            (self.min, self.max) = (0.0, 0.0);
        }
        self.mean_abs = self.abs / (self.elements - self.nonfinite).max(1) as f64;
        self.l2 = self.square.sqrt();
        self
    }
}

/// Figures of every tensor, in the order of the bytes; `None` for dtypes that do not compute.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`] when the observer stops it.
pub fn summarise(
    checkpoint: &Checkpoint,
    io: IoMode,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Vec<Option<Summary>>> {
    let sources = checkpoint.sources(io);
    let elements = checkpoint.tensors.iter().map(|t| if t.dtype.computes() { t.elements() } else { 0 });
    let view = |i: usize| vec![stored(&checkpoint.tensors[i], &sources)];
    let figures = |i: usize, elements, buffers: &mut chunks::Buffers, progress: &Progress| {
        let tensor = &checkpoint.tensors[i];
        let view = stored(tensor, &sources);
        let mut summary = Summary::EMPTY;
        let mut wide = [0f32; TILE];
        chunks::each(&[&*view], elements, CHUNK, true, buffers, |part, raw| {
            progress.alive()?;
            for start in part.clone().step_by(TILE) {
                let piece = start..(start + TILE as u64).min(part.end);
                let wide = &mut wide[..(piece.end - start) as usize];
                view.decode(raw[0], &part, &piece, wide)?;
                summary.add(wide);
            }
            progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        Ok(summary)
    };
    let found = spans::each(elements, view, threads, observer, figures, |i, spans| {
        checkpoint.tensors[i].dtype.computes().then(|| {
            let mut all = Summary::EMPTY;
            spans.iter().for_each(|s| all.join(s));
            all.close()
        })
    })?;
    sources.iter().try_for_each(|s| s.check())?;
    Ok(found)
}
