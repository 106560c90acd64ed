//! Blocks: the ranges of objects that are wanted, on their way or here.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::object::{Fetched, Object};

/// Bytes of a block that is complete: what is heard next begins another.
pub(super) const LEAST: u64 = 8 << 20;
/// Bytes of a block at most.
pub(super) const MOST: u64 = 16 << 20;
/// Bytes of the smallest block that is worth to be announced.
const SMALLEST: u64 = 256 << 10;
/// The share of a block's bytes that may be fetched though nobody wants them, because they lie between what is wanted.
const WASTE: u64 = 128;
/// A read of no more bytes than [`LITTLE`] that nobody has announced fetches all of a page, and pages are kept for those that follow: a
/// request takes as long as so many bytes. A sparse delta, whose places are searched for entry by entry, took 400 requests a tensor.
pub(super) const PAGE: u64 = 256 << 10;
const LITTLE: u64 = 16 << 10;
const PAGES: usize = 16;
/// A block is late that takes longer than this, and than [`TIMES`] the median of the [`LAST`] ones.
const LATE: Duration = Duration::from_secs(5);
const TIMES: u32 = 4;
const LAST: usize = 64;

/// How far a block is.
pub(super) enum Phase {
    /// May still grow.
    Open,
    Queued,
    Flying {
        since: Instant,
        copies: usize,
    },
    Here(Arc<Fetched>),
    Failed(String),
}

/// A range of an object that one request fetches.
pub(super) struct Block {
    pub(super) object: Arc<Object>,
    pub(super) range: Range<u64>,
    pub(super) phase: Phase,
    /// Wanted by one who waits for it, so that it waits for no room.
    pub(super) urgent: bool,
    /// Whether it was announced: then it stays until it is let go, for it may be read again.
    pub(super) announced: bool,
    /// Bytes that have been read, those that were let go, and those nobody wants.
    pub(super) read: u64,
    pub(super) released: u64,
    pub(super) waste: u64,
    pub(super) waiting: usize,
}

impl Block {
    pub(super) fn len(&self) -> u64 {
        self.range.end - self.range.start
    }
}

/// What was fetched.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// Bytes of all answers.
    pub bytes: u64,
    /// Answers.
    pub requests: u64,
    /// Blocks that were asked for again since they were late.
    pub again: u64,
}

impl Tally {
    /// What was fetched since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            bytes: self.bytes - before.bytes,
            requests: self.requests - before.requests,
            again: self.again - before.again,
        }
    }
}

/// All blocks, and what is to be done about them.
#[derive(Default)]
pub(super) struct State {
    pub(super) blocks: HashMap<u64, Block>,
    /// Blocks of each object by their first byte.
    pub(super) places: HashMap<u64, BTreeMap<u64, u64>>,
    pub(super) urgent: VecDeque<u64>,
    pub(super) queue: VecDeque<u64>,
    /// Those that may grow, one for each object at most.
    pub(super) open: VecDeque<u64>,
    /// Pages, the oldest first.
    pub(super) pages: VecDeque<u64>,
    pub(super) next: u64,
    /// Bytes that blocks may take together.
    pub(super) room: u64,
    /// Bytes of blocks that fly or are here.
    pub(super) held: u64,
    pub(super) threads: usize,
    pub(super) idle: usize,
    pub(super) last: VecDeque<Duration>,
    pub(super) tally: Tally,
    /// Counts interruptions.
    pub(super) stopped: u64,
}

/// A range in pieces of `most` bytes.
pub(super) fn pieces(range: Range<u64>, most: u64) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(most as usize).map(move |at| at..(at + most).min(end))
}

impl State {
    /// Counts one who waits for a block, or one less.
    pub(super) fn waits(&mut self, id: u64, by: isize) {
        if let Some(block) = self.blocks.get_mut(&id) {
            block.waiting = block.waiting.saturating_add_signed(by);
        }
    }

    /// The parts of a range that no block holds.
    pub(super) fn lacking(&self, object: u64, range: Range<u64>) -> Vec<Range<u64>> {
        let (mut found, mut at) = (Vec::new(), range.start);
        for id in self.touching(object, &range) {
            let Some(own) = self.blocks.get(&id).map(|b| b.range.clone()) else { continue };
            if own.start > at {
                found.push(at..own.start);
            }
            at = at.max(own.end);
        }
        if at < range.end {
            found.push(at..range.end);
        }
        found
    }

    /// Blocks that hold something of a range, in order.
    pub(super) fn touching(&self, object: u64, range: &Range<u64>) -> Vec<u64> {
        let Some(places) = self.places.get(&object) else { return Vec::new() };
        let first = places.range(..=range.start).next_back().map_or(range.start, |(start, _)| *start);
        let overlaps = |id: &&u64| self.blocks.get(id).is_some_and(|b| b.range.end > range.start);
        places.range(first..range.end.max(first)).map(|(_, id)| id).filter(overlaps).copied().collect()
    }

    pub(super) fn covering(&self, object: u64, at: u64) -> Option<u64> {
        self.touching(object, &(at..at + 1)).first().copied()
    }

    pub(super) fn add(&mut self, object: &Arc<Object>, range: Range<u64>, phase: Phase, urgent: bool) -> u64 {
        let id = self.next;
        self.next += 1;
        match phase {
            Phase::Open => self.open.push_back(id),
            _ if urgent => self.urgent.push_back(id),
            _ => self.queue.push_back(id),
        }
        self.places.entry(object.number).or_default().insert(range.start, id);
        let block = Block {
            object: Arc::clone(object),
            range,
            phase,
            urgent,
            announced: !urgent,
            read: 0,
            released: 0,
            waste: 0,
            waiting: 0,
        };
        self.blocks.insert(id, block);
        id
    }

    /// Puts what will be read behind the object's open block, or into blocks of its own.
    pub(super) fn announce(&mut self, object: &Arc<Object>, mut range: Range<u64>) {
        // Where room is short blocks are smaller, so that some fly side by side.
        let (least, most) = (LEAST.min(self.room / 8), MOST.min(self.room / 4));
        if most < SMALLEST {
            return;
        }
        let own =
            self.open.iter().copied().find(|id| self.blocks.get(id).is_some_and(|b| b.object.number == object.number));
        if let Some(id) = own
            && let Some(block) = self.blocks.get_mut(&id)
        {
            let gap = range.start.checked_sub(block.range.end);
            let fits = |gap: u64| (block.waste + gap) * WASTE <= block.len() && range.end - block.range.start <= most;
            if let Some(gap) = gap.filter(|gap| fits(*gap)) {
                block.waste += gap;
                block.range.end = range.end;
                if block.len() >= least {
                    self.close(id);
                }
                return;
            }
            self.close(id);
        }
        while range.end - range.start > most {
            let part = range.start..range.start + least;
            range.start = part.end;
            self.add(object, part, Phase::Queued, false);
        }
        let phase = if range.end - range.start >= least { Phase::Queued } else { Phase::Open };
        self.add(object, range, phase, false);
    }

    /// Has what is lacking of a little range fetched with what lies around it.
    pub(super) fn page(&mut self, object: &Arc<Object>, range: &Range<u64>) {
        let little = range.end - range.start <= LITTLE && self.room / 4 >= PAGE;
        if !little || self.lacking(object.number, range.clone()).is_empty() {
            return;
        }
        let page = range.start / PAGE * PAGE..range.end.next_multiple_of(PAGE).min(object.size);
        for piece in self.lacking(object.number, page) {
            let id = self.add(object, piece, Phase::Queued, true);
            if let Some(block) = self.blocks.get_mut(&id) {
                // It stays, and is the first to go.
                (block.announced, block.waste) = (true, block.len());
            }
            self.pages.push_back(id);
        }
        for _ in PAGES..self.pages.len() {
            let Some(oldest) = self.pages.pop_front() else { break };
            match self.blocks.get(&oldest) {
                Some(b) if b.waiting > 0 || !matches!(b.phase, Phase::Here(_)) => self.pages.push_back(oldest),
                Some(_) => self.remove(oldest),
                None => {}
            }
        }
    }

    fn close(&mut self, id: u64) {
        self.open.retain(|o| *o != id);
        if let Some(block) = self.blocks.get_mut(&id) {
            block.phase = Phase::Queued;
            self.queue.push_back(id);
        }
    }

    pub(super) fn close_oldest(&mut self) {
        if let Some(id) = self.open.front().copied() {
            self.close(id);
        }
    }

    /// Has what is queued of a range fetched before all else.
    pub(super) fn hasten(&mut self, object: u64, range: &Range<u64>) {
        for id in self.touching(object, range) {
            let Some(block) = self.blocks.get_mut(&id) else { continue };
            if !block.urgent && matches!(block.phase, Phase::Open | Phase::Queued) {
                (block.phase, block.urgent) = (Phase::Queued, true);
                self.open.retain(|o| *o != id);
                self.queue.retain(|q| *q != id);
                self.urgent.push_back(id);
            }
        }
    }

    /// The next block to fetch, if there is room for it.
    pub(super) fn take(&mut self) -> Option<(u64, Arc<Object>, Range<u64>)> {
        while let Some(id) = self.urgent.pop_front() {
            if let Some(found) = self.fly(id) {
                return Some(found);
            }
        }
        while let Some(id) = self.queue.front().copied() {
            let Some(len) = self.blocks.get(&id).map(Block::len) else {
                self.queue.pop_front();
                continue;
            };
            while self.held + len > self.room && self.drop_read() {}
            if self.held + len > self.room && self.held > 0 {
                return None;
            }
            self.queue.pop_front();
            if let Some(found) = self.fly(id) {
                return Some(found);
            }
        }
        None
    }

    fn fly(&mut self, id: u64) -> Option<(u64, Arc<Object>, Range<u64>)> {
        let block = self.blocks.get_mut(&id)?;
        match block.phase {
            Phase::Open | Phase::Queued => {
                block.phase = Phase::Flying { since: Instant::now(), copies: 1 };
                self.held += block.len();
            }
            // Late, and asked for again.
            Phase::Flying { copies: 2.., .. } => {}
            _ => return None,
        }
        Some((id, Arc::clone(&block.object), block.range.clone()))
    }

    /// An answer.
    pub(super) fn took(&mut self, id: u64, time: Duration, found: std::result::Result<Fetched, String>) {
        if let Ok(bytes) = &found {
            self.tally.bytes += (**bytes).as_ref().len() as u64;
            self.tally.requests += 1;
            if self.last.len() == LAST {
                self.last.pop_front();
            }
            self.last.push_back(time);
        }
        let Some(block) = self.blocks.get_mut(&id) else { return };
        let Phase::Flying { copies, .. } = &mut block.phase else { return };
        match found {
            Ok(bytes) => block.phase = Phase::Here(Arc::new(bytes)),
            // The other answer may still come.
            Err(_) if *copies > 1 => *copies -= 1,
            Err(problem) => block.phase = Phase::Failed(problem),
        }
    }

    /// Lets the oldest block go that has been read.
    fn drop_read(&mut self) -> bool {
        let read = |b: &Block| b.waiting == 0 && matches!(b.phase, Phase::Here(_)) && b.read + b.waste >= b.len();
        let oldest = self.blocks.iter().filter(|(_, b)| read(b)).map(|(id, _)| *id).min();
        oldest.inspect(|id| self.remove(*id)).is_some()
    }

    /// Lets blocks go that were announced and are not read: twice as much as there is room for is announced only if some are not.
    pub(super) fn drop_orphans(&mut self) {
        let mut all: u64 = self.blocks.values().map(Block::len).sum();
        while all > 2 * self.room {
            let idle = |b: &Block| b.waiting == 0 && !matches!(b.phase, Phase::Flying { .. }) && !b.urgent;
            let Some(oldest) = self.blocks.iter().filter(|(_, b)| idle(b)).map(|(id, _)| *id).min() else { return };
            all -= self.blocks.get(&oldest).map_or(0, Block::len);
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&mut self, id: u64) {
        let Some(block) = self.blocks.remove(&id) else { return };
        if matches!(block.phase, Phase::Flying { .. } | Phase::Here(_) | Phase::Failed(_)) {
            self.held -= block.len();
        }
        if let Some(places) = self.places.get_mut(&block.object.number) {
            places.remove(&block.range.start);
        }
        self.open.retain(|o| *o != id);
    }

    pub(super) fn forget(&mut self) {
        (self.blocks, self.places, self.held) = Default::default();
        (self.urgent, self.queue, self.open, self.pages) = Default::default();
    }

    pub(super) fn late(&self) -> Duration {
        let mut last: Vec<Duration> = self.last.iter().copied().collect();
        last.sort_unstable();
        last.get(last.len() / 2).map_or(LATE, |median| LATE.max(*median * TIMES))
    }
}
