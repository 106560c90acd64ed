//! The floor of a benchmark: the same bytes read and written as a run would, with no arithmetic and no order between them.
//!
//! `floor --read DIR [--read DIR ...] [--write OUT --like DIR] [--io auto|mmap|pread|direct] [--write-io buffered|direct]`
//!
//! Prints seconds and bytes as JSON. Two threads read (every word is looked at), two write from a filled buffer. The I/O is its
//! own, so that what is measured against it cannot change it.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use memmap2::{Advice, Mmap, MmapMut, UncheckedAdvice};

const CHUNK: u64 = 2 << 20;
const SPAN: u64 = 8 << 20;
const PAGE: u64 = 4096;
const THREADS: usize = 2;

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut reads, mut write, mut like) = (Vec::<PathBuf>::new(), None::<PathBuf>, None::<PathBuf>);
    let (mut io, mut direct_out) = ("auto".to_owned(), true);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap();
        match flag.as_str() {
            "--read" => reads.push(value.into()),
            "--write" => write = Some(value.into()),
            "--like" => like = Some(value.into()),
            "--io" => io = value,
            "--write-io" => direct_out = value == "direct",
            _ => panic!("unknown flag {flag}"),
        }
    }
    let start = Instant::now();
    let sources: Vec<(Reader, u64)> =
        reads.iter().flat_map(|p| files(p)).map(|(p, n)| (Reader::open(&p, &io), n)).collect();
    let spans = cut(sources.iter().map(|(_, size)| *size), SPAN);
    let outputs: Vec<(PathBuf, u64)> = like.iter().flat_map(|p| files(p)).collect();
    let chunks = cut(outputs.iter().map(|(_, size)| *size), CHUNK);
    let sinks: Vec<Writer> = write
        .iter()
        .flat_map(|out| {
            std::fs::create_dir_all(out).unwrap();
            outputs.iter().map(move |(p, n)| Writer::create(&out.join(p.file_name().unwrap()), *n, direct_out))
        })
        .collect();
    let (next_read, next_write, fold) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let (mut buffer, mut seen) = (buffer(), 0);
                while let Some((file, at, len)) = spans.get(next_read.fetch_add(1, Ordering::Relaxed)) {
                    for offset in (0..*len).step_by(CHUNK as usize) {
                        let len = CHUNK.min(len - offset) as usize;
                        seen ^= words(sources[*file].0.read(at + offset, len, &mut buffer));
                    }
                    sources[*file].0.release(*at, *len);
                }
                fold.fetch_xor(seen, Ordering::Relaxed);
            });
            if !sinks.is_empty() {
                scope.spawn(|| {
                    let mut buffer = buffer();
                    buffer.fill(1);
                    while let Some((file, at, len)) = chunks.get(next_write.fetch_add(1, Ordering::Relaxed)) {
                        sinks[*file].write(*at, &buffer[..*len as usize]);
                    }
                });
            }
        }
    });
    sinks.iter().for_each(|s| s.cached.sync_data().unwrap());
    let total = |sizes: &[u64]| sizes.iter().sum::<u64>();
    let read = total(&sources.iter().map(|s| s.1).collect::<Vec<_>>());
    let written = if sinks.is_empty() { 0 } else { total(&outputs.iter().map(|o| o.1).collect::<Vec<_>>()) };
    println!(
        "{{\"seconds\": {}, \"read_bytes\": {read}, \"written_bytes\": {written}, \"fold\": {}}}",
        start.elapsed().as_secs_f64(),
        fold.load(Ordering::Relaxed)
    );
}

/// The safetensors files of a checkpoint, with their sizes.
fn files(path: &Path) -> Vec<(PathBuf, u64)> {
    let mut found: Vec<PathBuf> = if path.is_dir() {
        std::fs::read_dir(path).unwrap().map(|e| e.unwrap().path()).collect()
    } else {
        vec![path.to_owned()]
    };
    found.retain(|p| p.extension().is_some_and(|e| e == "safetensors"));
    found.sort();
    found.into_iter().map(|p| (p.clone(), p.metadata().unwrap().len())).collect()
}

fn buffer() -> MmapMut {
    let map = MmapMut::map_anon((CHUNK + 2 * PAGE) as usize).unwrap();
    let _ = map.advise(Advice::HugePage);
    map
}

enum Reader {
    Mapped(Mmap),
    Cached(File),
    Direct(File),
}

impl Reader {
    fn open(path: &Path, io: &str) -> Self {
        let file = File::open(path).unwrap();
        // SAFETY: the files of a benchmark are not changed while it runs.
        let map = || unsafe { Mmap::map(&file).unwrap() };
        let direct = || OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).ok();
        match io {
            "mmap" => Self::Mapped(map()),
            "auto" if resident(&map()) => Self::Mapped(map()),
            "auto" | "direct" => direct().map_or_else(|| Self::Cached(File::open(path).unwrap()), Self::Direct),
            _ => Self::Cached(file),
        }
    }

    fn read<'a>(&'a self, offset: u64, len: usize, buffer: &'a mut [u8]) -> &'a [u8] {
        let (file, first) = match self {
            Self::Mapped(map) => return &map[offset as usize..offset as usize + len],
            Self::Cached(file) => (file, offset),
            Self::Direct(file) => (file, offset / PAGE * PAGE),
        };
        let skip = (offset - first) as usize;
        let wanted = if skip == 0 && first == offset && matches!(self, Self::Cached(_)) {
            len
        } else {
            (skip + len).next_multiple_of(PAGE as usize)
        };
        let mut filled = 0;
        while filled < skip + len {
            let n = file.read_at(&mut buffer[filled..wanted], first + filled as u64).unwrap();
            assert!(n > 0, "the file ends early");
            filled += n;
        }
        &buffer[skip..skip + len]
    }

    fn release(&self, offset: u64, len: u64) {
        let (start, end) = (offset.next_multiple_of(PAGE), (offset + len) / PAGE * PAGE);
        if let (Self::Mapped(map), true) = (self, end > start) {
            // SAFETY: the map is backed by an unchanged file: dropped pages read back the same from it.
            let _ = unsafe {
                map.unchecked_advise_range(UncheckedAdvice::DontNeed, start as usize, (end - start) as usize)
            };
        }
    }
}

/// Whether most of a map is in the page cache.
fn resident(map: &Mmap) -> bool {
    let pages = map.len().div_ceil(PAGE as usize);
    let mut states = vec![0u8; pages];
    // SAFETY: `states` has a byte for each page of the map.
    let rc = unsafe { libc::mincore(map.as_ptr() as *mut _, map.len(), states.as_mut_ptr()) };
    rc == 0 && states.iter().filter(|s| **s & 1 == 1).count() * 10 >= pages * 9
}

struct Writer {
    cached: File,
    direct: Option<File>,
}

impl Writer {
    fn create(path: &Path, size: u64, direct: bool) -> Self {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true);
        let cached = options.open(path).unwrap();
        let _ = rustix::fs::fallocate(&cached, rustix::fs::FallocateFlags::empty(), 0, size.max(1));
        let direct = direct.then(|| OpenOptions::new().write(true).custom_flags(libc::O_DIRECT).open(path).ok());
        Self { cached, direct: direct.flatten() }
    }

    fn write(&self, offset: u64, bytes: &[u8]) {
        use std::os::fd::AsRawFd;
        let whole = bytes.len() as u64 / PAGE * PAGE;
        match &self.direct {
            Some(direct) => {
                let (pages, rest) = bytes.split_at(whole as usize);
                direct.write_all_at(pages, offset).unwrap();
                self.cached.write_all_at(rest, offset + whole).unwrap();
            }
            None => {
                self.cached.write_all_at(bytes, offset).unwrap();
                // SAFETY: the descriptor is open and owned by `self`; the call touches no memory of this process.
                unsafe {
                    let (at, len) = (offset as i64, bytes.len() as i64);
                    libc::sync_file_range(self.cached.as_raw_fd(), at, len, libc::SYNC_FILE_RANGE_WRITE);
                }
            }
        }
    }
}

fn cut(sizes: impl Iterator<Item = u64>, step: u64) -> Vec<(usize, u64, u64)> {
    sizes
        .enumerate()
        .flat_map(|(i, size)| (0..size).step_by(step as usize).map(move |at| (i, at, step.min(size - at))))
        .collect()
}

fn words(bytes: &[u8]) -> u64 {
    let (words, tail) = bytes.as_chunks::<8>();
    let mut lanes = [0u64; 8];
    for group in words.chunks(8) {
        for (lane, word) in lanes.iter_mut().zip(group) {
            *lane ^= u64::from_le_bytes(*word);
        }
    }
    lanes.iter().fold(tail.len() as u64, |a, b| a ^ b)
}
