//! `suture._core`: converts, releases the GIL, maps errors, polls signals. Everything else is in `suture-core`.

mod checkpoint;
mod errors;
mod gil;
mod plan;

use std::path::PathBuf;

use pyo3::prelude::*;
use suture_core::checkpoint::IoMode;
use suture_core::methods::registry::METHODS;

use checkpoint::Checkpoint;
use errors::to_py;
use gil::long;
use plan::Plan;

/// The spec of every method, as a JSON list.
#[pyfunction]
fn methods_json() -> String {
    let specs: Vec<_> = METHODS.iter().map(|m| m.spec()).collect();
    serde_json::to_string(&specs).unwrap_or_default()
}

/// Compares two checkpoints; the result as JSON.
#[pyfunction]
#[pyo3(signature = (base, tuned, io, threads, progress=None))]
fn compare_json(
    py: Python<'_>,
    base: &Checkpoint,
    tuned: &Checkpoint,
    io: &str,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
    let (base, tuned) = (&base.0, &tuned.0);
    let found = long(py, progress, |o| suture_core::delta::compare(base, tuned, io, threads, o))?;
    Ok(found.to_json(&base.path, &tuned.path).to_string())
}

/// Bytes that [`compare_json`] reads.
#[pyfunction]
fn compare_bytes(base: &Checkpoint, tuned: &Checkpoint) -> u64 {
    suture_core::delta::read_bytes(&base.0, &tuned.0)
}

/// Compares an output with its digests; the result as JSON.
#[pyfunction]
#[pyo3(signature = (path, io, threads, progress=None))]
fn verify_json(
    py: Python<'_>,
    path: PathBuf,
    io: &str,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
    let found = long(py, progress, |o| suture_core::engine::verify::verify(&path, io, threads, o))?;
    Ok(serde_json::to_string(&found).unwrap_or_default())
}

#[pymodule]
fn _core(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("__version__", env!("CARGO_PKG_VERSION"))?;
    m.add_class::<Checkpoint>()?;
    m.add_class::<Plan>()?;
    m.add_function(wrap_pyfunction!(methods_json, m)?)?;
    m.add_function(wrap_pyfunction!(compare_json, m)?)?;
    m.add_function(wrap_pyfunction!(compare_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(verify_json, m)?)
}
