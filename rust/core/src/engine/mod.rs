//! Runs a plan: threads, buffers, journal, the disk. It knows no method by name.
//!
//! A run has four phases: `scan` and settle ([`found`]), which find out what is known only from more than one tensor, [`make`]
//! and [`publish`]. The first three work on any part of the tensors. What a [`device`] computes is made before all else. Where changes
//! are scaled by layer, [`measure`] comes before them all.

mod ahead;
pub mod backend;
pub mod chunks;
pub mod device;
pub mod earlier;
pub mod found;
mod job;
pub mod journal;
pub mod make;
pub mod measure;
pub mod observer;
mod output;
pub mod part;
pub mod publish;
mod queue;
mod reflink;
mod report;
mod rounded;
pub mod rounds;
pub mod scan;
pub mod settled;
mod sources;
pub mod spans;
pub mod statistics;
pub mod threads;
pub mod tiles;
pub mod verify;
mod whole;
mod worker;

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use backend::Backend;
use device::Device;
use journal::{Done, Journal};
use make::{Lane, Place};
use observer::{Observer, Progress};
use settled::Settled;
use tiles::Inputs;

use crate::checkpoint::{Staging, Target, WriteMode};
use crate::digest::{self, Leaves};
use crate::error::Result;
use crate::plan::budget::Budget;
use crate::plan::{Plan, budget};
use crate::source::{IoMode, ROOM, Ranges, Tally};
use crate::view::Sources;

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
    /// What computes those tensors that it takes instead.
    pub device: Option<&'a dyn Device>,
    /// Who is told how far it is, and may stop it.
    pub observer: &'a dyn Observer,
}

/// An output to be made.
#[derive(Clone, Copy)]
pub struct Work<'a> {
    /// The plan.
    pub plan: &'a Plan,
    /// Where the output goes.
    pub target: &'a Target,
    /// What goes beside the tensors.
    pub sidecars: &'a [Sidecar],
    /// Told in the report besides the plan's own warnings.
    pub warnings: &'a [String],
    /// Replace an existing output.
    pub overwrite: bool,
}

/// Makes outputs side by side: what several of them read is read once, as long as the system keeps what is read of a tensor.
/// Returns the report of each, which is also the output's `suture.json`, as JSON text.
///
/// # Errors
/// [`crate::error::Error::Interrupted`] when the observer stops it, or what failed; of what fails while tensors are made nothing is published, and the same call
/// resumes what was done.
pub fn run(works: &[Work], options: &Options, means: &Means) -> Result<Vec<String>> {
    works.iter().try_for_each(|w| w.plan.check_target(w.target, w.overwrite))?;
    let in_file = |w: &Work| w.target.file().map(|name| w.plan.in_file(name)).transpose();
    let single: Vec<Option<Plan>> = works.iter().map(in_file).collect::<Result<_>>()?;
    let plans: Vec<&Plan> = works.iter().zip(&single).map(|(w, single)| single.as_ref().unwrap_or(w.plan)).collect();
    let budget = budget::fit(&plans, options.memory, options.threads, options.chunk)?;
    let sources = sources::of(&plans, options.io);
    sources.iter().try_for_each(publish::unchanged)?;
    let progress = Progress::default();
    let mut begun = Vec::new();
    for (work, plan) in works.iter().zip(&plans) {
        let key = journal::key(plan, options.allow_nonfinite, means.device.map(Device::name));
        let keep = |folder: &Path| journal::read(folder, &key).is_some();
        let staging = Staging::open(work.target, &plan.shards, mode(options), keep)?;
        begun.push(Begun::new(plan, staging, &key, means, &progress)?);
    }
    let settled = Settled::default();
    let (made, shared, fetched) =
        make_all(&begun, &plans, &sources, &settled, &|_| true, &budget, options, means, &progress)?;
    let mut reports = Vec::new();
    for ((((work, plan), sources), (begun, made)), shared) in
        works.iter().zip(&plans).zip(&sources).zip(begun.into_iter().zip(made)).zip(shared)
    {
        let Begun { staging, mut done, .. } = begun;
        let device = means.device.map(Device::name);
        let how = report::How { resumed: done.len(), shared, warnings: work.warnings, fetched, device };
        done.extend(made);
        let beside = publish::beside(plan, work.sidecars, &work.target.report());
        let report = report::render(plan, &done, sources, &how, &beside, publish::digests(work.sidecars)?);
        publish::publish(plan, sources, staging, &done, work.sidecars, &report, work.overwrite)?;
        reports.push(report);
    }
    Ok(reports)
}

/// How shards are written.
fn mode(options: &Options) -> WriteMode {
    match options.io {
        IoMode::Auto | IoMode::Direct => WriteMode::Direct,
        IoMode::Mmap | IoMode::Pread => WriteMode::Buffered,
    }
}

/// What was made of each output, the bytes of it that are shared with inputs, and what was fetched from stores if any input is there.
type MadeOf = (Vec<HashMap<usize, Done>>, Vec<u64>, Option<Tally>);

/// Makes what is left of the tensors that are `wanted` of outputs that have begun, or of parts of them: scans, measures, makes.
#[allow(clippy::too_many_arguments)]
fn make_all(
    begun: &[Begun],
    plans: &[&Plan],
    sources: &[Sources],
    settled: &Settled,
    wanted: &dyn Fn(usize) -> bool,
    budget: &Budget,
    options: &Options,
    means: &Means,
    progress: &Progress,
) -> Result<MadeOf> {
    let ranges = Ranges::all();
    ranges.clear();
    ranges.set_room(budget.remote);
    let before = ranges.tally();
    let mut lanes = Vec::new();
    for ((begun, plan), sources) in begun.iter().zip(plans).zip(sources) {
        let Begun { staging, journal, done } = begun;
        let inputs = Inputs { plan, sources, chunk: budget.chunk, allow_nonfinite: options.allow_nonfinite, progress };
        let shared = reflink::share(plan, sources, staging)?;
        let left = |t: usize| wanted(t) && !done.contains_key(&t);
        // What is found of a weight's codes is wanted for its scales too.
        let open = plan.tensors.iter().enumerate().filter(|(i, t)| t.is_scales() && left(*i));
        let open: HashSet<&str> = open.map(|(_, t)| t.weight()).collect();
        let concerns = |t: usize| left(t) || open.contains(plan.tensors[t].weight());
        let scales = measure::scales(&inputs, means, settled.measures(), concerns)?;
        let found = scan::all(&inputs, means, scales, settled, concerns)?;
        let left: Vec<usize> = (0..plan.tensors.len()).filter(|t| left(*t)).collect();
        lanes.push(Lane { inputs, found, place: Place { staging, shared, journal }, left });
    }
    let mut made = match means.device {
        Some(device) => device::make(&lanes, device, means.observer, progress)?,
        None => lanes.iter().map(|_| HashMap::new()).collect(),
    };
    for (lane, made) in lanes.iter_mut().zip(&made) {
        lane.left.retain(|t| !made.contains_key(t));
    }
    for (made, others) in made.iter_mut().zip(make::make(&lanes, means, budget, progress)?) {
        made.extend(others);
    }
    let shared = lanes.iter().map(|l| l.place.shared.iter().map(|r| r.end - r.start).sum()).collect();
    ranges.clear();
    ranges.set_room(ROOM);
    let fetched = plans.iter().any(|p| p.is_remote()).then(|| ranges.tally().since(before));
    Ok((made, shared, fetched))
}

/// An output, or a part of one, whose folder is claimed.
struct Begun {
    staging: Staging,
    journal: Journal,
    /// What an earlier run has made of it.
    done: HashMap<usize, Done>,
}

impl Begun {
    fn new(plan: &Plan, staging: Staging, key: &str, means: &Means, progress: &Progress) -> Result<Self> {
        let claimed = journal::read(staging.folder(), key).unwrap_or_default();
        let done = confirm(plan, &staging, claimed, means, progress)?;
        let journal = Journal::start(staging.folder(), key, done.values())?;
        Ok(Self { staging, journal, done })
    }
}

/// Reads back what an earlier run says it finished; keeps what has the digest it should.
fn confirm(
    plan: &Plan,
    staging: &Staging,
    claimed: HashMap<usize, Done>,
    means: &Means,
    progress: &Progress,
) -> Result<HashMap<usize, Done>> {
    let ours = |d: &Done| plan.tensors.get(d.tensor).is_some_and(|t| staging.holds(t.shard));
    let claimed: Vec<Done> = claimed.into_values().filter(ours).collect();
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
