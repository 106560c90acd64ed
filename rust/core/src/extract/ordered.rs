//! What threads find is taken in the order of the tasks, whoever is done first, and no thread runs far ahead.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::engine::observer::Progress;
use crate::error::Result;

/// Takes results in order.
pub struct Ordered<T, S> {
    state: Mutex<State<T, S>>,
    moved: Condvar,
    /// How many results may wait.
    most: usize,
}

struct State<T, S> {
    next: usize,
    waiting: BTreeMap<usize, T>,
    taker: S,
}

impl<T, S> Ordered<T, S> {
    /// An empty queue before `taker`, with room for `most` results.
    pub fn new(taker: S, most: usize) -> Self {
        Self { state: Mutex::new(State { next: 0, waiting: BTreeMap::new(), taker }), moved: Condvar::new(), most }
    }

    /// Hands a result over; those whose turn it is are given to `take`.
    ///
    /// # Errors
    /// Whatever `take` returns, [`crate::error::Error::Interrupted`] when the run is stopped.
    pub fn put(
        &self,
        index: usize,
        result: T,
        progress: &Progress,
        take: impl Fn(&mut S, usize, T) -> Result<()>,
    ) -> Result<()> {
        let mut state = self.state.lock();
        while index > state.next + self.most {
            progress.alive()?;
            self.moved.wait_for(&mut state, Duration::from_millis(50));
        }
        state.waiting.insert(index, result);
        let state = &mut *state;
        while let Some(result) = state.waiting.remove(&state.next) {
            take(&mut state.taker, state.next, result)?;
            state.next += 1;
        }
        self.moved.notify_all();
        Ok(())
    }

    /// What the results were given to.
    pub fn into_inner(self) -> S {
        self.state.into_inner().taker
    }
}
