//! The one way into a long call: without the GIL, watching for Ctrl-C, reporting progress, with errors mapped.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use suture_core::engine::observer::Observer;
use suture_core::error::{Error, Result};
use suture_core::kernels::isa;
use suture_core::source::Ranges;

use crate::errors::to_py;

struct Watcher {
    progress: Option<Py<PyAny>>,
    raised: Mutex<Option<PyErr>>,
}

impl Observer for Watcher {
    fn tick(&self, done: u64) -> bool {
        Python::attach(|py| {
            let heard = py.check_signals().and_then(|()| match &self.progress {
                Some(call) => call.call1(py, (done,)).map(|_| ()),
                None => Ok(()),
            });
            match heard {
                Ok(()) => true,
                Err(e) => {
                    if let Ok(mut slot) = self.raised.lock() {
                        slot.get_or_insert(e);
                    }
                    Ranges::all().interrupt();
                    false
                }
            }
        })
    }
}

/// Calls `f` without the GIL. `progress`, if given, is called with the bytes done a few times a second.
///
/// An exception that a signal handler or `progress` raises stops the work and is raised again here.
pub fn long<T: Send>(
    py: Python<'_>,
    progress: Option<Py<PyAny>>,
    f: impl FnOnce(&dyn Observer) -> Result<T> + Send,
) -> PyResult<T> {
    let watcher = Watcher { progress, raised: Mutex::new(None) };
    let result = py.detach(|| catch_unwind(AssertUnwindSafe(|| isa::check().and_then(|()| f(&watcher)))));
    let raised = watcher.raised.into_inner().ok().flatten();
    match (result, raised) {
        (Ok(Err(Error::Interrupted)), Some(raised)) => Err(raised),
        (Ok(result), _) => result.map_err(|e| to_py(py, &e)),
        (Err(_), _) => Err(PyRuntimeError::new_err("internal error; please report it")),
    }
}
