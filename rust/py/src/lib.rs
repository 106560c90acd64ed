//! `suture._core`: converts, releases the GIL, maps errors, polls signals. Everything else is in `suture-core`.

mod alloc;
mod built;
mod checkpoint;
mod delta;
mod device;
mod errors;
mod gil;
mod parts;
mod plan;
mod remote;

use std::path::PathBuf;

use pyo3::prelude::*;
use suture_core::checkpoint::Target;
use suture_core::delta::options::Options;
use suture_core::error::Error;
use suture_core::methods::registry::METHODS;
use suture_core::model::tied;
use suture_core::source::IoMode;

use checkpoint::Checkpoint;
use errors::to_py;
use gil::long;
use plan::Plan;

#[global_allocator]
static ALLOCATOR: alloc::Allocator = alloc::Allocator;

/// The spec of every method, as a JSON list.
#[pyfunction]
fn methods_json() -> String {
    let specs: Vec<_> = METHODS.iter().map(|m| m.spec()).collect();
    serde_json::to_string(&specs).unwrap_or_default()
}

/// Keys of a recipe that pass unread where they are not read, besides the parameters of methods.
#[pyfunction]
fn unread_keys() -> Vec<&'static str> {
    suture_core::recipe::idle::KEYS.to_vec()
}

/// Whether the tensor called `name`, of so many dimensions, is one that loaders compute again.
#[pyfunction]
fn is_buffer(name: &str, dimensions: usize) -> bool {
    suture_core::model::names::is_buffer(name, dimensions)
}

/// Whether the tensor called `name` is a table of tokens or a head over them, with a row for each token.
#[pyfunction]
fn is_vocabulary(name: &str) -> bool {
    tied::is_table(name) || tied::is_head(name)
}

/// The stack that the tensor called `name` is in, the number of its layer, and its name inside that.
#[pyfunction]
fn layer_of(name: &str) -> Option<(String, usize, String)> {
    let found = suture_core::model::names::split_layer(name)?;
    Some((found.stack().to_owned(), found.layer, found.inside().into_owned()))
}

/// Other names that a tensor has had in its family, or other beginnings of names.
#[pyfunction]
fn other_names(name: &str) -> Vec<String> {
    suture_core::model::names::other_names(name).collect()
}

/// The key of the random words of a tensor, called `tensor`, of the model called `model`.
#[pyfunction]
fn mask_key(seed: u64, model: &str, tensor: &str) -> u64 {
    suture_core::kernels::rng::key(seed, model, tensor)
}

/// The modules of the adapter at `path`, with what their factors mean, as JSON.
#[pyfunction]
fn adapter_json(py: Python<'_>, path: PathBuf) -> PyResult<String> {
    let adapter = long(py, None, |_| suture_core::checkpoint::Adapter::open(&path))?;
    Ok(adapter.to_json().to_string())
}

/// What this library is built with, and what the processor offers, as JSON.
#[pyfunction]
fn build_json() -> String {
    built::describe().to_string()
}

/// The folder that an output is made in before it takes its place; `None` if it cannot be the path of a folder.
#[pyfunction]
fn staging_folder(target: PathBuf) -> Option<PathBuf> {
    Target::resolve(&target).ok().map(|t| t.staging())
}

/// Compares fine-tunes with their base; `options` and the result are JSON.
#[pyfunction]
#[pyo3(signature = (base, tuned, options, io, threads, progress=None))]
fn compare_json(
    py: Python<'_>,
    base: &Checkpoint,
    tuned: Vec<PyRef<'_, Checkpoint>>,
    options: &str,
    io: &str,
    threads: usize,
    progress: Option<Py<PyAny>>,
) -> PyResult<String> {
    let options = parse_options(options).map_err(|e| to_py(py, &e))?;
    let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
    let base = &base.0;
    let tuned: Vec<_> = tuned.iter().map(|t| &*t.0).collect();
    let found = long(py, progress, |o| suture_core::delta::compare(base, &tuned, &options, io, threads, o))?;
    Ok(found.to_json().to_string())
}

/// The metrics of a comparison with these options, as a JSON list.
#[pyfunction]
fn metrics_json(py: Python<'_>, options: &str) -> PyResult<String> {
    let options = parse_options(options).map_err(|e| to_py(py, &e))?;
    Ok(serde_json::to_string(&suture_core::delta::metrics::specs(&options, true)).unwrap_or_default())
}

/// Bytes that [`compare_json`] reads at most.
#[pyfunction]
fn compare_bytes(py: Python<'_>, base: &Checkpoint, tuned: Vec<PyRef<'_, Checkpoint>>, options: &str) -> PyResult<u64> {
    let options = parse_options(options).map_err(|e| to_py(py, &e))?;
    let tuned: Vec<_> = tuned.iter().map(|t| &*t.0).collect();
    Ok(suture_core::delta::read_bytes(&base.0, &tuned, &options))
}

fn parse_options(text: &str) -> suture_core::error::Result<Options> {
    let value =
        serde_json::from_str(text).map_err(|e| Error::recipe("", format!("the options cannot be read: {e}")))?;
    Options::parse(&value)
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
    m.add_function(wrap_pyfunction!(adapter_json, m)?)?;
    m.add_function(wrap_pyfunction!(plan::budget_json, m)?)?;
    m.add_function(wrap_pyfunction!(plan::run, m)?)?;
    m.add_function(wrap_pyfunction!(plan::take_up, m)?)?;
    m.add_function(wrap_pyfunction!(parts::finish_parts, m)?)?;
    m.add_function(wrap_pyfunction!(parts::make_part, m)?)?;
    m.add_function(wrap_pyfunction!(parts::outline_json, m)?)?;
    m.add_function(wrap_pyfunction!(parts::scan_part, m)?)?;
    m.add_function(wrap_pyfunction!(parts::settle_parts, m)?)?;
    m.add_function(wrap_pyfunction!(build_json, m)?)?;
    m.add_function(wrap_pyfunction!(remote::register, m)?)?;
    m.add_function(wrap_pyfunction!(remote::show_remote, m)?)?;
    m.add_function(wrap_pyfunction!(remote::shown, m)?)?;
    m.add_function(wrap_pyfunction!(remote::fetched, m)?)?;
    m.add_function(wrap_pyfunction!(remote::stop_fetching, m)?)?;
    m.add_function(wrap_pyfunction!(delta::extract_delta, m)?)?;
    m.add_function(wrap_pyfunction!(delta::look_delta, m)?)?;
    m.add_function(wrap_pyfunction!(delta::compose_deltas, m)?)?;
    m.add_function(wrap_pyfunction!(delta::delta_json, m)?)?;
    m.add_function(wrap_pyfunction!(mask_key, m)?)?;
    m.add_function(wrap_pyfunction!(methods_json, m)?)?;
    m.add_function(wrap_pyfunction!(unread_keys, m)?)?;
    m.add_function(wrap_pyfunction!(metrics_json, m)?)?;
    m.add_function(wrap_pyfunction!(staging_folder, m)?)?;
    m.add_function(wrap_pyfunction!(is_buffer, m)?)?;
    m.add_function(wrap_pyfunction!(is_vocabulary, m)?)?;
    m.add_function(wrap_pyfunction!(layer_of, m)?)?;
    m.add_function(wrap_pyfunction!(other_names, m)?)?;
    m.add_function(wrap_pyfunction!(compare_json, m)?)?;
    m.add_function(wrap_pyfunction!(compare_bytes, m)?)?;
    m.add_function(wrap_pyfunction!(verify_json, m)?)
}
