//! The third phase of a run: every tensor that is not done yet is computed and written.

use std::collections::HashMap;
use std::ops::Range;

use parking_lot::Mutex;

use super::Means;
use super::ahead::Ahead;
use super::found::Found;
use super::job::{At, Job, Step};
use super::journal::{Done, Journal};
use super::observer::Progress;
use super::output::{Pool, Write};
use super::queue::Queue;
use super::threads;
use super::tiles::{Inputs, Scratch};
use super::whole::Crew;
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
    pub shared: Vec<Range<u64>>,
    /// What is done is written down here.
    pub journal: &'a Journal,
}

/// Bytes a tensor counts for in the progress bar: read as often as its method may, written once.
pub fn work_bytes(plan: &Plan, tensor: usize) -> u64 {
    let t = &plan.tensors[tensor];
    t.action.cost().reads as u64 * plan.input_bytes(t) + t.nbytes
}

/// A plan on its way, of those that run together.
pub struct Lane<'a> {
    /// The plan and its inputs.
    pub inputs: Inputs<'a>,
    /// What scans have found.
    pub found: Found,
    /// Where the output goes.
    pub place: Place<'a>,
    /// The tensors that are to be made.
    pub left: Vec<usize>,
}

/// The tensors of all lanes, those of one name one after another: what one of them has read is then at hand for the next.
fn in_turn(lanes: &[Lane]) -> Vec<At> {
    let mut groups: Vec<Vec<At>> = Vec::new();
    let mut known: HashMap<&str, usize> = HashMap::new();
    for (lane, l) in lanes.iter().enumerate() {
        for tensor in l.left.iter().copied() {
            let group = *known.entry(&l.inputs.plan.tensors[tensor].name).or_insert(groups.len());
            groups.resize_with(groups.len().max(group + 1), Vec::new);
            groups[group].push(At { lane, tensor });
        }
    }
    groups.into_iter().flatten().collect()
}

/// Makes the tensors that are left of every lane; returns what was done of each.
///
/// # Errors
/// Input that cannot be read, output that cannot be written, [`crate::error::Error::Interrupted`].
pub fn make(lanes: &[Lane], means: &Means, budget: &Budget, progress: &Progress) -> Result<Vec<HashMap<usize, Done>>> {
    let (give, free) = crossbeam_channel::unbounded::<Buffer>();
    let (full, written) = crossbeam_channel::unbounded::<Write>();
    for _ in 0..budget.buffers {
        let _ = give.send(Buffer::new(budget.buffer as usize)?);
    }
    let todo = in_turn(lanes);
    let spans: Vec<(usize, u64)> = (todo.iter().enumerate())
        .flat_map(|(i, at)| (0..lanes[at.lane].inputs.plan.tensors[at.tensor].spans()).map(move |span| (i, span)))
        .collect();
    let named = |i: usize| &*lanes[todo[i].lane].inputs.plan.tensors[todo[i].tensor].name;
    let ask = |piece: usize| {
        let (i, span) = spans[piece];
        // What another lane has asked for is on its way.
        if i > 0 && named(i - 1) == named(i) { 0 } else { lanes[todo[i].lane].inputs.ask((todo[i].tensor, span)) }
    };
    let ahead = Ahead::new(spans.len(), &ask);
    let queue = Queue::new(&todo, budget);
    let fresh: Vec<Mutex<HashMap<usize, Done>>> = lanes.iter().map(|_| Mutex::default()).collect();
    let close = |job: &Job| -> Result<()> {
        let ((done, scans), lane) = (job.close(), &lanes[job.at.lane]);
        lane.inputs.plan.keeps_promise(done.tensor, &done.digest)?;
        lane.place.journal.record(&done)?;
        // Passes the method could have needed and did not count as done, so that the bar ends at its end.
        let plan = lane.inputs.plan;
        let t = &plan.tensors[done.tensor];
        progress.add(t.action.cost().reads.saturating_sub(scans + 1) as u64 * plan.input_bytes(t));
        fresh[job.at.lane].lock().insert(done.tensor, done);
        Ok(())
    };
    let finish_one = |job: &Job| if job.finished_one() { close(job) } else { Ok(()) };
    let pool = Pool { free, full, capacity: budget.buffer as usize };
    let crew = Crew::new(means.threads);
    // Of a thread each, so that the writers end when the last sender is gone.
    let mut workers: Vec<Vec<Worker>> = Vec::new();
    for _ in 0..means.threads {
        let of = lanes.iter().map(|Lane { inputs, place, .. }| Worker {
            inputs: *inputs,
            backend: means.backend,
            shared: &place.shared,
            pool: pool.clone(),
            crew: &crew,
            ahead: &ahead,
        });
        workers.push(of.collect());
    }
    drop(pool);
    let open = |at: At| -> Result<Option<Job>> {
        let lane = &lanes[at.lane];
        let job = Job::new(lane.inputs.plan, at, &lane.found)?;
        if job.spans == 0 {
            return close(&job).map(|()| None);
        }
        Ok(Some(job))
    };
    let compute = |workers: Vec<Worker>| -> Result<()> {
        let mut scratch = Scratch::default();
        while let Some(task) = queue.next(progress, open)? {
            match (task.step, workers[task.job.at.lane].work(&task, &mut scratch)?) {
                (_, Some(step)) => queue.again(&task.job, step),
                (Step::Apply, None) => {
                    if task.job.applied_one() {
                        queue.closed(task.job.at);
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
                let staging = lanes[w.job.at.lane].place.staging;
                let result = staging.write(w.shard, w.offset, &w.buffer, w.len);
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
    for own in workers {
        let compute = &compute;
        bodies.push(Box::new(move || compute(own)));
    }
    threads::run(bodies, progress, means.observer)?;
    Ok(fresh.into_iter().map(Mutex::into_inner).collect())
}
