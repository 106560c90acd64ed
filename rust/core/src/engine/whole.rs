//! The work on a tensor whose kernel goes over all of it as often as it likes: matrices.

use std::ops::Range;
use std::sync::OnceLock;

use rayon::{ThreadPool, ThreadPoolBuilder};

use super::chunks::Buffers;
use super::output::{Output, Pool};
use super::queue::Task;
use super::rounded::Rounded;
use super::tiles::{Inputs, Pass, Scratch};
use crate::error::{Error, Result};
use crate::kernels::cast::{Element, Widen};
use crate::methods::{EachTile, Halt, Operands, Results};
use crate::plan::TensorPlan;

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

    fn pool(&self) -> Result<&ThreadPool> {
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
struct Reading<'a> {
    inputs: Inputs<'a>,
    tensor: &'a TensorPlan,
    scratch: (&'a mut Buffers, &'a mut Vec<Vec<f32>>),
    wrong: Option<Error>,
}

impl Operands for Reading<'_> {
    fn each(&mut self, elements: Range<u64>, f: EachTile) -> std::result::Result<(), Halt> {
        let (mut halt, inputs) = (None, self.inputs);
        let pass = pass(self.tensor, elements, false);
        let (buffers, wide) = (&mut *self.scratch.0, &mut *self.scratch.1);
        let read = inputs.tiles(&pass, (buffers, wide), |tile, _| {
            f(tile).map_err(|h| {
                halt = Some(h);
                Error::Interrupted
            })
        });
        match (read, halt) {
            (Ok(_), _) => Ok(()),
            (Err(_), Some(halt)) => Err(halt),
            (Err(e), None) => {
                self.wrong = Some(e);
                Err(Halt::Stopped)
            }
        }
    }
}

fn pass(tensor: &TensorPlan, own: Range<u64>, first: bool) -> Pass<'_> {
    Pass { tensor, own, release: None, check: first, digest: first, how: Widen::ToCompute }
}

struct Writing<'a> {
    rounded: Rounded<'a>,
    wrong: Option<Error>,
}

impl Results for Writing<'_> {
    fn push(&mut self, values: &[f32]) -> std::result::Result<(), Halt> {
        self.rounded.push(values).map_err(|e| {
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
    let element = Element::need(t.dtype)?;
    let Scratch { buffers, wide, .. } = scratch;
    // First of all in order, whatever the kernel will go over: what is digested and checked.
    let digests = inputs.tiles(&pass(t, 0..t.elements(), true), (&mut *buffers, &mut *wide), |_, _| Ok(()))?;
    let mut read = Reading { inputs, tensor: t, scratch: (buffers, wide), wrong: None };
    let none = 0..0;
    let out = Output::new(pool, inputs.progress, &task.job, t, &none, 0);
    let mut write = Writing { rounded: Rounded::new(inputs, t, element, out, 0), wrong: None };
    let made = crew.pool()?.install(|| kernel.whole(&mut read, &mut write));
    let found = match (made, read.wrong, write.wrong) {
        (Ok(found), ..) => found,
        (Err(Halt::Failed(problem)), ..) => return Err(Error::data(&t.name, problem)),
        (Err(Halt::Stopped), Some(e), _) | (Err(Halt::Stopped), None, Some(e)) => return Err(e),
        (Err(Halt::Stopped), None, None) => return Err(Error::Interrupted),
    };
    task.job.tell(found);
    for (i, leaves) in digests.iter().enumerate() {
        task.job.digested(i + 1, task.span, leaves);
    }
    task.job.digested(0, task.span, &write.rounded.finish()?);
    Ok(())
}
