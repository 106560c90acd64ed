//! Runs a plan: threads, buffers, journal, the disk. It knows no method by name.

pub mod chunks;
mod job;
mod journal;
pub mod observer;
mod queue;
mod reflink;
mod report;
pub mod spans;
mod survey;
pub mod threads;
pub mod verify;
mod worker;

use std::collections::HashMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use job::Job;
use journal::{Done, Journal};
use observer::{Observer, Progress};
use queue::Queue;
use survey::Survey;
use worker::{Scratch, Shared, Write};

use crate::checkpoint::{Buffer, IoMode, REPORT, Source, Staging, Target, WriteMode};
use crate::delta::ancestry;
use crate::digest::{self, Leaves};
use crate::error::{Error, Result};
use crate::plan::{Action, Plan, budget};
use crate::sizes::WRITERS;

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

/// Runs `plan` into the folder `target`, with `sidecars` beside the tensors. Returns the report, which is also the
/// output's `suture.json`, as JSON text.
///
/// # Errors
/// [`Error::Interrupted`] when the observer stops it, or what failed; the same call then resumes what was done.
pub fn run(
    plan: &Plan,
    target: &Target,
    options: &Options,
    sidecars: &[Sidecar],
    observer: &dyn Observer,
) -> Result<String> {
    plan.check_target(target, options.overwrite)?;
    raise_file_limit();
    let budget = budget::fit(plan, options.memory, options.threads, options.chunk)?;
    let sources = plan.open_sources(options.io)?;
    let doubts = ancestry::doubts(plan, &sources)?;
    let key = journal::key(plan, options);
    let mode = match options.io {
        IoMode::Auto | IoMode::Direct => WriteMode::Direct,
        IoMode::Mmap | IoMode::Pread => WriteMode::Buffered,
    };
    let staging = Staging::open(target, &plan.shards, mode, |folder| journal::read(folder, &key).is_some())?;
    let progress = Progress::default();
    let claimed = journal::read(staging.folder(), &key).unwrap_or_default();
    let mut done = confirm(plan, &staging, claimed, options.threads, &progress, observer)?;
    let resumed = done.len();
    let journal = Journal::start(staging.folder(), &key, done.values())?;
    let cloned = reflink::share(plan, &sources, &staging);
    let fresh = make(plan, options, &budget, &sources, &staging, &cloned, &journal, &done, &progress, observer)?;
    done.extend(fresh.into_iter().map(|d| (d.tensor, d)));
    let shared = cloned.iter().map(|r| r.end - r.start).sum();
    let report = report::render(plan, &done, &sources, resumed, shared, files(plan, sidecars), &doubts);
    staging.publish(&plan.shards, options.overwrite, |folder| {
        write_rest(plan, folder, sidecars, &report)?;
        Journal::remove(folder)
    })?;
    Ok(report)
}

/// Every shard read takes a descriptor and every shard written two; the usual limit of 1024 is soon reached.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Reads back what an earlier run says it finished; keeps what has the digest it should.
fn confirm(
    plan: &Plan,
    staging: &Staging,
    claimed: HashMap<usize, Done>,
    threads: usize,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<HashMap<usize, Done>> {
    let claimed: Vec<Done> = claimed.into_values().filter(|d| d.tensor < plan.tensors.len()).collect();
    let good = Mutex::new(HashMap::new());
    threads::each(claimed.len(), threads, progress, observer, |i, _: &mut ()| {
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
        if digest::hex(digest::combine(leaves.finish().into_iter())) == claimed[i].digest
            && let Ok(mut good) = good.lock()
        {
            good.insert(claimed[i].tensor, claimed[i].clone());
            progress.add(work_bytes(plan, claimed[i].tensor));
        }
        Ok(())
    })?;
    good.into_inner().map_err(|_| Error::Interrupted)
}

/// Bytes a tensor counts for in the progress bar: read as often as its method may, written once.
fn work_bytes(plan: &Plan, tensor: usize) -> u64 {
    let t = &plan.tensors[tensor];
    let reads = match &t.action {
        Action::Copy { .. } => 1,
        Action::Merge { cost, .. } => cost.reads as u64,
    };
    reads * t.action.operands().iter().map(|o| plan.tensor(*o).nbytes).sum::<u64>() + t.nbytes
}

/// Makes every tensor that is not done yet.
#[allow(clippy::too_many_arguments)]
fn make(
    plan: &Plan,
    options: &Options,
    budget: &budget::Budget,
    sources: &[Vec<Source>],
    staging: &Staging,
    cloned: &[std::ops::Range<u64>],
    journal: &Journal,
    done: &HashMap<usize, Done>,
    progress: &Progress,
    observer: &dyn Observer,
) -> Result<Vec<Done>> {
    let (give, free) = crossbeam_channel::unbounded::<Buffer>();
    let (full, written) = crossbeam_channel::unbounded::<Write>();
    let widest = plan.tensors.iter().map(|t| budget.chunk_of(t) * t.dtype.bits().max(8) / 8).max();
    for _ in 0..budget.buffers {
        let _ = give.send(Buffer::new(widest.unwrap_or(0) as usize)?);
    }
    let queue = Queue::new((0..plan.tensors.len()).filter(|i| !done.contains_key(i)), budget.active);
    let fresh = Mutex::new(Vec::new());
    let close = |job: &Job| -> Result<()> {
        let (done, scans) = job.close()?;
        journal.record(&done)?;
        // Passes the method could have needed and did not count as done, so that the bar ends at its end.
        let spared = match &plan.tensors[done.tensor].action {
            Action::Copy { .. } => 0,
            Action::Merge { cost, .. } => cost.reads.saturating_sub(scans + 1) as u64,
        };
        let operands = plan.tensors[done.tensor].action.operands();
        progress.add(spared * operands.iter().map(|o| plan.tensor(*o).nbytes).sum::<u64>());
        if let Ok(mut fresh) = fresh.lock() {
            fresh.push(done);
        }
        Ok(())
    };
    let finish_one = |job: &Job| if job.finished_one()? { close(job) } else { Ok(()) };
    let shared = Shared {
        plan,
        sources,
        cloned,
        chunk: budget.chunk,
        allow_nonfinite: options.allow_nonfinite,
        progress,
        free,
        full,
    };
    let survey = Survey::take(&shared, options.threads, observer, |t| !done.contains_key(&t))?;
    let open = |index: usize| -> Result<Option<Job>> {
        let job = Job::new(plan, index, &survey)?;
        if job.spans == 0 {
            return close(&job).map(|()| None);
        }
        Ok(Some(job))
    };
    let compute = |shared: Shared| -> Result<()> {
        let mut scratch = Scratch::default();
        while let Some(task) = queue.next(progress, open)? {
            let next = shared.work(&task, &mut scratch)?;
            match (task.pass, next) {
                (_, Some(pass)) => queue.again(&task.job, pass),
                (job::Pass::Apply, None) => {
                    if task.job.applied_one() {
                        queue.closed();
                    }
                    finish_one(&task.job)?;
                }
                (job::Pass::Scan(_), None) => {}
            }
        }
        Ok(())
    };
    let write = || -> Result<()> {
        for w in &written {
            // After an error buffers still go round, or a thread waiting for one would wait for ever.
            if !progress.stopped() {
                let result = staging.write(w.shard, w.offset, &w.buffer, w.len);
                let result = result.and_then(|()| finish_one(&w.job));
                progress.add(w.len as u64);
                if let Err(e) = result {
                    progress.fail(e);
                }
            }
            let _ = give.send(w.buffer);
        }
        Ok(())
    };
    let mut bodies: Vec<Box<dyn FnOnce() -> Result<()> + Send + '_>> = Vec::new();
    for _ in 0..WRITERS {
        bodies.push(Box::new(&write));
    }
    for _ in 0..options.threads {
        let shared = shared.clone();
        let compute = &compute;
        bodies.push(Box::new(move || compute(shared)));
    }
    // The writers end when the last sender is gone.
    drop(shared);
    threads::run(bodies, progress, observer)?;
    fresh.into_inner().map_err(|_| Error::Interrupted)
}

/// Name of the index of a sharded output.
const INDEX: &str = "model.safetensors.index.json";

/// Every file the output will consist of, relative to its folder.
fn files(plan: &Plan, sidecars: &[Sidecar]) -> Vec<String> {
    let beside = sidecars.iter().map(|s| match s {
        Sidecar::Bytes(name, _) | Sidecar::Copy(name, _) => name.to_string_lossy().into_owned(),
    });
    let index = (plan.shards.len() > 1).then(|| INDEX.to_owned());
    plan.shards.iter().map(|s| s.file.clone()).chain(index).chain(beside).chain([REPORT.to_owned()]).collect()
}

fn write_rest(plan: &Plan, folder: &Path, sidecars: &[Sidecar], report: &str) -> Result<()> {
    let write = |name: &Path, bytes: &[u8]| {
        let path = folder.join(name);
        let fail = |e| Error::io(&path, "write", e);
        let mut file = std::fs::File::create(&path).map_err(fail)?;
        file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)
    };
    for sidecar in sidecars {
        match sidecar {
            Sidecar::Bytes(name, bytes) => write(name, bytes)?,
            Sidecar::Copy(name, from) => {
                let path = folder.join(name);
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|e| Error::io(parent, "make the folder", e))?;
                }
                std::fs::copy(from, &path)
                    .and_then(|_| std::fs::File::open(&path)?.sync_all())
                    .map_err(|e| Error::io(from, "copy", e))?;
            }
        }
    }
    write(Path::new(REPORT), report.as_bytes())?;
    if plan.shards.len() > 1 {
        let map: serde_json::Map<String, serde_json::Value> =
            plan.tensors.iter().map(|t| (t.name.clone(), plan.shards[t.shard].file.clone().into())).collect();
        let total: u64 = plan.tensors.iter().map(|t| t.nbytes).sum();
        let index = serde_json::json!({"metadata": {"total_size": total}, "weight_map": map});
        write(Path::new(INDEX), &serde_json::to_vec_pretty(&index).unwrap_or_default())?;
    }
    Ok(())
}
