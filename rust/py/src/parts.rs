//! Parts of a plan: made, scanned, settled and put together.

use std::path::PathBuf;

use pyo3::prelude::*;
use suture_core::checkpoint::Target;
use suture_core::delta::ancestry;
use suture_core::engine::backend::Cpu;
use suture_core::engine::device::Device;
use suture_core::engine::part::{self, Made, Making};
use suture_core::engine::rounds;
use suture_core::engine::settled::{Round, Settled, Wanted};
use suture_core::engine::{Means, Options, Sidecar, publish};
use suture_core::error::{Error, Result};
use suture_core::plan as core;
use suture_core::source::IoMode;

use crate::device::Called;
use crate::gil::long;
use crate::plan::Plan;

/// Files beside the tensors: those to write, with their bytes, and those to copy.
type Beside = (Vec<(PathBuf, Vec<u8>)>, Vec<(PathBuf, PathBuf)>);
/// A report without digests, the shards as JSON, and the index with its name.
type Outline = (String, String, Option<(&'static str, Vec<u8>)>);
/// How a part is worked on: threads, how files are read and written, memory, chunk, whether NaN may pass.
type How<'a> = (usize, &'a str, Option<u64>, Option<u64>, bool);

fn sidecars((written, copied): Beside) -> Vec<Sidecar> {
    let written = written.into_iter().map(|(name, bytes)| Sidecar::Bytes(name, bytes));
    written.chain(copied.into_iter().map(|(name, from)| Sidecar::Copy(name, from))).collect()
}

fn options((threads, io, memory, chunk, allow_nonfinite): How) -> Result<Options> {
    Ok(Options { threads, io: IoMode::from_name(io)?, memory, chunk, allow_nonfinite })
}

fn unread(e: &serde_json::Error) -> Error {
    Error::recipe("round", format!("what rounds have found cannot be read: {e}"))
}

fn settled(text: Option<&str>) -> Result<Settled> {
    text.map_or_else(|| Ok(Settled::default()), |text| serde_json::from_str(text).map_err(|e| unread(&e)))
}

/// The plan of an output that goes to `target`.
fn of(plan: &core::Plan, target: &Target) -> Result<core::Plan> {
    target.file().map_or_else(|| Ok(plan.clone()), |name| plan.in_file(name))
}

/// What is to be known of an output before its parts are made: its report without digests, its shards, and the index with its name.
#[pyfunction]
#[pyo3(signature = (plan, target, beside, device=None))]
pub fn outline_json(
    py: Python<'_>,
    plan: Py<Plan>,
    target: PathBuf,
    beside: Beside,
    device: Option<&str>,
) -> PyResult<Outline> {
    long(py, None, |_| {
        let target = Target::resolve(&target)?;
        let plan = of(&plan.get().0, &target)?;
        let report = part::outline(&plan, &target, &sidecars(beside), device)?;
        let shards: Vec<_> = plan.shards.iter().map(part::shard_json).collect();
        Ok((report, serde_json::json!(shards).to_string(), publish::index(&plan)))
    })
}

/// Makes part `index` (from 0) of `n` in the first `folder`, which then is moved to be the second; what is to be said of it as JSON, or None if another process holds the folder.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (plan, target, part, folder, settled, how, progress=None, device=None))]
pub fn make_part(
    py: Python<'_>,
    plan: Py<Plan>,
    target: PathBuf,
    part: (usize, usize),
    folder: (PathBuf, PathBuf),
    settled: Option<&str>,
    how: How,
    progress: Option<Py<PyAny>>,
    device: Option<Py<PyAny>>,
) -> PyResult<Option<String>> {
    let device = device.map(|object| Called::new(py, object)).transpose()?;
    let made = long(py, progress, |observer| {
        let options = options(how)?;
        let target = Target::resolve(&target)?;
        let plan = of(&plan.get().0, &target)?;
        let warnings = ancestry::doubts(&plan, options.io)?;
        let settled = self::settled(settled)?;
        let ((folder, made), warnings) = (&folder, &warnings);
        let making = Making { plan: &plan, target: &target, part, folder, made, settled: &settled, warnings };
        let device = device.as_ref().map(|d| d as &dyn Device);
        let means = Means { threads: options.threads, backend: &Cpu, device, observer };
        Ok(part::make(&making, &options, &means)?.map(|found| found.to_string()))
    });
    match device.and_then(|d| d.raised()) {
        Some(raised) => Err(raised),
        None => made,
    }
}

/// Scans what part `index` (from 0) of `n` has of the next round; what it found as JSON.
#[pyfunction]
#[pyo3(signature = (plan, part, settled, how, progress=None))]
pub fn scan_part(
    py: Python<'_>,
    plan: Py<Plan>,
    part: (usize, usize),
    settled: Option<&str>,
    how: How,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    long(py, progress, |observer| {
        let options = options(how)?;
        let settled = self::settled(settled)?;
        let means = Means { threads: options.threads, backend: &Cpu, device: None, observer };
        let found = rounds::scan_part(&plan.get().0, part, &settled, &options, &means)?;
        Ok(serde_json::to_string(&found).unwrap_or_default())
    })
}

/// What `n` parts still want before they can be made, after the rounds that are `settled` and, if given, what all parts have found in
/// the next: the number of rounds, whether one more is wanted, and what is then settled.
#[pyfunction]
#[pyo3(signature = (plan, n, settled=None, found=None))]
pub fn settle_parts(
    py: Python<'_>,
    plan: Py<Plan>,
    n: usize,
    settled: Option<&str>,
    found: Option<Vec<String>>,
) -> PyResult<(usize, bool, String)> {
    long(py, None, |_| {
        let plan = &plan.get().0;
        let mut settled = self::settled(settled)?;
        if let Some(found) = found {
            let read = |text: &String| serde_json::from_str::<Round>(text).map_err(|e| unread(&e));
            let found = found.iter().map(read).collect::<Result<_>>()?;
            settled = settled.settle(plan, n, found)?;
        }
        let wanted = settled.wanted(plan, n)? != Wanted::Nothing;
        Ok((settled.rounds, wanted, serde_json::to_string(&settled).unwrap_or_default()))
    })
}

/// Publishes what parts have made: each shard by its name, place, size, size of its header and digest of that.
#[pyfunction]
pub fn finish_parts(
    py: Python<'_>,
    target: PathBuf,
    made: Vec<(String, PathBuf, u64, u64, String)>,
    key: &str,
    beside: Beside,
    report: &str,
    overwrite: bool,
) -> PyResult<()> {
    long(py, None, |_| {
        let target = Target::resolve(&target)?;
        let made: Vec<Made> = made
            .into_iter()
            .map(|(file, path, bytes, header_bytes, header)| Made { file, path, bytes, header_bytes, header })
            .collect();
        part::finish(&target, &made, key, &sidecars(beside), report, overwrite)
    })
}
