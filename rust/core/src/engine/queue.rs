//! Which thread does what next: the spans of a few tensors at a time, in plan order, each pass after the last.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::job::{At, Job, Step};
use super::observer::Progress;
use crate::error::Result;
use crate::plan::budget::Budget;

/// A span to work on.
pub struct Task {
    /// The tensor.
    pub job: Arc<Job>,
    /// What to do.
    pub step: Step,
    /// Which span.
    pub span: u64,
}

struct State {
    todo: VecDeque<At>,
    ready: VecDeque<Task>,
    active: usize,
    /// Bytes that the tensors at work have permits for.
    taken: u64,
}

/// The tasks of a run.
pub struct Queue<'a> {
    state: Mutex<State>,
    bell: Condvar,
    budget: &'a Budget,
}

impl<'a> Queue<'a> {
    /// Queues these tensors; those at work take no more than `budget` permits.
    pub fn new(todo: &[At], budget: &'a Budget) -> Self {
        let state = State { todo: todo.iter().copied().collect(), ready: VecDeque::new(), active: 0, taken: 0 };
        Self { state: Mutex::new(state), bell: Condvar::new(), budget }
    }

    /// The next task, waiting for one if need be; `None` when all is done or the run is stopped.
    ///
    /// `open` makes the job of a tensor, or `None` if it has no elements and is finished.
    ///
    /// # Errors
    /// Whatever `open` returns.
    pub fn next(&self, progress: &Progress, open: impl Fn(At) -> Result<Option<Job>>) -> Result<Option<Task>> {
        let mut s = self.state.lock();
        loop {
            if progress.stopped() {
                return Ok(None);
            }
            if let Some(task) = s.ready.pop_front() {
                return Ok(Some(task));
            }
            let Budget { active, permits, .. } = self.budget;
            let fits = |at: &At| s.active == 0 || (s.active < *active && s.taken + self.needs(*at) <= *permits);
            if s.todo.front().is_some_and(fits)
                && let Some(at) = s.todo.pop_front()
            {
                if let Some(job) = open(at)? {
                    s.active += 1;
                    s.taken += self.needs(at);
                    let step = job.next();
                    push(&mut s, &Arc::new(job), step);
                    self.bell.notify_all();
                }
                continue;
            }
            if s.active == 0 && s.todo.is_empty() {
                return Ok(None);
            }
            self.bell.wait_for(&mut s, Duration::from_millis(50));
        }
    }

    fn needs(&self, at: At) -> u64 {
        self.budget.needs[at.lane][at.tensor]
    }

    /// Queues the next pass of a tensor, before anything else.
    pub fn again(&self, job: &Arc<Job>, step: Step) {
        push(&mut self.state.lock(), job, step);
        self.bell.notify_all();
    }

    /// A tensor is computed; another may start.
    pub fn closed(&self, at: At) {
        let mut s = self.state.lock();
        s.active -= 1;
        s.taken -= self.needs(at);
        drop(s);
        self.bell.notify_all();
    }
}

fn push(s: &mut State, job: &Arc<Job>, step: Step) {
    for span in (0..job.spans).rev() {
        s.ready.push_front(Task { job: job.clone(), step, span });
    }
}
