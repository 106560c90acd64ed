//! The work on one span: read, digest, widen, scan or apply, round, hand over to the disk.

use std::ops::Range;

use super::ahead::Ahead;
use super::backend::Backend;
use super::chunks::{self, Buffers};
use super::job::Step;
use super::output::{Output, Pool};
use super::queue::Task;
use super::rounded::{Packing, Placed, Rounded};
use super::tiles::{Inputs, Pass, Scratch, overlap};
use super::whole::{self, Crew};
use crate::digest::Leaves;
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::kernels::cast::Widen;
use crate::kernels::encode;
use crate::kernels::search::sampled;
use crate::methods::{Cost, Kernel, Span, Stats, Tile};
use crate::plan::{Action, TensorPlan, budget};
use crate::sizes::TILE;
use crate::view::{Decode, View};

/// Bytes moved at a time: digested, checked and copied while they are in the cache.
const PIECE: usize = 1 << 16;

/// What all threads of a run share.
#[derive(Clone)]
pub struct Worker<'a> {
    /// The inputs.
    pub inputs: Inputs<'a>,
    /// Who computes.
    pub backend: &'a dyn Backend,
    /// Bytes of each output tensor that reflinks have already brought.
    pub shared: &'a [Range<u64>],
    /// The buffers.
    pub pool: Pool,
    /// The threads that products of matrices share.
    pub crew: &'a Crew,
    /// What will be read.
    pub ahead: &'a Ahead<'a>,
}

impl Worker<'_> {
    /// Does a task; returns the tensor's next step when its last span is scanned.
    ///
    /// # Errors
    /// Input that cannot be read or is not finite, [`Error::Interrupted`] when the run is stopped.
    pub fn work(&self, task: &Task, scratch: &mut Scratch) -> Result<Option<Step>> {
        let t = &self.inputs.plan.tensors[task.job.at.tensor];
        let next = match (&t.action, task.step) {
            (Action::Move { from, same }, _) => {
                let same: Vec<View> = same.iter().map(|p| View::from(*p)).collect();
                self.copy(task, t, from, &same, scratch).map(|()| None)
            }
            (Action::Compute { .. }, Step::Scan(n)) => self.scan(task, t, n == 0, scratch),
            (Action::Compute { cost: Cost { span: Span::Whole { .. }, .. }, .. }, Step::Apply) => {
                self.ahead.took();
                whole::make(self.inputs, self.crew, &self.pool, task, t, scratch).map(|()| None)
            }
            (Action::Compute { .. }, Step::Apply) => self.apply(task, t, scratch).map(|()| None),
        };
        scratch.trim(t);
        next
    }

    /// Moves the bytes of `from`, and holds those of `same` against them.
    fn copy(&self, task: &Task, t: &TensorPlan, from: &View, same: &[View], scratch: &mut Scratch) -> Result<()> {
        let Inputs { plan, sources, chunk, progress, .. } = self.inputs;
        let opened: Vec<Box<dyn Decode>> =
            std::iter::once(from).chain(same).map(|v| v.open(&plan.models, sources)).collect();
        let operands: Vec<&dyn Decode> = opened.iter().map(|o| &**o).collect();
        self.ahead.took();
        let (bits, elements) = (t.dtype.bits(), t.elements_of(task.span));
        let mut leaves: Vec<Leaves> = operands.iter().map(|_| Leaves::new()).collect();
        let shared = &self.shared[task.job.at.tensor];
        let mut out = Output::new(&self.pool, progress, &task.job, t, shared, elements.start * bits / 8);
        chunks::each(&operands, elements, chunk, true, &mut scratch.buffers, |part, raw| {
            progress.alive()?;
            for (i, piece) in raw[0].chunks(PIECE).enumerate() {
                let at = i * PIECE;
                leaves[0].update(piece);
                self.inputs.finite(operands[0], piece, part.start + at as u64 * 8 / bits)?;
                out.push(piece)?;
                for ((other, leaves), mate) in raw[1..].iter().zip(&mut leaves[1..]).zip(same) {
                    let other = &other[at..at + piece.len()];
                    leaves.update(other);
                    if piece != other {
                        return Err(self.differs(from, mate, t));
                    }
                }
            }
            progress.add(raw.iter().map(|r| r.len() as u64).sum());
            Ok(())
        })?;
        out.send()?;
        for (i, leaves) in leaves.into_iter().enumerate() {
            let leaves = leaves.finish();
            if i == 0 {
                task.job.digested(0, task.span, &leaves);
            }
            task.job.digested(i + 1, task.span, &leaves);
        }
        Ok(())
    }

    fn scan(&self, task: &Task, t: &TensorPlan, first: bool, scratch: &mut Scratch) -> Result<Option<Step>> {
        let lock = task.job.kernel.read();
        let Some((kernel, wanted)) = lock.as_ref().and_then(|k| Some((&**k, k.wants()?))) else {
            return Err(Error::bug(format!("`{}` was to be scanned once too often", t.name)));
        };
        let Scratch { buffers, wide, stats, .. } = scratch;
        stats.reset(wanted);
        stats.before = task.job.ranks_before(task.span);
        let own = t.elements_of(task.span);
        let sample = wanted.sample;
        let look = first && !sample;
        if look {
            self.ahead.took();
        }
        let how = if kernel.casts() { widened(kernel, t) } else { Widen::ToCompute };
        let pass = |own| Pass { tensor: t, own, release: None, check: look, digest: look, how };
        let mut digests = Vec::new();
        for own in if sample { sampled(&own, self.inputs.plan.is_remote()) } else { vec![own] } {
            digests = begun(&self.inputs, self.backend, &pass(own), kernel, stats, (&mut *buffers, &mut *wide))?;
        }
        drop(lock);
        for (i, leaves) in digests.iter().enumerate() {
            task.job.digested(i + 1, task.span, leaves);
        }
        task.job.scanned(task.span, stats, sample)
    }

    fn apply(&self, task: &Task, t: &TensorPlan, scratch: &mut Scratch) -> Result<()> {
        let lock = task.job.kernel.read();
        let Some(kernel) = lock.as_ref() else { return Err(Error::bug(format!("`{}` has no method", t.name))) };
        let mut ranks = task.job.ranks_before(task.span);
        let views = t.action.views();
        if t.dtype == Dtype::F64 && kernel.casts() && views[0].is_made(&self.inputs.plan.models) {
            drop(lock);
            return self.form(task, t, &views[0], scratch);
        }
        let (packing, elements) = (Packing::of(t)?, t.elements_of(task.span));
        let none = 0..0;
        let start = t.bytes_of(elements.start);
        let collected = t.encode.as_deref().filter(|e| e.collected());
        let start = if collected.is_some() { 0 } else { start };
        let mut out = Some(Output::new(&self.pool, self.inputs.progress, &task.job, t, &none, start));
        let mut placed = collected.map(|e| Placed::new(self.inputs, t, e, &task.job, elements.start)).transpose()?;
        let mut rounded = match placed {
            None => out.take().map(|out| Rounded::new(self.inputs, t, packing, out, elements.start)),
            Some(_) => None,
        };
        if t.encode.as_ref().is_some_and(|e| e.group().is_none()) {
            return rounded.map_or(Ok(()), |rounded| gathered(&**kernel, task, t, rounded));
        }
        let first = task.job.unscanned();
        if first {
            self.ahead.took();
        }
        let how = widened(&**kernel, t);
        let pass = Pass { tensor: t, own: elements.clone(), release: Some(true), check: first, digest: first, how };
        let Scratch { buffers, wide, out: values, .. } = scratch;
        // What a merge changes of quantised weights may be less than what encoding rounds.
        let models = &self.inputs.plan.models;
        let back = packing.back().filter(|_| !kernel.casts() && views.iter().any(|v| v.is_coded(models)));
        let (mut before, mut counted) = (Vec::new(), [0; 2]);
        let digests = self.inputs.tiles(&pass, (buffers, wide), |tile, len| {
            if values.len() < len {
                values.resize(len, 0.0);
            }
            self.backend.apply(&**kernel, tile, &mut ranks, &mut values[..len])?;
            // A row that reaches over the span's borders is computed by both spans; each writes its own.
            let own = overlap(&(tile.start..tile.start + len as u64), &elements);
            let place = (own.start - tile.start) as usize..(own.end - tile.start) as usize;
            let values = &values[place.clone()];
            if let Some(form) = back {
                before.resize(len, 0.0);
                kernel.untouched(tile, &mut before);
                let found = encode::back(form, values, &before[place]);
                counted.iter_mut().zip(found).for_each(|(c, n)| *c += n);
            }
            match (&mut rounded, &mut placed) {
                (Some(rounded), _) => rounded.push(values),
                (None, Some(placed)) => placed.push(values),
                (None, None) => Ok(()),
            }
        })?;
        for (i, leaves) in digests.iter().enumerate() {
            task.job.digested(i + 1, task.span, leaves);
        }
        if back.is_some() {
            task.job.rounded_back(counted);
        }
        match (rounded, placed, out) {
            (Some(rounded), ..) => task.job.digested(0, task.span, &rounded.finish()?),
            (None, Some(placed), Some(out)) => placed.finish(out)?,
            (None, ..) => {}
        }
        Ok(())
    }

    /// Writes in f64 what is made in f64: tiles are f32.
    fn form(&self, task: &Task, t: &TensorPlan, from: &View, scratch: &mut Scratch) -> Result<()> {
        let Inputs { plan, sources, chunk, progress, .. } = self.inputs;
        let opened = from.open(&plan.models, sources);
        let (elements, none) = (t.elements_of(task.span), 0..0);
        let mut leaves = Leaves::new();
        let mut out = Output::new(&self.pool, progress, &task.job, t, &none, elements.start * 8);
        let mut values = vec![0f64; TILE];
        chunks::each(&[&*opened], elements, chunk, true, &mut scratch.buffers, |part, raw| {
            progress.alive()?;
            for start in part.clone().step_by(TILE) {
                let piece = start..(start + TILE as u64).min(part.end);
                let values = &mut values[..(piece.end - start) as usize];
                opened.decode_exactly(raw[0], &part, &piece, values)?;
                let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
                self.inputs.finite(&*opened, &bytes, start)?;
                leaves.update(&bytes);
                out.push(&bytes)?;
            }
            progress.add(raw[0].len() as u64);
            Ok(())
        })?;
        out.send()?;
        task.job.digested(0, task.span, &leaves.finish());
        Ok(())
    }

    fn differs(&self, a: &View, b: &View, t: &TensorPlan) -> Error {
        let plan = self.inputs.plan;
        let what = if t.dtype.computes() { "part of a quantised weight" } else { t.dtype.name() };
        Error::tensor(
            plan.path(b.like()),
            &t.name,
            format!(
                "is {what} and differs from {}; such tensors cannot be merged and must be the same in every model: \
                 dequantise the models first, or leave the tensor out with `exclude`",
                plan.path(a.like()).display()
            ),
        )
    }
}

/// What the operands of a kernel are widened for when it is applied; what is encoded is rounded from f32.
fn widened(kernel: &dyn Kernel, t: &TensorPlan) -> Widen {
    match (kernel.casts(), t.dtype.bits()) {
        (false, _) => Widen::ToCompute,
        (true, 16) => Widen::ToOdd,
        (true, _) => Widen::ToNearest,
    }
}

/// Writes what is known only when all of a tensor's values are seen, with its first span.
fn gathered(kernel: &dyn Kernel, task: &Task, t: &TensorPlan, mut rounded: Rounded) -> Result<()> {
    if task.span > 0 {
        return Ok(());
    }
    let (mut at, all) = (0, t.shape.iter().product::<u64>() as usize);
    let mut values = vec![0f32; TILE.min(all)];
    while at < all {
        let len = values.len().min(all - at);
        kernel.gathered(at, &mut values[..len]);
        rounded.push(&values[..len])?;
        at += len;
    }
    task.job.digested(0, 0, &rounded.finish()?);
    Ok(())
}

/// Scans the units that begin in a range.
///
/// # Errors
/// As [`Inputs::tiles`].
pub fn begun(
    inputs: &Inputs,
    backend: &dyn Backend,
    pass: &Pass,
    kernel: &dyn Kernel,
    stats: &mut Stats,
    scratch: (&mut Buffers, &mut Vec<Vec<f32>>),
) -> Result<super::tiles::Digests> {
    let from = pass.own.start.next_multiple_of(budget::unit(pass.tensor));
    inputs.tiles(pass, scratch, |tile, len| {
        let skip = from.saturating_sub(tile.start) as usize;
        if skip == 0 {
            return backend.scan(kernel, tile, stats);
        }
        if skip >= len {
            return Ok(());
        }
        let inputs: Vec<&[f32]> = tile.inputs.iter().map(|x| &x[skip..]).collect();
        let base = tile.base.map(|b| &b[skip..]);
        backend.scan(kernel, &Tile { base, inputs: &inputs, start: tile.start + skip as u64, ..*tile }, stats)
    })
}
