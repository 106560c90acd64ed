//! Working memory that a thread keeps from tile to tile: taking it from the allocator and clearing it took up to a
//! tenth of the time of methods that do little to an element.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};
use std::thread::LocalKey;

type Kept<T> = RefCell<Vec<Vec<T>>>;

thread_local! {
    static VALUES: Kept<f32> = const { RefCell::new(Vec::new()) };
    static ENTRIES: Kept<u64> = const { RefCell::new(Vec::new()) };
}

/// Elements up to which a slice may be kept in memory meant for a longer one.
const SMALL: usize = 4096;

/// A slice, given back to its thread when dropped.
pub struct Scratch<T: Copy + Default + 'static = f32> {
    memory: Vec<T>,
    len: usize,
    kept: &'static LocalKey<Kept<T>>,
}

/// A slice of `len` values. What it holds is left over from earlier use.
pub fn values(len: usize) -> Scratch {
    take(&VALUES, len)
}

/// A slice of `len` pairs of a key and an index. What it holds is left over from earlier use.
pub fn entries(len: usize) -> Scratch<u64> {
    take(&ENTRIES, len)
}

/// Lets go what the thread keeps.
pub fn clear() {
    VALUES.with_borrow_mut(|kept| *kept = Vec::new());
    ENTRIES.with_borrow_mut(|kept| *kept = Vec::new());
}

fn take<T: Copy + Default>(kept: &'static LocalKey<Kept<T>>, len: usize) -> Scratch<T> {
    let mut memory = kept.with_borrow_mut(|kept| fitting(kept, len)).unwrap_or_default();
    if memory.len() < len {
        // What it held is not wanted: to grow in place would copy it.
        memory = Vec::new();
        memory.resize(len, T::default());
    }
    Scratch { memory, len, kept }
}

/// Of what is kept the best for `len` elements. A short slice must not sit in memory meant for a long one: in time all
/// of it would grow long.
fn fitting<T>(kept: &mut Vec<Vec<T>>, len: usize) -> Option<Vec<T>> {
    let waste = |v: &Vec<T>| match v.len() {
        own if own < len => Some((1, len - own)),
        own if own <= SMALL.max(2 * len) => Some((0, own - len)),
        _ => None,
    };
    let best = kept.iter().enumerate().filter_map(|(i, v)| waste(v).map(|w| (w, i))).min();
    best.filter(|_| len > 0).map(|(_, i)| kept.swap_remove(i))
}

impl<T: Copy + Default> Drop for Scratch<T> {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        if !memory.is_empty() {
            // A thread that ends may have dropped its store already.
            let _ = self.kept.try_with(|kept| kept.borrow_mut().push(memory));
        }
    }
}

impl<T: Copy + Default> Deref for Scratch<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        &self.memory[..self.len]
    }
}

impl<T: Copy + Default> DerefMut for Scratch<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.memory[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held() -> usize {
        VALUES.with_borrow(|kept| kept.iter().map(Vec::len).sum())
    }

    /// Law 1: what is kept is what was needed at once, in whatever order short and long slices are taken.
    #[test]
    fn short_slices_do_not_take_the_memory_of_long_ones() {
        clear();
        for _ in 0..3 {
            let (short, long) = (values(1000), values(100_000));
            drop(short);
            drop(long);
            let (long, short, none) = (values(100_000), values(1000), values(0));
            drop(long);
            drop(short);
            drop(none);
        }
        assert_eq!(held(), 101_000);
        // Longer ones take the place of shorter ones.
        drop((values(110_000), values(1100)));
        assert_eq!(held(), 111_100);
        clear();
        assert_eq!(held(), 0);
    }
}
