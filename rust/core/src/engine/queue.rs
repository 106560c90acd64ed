//! Which thread does what next: the spans of a few tensors at a time, in plan order, each pass after the last.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::job::{Job, Pass};
use super::observer::Progress;
use crate::error::{Error, Result};

/// A span to work on.
pub struct Task {
    /// The tensor.
    pub job: Arc<Job>,
    /// What to do.
    pub pass: Pass,
    /// Which span.
    pub span: u64,
}

struct State {
    todo: VecDeque<usize>,
    ready: VecDeque<Task>,
    active: usize,
}

/// The tasks of a run.
pub struct Queue {
    state: Mutex<State>,
    bell: Condvar,
    limit: usize,
}

impl Queue {
    /// Queues the tensors with the indices `todo`, at most `limit` of them at work at once.
    pub fn new(todo: impl Iterator<Item = usize>, limit: usize) -> Self {
        let state = State { todo: todo.collect(), ready: VecDeque::new(), active: 0 };
        Self { state: Mutex::new(state), bell: Condvar::new(), limit }
    }

    /// The next task, waiting for one if need be; `None` when all is done or the run is stopped.
    ///
    /// `open` makes the job of a tensor, or `None` if it has no elements and is finished.
    ///
    /// # Errors
    /// Whatever `open` returns.
    pub fn next(&self, progress: &Progress, open: impl Fn(usize) -> Result<Option<Job>>) -> Result<Option<Task>> {
        let poisoned = |_| Error::Interrupted;
        let mut s = self.state.lock().map_err(poisoned)?;
        loop {
            if progress.stopped() {
                return Ok(None);
            }
            if let Some(task) = s.ready.pop_front() {
                return Ok(Some(task));
            }
            if s.active < self.limit
                && let Some(index) = s.todo.pop_front()
            {
                if let Some(job) = open(index)? {
                    s.active += 1;
                    let pass = job.first_pass()?;
                    push(&mut s, &Arc::new(job), pass);
                    self.bell.notify_all();
                }
                continue;
            }
            if s.active == 0 && s.todo.is_empty() {
                return Ok(None);
            }
            s = self.bell.wait_timeout(s, Duration::from_millis(50)).map_err(|_| Error::Interrupted)?.0;
        }
    }

    /// Queues the next pass of a tensor, before anything else.
    pub fn again(&self, job: &Arc<Job>, pass: Pass) {
        if let Ok(mut s) = self.state.lock() {
            push(&mut s, job, pass);
        }
        self.bell.notify_all();
    }

    /// A tensor is finished; another may start.
    pub fn closed(&self) {
        if let Ok(mut s) = self.state.lock() {
            s.active -= 1;
        }
        self.bell.notify_all();
    }
}

fn push(s: &mut State, job: &Arc<Job>, pass: Pass) {
    for span in (0..job.spans).rev() {
        s.ready.push_front(Task { job: job.clone(), pass, span });
    }
}
