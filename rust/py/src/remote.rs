//! Objects of stores, which a Python callable fetches.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use suture_core::source::Ranges;
use suture_core::source::object::{self, Fetch, Fetched, Object};

use crate::errors::to_py;

/// A callable `(start, stop) -> bytes`.
struct Called(Py<PyAny>);

/// What it gave; freed when it is no longer wanted, and not whenever the interpreter next runs.
struct Held(Option<PyBackedBytes>);

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let bytes = self.0.take();
        if Python::try_attach(|_| drop(bytes)).is_none() {
            // The interpreter is going away, and its memory with it.
        }
    }
}

impl Fetch for Called {
    fn fetch(&self, range: std::ops::Range<u64>) -> Result<Fetched, String> {
        let call = |py: Python<'_>| {
            let found = self.0.call1(py, (range.start, range.end)).and_then(|b| Ok(b.extract::<PyBackedBytes>(py)?));
            found.map_err(|e| e.value(py).to_string())
        };
        let found = Python::try_attach(call).unwrap_or_else(|| Err("the program ends".to_owned()))?;
        Ok(Box::new(Held(Some(found))))
    }
}

/// Makes the file at `path` the stand-in of an object of a store: `fetch(start, stop)` gives its bytes, or raises what is wrong.
#[pyfunction]
#[pyo3(name = "remote")]
pub fn register(py: Python<'_>, path: PathBuf, url: &str, size: u64, etag: &str, fetch: Py<PyAny>) -> PyResult<()> {
    // Else what was once taken in one piece stays with the process, and the pieces do not fit together.
    // SAFETY: a number is set; other threads that allocate are none the worse.
    unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, 1 << 20) };
    Object::register(&path, url, size, etag, Box::new(Called(fetch))).map_err(|e| to_py(py, &e))
}

/// Has `url` shown for what lies in the folder of stand-ins `folder`.
#[pyfunction]
pub fn show_remote(folder: &str, url: &str) {
    object::show(folder, url);
}

/// A text with URLs for folders of stand-ins.
#[pyfunction]
pub fn shown(text: &str) -> String {
    object::shown(text)
}

/// What was fetched so far: bytes, answers, and how often what was late was asked for again.
#[pyfunction]
pub fn fetched() -> (u64, u64, u64) {
    let tally = Ranges::all().tally();
    (tally.bytes, tally.requests, tally.again)
}

/// Forgets what is queued; how many requests are still in flight.
#[pyfunction]
pub fn stop_fetching() -> usize {
    let flying = Ranges::all().flying();
    Ranges::all().interrupt();
    flying
}
