//! The third phase of a run: every tensor that is not done yet is computed and written.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use super::Means;
use super::ahead::Ahead;
use super::found::Found;
use super::job::{Job, Step};
use super::journal::{Done, Journal};
use super::output::{Pool, Write};
use super::queue::Queue;
use super::threads;
use super::tiles::{Inputs, Scratch};
use super::worker::Worker;
use crate::checkpoint::Staging;
use crate::error::Result;
use crate::plan::Plan;
use crate::plan::budget::Budget;
use crate::sizes::WRITERS;
use crate::source::Buffer;

/// Where the output goes.
pub struct Place<'a> {
    /// The folder it is made in.
    pub staging: &'a Staging,
    /// Bytes of each tensor that reflinks have already brought.
    pub shared: &'a [Range<u64>],
    /// What is done is written down here.
    pub journal: &'a Journal,
}

/// Bytes a tensor counts for in the progress bar: read as often as its method may, written once.
pub fn work_bytes(plan: &Plan, tensor: usize) -> u64 {
    let t = &plan.tensors[tensor];
    t.action.cost().reads as u64 * plan.input_bytes(t) + t.nbytes
}

/// Makes the tensors of `part`.
///
/// # Errors
/// Input that cannot be read, output that cannot be written, [`crate::error::Error::Interrupted`].
pub fn make(
    inputs: &Inputs,
    means: &Means,
    budget: &Budget,
    found: &Found,
    place: &Place,
    part: Vec<usize>,
) -> Result<HashMap<usize, Done>> {
    let (plan, progress) = (inputs.plan, inputs.progress);
    let (give, free) = crossbeam_channel::unbounded::<Buffer>();
    let (full, written) = crossbeam_channel::unbounded::<Write>();
    for _ in 0..budget.buffers {
        let _ = give.send(Buffer::new(budget.buffer as usize)?);
    }
    let spans = inputs.spans(&part);
    let ask = |i: usize| inputs.ask(spans[i]);
    let ahead = Ahead::new(spans.len(), &ask);
    let queue = Queue::new(part.into_iter(), budget);
    let fresh = Mutex::new(HashMap::new());
    let close = |job: &Job| -> Result<()> {
        let (done, scans) = job.close();
        place.journal.record(&done)?;
        // Passes the method could have needed and did not count as done, so that the bar ends at its end.
        let t = &plan.tensors[done.tensor];
        progress.add(t.action.cost().reads.saturating_sub(scans + 1) as u64 * plan.input_bytes(t));
        fresh.lock().insert(done.tensor, done);
        Ok(())
    };
    let finish_one = |job: &Job| if job.finished_one() { close(job) } else { Ok(()) };
    let pool = Pool { free, full, capacity: budget.buffer as usize };
    let worker = Worker { inputs: *inputs, backend: means.backend, shared: place.shared, pool, ahead: &ahead };
    let open = |index: usize| -> Result<Option<Job>> {
        let job = Job::new(plan, index, found)?;
        if job.spans == 0 {
            return close(&job).map(|()| None);
        }
        Ok(Some(job))
    };
    let compute = |worker: Worker| -> Result<()> {
        let mut scratch = Scratch::default();
        while let Some(task) = queue.next(progress, open)? {
            match (task.step, worker.work(&task, &mut scratch)?) {
                (_, Some(step)) => queue.again(&task.job, step),
                (Step::Apply, None) => {
                    if task.job.applied_one() {
                        queue.closed(task.job.tensor);
                    }
                    finish_one(&task.job)?;
                }
                (Step::Scan(_), None) => {}
            }
        }
        Ok(())
    };
    let write = || -> Result<()> {
        for w in &written {
            // After an error buffers still go round, or a thread waiting for one would wait for ever.
            if !progress.stopped() {
                let result = place.staging.write(w.shard, w.offset, &w.buffer, w.len);
                let result = result.and_then(|()| finish_one(&w.job));
                progress.add(w.len as u64);
                if let Err(e) = result {
                    progress.fail(e);
                }
            }
            let _ = give.send(w.buffer);
        }
        Ok(())
    };
    let mut bodies: Vec<Box<dyn FnOnce() -> Result<()> + Send + '_>> = Vec::new();
    for _ in 0..WRITERS {
        bodies.push(Box::new(&write));
    }
    for _ in 0..means.threads {
        let worker = worker.clone();
        let compute = &compute;
        bodies.push(Box::new(move || compute(worker)));
    }
    // The writers end when the last sender is gone.
    drop(worker);
    threads::run(bodies, progress, means.observer)?;
    Ok(fresh.into_inner())
}
