//! Deltas: taken of two models, and described.

use std::path::PathBuf;

use pyo3::prelude::*;
use serde_json::json;
use suture_core::checkpoint::Target;
use suture_core::checkpoint::delta::Delta;
use suture_core::error::{Error, Result};
use suture_core::extract::options::Options;
use suture_core::extract::{self, How};
use suture_core::source::IoMode;

use crate::checkpoint::Checkpoint;
use crate::errors::to_py;
use crate::gil::long;

fn parse(text: &str) -> Result<Options> {
    let value =
        serde_json::from_str(text).map_err(|e| Error::recipe("", format!("the options cannot be read: {e}")))?;
    Options::parse(&value)
}

/// Takes the delta of two models; `options` and the report are JSON.
#[pyfunction]
#[pyo3(signature = (base, tuned, options, out, overwrite, beside, io, threads, progress=None))]
#[allow(clippy::too_many_arguments)]
pub fn extract_delta(
    py: Python<'_>,
    base: &Checkpoint,
    tuned: &Checkpoint,
    options: &str,
    out: PathBuf,
    overwrite: bool,
    beside: Vec<(String, Vec<u8>)>,
    io: &str,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = parse(options).map_err(|e| to_py(py, &e))?;
    let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
    let target = Target::resolve(&out).map_err(|e| to_py(py, &e))?;
    let (base, tuned) = (&base.0, &tuned.0);
    long(py, progress, |observer| {
        let how = How { target: &target, overwrite, beside: &beside, io, threads, observer };
        extract::extract(base, tuned, &options, &how)
    })
}

/// How the change of every tensor would be kept, as JSON, and the bytes that are read.
#[pyfunction]
#[pyo3(signature = (base, tuned, options, threads))]
pub fn look_delta(
    py: Python<'_>,
    base: &Checkpoint,
    tuned: &Checkpoint,
    options: &str,
    threads: usize,
) -> PyResult<String> {
    let options = parse(options).map_err(|e| to_py(py, &e))?;
    let found = extract::look(&base.0, &tuned.0, &options, threads).map_err(|e| to_py(py, &e))?;
    Ok(found.to_string())
}

/// What a delta says of itself, its headers checked, as JSON.
#[pyfunction]
pub fn delta_json(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let delta = long(py, None, |_| Delta::open(&path))?;
    let mut said = json!(delta.said);
    said["bytes"] = delta.bytes().into();
    Ok(said.to_string())
}

/// Writes the sum or the chain of deltas; the report as JSON.
#[pyfunction]
#[pyo3(signature = (deltas, out, overwrite, threads, memory=None, progress=None))]
pub fn compose_deltas(
    py: Python<'_>,
    deltas: Vec<(PathBuf, f64)>,
    out: PathBuf,
    overwrite: bool,
    threads: usize,
    memory: Option<u64>,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let target = Target::resolve(&out).map_err(|e| to_py(py, &e))?;
    long(py, progress, |observer| {
        let how = How { target: &target, overwrite, beside: &[], io: IoMode::Pread, threads, observer };
        extract::compose::compose(&deltas, memory, &how)
    })
}
