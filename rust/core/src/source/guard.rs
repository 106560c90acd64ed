//! Mapped files that are cut short while they are read: an error, not the end of the process.
//!
//! A page of a map that no longer has a file behind it raises SIGBUS. Inside a guarded map the handler puts zeros there and
//! takes a note, which the next read sees. Any other SIGBUS goes to whoever handled it before.

use std::cell::UnsafeCell;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use memmap2::{Advice, Mmap, UncheckedAdvice};
use parking_lot::Mutex;

use crate::sizes::ALIGN;

struct Region {
    start: AtomicUsize,
    len: AtomicUsize,
    cut: AtomicBool,
}

/// Maps there can be at a time; further files are read, not mapped.
const MOST: usize = 1 << 12;
static REGIONS: [Region; MOST] =
    [const { Region { start: AtomicUsize::new(0), len: AtomicUsize::new(0), cut: AtomicBool::new(false) } }; MOST];

/// Who handled SIGBUS before.
struct Previous(UnsafeCell<Option<libc::sigaction>>);
// SAFETY: written only under `SETTING` and before the handler that reads it is in place.
unsafe impl Sync for Previous {}
static PREVIOUS: Previous = Previous(UnsafeCell::new(None));
static SETTING: Mutex<()> = Mutex::new(());
/// Bytes of a page, asked before the handler is in place.
static PAGE: AtomicUsize = AtomicUsize::new(ALIGN as usize);

/// A map whose pages may lose their file.
pub struct Guarded {
    map: Mmap,
    region: &'static Region,
}

impl Guarded {
    /// Guards `map`; `None` if there are too many maps already.
    pub fn new(map: Mmap) -> Option<Self> {
        watch();
        let region = REGIONS.iter().find(|r| {
            // The length claims the slot, the start opens it to the handler.
            r.len.compare_exchange(0, map.len().max(1), Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })?;
        region.cut.store(false, Ordering::Release);
        region.start.store(map.as_ptr() as usize, Ordering::Release);
        Some(Self { map, region })
    }

    /// The bytes of the file; zeros where it was cut short.
    pub fn bytes(&self) -> &[u8] {
        &self.map
    }

    /// True once a page had no file behind it.
    pub fn cut(&self) -> bool {
        self.region.cut.load(Ordering::Acquire)
    }

    /// Waits until all of a range is in memory; false if the system cannot, or the file is shorter by now.
    pub fn fetch(&self, start: usize, len: usize) -> bool {
        let skip = start % ALIGN as usize;
        len == 0 || self.map.advise_range(Advice::PopulateRead, start - skip, len + skip).is_ok()
    }

    /// Lets the memory of a page-aligned range go.
    pub fn forget(&self, start: usize, len: usize) {
        // SAFETY: the map is read-only and backed by a file: dropped pages read back from it, and where it has changed
        // meanwhile that is an error of the run in any case.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, start, len) };
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.region.start.store(0, Ordering::Release);
        self.region.len.store(0, Ordering::Release);
    }
}

/// Puts the handler in place, again if somebody else has taken it since.
fn watch() {
    let _setting = SETTING.lock();
    let ours = handle as *const () as usize;
    PAGE.store(rustix::param::page_size(), Ordering::Release);
    // SAFETY: both structures are plain data owned by this frame; the handler is async-signal-safe and has the signature
    // that SA_SIGINFO asks for.
    unsafe {
        let mut current: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, std::ptr::null(), &raw mut current) != 0 || current.sa_sigaction == ours {
            return;
        }
        *PREVIOUS.0.get() = Some(current);
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = ours;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigaction(libc::SIGBUS, &raw const action, std::ptr::null_mut());
    }
}

extern "C" fn handle(_signal: libc::c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    // SAFETY: the kernel hands over a valid `info` for a handler set with SA_SIGINFO.
    let at = unsafe { (*info).si_addr() } as usize;
    for region in &REGIONS {
        let (start, len) = (region.start.load(Ordering::Acquire), region.len.load(Ordering::Acquire));
        if start == 0 || at < start || at - start >= len {
            continue;
        }
        region.cut.store(true, Ordering::Release);
        let size = PAGE.load(Ordering::Acquire);
        let page = at / size * size;
        // SAFETY: the range lies inside a map that this process owns and only reads; it is replaced by zeros in place, so
        // that slices of it stay valid. The call takes no lock.
        let made = unsafe {
            libc::mmap(
                page as *mut _,
                start + len - page,
                libc::PROT_READ,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                -1,
                0,
            )
        };
        if made != libc::MAP_FAILED {
            return;
        }
    }
    // Not ours: back to whoever was there; the fault is met again and goes to them.
    // SAFETY: `PREVIOUS` was written before this handler was set, and is not written while it is.
    unsafe {
        match &*PREVIOUS.0.get() {
            Some(previous) => libc::sigaction(libc::SIGBUS, previous, std::ptr::null_mut()),
            None => libc::signal(libc::SIGBUS, libc::SIG_DFL) as libc::c_int,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_cut_short_reads_as_zeros_and_is_noted() {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("data");
        std::fs::write(&path, vec![7u8; 4 * ALIGN as usize]).unwrap();
        let file = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        // SAFETY: what this test is about.
        let guarded = Guarded::new(unsafe { Mmap::map(&file) }.unwrap()).unwrap();
        assert_eq!(guarded.bytes()[ALIGN as usize], 7);
        file.set_len(ALIGN).unwrap();
        assert_eq!(guarded.bytes()[2 * ALIGN as usize], 0);
        assert!(guarded.cut());
        assert_eq!(guarded.bytes()[0], 7);
    }
}
