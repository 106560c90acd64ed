//! The floor of a benchmark: the same bytes read and written as a run would, with no arithmetic and no order between them.
//!
//! `floor --read DIR [--read DIR ...] [--write OUT --like DIR] [--io mmap|pread|direct] [--write-io buffered|direct]`
//!
//! Prints seconds and bytes as JSON. Two threads read (every word is looked at), two write from a filled buffer.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use suture_core::checkpoint::{Buffer, Checkpoint, IoMode, Shard, Source, Staging, Target, WriteMode};

const CHUNK: u64 = 2 << 20;
const SPAN: u64 = 8 << 20;
const THREADS: usize = 2;

fn main() {
    let mut args = std::env::args().skip(1);
    let (mut reads, mut write, mut like) = (Vec::<PathBuf>::new(), None::<PathBuf>, None::<PathBuf>);
    let (mut io, mut write_mode) = (IoMode::Auto, WriteMode::Direct);
    while let Some(flag) = args.next() {
        let value = args.next().unwrap();
        match flag.as_str() {
            "--read" => reads.push(value.into()),
            "--write" => write = Some(value.into()),
            "--like" => like = Some(value.into()),
            "--io" => io = IoMode::from_name(&value).unwrap(),
            "--write-io" => write_mode = if value == "direct" { WriteMode::Direct } else { WriteMode::Buffered },
            _ => panic!("unknown flag {flag}"),
        }
    }
    let start = Instant::now();
    let sources: Vec<(Source, u64)> = reads
        .iter()
        .flat_map(|p| Checkpoint::open(p).unwrap().files)
        .map(|f| (Source::open(&f.path, f.size, io).unwrap(), f.size))
        .collect();
    let spans: Vec<(usize, u64, u64)> = cut(sources.iter().map(|(_, size)| *size));
    let shards: Vec<Shard> = like
        .iter()
        .flat_map(|p| Checkpoint::open(p).unwrap().files)
        .map(|f| Shard {
            file: f.path.file_name().unwrap().to_string_lossy().into_owned(),
            header: Vec::new(),
            data_bytes: f.size,
        })
        .collect();
    let chunks: Vec<(usize, u64, u64)> = cut(shards.iter().map(Shard::size))
        .into_iter()
        .flat_map(|(file, at, len)| (0..len).step_by(CHUNK as usize).map(move |o| (file, at + o, CHUNK.min(len - o))))
        .collect();
    let staging =
        write.map(|out| Staging::open(&Target::resolve(&out).unwrap(), &shards, write_mode, |_| false).unwrap());
    let (next_read, next_write, fold) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                let (mut buffer, mut seen) = (None, 0);
                while let Some((file, at, len)) = spans.get(next_read.fetch_add(1, Ordering::Relaxed)) {
                    for offset in (0..*len).step_by(CHUNK as usize) {
                        let len = CHUNK.min(len - offset) as usize;
                        seen ^= words(sources[*file].0.read(at + offset, len, &mut buffer).unwrap());
                    }
                    sources[*file].0.release(*at, *len);
                }
                fold.fetch_xor(seen, Ordering::Relaxed);
            });
            if let Some(staging) = &staging {
                scope.spawn(|| {
                    let mut buffer = Buffer::new(CHUNK as usize).unwrap();
                    buffer.bytes_mut().fill(1);
                    while let Some((file, at, len)) = chunks.get(next_write.fetch_add(1, Ordering::Relaxed)) {
                        staging.write(*file, *at, &buffer, *len as usize).unwrap();
                    }
                });
            }
        }
    });
    if let Some(staging) = staging {
        staging.publish(&shards, false, |_| Ok(())).unwrap();
    }
    let (read, written) = (sources.iter().map(|s| s.1).sum::<u64>(), shards.iter().map(Shard::size).sum::<u64>());
    println!(
        "{{\"seconds\": {}, \"read_bytes\": {read}, \"written_bytes\": {written}, \"fold\": {}}}",
        start.elapsed().as_secs_f64(),
        fold.load(Ordering::Relaxed)
    );
}

fn cut(sizes: impl Iterator<Item = u64>) -> Vec<(usize, u64, u64)> {
    sizes
        .enumerate()
        .flat_map(|(i, size)| (0..size).step_by(SPAN as usize).map(move |at| (i, at, SPAN.min(size - at))))
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
