//! Ranges of objects on their way: what will be read is fetched ahead, side by side, what lies side by side as one.
//!
//! A *block* is a range that is fetched by one request. Blocks are made by what is heard ahead: of 8 to 16 MiB where what is wanted lies
//! together, no larger than what is wanted otherwise. A block that is used up is let go; those that have been
//! read and not yet let go (another pass may want them) go when the room is wanted. What nobody has announced is fetched when it is
//! read, before all else; a little of it with the page around it. A block that takes much longer than others is asked for again; the first answer wins.

use std::ops::Range;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::blocks::{Block, MOST, Phase, State, Tally, pieces};
use super::object::{Fetched, Object};
use crate::error::{Error, Result};

/// Requests in flight at most.
const FLYING: usize = 32;
/// Bytes that blocks take together where nobody says: as many of them as fly, of 12 MiB.
pub const ROOM: u64 = 384 << 20;
/// How long a thread without work waits for a block to be complete.
const LINGER: Duration = Duration::from_millis(10);
/// How often one who waits looks whether what it waits for is late.
const LOOK: Duration = Duration::from_millis(250);

/// All blocks of the process.
pub struct Ranges {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
}

impl Ranges {
    /// Those of the process.
    pub fn all() -> &'static Self {
        static ALL: OnceLock<Ranges> = OnceLock::new();
        ALL.get_or_init(|| Self {
            state: Mutex::new(State { room: ROOM, ..State::default() }),
            work: Condvar::new(),
            done: Condvar::new(),
        })
    }

    /// Sets the bytes that blocks may take together.
    pub fn set_room(&self, room: u64) {
        self.state.lock().room = room;
    }

    /// Bytes that blocks may take together.
    pub fn room(&self) -> u64 {
        self.state.lock().room
    }

    /// What was fetched so far.
    pub fn tally(&self) -> Tally {
        self.state.lock().tally
    }

    /// Requests that are in flight.
    pub fn flying(&self) -> usize {
        let flies = |b: &&Block| matches!(b.phase, Phase::Flying { .. });
        self.state.lock().blocks.values().filter(flies).count()
    }

    /// Sends those who wait away, and forgets what is queued: a run ends before its time.
    pub fn interrupt(&self) {
        let mut state = self.state.lock();
        state.stopped += 1;
        state.forget();
        drop(state);
        self.done.notify_all();
    }

    /// Forgets all blocks: a run is over.
    pub fn clear(&self) {
        self.state.lock().forget();
    }

    /// Hears that `range` will be read.
    pub fn ahead(&'static self, object: &Arc<Object>, range: Range<u64>) {
        let mut state = self.state.lock();
        for piece in state.lacking(object.number, range) {
            state.announce(object, piece);
        }
        state.drop_orphans();
        self.hire(&mut state);
    }

    /// Reads `range` into `target`.
    ///
    /// # Errors
    /// What the object says; [`Error::Interrupted`] if the run ends before its time.
    pub fn read(&'static self, object: &Arc<Object>, range: Range<u64>, target: &mut [u8]) -> Result<()> {
        let mut state = self.state.lock();
        let stopped = state.stopped;
        state.page(object, &range);
        for piece in state.lacking(object.number, range.clone()) {
            for part in pieces(piece, MOST) {
                state.add(object, part, Phase::Queued, true);
            }
        }
        state.hasten(object.number, &range);
        self.hire(&mut state);
        let mut at = range.start;
        while at < range.end {
            let Some(id) = state.covering(object.number, at) else {
                // It was let go while others were waited for.
                let next = state.lacking(object.number, at..range.end).into_iter().next();
                let Some(piece) = next else { return Err(Error::bug("a range is neither here nor lacking")) };
                state.add(object, piece.start..piece.end.min(piece.start + MOST), Phase::Queued, true);
                self.hire(&mut state);
                continue;
            };
            let Some(bytes) = self.wait(&mut state, id, stopped)? else { continue };
            let Some(block) = state.blocks.get_mut(&id) else { continue };
            let (own, end) = (block.range.clone(), block.range.end.min(range.end));
            block.waiting += 1;
            MutexGuard::unlocked(&mut state, || {
                let from = (*bytes).as_ref().as_ref();
                target[(at - range.start) as usize..(end - range.start) as usize]
                    .copy_from_slice(&from[(at - own.start) as usize..(end - own.start) as usize]);
            });
            if let Some(block) = state.blocks.get_mut(&id) {
                block.waiting -= 1;
                block.read += end - at;
                // What nobody announced nobody keeps.
                if !block.announced && block.waiting == 0 && block.read >= block.len() {
                    state.remove(id);
                }
            }
            at = end;
        }
        drop(state);
        self.work.notify_one();
        Ok(())
    }

    /// Lets go what has been used.
    pub fn release(&self, object: &Object, range: Range<u64>) {
        let mut state = self.state.lock();
        let mut gone = false;
        for id in state.touching(object.number, &range) {
            let Some(block) = state.blocks.get_mut(&id) else { continue };
            block.released += block.range.end.min(range.end) - block.range.start.max(range.start);
            let used_up = block.released + block.waste >= block.len();
            if used_up && block.waiting == 0 && matches!(block.phase, Phase::Here(_)) {
                state.remove(id);
                gone = true;
            }
        }
        drop(state);
        if gone {
            self.work.notify_all();
        }
    }

    /// Waits until a block is here; `None` if it was let go before.
    fn wait(&self, state: &mut MutexGuard<'_, State>, id: u64, stopped: u64) -> Result<Option<Arc<Fetched>>> {
        loop {
            if state.stopped != stopped {
                return Err(Error::Interrupted);
            }
            let late = state.late();
            let Some(block) = state.blocks.get_mut(&id) else { return Ok(None) };
            match &mut block.phase {
                Phase::Here(bytes) => return Ok(Some(Arc::clone(bytes))),
                Phase::Failed(problem) => {
                    let error = block.object.fail(problem.clone());
                    // The last one who hears of it; who asks later has it fetched anew.
                    if block.waiting == 0 {
                        state.remove(id);
                    }
                    return Err(error);
                }
                Phase::Flying { since, copies: copies @ 1 } if since.elapsed() > late => {
                    *copies += 1;
                    state.tally.again += 1;
                    state.urgent.push_back(id);
                    self.work.notify_one();
                }
                _ => {}
            }
            state.waits(id, 1);
            self.done.wait_for(state, LOOK);
            state.waits(id, -1);
        }
    }

    /// Sees to it that there are threads enough.
    fn hire(&'static self, state: &mut MutexGuard<'_, State>) {
        let work = state.urgent.len() + state.queue.len() + state.open.len();
        let wanted = work.saturating_sub(state.idle).min(FLYING - state.threads);
        for _ in 0..wanted {
            let spawned = std::thread::Builder::new().name("suture-fetch".into()).spawn(move || self.run());
            if spawned.is_err() {
                break;
            }
            state.threads += 1;
        }
        self.work.notify_all();
    }

    /// A thread's life: fetches whatever is next.
    fn run(&self) {
        let mut state = self.state.lock();
        loop {
            let Some((id, object, range)) = state.take() else {
                state.idle += 1;
                let timed_out = match state.open.is_empty() {
                    true => {
                        self.work.wait(&mut state);
                        false
                    }
                    false => self.work.wait_for(&mut state, LINGER).timed_out(),
                };
                state.idle -= 1;
                if timed_out {
                    state.close_oldest();
                }
                continue;
            };
            let began = Instant::now();
            let found = MutexGuard::unlocked(&mut state, || object.fetch(range.clone()));
            state.took(id, began.elapsed(), found);
            self.done.notify_all();
        }
    }
}
