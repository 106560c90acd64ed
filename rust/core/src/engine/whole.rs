//! The work on a tensor whose kernel goes over all of it as often as it likes: matrices.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::chunks::{self, Buffers};
use super::output::{Output, Pool};
use super::queue::Task;
use super::rounded::{Packing, Placed, Rounded};
use super::tiles::{Inputs, Pass, Scratch};
use crate::digest::Leaves;
use crate::error::{Error, Result};
use crate::kernels::cast::Widen;
use crate::methods::{EachPiece, EachTile, Halt, Operands, Results};
use crate::plan::TensorPlan;
use crate::sizes::TILE;
use crate::view::View;

/// The threads that products of matrices share, started when the first is formed.
pub struct Crew {
    threads: usize,
    pool: OnceLock<ThreadPool>,
}

impl Crew {
    /// So many threads.
    pub fn new(threads: usize) -> Self {
        Self { threads, pool: OnceLock::new() }
    }

    /// Where they work.
    ///
    /// # Errors
    /// [`Error::Recipe`] if they do not start.
    pub fn pool(&self) -> Result<&ThreadPool> {
        if self.pool.get().is_none() {
            let made = ThreadPoolBuilder::new().num_threads(self.threads).build();
            let pool = made.map_err(|e| Error::recipe("threads", format!("{} do not start: {e}", self.threads)))?;
            // Another thread may have been faster.
            let _ = self.pool.set(pool);
        }
        self.pool.get().ok_or_else(|| Error::bug("no threads"))
    }
}

/// What a kernel reads, and the error that ended it.
pub struct Reading<'a> {
    inputs: Inputs<'a>,
    tensor: &'a TensorPlan,
    scratch: (&'a mut Buffers, &'a mut Vec<Vec<f32>>),
    /// Whether what is read is checked for NaN.
    check: bool,
    wrong: Option<Error>,
    /// Elements gone over.
    seen: u64,
}

impl Operands for Reading<'_> {
    fn keys(&self) -> Vec<u64> {
        self.inputs.keys(self.tensor)
    }

    fn each(&mut self, elements: Range<u64>, f: EachTile) -> std::result::Result<(), Halt> {
        let (mut halt, inputs) = (None, self.inputs);
        self.seen += elements.end - elements.start;
        let pass = Pass { check: self.check, ..pass(self.tensor, elements, false) };
        let (buffers, wide) = (&mut *self.scratch.0, &mut *self.scratch.1);
        let read = inputs.tiles(&pass, (buffers, wide), |tile, _| {
            f(tile).map_err(|h| {
                halt = Some(h);
                Error::Interrupted
            })
        });
        self.halted(read.map(|_| ()), halt)
    }

    fn apart(&mut self, which: usize, elements: Range<u64>, f: EachPiece) -> std::result::Result<(), Halt> {
        let (mut halt, inputs) = (None, self.inputs);
        let read = self.operand(which).and_then(|view| {
            if elements.end > view.like().tensor(&inputs.plan.models).elements() {
                return Err(Error::bug(format!("`{}` has a smaller operand {which}", self.tensor.name)));
            }
            apart(inputs, view, elements, false, self.scratch.0, |values| {
                f(values).map_err(|h| {
                    halt = Some(h);
                    Error::Interrupted
                })
            })
        });
        self.halted(read.map(|_| ()), halt)
    }

    fn at_fault(&mut self, which: usize, element: u64, problem: &str) -> Halt {
        let told = |view: &View| view.open(&self.inputs.plan.models, self.inputs.sources).at_fault(element, problem);
        self.wrong = Some(self.operand(which).map_or_else(|e| e, told));
        Halt::Stopped
    }
}

impl<'a> Reading<'a> {
    /// Of a tensor that is computed; with `check` everything that is read is checked for NaN.
    pub fn of(inputs: Inputs<'a>, tensor: &'a TensorPlan, scratch: &'a mut Scratch, check: bool) -> Self {
        let scratch = (&mut scratch.buffers, &mut scratch.wide);
        Self { inputs, tensor, scratch, check, wrong: None, seen: 0 }
    }

    /// What came of the work, with what ended it as an error that names the tensor.
    ///
    /// # Errors
    /// What ended it.
    pub fn ended<T>(self, made: std::result::Result<T, Halt>) -> Result<T> {
        made.map_err(|halt| halted(halt, self.tensor, self.wrong))
    }

    /// The operand with this number among those that have a shape of their own.
    fn operand(&self, which: usize) -> Result<&'a View> {
        let tensor = self.tensor;
        tensor.action.apart().get(which).ok_or_else(|| Error::bug(format!("`{}` has no operand {which}", tensor.name)))
    }

    /// Whether nothing is wrong; what is, is kept.
    fn halted(&mut self, done: Result<()>, halt: Option<Halt>) -> std::result::Result<(), Halt> {
        match (done, halt) {
            (Ok(()), _) => Ok(()),
            (Err(_), Some(halt)) => Err(halt),
            (Err(e), None) => {
                self.wrong = Some(e);
                Err(Halt::Stopped)
            }
        }
    }
}

/// Reads elements of an operand that has a shape of its own, in pieces; with `first` each is checked and digested. Returns the
/// digests.
fn apart(
    inputs: Inputs,
    view: &View,
    elements: Range<u64>,
    first: bool,
    buffers: &mut Buffers,
    mut f: impl FnMut(&[f64]) -> Result<()>,
) -> Result<Vec<u128>> {
    let (opened, mut leaves) = (view.open(&inputs.plan.models, inputs.sources), Leaves::new());
    let mut values = [0f64; TILE];
    chunks::each(&[&*opened], elements, inputs.chunk, first, buffers, |part, raw| {
        inputs.progress.alive()?;
        for start in part.clone().step_by(TILE) {
            let piece = start..(start + TILE as u64).min(part.end);
            let bytes = opened.bytes(raw[0], &part, &piece);
            if let (true, Some(bytes)) = (first, bytes) {
                if opened.stored() {
                    leaves.update(bytes);
                }
                inputs.finite(&*opened, bytes, start)?;
            }
            let values = &mut values[..(piece.end - start) as usize];
            opened.decode_exactly(raw[0], &part, &piece, values)?;
            if first && bytes.is_none() {
                let values: Vec<f32> = values.iter().map(|v| *v as f32).collect();
                inputs.finite_values(&*opened, &values, start)?;
            }
            f(values)?;
        }
        inputs.progress.add(raw[0].len() as u64);
        Ok(())
    })?;
    Ok(leaves.finish())
}

fn pass(tensor: &TensorPlan, own: Range<u64>, first: bool) -> Pass<'_> {
    Pass { tensor, own, release: None, check: first, digest: first, how: Widen::ToCompute }
}

/// What ended the work on a tensor.
fn halted(halt: Halt, t: &TensorPlan, wrong: Option<Error>) -> Error {
    match halt {
        Halt::Failed(problem) => Error::data(&t.name, problem),
        Halt::Stopped => wrong.unwrap_or(Error::Interrupted),
    }
}

struct Writing<'a> {
    to: To<'a>,
    wrong: Option<Error>,
}

/// Where results go: on their way in order, or where they belong in memory first.
enum To<'a> {
    Out(Box<Rounded<'a>>),
    Memory(Placed<'a>, Output<'a>),
}

impl Results for Writing<'_> {
    fn push(&mut self, values: &[f32]) -> std::result::Result<(), Halt> {
        let pushed = match &mut self.to {
            To::Out(rounded) => rounded.push(values),
            To::Memory(placed, _) => placed.push(values),
        };
        pushed.map_err(|e| {
            self.wrong = Some(e);
            Halt::Stopped
        })
    }
}

/// Has the kernel of a task go over its tensor, and writes what it makes of it.
///
/// # Errors
/// [`Error::Data`] naming the tensor if its data do not allow it; input that cannot be read or is not finite.
pub fn make(
    inputs: Inputs,
    crew: &Crew,
    pool: &Pool,
    task: &Task,
    t: &TensorPlan,
    scratch: &mut Scratch,
) -> Result<()> {
    let lock = task.job.kernel.read();
    let Some(kernel) = lock.as_ref() else { return Err(Error::bug(format!("`{}` has no method", t.name))) };
    let packing = Packing::of(t)?;
    let Scratch { buffers, wide, .. } = scratch;
    // First of all in order, whatever the kernel will go over: what is digested and checked.
    let mut digests = inputs.tiles(&pass(t, 0..t.elements(), true), (&mut *buffers, &mut *wide), |_, _| Ok(()))?;
    for view in t.action.apart() {
        let all = 0..view.like().tensor(&inputs.plan.models).elements();
        digests.push(apart(inputs, view, all, true, buffers, |_| Ok(()))?);
    }
    let mut read = Reading { inputs, tensor: t, scratch: (buffers, wide), check: false, wrong: None, seen: 0 };
    let none = 0..0;
    let out = Output::new(pool, inputs.progress, &task.job, t, &none, 0);
    let to = match t.encode.as_deref().filter(|e| e.collected()) {
        Some(encode) => To::Memory(Placed::new(inputs, t, encode, &task.job, 0)?, out),
        None => To::Out(Box::new(Rounded::new(inputs, t, packing, out, 0))),
    };
    let mut write = Writing { to, wrong: None };
    let made = crew.pool()?.install(|| kernel.whole(&mut read, &mut write));
    let passes = read.seen.div_ceil(t.elements().max(1));
    let wrong = read.wrong.or(write.wrong);
    let found = made.map_err(|halt| halted(halt, t, wrong))?;
    task.job.tell(found, passes as usize);
    for (i, leaves) in digests.iter().enumerate() {
        task.job.digested(i + 1, task.span, leaves);
    }
    match write.to {
        To::Out(rounded) => task.job.digested(0, task.span, &rounded.finish()?),
        To::Memory(placed, out) => placed.finish(out)?,
    }
    Ok(())
}
