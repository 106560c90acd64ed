//! Runs a plan: threads, buffers, journal, the disk. It knows no method by name.
//!
//! A run has four phases: `scan` and settle ([`found`]), which find out what is known only from more than one tensor, [`make`]
//! and [`publish`]. The first three work on any part of the tensors.

mod ahead;
pub mod backend;
pub mod chunks;
pub mod found;
mod job;
pub mod journal;
pub mod make;
pub mod observer;
mod output;
pub mod publish;
mod queue;
mod reflink;
mod report;
pub mod scan;
pub mod spans;
pub mod statistics;
pub mod threads;
pub mod tiles;
pub mod verify;
mod worker;

use std::collections::HashMap;
use std::path::PathBuf;

use parking_lot::Mutex;

use backend::Backend;
use journal::{Done, Journal};
use observer::{Observer, Progress};
use tiles::Inputs;

use crate::checkpoint::{Staging, Target, WriteMode};
use crate::digest::{self, Leaves};
use crate::error::Result;
use crate::plan::{Plan, budget};
use crate::source::IoMode;

/// How a run goes about it; nothing here changes a byte of the output.
#[derive(Debug, Clone)]
pub struct Options {
    /// Threads that compute.
    pub threads: usize,
    /// How files are read and written.
    pub io: IoMode,
    /// Most anonymous memory, in bytes.
    pub memory: Option<u64>,
    /// Elements of a chunk, if not the default.
    pub chunk: Option<u64>,
    /// Let NaN and infinities through instead of failing on them.
    pub allow_nonfinite: bool,
    /// Replace an existing output.
    pub overwrite: bool,
}

/// A file of the output that holds no tensors.
#[derive(Debug, Clone)]
pub enum Sidecar {
    /// Written with these bytes.
    Bytes(PathBuf, Vec<u8>),
    /// Copied from a path.
    Copy(PathBuf, PathBuf),
}

/// With what a phase works.
#[derive(Clone, Copy)]
pub struct Means<'a> {
    /// Threads that compute.
    pub threads: usize,
    /// Who computes.
    pub backend: &'a dyn Backend,
    /// Who is told how far it is, and may stop it.
    pub observer: &'a dyn Observer,
}

/// Runs `plan` into the folder `target`, with `sidecars` beside the tensors. `warnings` are told in the report besides the
/// plan's own. Returns the report, which is also the output's `suture.json`, as JSON text.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] when the observer stops it, or what failed; the same call then resumes what was done.
pub fn run(
    plan: &Plan,
    target: &Target,
    options: &Options,
    sidecars: &[Sidecar],
    warnings: &[String],
    means: &Means,
) -> Result<String> {
    plan.check_target(target, options.overwrite)?;
    let single = target.file().map(|name| plan.in_file(name)).transpose()?;
    let plan = single.as_ref().unwrap_or(plan);
    let budget = budget::fit(plan, options.memory, options.threads, options.chunk)?;
    let sources = plan.sources(options.io);
    publish::unchanged(&sources)?;
    let key = journal::key(plan, options);
    let mode = match options.io {
        IoMode::Auto | IoMode::Direct => WriteMode::Direct,
        IoMode::Mmap | IoMode::Pread => WriteMode::Buffered,
    };
    let staging = Staging::open(target, &plan.shards, mode, |folder| journal::read(folder, &key).is_some())?;
    let progress = Progress::default();
    let claimed = journal::read(staging.folder(), &key).unwrap_or_default();
    let mut done = confirm(plan, &staging, claimed, means, &progress)?;
    let resumed = done.len();
    let journal = Journal::start(staging.folder(), &key, done.values())?;
    let shared = reflink::share(plan, &sources, &staging)?;
    let inputs = Inputs {
        plan,
        sources: &sources,
        chunk: budget.chunk,
        allow_nonfinite: options.allow_nonfinite,
        progress: &progress,
    };
    let found = scan::all(&inputs, means, |t| !done.contains_key(&t))?;
    let place = make::Place { staging: &staging, shared: &shared, journal: &journal };
    let left: Vec<usize> = (0..plan.tensors.len()).filter(|t| !done.contains_key(t)).collect();
    done.extend(make::make(&inputs, means, &budget, &found, &place, left)?);
    let how = report::How { resumed, shared: shared.iter().map(|r| r.end - r.start).sum(), warnings };
    let report = report::render(
        plan,
        &done,
        &sources,
        &how,
        &publish::beside(plan, sidecars, &target.report()),
        publish::digests(sidecars)?,
    );
    publish::publish(plan, &sources, staging, &done, sidecars, &report, options.overwrite)?;
    Ok(report)
}

/// Reads back what an earlier run says it finished; keeps what has the digest it should.
fn confirm(
    plan: &Plan,
    staging: &Staging,
    claimed: HashMap<usize, Done>,
    means: &Means,
    progress: &Progress,
) -> Result<HashMap<usize, Done>> {
    let claimed: Vec<Done> = claimed.into_values().filter(|d| d.tensor < plan.tensors.len()).collect();
    let good = Mutex::new(HashMap::new());
    threads::each(claimed.len(), means.threads, progress, means.observer, |i, _: &mut ()| {
        let t = &plan.tensors[claimed[i].tensor];
        let mut leaves = Leaves::new();
        let mut buffer = vec![0; digest::BLOCK.min(t.nbytes as usize)];
        let mut at = 0;
        while at < t.nbytes && !progress.stopped() {
            let part = &mut buffer[..(t.nbytes - at).min(digest::BLOCK as u64) as usize];
            staging.read_back(t.shard, t.offset + at, part)?;
            leaves.update(part);
            at += part.len() as u64;
        }
        if digest::hex(digest::combine(leaves.finish().into_iter())) == claimed[i].digest {
            good.lock().insert(claimed[i].tensor, claimed[i].clone());
            progress.add(make::work_bytes(plan, claimed[i].tensor));
        }
        Ok(())
    })?;
    Ok(good.into_inner())
}
