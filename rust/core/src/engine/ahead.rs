//! Reads ahead of those who compute: sources are told what will be read, in the order in which it will be, so that the disk works
//! while the threads do.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;

use crate::source::{Ranges, object};
use crate::view::Decode;

/// Bytes that are asked for ahead of what is being read. They lie in the system's page cache, not in this process.
const WINDOW: u64 = 64 << 20;

/// What will be read, and how much of it has been asked for.
pub struct Ahead<'a> {
    /// Asks for a piece; returns its bytes.
    ask: &'a (dyn Fn(usize) -> u64 + Sync),
    pieces: usize,
    /// Pieces that are read or have been.
    begun: AtomicUsize,
    /// Bytes that are asked for ahead: of what is fetched from a store as many as there is room for.
    window: u64,
    asked: Mutex<Asked>,
}

/// Pieces that have been asked for, the bytes of each that has not begun, and these bytes together.
#[derive(Default)]
struct Asked {
    pieces: usize,
    waiting: VecDeque<u64>,
    bytes: u64,
}

impl<'a> Ahead<'a> {
    /// Of so many pieces, which `ask` asks for; the first are asked for at once.
    pub fn new(pieces: usize, ask: &'a (dyn Fn(usize) -> u64 + Sync)) -> Self {
        let room = || Some(Ranges::all().room()).filter(|room| object::any() && *room > 0);
        let window = room().unwrap_or(WINDOW);
        let ahead = Self { ask, pieces, begun: AtomicUsize::new(0), window, asked: Mutex::default() };
        ahead.further();
        ahead
    }

    /// A further piece is being read, by and large in their order; as many bytes are asked for behind.
    pub fn took(&self) {
        self.begun.fetch_add(1, Ordering::Relaxed);
        self.further();
    }

    fn further(&self) {
        // Where another thread is asking already this one goes on computing.
        let Some(mut asked) = self.asked.try_lock() else { return };
        let begun = self.begun.load(Ordering::Relaxed);
        while asked.pieces - asked.waiting.len() < begun {
            let Some(bytes) = asked.waiting.pop_front() else { break };
            asked.bytes -= bytes;
        }
        // What is being read already is not asked for.
        asked.pieces = asked.pieces.max(begun);
        while asked.pieces < self.pieces && asked.bytes < self.window {
            let bytes = (self.ask)(asked.pieces);
            asked.waiting.push_back(bytes);
            asked.bytes += bytes;
            asked.pieces += 1;
        }
    }
}

/// Tells where these views lie that `elements` of them will be read; returns how many bytes that is.
pub fn ask(views: &[Box<dyn Decode + '_>], elements: &Range<u64>) -> u64 {
    views.iter().for_each(|view| view.ahead(elements));
    views.iter().map(|view| (elements.end - elements.start) * view.dtype().bits() / 8).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Law: every piece is asked for once and in order, and no more than the window and a piece ahead of what is read.
    #[test]
    fn a_window_ahead() {
        let seen = Mutex::new(Vec::new());
        let piece = WINDOW / 4 + 1;
        let ask = |i: usize| {
            seen.lock().push(i);
            piece
        };
        let ahead = Ahead::new(10, &ask);
        assert_eq!(*seen.lock(), [0, 1, 2, 3]);
        for begun in 1..=10 {
            ahead.took();
            let want: Vec<usize> = (0..(begun + 4).min(10)).collect();
            assert_eq!(*seen.lock(), want);
        }
    }
}
