//! A part of a plan, made in a folder of its own: whole shards, and what is known of them. Nothing is published.
//!
//! Whoever has all parts moves them into one folder, with what goes beside them, and publishes that as a single run does.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::journal::{self, Done};
use super::observer::Progress;
use super::report::{self, How};
use super::settled::{Settled, Wanted};
use super::{Begun, Means, Options, Sidecar, make_all, publish, sources};
use crate::checkpoint::{Shard, Staging, Target};
use crate::error::{Error, Result};
use crate::plan::parts::divide;
use crate::plan::{Plan, budget};

/// A part that is to be made.
#[derive(Clone, Copy)]
pub struct Making<'a> {
    /// The plan; of an output that is one file, with its shard named so.
    pub plan: &'a Plan,
    /// Where the output will go.
    pub target: &'a Target,
    /// Which part, from 0, and of how many.
    pub part: (usize, usize),
    /// The folder it is made in, and where that is moved once all of it is made: nobody else goes on with it there.
    pub folder: &'a Path,
    /// See `folder`.
    pub made: &'a Path,
    /// What rounds have found.
    pub settled: &'a Settled,
    /// Told in the report besides the plan's own warnings.
    pub warnings: &'a [String],
}

/// Makes the shards of a part; returns what is to be said of them, as JSON. `None` if another process is about to make it in the
/// folder.
///
/// # Errors
/// As [`super::run`]; the same call resumes what was done. [`Error::Recipe`] if rounds are to come first.
pub fn make(making: &Making, options: &Options, means: &Means) -> Result<Option<Value>> {
    let Making { plan, target, part: (index, n), folder, made: place, settled, warnings } = *making;
    if settled.wanted(plan, n)? != Wanted::Nothing {
        return Err(Error::recipe("part", "its method takes statistics over several parts, which rounds find first"));
    }
    let parts = divide(plan, n);
    let own = parts.get(index).ok_or_else(|| Error::recipe("part", "there is no such part"))?;
    let budget = budget::fit(&[plan], options.memory, options.threads, options.chunk)?;
    let all = sources::of(&[plan], options.io);
    all.iter().try_for_each(publish::unchanged)?;
    let progress = Progress::default();
    // Without what is only so here: where files lie, and their numbers. The folder belongs to this very job.
    let key = json!([env!("CARGO_PKG_VERSION"), plan.hash(), options.allow_nonfinite, means.device.map(|d| d.name())]);
    let key = crate::digest::hex(crate::digest::of_bytes(key.to_string().as_bytes()));
    let keep = |folder: &Path| journal::read(folder, &key).is_some();
    let mut shards = own.shards.iter().map(|s| (*s, &plan.shards[*s]));
    let mode = super::mode(options);
    let Some(staging) = Staging::of_part(target, folder.to_owned(), &mut shards, mode, keep)? else { return Ok(None) };
    let begun = [Begun::new(plan, staging, &key, means, &progress)?];
    let wanted = |t: usize| own.shards.contains(&plan.tensors[t].shard);
    let (mut made, shared, fetched) =
        make_all(&begun, &[plan], &all, settled, &wanted, &budget, options, means, &progress)?;
    all.iter().try_for_each(publish::unchanged)?;
    let [Begun { staging, mut done, .. }] = begun;
    let resumed = done.len();
    done.extend(made.pop().unwrap_or_default());
    if let Some(missing) = (0..plan.tensors.len()).find(|t| wanted(*t) && !done.contains_key(t)) {
        return Err(Error::bug(format!("`{}` was not made", plan.tensors[missing].name)));
    }
    staging.end_part(&plan.shards, place)?;
    let how = How { resumed, shared: shared[0], warnings, fetched, device: means.device.map(|d| d.name()) };
    let mut lines: Vec<&Done> = done.values().collect();
    lines.sort_unstable_by_key(|d| d.tensor);
    Ok(Some(json!({
        "shards": own.shards.iter().map(|s| shard_json(&plan.shards[*s])).collect::<Vec<_>>(),
        "tensors": lines,
        "scales": report::scales_json(plan, &done),
        "run": report::run_json(&all[0], &how),
        "warnings": warnings,
    })))
}

/// What is to be said of a shard: its file, its size, and the size and the digest of its header.
pub fn shard_json(shard: &Shard) -> Value {
    json!({
        "file": shard.file,
        "bytes": shard.size(),
        "header_bytes": shard.header.len(),
        "header": crate::digest::hex(crate::digest::of_bytes(&shard.header)),
    })
}

/// The report of an output of which nothing is made yet, as JSON text: in the place of a digest of an input stands the number of the
/// input, of the output's nothing.
///
/// # Errors
/// [`Error::Io`] if a side file cannot be read.
pub fn outline(plan: &Plan, target: &Target, sidecars: &[Sidecar], device: Option<&str>) -> Result<String> {
    let numbered = |tensor: usize| {
        let inputs = (0..plan.tensors[tensor].action.views().len()).map(|i| Some(i.to_string())).collect();
        let backend = device.map(str::to_owned);
        Done { tensor, digest: String::new(), inputs, found: Default::default(), backend }
    };
    let done: HashMap<usize, Done> = (0..plan.tensors.len()).map(|t| (t, numbered(t))).collect();
    let how = How { resumed: 0, shared: 0, warnings: &[], fetched: None, device };
    let beside = publish::beside(plan, sidecars, &target.report());
    Ok(report::render(plan, &done, &Vec::new(), &how, &beside, publish::digests(sidecars)?))
}

/// A shard that a part has made.
#[derive(Debug, Clone)]
pub struct Made {
    /// Its name.
    pub file: String,
    /// Where it lies.
    pub path: PathBuf,
    /// Its size in bytes.
    pub bytes: u64,
    /// Bytes of its header.
    pub header_bytes: u64,
    /// The digest of its header.
    pub header: String,
}

impl Made {
    /// Reads the header of the file, which must be the shard that it was, in a folder that it was moved to, or where it was made.
    ///
    /// # Errors
    /// [`Error::Output`] if it is not there, or not what it was.
    fn shard(&self, folder: &Path) -> Result<Shard> {
        use std::os::unix::fs::FileExt;
        let moved = folder.join(&self.file);
        let path = if self.path.exists() { &self.path } else { &moved };
        let gone = |_| Error::output(path, "is gone; make its part again");
        let file = std::fs::File::open(path).map_err(gone)?;
        let bytes = file.metadata().map_err(gone)?.len();
        let problem = |p: String| Err(Error::output(path, format!("{p}; make its part again")));
        if bytes != self.bytes || self.header_bytes > bytes {
            return problem(format!("has {bytes} bytes, and {} when it was made", self.bytes));
        }
        let mut header = vec![0; self.header_bytes as usize];
        file.read_exact_at(&mut header, 0).map_err(|e| Error::io(path, "read", e))?;
        if crate::digest::hex(crate::digest::of_bytes(&header)) != self.header {
            return problem("has another header than when it was made".to_owned());
        }
        Ok(Shard {
            file: self.file.clone(),
            header,
            data_bytes: bytes - self.header_bytes,
            metadata: Default::default(),
        })
    }
}

/// Publishes an output whose shards were `made` by parts: moves them into the folder of a run, adds the files beside them and the
/// `report`, and puts that in its place. What an earlier call of the same `key` has moved stays.
///
/// # Errors
/// [`Error::Output`] or [`Error::Io`]; the same call goes on.
pub fn finish(
    target: &Target,
    made: &[Made],
    key: &str,
    sidecars: &[Sidecar],
    report: &str,
    overwrite: bool,
) -> Result<()> {
    target.vacant(overwrite)?;
    let keep = |folder: &Path| journal::read(folder, key).is_some();
    let staged = target.staging();
    let shards: Vec<Shard> = made.iter().map(|m| m.shard(&staged)).collect::<Result<_>>()?;
    let move_all = |folder: &Path| {
        journal::Journal::start(folder, key, std::iter::empty())?;
        let here = |m: &&Made| m.path.exists();
        made.iter().filter(here).try_for_each(|m| {
            std::fs::rename(&m.path, folder.join(&m.file)).map_err(|e| Error::io(&m.path, "move to the output", e))
        })
    };
    let staging = Staging::adopt(target, &shards, keep, move_all)?;
    let name = target.report();
    let beside = sidecars.iter().map(|s| match s {
        Sidecar::Bytes(name, _) | Sidecar::Copy(name, _) => name.clone(),
    });
    let files: Vec<PathBuf> = beside.chain([PathBuf::from(&name)]).collect();
    staging.publish(&shards, &files, journal::FILE, overwrite, |folder| {
        publish::write_beside(folder, sidecars, &name, report)
    })
}
