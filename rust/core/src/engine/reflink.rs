//! Byte copies without copying: on XFS and btrfs the output shares the input's blocks.

use std::fs::File;
use std::ops::Range;
use std::os::fd::AsRawFd;

use crate::checkpoint::Staging;
use crate::error::Result;
use crate::plan::{Action, Plan};
use crate::sizes::ALIGN;
use crate::view::Sources;

/// For every output tensor, the bytes of it (from its start) that are shared with its source and need no writing.
///
/// # Errors
/// [`crate::error::Error::Io`] if a shard cannot be opened.
pub fn share(plan: &Plan, sources: &Sources, staging: &Staging) -> Result<Vec<Range<u64>>> {
    let mut shared = vec![0..0; plan.tensors.len()];
    let mut works = true;
    for (t, shared) in plan.tensors.iter().zip(&mut shared) {
        let Action::Move { from, .. } = &t.action else { continue };
        let Some(source) = from.in_place(&plan.models) else { continue };
        if !works || !staging.holds(t.shard) || source.begin % ALIGN != t.offset % ALIGN {
            continue;
        }
        let first = t.offset.next_multiple_of(ALIGN) - t.offset;
        let last = ((t.offset + t.nbytes) / ALIGN * ALIGN).saturating_sub(t.offset);
        if first >= last {
            continue;
        }
        let Some(file) = sources[from.like().model][source.file].file() else { continue };
        // The first refusal (another file system, or one that cannot) settles it for the whole run.
        let to = staging.file(t.shard)?;
        works = clone_range(&file, source.begin + first, &to, t.offset + first, last - first);
        if works {
            *shared = first..last;
        }
    }
    Ok(shared)
}

/// `FICLONERANGE` of linux/fs.h, with its argument.
#[repr(C)]
struct FileCloneRange {
    src_fd: i64,
    src_offset: u64,
    src_length: u64,
    dest_offset: u64,
}

fn clone_range(from: &File, from_offset: u64, to: &File, to_offset: u64, length: u64) -> bool {
    const FICLONERANGE: libc::c_ulong = 0x4020_940d;
    let range = FileCloneRange {
        src_fd: i64::from(from.as_raw_fd()),
        src_offset: from_offset,
        src_length: length,
        dest_offset: to_offset,
    };
    // SAFETY: both descriptors are open, `range` has the layout the call reads, and it is read only during the call.
    unsafe { libc::ioctl(to.as_raw_fd(), FICLONERANGE as _, &raw const range) == 0 }
}
