//! What the values of a checkpoint look like, for `inspect --stats`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde::Serialize;

use crate::checkpoint::{Checkpoint, IoMode, Source};
use crate::engine::chunks::{self, Stored};
use crate::engine::observer::{Observer, Progress};
use crate::engine::threads;
use crate::error::{Error, Result};
use crate::kernels::cast::widen;
use crate::kernels::reduce;
use crate::plan::budget::{CHUNK, SPAN, TILE};

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
/// Input that cannot be read, [`Error::Interrupted`] when the observer stops it.
pub fn summarise(
    checkpoint: &Checkpoint,
    io: IoMode,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Vec<Option<Summary>>> {
    let sources: Vec<Source> =
        checkpoint.files.iter().map(|f| Source::open(&f.path, f.size, io)).collect::<Result<_>>()?;
    let tasks: Vec<(usize, u64)> = checkpoint
        .tensors
        .iter()
        .enumerate()
        .filter(|(_, t)| t.dtype.computes())
        .flat_map(|(i, t)| (0..t.elements().div_ceil(SPAN)).map(move |s| (i, s)))
        .collect();
    let found: Mutex<BTreeMap<(usize, u64), Summary>> = Mutex::default();
    let progress = Progress::default();
    threads::each(tasks.len(), threads, &progress, observer, |i, buffers| {
        let (index, span) = tasks[i];
        let tensor = &checkpoint.tensors[index];
        let stored = [Stored { source: &sources[tensor.file], tensor }];
        let elements = span * SPAN..((span + 1) * SPAN).min(tensor.elements());
        let mut summary = Summary::EMPTY;
        let mut wide = [0f32; TILE];
        chunks::each(&stored, elements, CHUNK, true, buffers, |_, raw| {
            if progress.stopped() {
                return Err(Error::Interrupted);
            }
            let width = tensor.dtype.bytes();
            for bytes in raw[0].chunks(TILE * width) {
                let wide = &mut wide[..bytes.len() / width];
                widen(tensor.dtype, bytes, wide);
                summary.add(wide);
            }
            progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        if let Ok(mut found) = found.lock() {
            found.insert(tasks[i], summary);
        }
        Ok(())
    })?;
    let found = found.into_inner().map_err(|_| Error::Interrupted)?;
    let whole = |i: usize| {
        let mut all = Summary::EMPTY;
        found.range((i, 0)..(i + 1, 0)).for_each(|(_, s)| all.join(s));
        all.close()
    };
    Ok(checkpoint.tensors.iter().enumerate().map(|(i, t)| t.dtype.computes().then(|| whole(i))).collect())
}
