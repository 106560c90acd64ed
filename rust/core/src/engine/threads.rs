//! Starts the threads of a run and waits for them, looking at the observer meanwhile.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::observer::{Observer, Progress};
use crate::error::{Error, Result};

/// How often the observer is asked: an interrupt takes at most this long to be seen.
const TICK: Duration = Duration::from_millis(50);

/// Runs every body on a thread of its own until all return. An error, a panic or the observer ends the others too,
/// provided they look at `progress`.
///
/// # Errors
/// The first error of a body, or [`Error::Interrupted`].
pub fn run<'a>(
    bodies: Vec<Box<dyn FnOnce() -> Result<()> + Send + 'a>>,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<()> {
    let (done, wait) = crossbeam_channel::bounded::<()>(0);
    std::thread::scope(|scope| {
        for body in bodies {
            let done = done.clone();
            scope.spawn(move || {
                match catch_unwind(AssertUnwindSafe(body)) {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => progress.fail(e),
                    Err(_) => progress.fail(Error::bug("a thread panicked")),
                }
                drop(done);
            });
        }
        drop(done);
        // The channel carries nothing; it closes when the last thread has dropped its end.
        while let Err(crossbeam_channel::RecvTimeoutError::Timeout) = wait.recv_timeout(TICK) {
            if !progress.stopped() && !observer.tick(progress.done()) {
                progress.fail(Error::Interrupted);
            }
        }
        if !observer.tick(progress.done()) {
            progress.fail(Error::Interrupted);
        }
    });
    progress.finish()
}

/// Calls `f` for every index below `count`, on `threads` threads, in order of start, with what each thread keeps.
///
/// # Errors
/// As [`run`].
pub fn each<S: Default>(
    count: usize,
    threads: usize,
    progress: &Progress,
    observer: &dyn Observer,
    f: impl Fn(usize, &mut S) -> Result<()> + Sync,
) -> Result<()> {
    let next = AtomicUsize::new(0);
    let body = || {
        let mut own = S::default();
        while !progress.stopped() {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                break;
            }
            f(i, &mut own)?;
        }
        Ok(())
    };
    let bodies = (0..threads.min(count).max(1)).map(|_| Box::new(&body) as Box<dyn FnOnce() -> Result<()> + Send + '_>);
    run(bodies.collect(), progress, observer)
}
