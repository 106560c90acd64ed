//! One map from core errors to Python exceptions. The classes are defined in `suture/errors.py`.

use pyo3::exceptions::{PyKeyboardInterrupt, PyRuntimeError};
use pyo3::prelude::*;
use suture_core::error::Error;

/// The Python exception for a core error.
pub fn to_py(py: Python<'_>, error: &Error) -> PyErr {
    if matches!(error, Error::Interrupted) {
        return PyKeyboardInterrupt::new_err("interrupted");
    }
    let class = if error.is_usage() { "UsageError" } else { "SutureError" };
    let (path, tensor, at) = match error {
        Error::Checkpoint { path, .. } | Error::Output { path, .. } | Error::Io { path, .. } => {
            (Some(path), None, None)
        }
        Error::Tensor { path, tensor, .. } => (Some(path), Some(tensor), None),
        Error::Data { tensor, .. } => (None, Some(tensor), None),
        Error::Recipe { at, .. } => (None, None, Some(at)),
        Error::Bug { .. } | Error::Interrupted => (None, None, None),
    };
    let made = PyModule::import(py, "suture.errors")
        .and_then(|m| m.getattr(class))
        .and_then(|c| c.call1((error.to_string(), path, tensor, at)));
    match made {
        Ok(exception) => PyErr::from_value(exception),
        Err(_) => PyRuntimeError::new_err(error.to_string()),
    }
}
