//! The work on one span: read, digest, widen, scan or apply, round, hand over to the disk.

use std::ops::Range;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::chunks::{self, Buffers, Stored};
use super::job::{Job, Pass};
use super::observer::Progress;
use super::queue::Task;
use crate::checkpoint::{ALIGN, Buffer, Source};
use crate::digest::Leaves;
use crate::error::{Error, Result};
use crate::kernels::cast::{first_nonfinite, narrow, widen};
use crate::methods::{Kernel, Stats, Tile};
use crate::plan::budget;
use crate::plan::{Action, Operand, Plan, TensorPlan};
use crate::sizes::{SPAN, TILE};

/// Elements handled together from digest to rounding, so that each is fetched into the cache once.
const STRIP: u64 = 4 * TILE as u64;

/// A finished chunk on its way to the disk. Its bytes start at `offset % ALIGN` in the buffer.
pub struct Write {
    /// The tensor it belongs to.
    pub job: Arc<Job>,
    /// Shard index.
    pub shard: usize,
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes.
    pub len: usize,
    /// The bytes.
    pub buffer: Buffer,
}

/// What all threads of a run share.
#[derive(Clone)]
pub struct Shared<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// The open input files, by model and file.
    pub sources: &'a [Vec<Source>],
    /// Bytes of each output tensor that reflinks have already brought.
    pub cloned: &'a [Range<u64>],
    /// Elements of a chunk.
    pub chunk: u64,
    /// Let NaN and infinities through.
    pub allow_nonfinite: bool,
    /// Progress and errors.
    pub progress: &'a Progress,
    /// Empty output buffers.
    pub free: Receiver<Buffer>,
    /// Full output buffers.
    pub full: Sender<Write>,
}

/// A thread's own memory.
#[derive(Default)]
pub struct Scratch {
    buffers: Buffers,
    wide: Vec<Vec<f32>>,
    out: Vec<f32>,
    stats: Stats,
}

impl<'a> Shared<'a> {
    fn stored(&self, o: Operand) -> Stored<'a> {
        let tensor = self.plan.tensor(o);
        Stored { source: &self.sources[o.model][tensor.file], tensor }
    }

    /// Does a task; returns the tensor's next pass when its last span is scanned.
    ///
    /// # Errors
    /// Input that cannot be read or is not finite, [`Error::Interrupted`] when the run is stopped.
    pub fn work(&self, task: &Task, scratch: &mut Scratch) -> Result<Option<Pass>> {
        let t = &self.plan.tensors[task.job.tensor];
        let elements = task.span * SPAN..((task.span + 1) * SPAN).min(t.elements());
        match (&t.action, task.pass) {
            (Action::Copy { .. }, _) => self.copy(task, t, elements, scratch).map(|()| None),
            (Action::Merge { .. }, Pass::Scan(n)) => self.scan(task, t, elements, n == 0, scratch),
            (Action::Merge { .. }, Pass::Apply) => self.apply(task, t, elements, scratch).map(|()| None),
        }
    }

    fn copy(&self, task: &Task, t: &TensorPlan, elements: Range<u64>, scratch: &mut Scratch) -> Result<()> {
        let operands: Vec<Operand> = t.action.operands();
        let stored: Vec<Stored> = operands.iter().map(|o| self.stored(*o)).collect();
        let bits = t.dtype.bits();
        let mut leaves: Vec<Leaves> = operands.iter().map(|_| Leaves::new()).collect();
        chunks::each(&stored, elements, self.chunk, true, &mut scratch.buffers, |part, raw| {
            self.progress.alive()?;
            let start = part.start * bits / 8;
            let mut out = self.writer(task, t, start, raw[0].len());
            for (i, piece) in raw[0].chunks(1 << 16).enumerate() {
                let at = i << 16;
                leaves[0].update(piece);
                self.finite(&operands[0], t.dtype, piece, part.start + at as u64 * 8 / bits)?;
                out.fill(at, piece)?;
                for ((o, other), leaves) in operands.iter().zip(raw).zip(&mut leaves).skip(1) {
                    let other = &other[at..at + piece.len()];
                    leaves.update(other);
                    if piece != other {
                        return Err(self.differs(&operands[0], o, t));
                    }
                }
            }
            out.send(task)?;
            self.progress.add(raw.iter().map(|r| r.len() as u64).sum());
            Ok(())
        })?;
        for (i, leaves) in leaves.into_iter().enumerate() {
            let leaves = leaves.finish();
            if i == 0 {
                task.job.digested(0, task.span, bits, &leaves)?;
            }
            task.job.digested(i + 1, task.span, bits, &leaves)?;
        }
        Ok(())
    }

    fn scan(
        &self,
        task: &Task,
        t: &TensorPlan,
        elements: Range<u64>,
        first: bool,
        scratch: &mut Scratch,
    ) -> Result<Option<Pass>> {
        let lock = task.job.kernel.read().map_err(|_| Error::Interrupted)?;
        let Some(kernel) = lock.as_ref() else { return Ok(None) };
        let Some(wanted) = kernel.wants() else { return Ok(None) };
        let mut stats = std::mem::take(&mut scratch.stats);
        stats.reset(wanted);
        stats.before = task.job.ranks_before(task.span)?;
        let stretch = Stretch {
            tensor: t,
            own: elements,
            unit: kernel.cost().unit,
            release: None,
            check: first,
            job: first.then_some((&*task.job, task.span)),
        };
        self.begun(&stretch, &**kernel, &mut stats, scratch)?;
        drop(lock);
        let next = task.job.scanned(task.span, &stats)?;
        scratch.stats = stats;
        Ok(next)
    }

    fn apply(&self, task: &Task, t: &TensorPlan, elements: Range<u64>, scratch: &mut Scratch) -> Result<()> {
        let lock = task.job.kernel.read().map_err(|_| Error::Interrupted)?;
        let Some(kernel) = lock.as_ref() else { return Ok(()) };
        let mut ranks = task.job.ranks_before(task.span)?;
        let width = t.dtype.bytes();
        let mut leaves = Leaves::new();
        let mut out: Option<Output> = None;
        let mut values = std::mem::take(&mut scratch.out);
        let first = task.job.unscanned()?;
        let stretch = Stretch {
            tensor: t,
            own: elements.clone(),
            unit: kernel.cost().unit,
            release: Some(true),
            check: first,
            job: first.then_some((&*task.job, task.span)),
        };
        self.tiles(&stretch, scratch, |tile, part, len| {
            // A row that reaches over the span's borders is computed by both spans; each writes its own.
            let part = overlap(part, &elements);
            let own = overlap(&(tile.start..tile.start + len as u64), &elements);
            if own.start == part.start {
                out = Some(self.writer(task, t, part.start * width as u64, (part.end - part.start) as usize * width));
            }
            let Some(target) = out.as_mut() else { return Ok(()) };
            if values.len() < len {
                values.resize(len, 0.0);
            }
            kernel.apply(tile, &mut ranks, &mut values[..len]);
            let values = &values[(own.start - tile.start) as usize..(own.end - tile.start) as usize];
            let bytes = target.bytes((own.start - part.start) as usize * width, values.len() * width)?;
            narrow(t.dtype, values, bytes);
            if !self.allow_nonfinite
                && let Some(i) = first_nonfinite(t.dtype, bytes)
            {
                return Err(self.overflow(t, own.start + i as u64));
            }
            leaves.update(bytes);
            if own.end == part.end
                && let Some(done) = out.take()
            {
                done.send(task)?;
            }
            Ok(())
        })?;
        scratch.out = values;
        task.job.digested(0, task.span, t.dtype.bits(), &leaves.finish())
    }

    /// Scans a span for a kernel that looks at more than this tensor.
    ///
    /// # Errors
    /// As [`Self::work`].
    pub fn survey(
        &self,
        t: &TensorPlan,
        span: u64,
        kernel: &dyn Kernel,
        first: bool,
        (stats, scratch): (&mut Stats, &mut Scratch),
    ) -> Result<()> {
        let own = span * SPAN..((span + 1) * SPAN).min(t.elements());
        let stretch =
            Stretch { tensor: t, own, unit: kernel.cost().unit, release: Some(true), check: first, job: None };
        self.begun(&stretch, kernel, stats, scratch)
    }

    /// Scans the units that begin in a stretch.
    fn begun(&self, stretch: &Stretch, kernel: &dyn Kernel, stats: &mut Stats, scratch: &mut Scratch) -> Result<()> {
        let from = stretch.own.start.next_multiple_of(stretch.unit);
        self.tiles(stretch, scratch, |tile, _, len| {
            let skip = from.saturating_sub(tile.start) as usize;
            if skip == 0 {
                kernel.scan(tile, stats);
            } else if skip < len {
                let inputs: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[skip..]).collect();
                let base = tile.base.map(|b| &b[skip..]);
                kernel.scan(&Tile { base, inputs: &inputs, start: tile.start + skip as u64, ..*tile }, stats);
            }
            Ok(())
        })
    }

    /// Widens the operands of a merge tile by tile, every unit that lies in the stretch or reaches into it, and calls
    /// `f` with each tile, its chunk and its length.
    fn tiles(
        &self,
        stretch: &Stretch,
        scratch: &mut Scratch,
        mut f: impl FnMut(&Tile, &Range<u64>, usize) -> Result<()>,
    ) -> Result<()> {
        let Stretch { tensor: t, own, unit, release, check, job } = stretch;
        let Action::Merge { base, inputs, params, .. } = &t.action else { return Ok(()) };
        let operands = t.action.operands();
        let stored: Vec<Stored> = operands.iter().map(|o| self.stored(*o)).collect();
        let keys: Vec<u64> =
            inputs.iter().map(|o| crate::kernels::rng::key(params.seed, &self.plan.labels[o.model], &t.name)).collect();
        let elements = own.start / unit * unit..own.end.next_multiple_of(*unit).min(t.elements());
        let (tile_len, chunk) = (budget::whole(TILE as u64, *unit), budget::whole(self.chunk, *unit));
        let strip_len = budget::whole(STRIP, tile_len);
        let Scratch { buffers, wide, .. } = scratch;
        wide.resize_with(wide.len().max(operands.len()), Vec::new);
        for wide in &mut wide[..operands.len()] {
            wide.resize(wide.len().max(tile_len.min(elements.end - elements.start) as usize), 0.0);
        }
        let mut leaves: Vec<Leaves> = operands.iter().map(|_| Leaves::new()).collect();
        let release = release.unwrap_or_else(|| !chunks::stay_mapped(&stored));
        chunks::each(&stored, elements, chunk, release, buffers, |part, raw| {
            self.progress.alive()?;
            let mut at = part.start;
            while at < part.end {
                let strip = at..(at + strip_len).min(part.end);
                let ours = overlap(&strip, own);
                if *check && !ours.is_empty() {
                    for ((o, raw), leaves) in operands.iter().zip(raw).zip(&mut leaves) {
                        let dtype = self.plan.tensor(*o).dtype;
                        let bytes = slice(raw, dtype.bytes(), &part, &ours);
                        if job.is_some() {
                            leaves.update(bytes);
                        }
                        self.finite(o, dtype, bytes, ours.start)?;
                    }
                }
                while at < strip.end {
                    let piece = at..(at + tile_len).min(strip.end);
                    let len = (piece.end - piece.start) as usize;
                    for ((o, raw), wide) in operands.iter().zip(raw).zip(wide.iter_mut()) {
                        let dtype = self.plan.tensor(*o).dtype;
                        widen(dtype, slice(raw, dtype.bytes(), &part, &piece), &mut wide[..len]);
                    }
                    let all: Vec<&[f32]> = wide[..operands.len()].iter().map(|w| &w[..len]).collect();
                    let (base, inputs) = match base {
                        Some(_) => (Some(all[0]), &all[1..]),
                        None => (None, &all[..]),
                    };
                    let tile = Tile { base, inputs, keys: &keys, start: piece.start, of: t.elements() };
                    f(&tile, &part, len)?;
                    at = piece.end;
                }
            }
            self.progress.add(raw.iter().map(|r| r.len() as u64).sum());
            Ok(())
        })?;
        if let Some((job, span)) = job {
            for (i, (o, leaves)) in operands.iter().zip(leaves).enumerate() {
                job.digested(i + 1, *span, self.plan.tensor(*o).dtype.bits(), &leaves.finish())?;
            }
        }
        Ok(())
    }

    fn finite(&self, o: &Operand, dtype: crate::dtype::Dtype, bytes: &[u8], start: u64) -> Result<()> {
        if self.allow_nonfinite {
            return Ok(());
        }
        match first_nonfinite(dtype, bytes) {
            None => Ok(()),
            Some(i) => Err(Error::tensor(
                self.plan.path(*o),
                &self.plan.tensor(*o).name,
                format!("element {} is NaN or infinite; mend the checkpoint, or pass --nan allow", start + i as u64),
            )),
        }
    }

    fn overflow(&self, t: &TensorPlan, element: u64) -> Error {
        let path = t.action.operands().first().map(|o| self.plan.path(*o).clone()).unwrap_or_default();
        let problem = format!(
            "element {element} of the result is not a finite {}, though the inputs are finite; change the parameters or \
             the dtype, or pass --nan allow",
            t.dtype.name()
        );
        Error::tensor(&path, &t.name, problem)
    }

    fn differs(&self, a: &Operand, b: &Operand, t: &TensorPlan) -> Error {
        Error::tensor(
            self.plan.path(*b),
            &t.name,
            format!(
                "is {} and differs from {}; such tensors cannot be merged and must be the same in every model",
                t.dtype.name(),
                self.plan.path(*a).display()
            ),
        )
    }

    /// An output buffer for `len` bytes at `start` of the tensor; nothing is taken where reflinks brought the bytes.
    fn writer<'s>(&'s self, task: &Task, t: &TensorPlan, start: u64, len: usize) -> Output<'s> {
        let cloned = &self.cloned[task.job.tensor];
        // What lies outside the cloned range is at most a page at either end.
        let all = start..start + len as u64;
        let mut holes =
            vec![all.start..cloned.start.clamp(all.start, all.end), cloned.end.clamp(all.start, all.end)..all.end];
        if cloned.is_empty() {
            holes = vec![all.clone()];
        }
        holes.retain(|h| !h.is_empty());
        Output {
            free: &self.free,
            full: &self.full,
            shard: t.shard,
            offset: t.offset,
            start,
            parts: holes.into_iter().map(|h| (h, None)).collect(),
        }
    }
}

/// A run of elements of a merged tensor, and how to go through it.
struct Stretch<'t> {
    tensor: &'t TensorPlan,
    own: Range<u64>,
    /// Elements that go together; see [`crate::methods::Cost::unit`].
    unit: u64,
    /// Whether to let the mapped pages go; `None` if that depends on the tensor's size, since it is read again.
    release: Option<bool>,
    /// Whether to check the operands for NaN, which the first pass over the data does.
    check: bool,
    /// Where to put the digests of the operands, with the number of the span, if this pass makes them.
    job: Option<(&'t Job, u64)>,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> Range<u64> {
    let start = a.start.max(b.start);
    start..a.end.min(b.end).max(start)
}

/// The bytes of `part` in `raw`, which holds those of `of`.
fn slice<'r>(raw: &'r [u8], width: usize, of: &Range<u64>, part: &Range<u64>) -> &'r [u8] {
    &raw[(part.start - of.start) as usize * width..(part.end - of.start) as usize * width]
}

/// A chunk of output being filled: one range of the tensor, or its ends where the middle is shared by reflink.
struct Output<'s> {
    free: &'s Receiver<Buffer>,
    full: &'s Sender<Write>,
    shard: usize,
    /// Offset of the tensor in its file.
    offset: u64,
    /// First byte of the chunk in the tensor.
    start: u64,
    /// Ranges of the tensor that are written, with their buffers once taken.
    parts: Vec<(Range<u64>, Option<Buffer>)>,
}

impl Output<'_> {
    /// The place of `len` bytes at `at` of the chunk. Only for chunks without shared ranges.
    fn bytes(&mut self, at: usize, len: usize) -> Result<&mut [u8]> {
        let Some((range, slot)) = self.parts.first_mut() else { return Ok(&mut []) };
        let skip = ((self.offset + range.start) % ALIGN) as usize;
        let buffer = match slot {
            Some(b) => b,
            None => slot.insert(self.free.recv().map_err(|_| Error::Interrupted)?),
        };
        Ok(&mut buffer.bytes_mut()[skip + at..skip + at + len])
    }

    /// Copies `bytes`, which lie at `at` of the chunk, to wherever they are to be written.
    fn fill(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let have = self.start + at as u64..self.start + (at + bytes.len()) as u64;
        for (range, slot) in &mut self.parts {
            let both = have.start.max(range.start)..have.end.min(range.end);
            if both.is_empty() {
                continue;
            }
            let buffer = match slot {
                Some(b) => b,
                None => slot.insert(self.free.recv().map_err(|_| Error::Interrupted)?),
            };
            let skip = ((self.offset + range.start) % ALIGN + both.start - range.start) as usize;
            let from = (both.start - have.start) as usize;
            let len = (both.end - both.start) as usize;
            buffer.bytes_mut()[skip..skip + len].copy_from_slice(&bytes[from..from + len]);
        }
        Ok(())
    }

    fn send(self, task: &Task) -> Result<()> {
        for (range, buffer) in self.parts {
            let Some(buffer) = buffer else { continue };
            task.job.sent()?;
            let write = Write {
                job: task.job.clone(),
                shard: self.shard,
                offset: self.offset + range.start,
                len: (range.end - range.start) as usize,
                buffer,
            };
            self.full.send(write).map_err(|_| Error::Interrupted)?;
        }
        Ok(())
    }
}
