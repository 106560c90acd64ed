//! Memory for large things: mapped for each alone, and given back when it is freed.
//!
//! The C library keeps what is freed, up to 64 MiB in each thread's arena: twelve changes of a 1031 x 1031 matrix took 337 MiB so where
//! 207 were held, and the memory that a plan states was exceeded. As the library's own threshold belongs to the whole process,
//! Python's libraries too, it is left as it is.

use std::alloc::{GlobalAlloc, Layout, System};
use std::ptr;

/// Bytes from which an allocation has a mapping of its own.
const LARGE: usize = 1 << 20;
/// What mappings are aligned to, at least.
const PAGE: usize = 4096;

/// The allocator of the extension.
pub struct Allocator;

fn own_mapping(layout: &Layout) -> bool {
    cfg!(target_os = "linux") && layout.size() >= LARGE && layout.align() <= PAGE
}

fn map(size: usize) -> *mut u8 {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping of no file, wherever there is room.
    let found = unsafe { libc::mmap(ptr::null_mut(), size, access, kind, -1, 0) };
    if found == libc::MAP_FAILED { ptr::null_mut() } else { found.cast() }
}

// SAFETY: a layout alone decides whether memory is mapped or the system's, so that all of it is freed as it was had; mappings are
// zeros, of the length asked for, and aligned to pages.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if own_mapping(&layout) {
            return map(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if own_mapping(&layout) {
            return map(layout.size());
        }
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        if own_mapping(&layout) {
            // SAFETY: it was mapped with this length, and nobody has it any more.
            unsafe { libc::munmap(memory.cast(), layout.size()) };
            return;
        }
        // SAFETY: as the caller promises; it came from the system.
        unsafe { System.dealloc(memory, layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller promises that the size fits a layout of this alignment.
        let new = unsafe { Layout::from_size_align_unchecked(size, layout.align()) };
        match (own_mapping(&layout), own_mapping(&new)) {
            // SAFETY: as the caller promises; it came from the system and stays there.
            (false, false) => unsafe { System.realloc(memory, layout, size) },
            #[cfg(target_os = "linux")]
            (true, true) => {
                // SAFETY: it was mapped with this length; the caller goes on with what is returned.
                let moved = unsafe { libc::mremap(memory.cast(), layout.size(), size, libc::MREMAP_MAYMOVE) };
                if moved == libc::MAP_FAILED { ptr::null_mut() } else { moved.cast() }
            }
            _ => {
                // SAFETY: the new layout is sound; what is copied is in both; the old memory is freed as it was had.
                unsafe {
                    let moved = self.alloc(new);
                    if !moved.is_null() {
                        ptr::copy_nonoverlapping(memory, moved, layout.size().min(size));
                        self.dealloc(memory, layout);
                    }
                    moved
                }
            }
        }
    }
}
