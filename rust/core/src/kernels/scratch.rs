//! Working memory that a thread keeps from tile to tile: taking it from the allocator and clearing it took up to a
//! tenth of the time of methods that do little to an element.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

thread_local! {
    static KEPT: RefCell<Vec<Vec<f32>>> = const { RefCell::new(Vec::new()) };
}

/// A slice of f32, given back to its thread when dropped.
pub struct Scratch {
    values: Vec<f32>,
    len: usize,
}

/// A slice of `len` values. What it holds is left over from earlier use.
pub fn values(len: usize) -> Scratch {
    let mut values = KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
    if values.len() < len {
        values.resize(len, 0.0);
    }
    Scratch { values, len }
}

/// Lets go what the thread keeps.
pub fn clear() {
    KEPT.with_borrow_mut(Vec::clear);
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.values);
        // A thread that ends may have dropped its store already.
        let _ = KEPT.try_with(|kept| kept.borrow_mut().push(values));
    }
}

impl Deref for Scratch {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.values[..self.len]
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.values[..self.len]
    }
}
