//! `Plan`: a compiled recipe, to look at or to run.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pyo3::prelude::*;
use serde_json::json;
use suture_core::checkpoint::Target;
use suture_core::delta::ancestry;
use suture_core::engine::backend::Cpu;
use suture_core::engine::device::Device;
use suture_core::engine::{self, Means, Options, Sidecar, Work};
use suture_core::error::Error;
use suture_core::plan as core;
use suture_core::source::IoMode;

use crate::device::Called;
use crate::errors::to_py;
use crate::gil::long;

/// A tensor by its number, the file it lies in, its first byte there, and how many it has.
type Lies<'a> = (usize, &'a Path, u64, u64);

#[pyclass(frozen, module = "suture._core")]
pub struct Plan(pub core::Plan);

#[pymethods]
impl Plan {
    #[new]
    #[pyo3(signature = (recipe, shard_size=None, seed=0, warnings=Vec::new(), vocabulary=None))]
    fn new(
        py: Python<'_>,
        recipe: &str,
        shard_size: Option<u64>,
        seed: u64,
        warnings: Vec<String>,
        vocabulary: Option<&str>,
    ) -> PyResult<Self> {
        let value: serde_json::Value = serde_json::from_str(recipe)
            .map_err(|e| to_py(py, &Error::recipe("", format!("the recipe cannot be read: {e}"))))?;
        let mut plan = long(py, None, |_| {
            let vocabulary = vocabulary.map(|v| core::Vocabulary::parse(v).map(Arc::new)).transpose()?;
            suture_core::ops::compile(&value, shard_size, seed, vocabulary)
        })?;
        plan.warnings.splice(..0, warnings);
        Ok(Self(plan))
    }

    /// The plan that `text`, made by `to_json`, describes; with `elsewhere` its files may be copies of the same sizes.
    #[staticmethod]
    #[pyo3(signature = (text, elsewhere=false))]
    fn from_json(py: Python<'_>, text: &str, elsewhere: bool) -> PyResult<Self> {
        let value: serde_json::Value = serde_json::from_str(text)
            .map_err(|e| to_py(py, &Error::recipe("", format!("the plan cannot be read: {e}"))))?;
        long(py, None, |_| core::Plan::from_json(&value, elsewhere)).map(Self)
    }

    /// The same plan, with more that the user should know.
    fn telling(&self, warnings: Vec<String>, notes: Vec<(String, String)>) -> Self {
        let mut plan = self.0.clone();
        plan.warnings.extend(warnings);
        plan.notes.extend(notes);
        Self(plan)
    }

    /// The same plan with its one file GGUF, whose header says this of the model.
    fn in_gguf(&self, py: Python<'_>, said: &[u8], factors: Vec<f32>) -> PyResult<Self> {
        self.0.in_gguf(said, &factors).map(Self).map_err(|e| to_py(py, &e))
    }

    fn to_json(&self) -> String {
        self.0.to_json()
    }

    fn config_json(&self) -> String {
        json!(self.0.config).to_string()
    }

    /// Digest of everything but the inputs' data.
    #[getter]
    fn hash(&self) -> &str {
        self.0.hash()
    }

    #[getter]
    fn write_bytes(&self) -> u64 {
        self.0.write_bytes()
    }

    /// The models it reads.
    #[getter]
    fn paths(&self) -> Vec<PathBuf> {
        self.0.models.iter().map(|m| m.path.clone()).collect()
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.0.warnings.clone()
    }

    #[getter]
    fn work_bytes(&self) -> u64 {
        self.0.read_bytes() + self.0.tensors.iter().map(|t| t.nbytes).sum::<u64>()
    }

    /// The division of the plan into `n` parts, as JSON; and without a number what each shard reads and writes.
    #[pyo3(signature = (n=None))]
    fn parts_json(&self, n: Option<usize>) -> String {
        let plan = &self.0;
        let parts = n.map_or_else(|| core::parts::of_shards(plan), |n| core::parts::divide(plan, n));
        let input = |(model, file): &(usize, usize)| {
            let name = plan.models[*model].files[*file].path.file_name().unwrap_or_default();
            format!("{}/{}", plan.labels[*model], name.to_string_lossy())
        };
        let of = |part: &core::parts::Part| {
            json!({
                "shards": part.shards.iter().map(|s| &plan.shards[*s].file).collect::<Vec<_>>(),
                "tensors": part.tensors,
                "read_bytes": part.read_bytes,
                "write_bytes": part.write_bytes,
                "inputs": part.inputs.iter().map(input).collect::<Vec<_>>(),
            })
        };
        json!(parts.iter().map(of).collect::<Vec<_>>()).to_string()
    }

    /// Of a shard (from 0) whose tensors all lie in input files as they are to be: its header, and for each in order its number,
    /// the file, the first byte there, and how many.
    fn in_place(&self, shard: usize) -> Option<(Cow<'_, [u8]>, Vec<Lies<'_>>)> {
        let header = &*self.0.shards.get(shard)?.header;
        let own = core::parts::in_place(&self.0, shard)?;
        let sized = |(t, path, at): (usize, _, _)| (t, path, at, self.0.tensors[t].nbytes);
        Some((header.into(), own.into_iter().map(sized).collect()))
    }

    /// The files that tensors are read from, by model, with what tells them from others.
    fn files_json(&self) -> String {
        let of = |m: &suture_core::checkpoint::Checkpoint| -> Vec<_> {
            m.files.iter().map(|f| json!({"path": f.path.to_string_lossy(), "identity": f.identity})).collect()
        };
        json!(self.0.models.iter().map(|m| of(m)).collect::<Vec<_>>()).to_string()
    }

    /// As `check_target`, but for the room on the disk.
    fn check_place(&self, py: Python<'_>, target: PathBuf, overwrite: bool) -> PyResult<()> {
        Target::resolve(&target).and_then(|t| self.0.check_place(&t, overwrite)).map_err(|e| to_py(py, &e))
    }

    fn check_target(&self, py: Python<'_>, target: PathBuf, overwrite: bool) -> PyResult<()> {
        Target::resolve(&target).and_then(|t| self.0.check_target(&t, overwrite)).map_err(|e| to_py(py, &e))
    }
}

/// What the memory of a run of plans together comes to, as JSON.
#[pyfunction]
#[pyo3(signature = (plans, threads, memory=None, chunk=None))]
pub fn budget_json(
    py: Python<'_>,
    plans: Vec<Py<Plan>>,
    threads: usize,
    memory: Option<u64>,
    chunk: Option<u64>,
) -> PyResult<String> {
    let plans: Vec<&core::Plan> = plans.iter().map(|p| &p.get().0).collect();
    let b = core::budget::fit(&plans, memory, threads, chunk).map_err(|e| to_py(py, &e))?;
    Ok(json!({"chunk_elements": b.chunk, "peak_bytes": b.peak}).to_string())
}

/// Moves the output in `folder`, which `earlier` made on the CPU and `report` is of, to where `target` is made, for a run of `plan` to
/// go on with; returns the bytes that both plans make alike. Where there are none, it stays.
#[pyfunction]
pub fn take_up(
    py: Python<'_>,
    plan: Py<Plan>,
    earlier: Py<Plan>,
    report: &str,
    folder: PathBuf,
    target: PathBuf,
    allow_nonfinite: bool,
) -> PyResult<u64> {
    let (plan, earlier) = (&plan.get().0, &earlier.get().0);
    long(py, None, |_| {
        engine::earlier::take_up(plan, earlier, report, &folder, &Target::resolve(&target)?, allow_nonfinite)
    })
}

/// An output: plan, place, whether to replace what is there, files to write beside the tensors, and files to copy there.
type Output = (Py<Plan>, PathBuf, bool, Vec<(PathBuf, Vec<u8>)>, Vec<(PathBuf, PathBuf)>);

/// Makes outputs side by side; returns their reports as JSON texts.
#[allow(clippy::too_many_arguments)]
#[pyfunction]
#[pyo3(signature = (outputs, *, threads, io, memory, chunk, allow_nonfinite, progress, device=None))]
pub fn run(
    py: Python<'_>,
    outputs: Vec<Output>,
    threads: usize,
    io: &str,
    memory: Option<u64>,
    chunk: Option<u64>,
    allow_nonfinite: bool,
    progress: Option<Py<PyAny>>,
    device: Option<Py<PyAny>>,
) -> PyResult<Vec<String>> {
    let device = device.map(|object| Called::new(py, object)).transpose()?;
    let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
    let options = Options { threads, io, memory, chunk, allow_nonfinite };
    let made = long(py, progress, |observer| {
        let mut checked = Vec::new();
        for (plan, target, overwrite, written, copied) in outputs {
            let target = Target::resolve(&target)?;
            plan.get().0.check_target(&target, overwrite)?;
            let doubts = ancestry::doubts(&plan.get().0, io)?;
            let written = written.into_iter().map(|(name, bytes)| Sidecar::Bytes(name, bytes));
            let copied = copied.into_iter().map(|(name, from)| Sidecar::Copy(name, from));
            checked.push((plan, target, overwrite, written.chain(copied).collect::<Vec<_>>(), doubts));
        }
        let works: Vec<Work> = (checked.iter())
            .map(|(plan, target, overwrite, sidecars, warnings)| Work {
                plan: &plan.get().0,
                target,
                sidecars,
                warnings,
                overwrite: *overwrite,
            })
            .collect();
        let device = device.as_ref().map(|d| d as &dyn Device);
        engine::run(&works, &options, &Means { threads, backend: &Cpu, device, observer })
    });
    match device.and_then(|d| d.raised()) {
        Some(raised) => Err(raised),
        None => made,
    }
}
