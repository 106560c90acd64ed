//! A Python object that computes whole tensors.

use std::sync::Mutex;

use pyo3::prelude::*;
use suture_core::engine::device::{Ask, Device, Slot};
use suture_core::error::{Error, Result};

/// What `run` is given as its device: an object with `name`, `slots`, `takes(output, tensor)` and `slot()`.
pub struct Called {
    object: Py<PyAny>,
    name: String,
    slots: usize,
    raised: Mutex<Option<PyErr>>,
}

impl Called {
    /// Reads what does not change.
    ///
    /// # Errors
    /// What reading the attributes raises.
    pub fn new(py: Python<'_>, object: Py<PyAny>) -> PyResult<Self> {
        let name = object.getattr(py, "name")?.extract(py)?;
        let slots = object.getattr(py, "slots")?.extract(py)?;
        Ok(Self { object, name, slots, raised: Mutex::new(None) })
    }

    /// What Python has raised, if it has.
    pub fn raised(&self) -> Option<PyErr> {
        self.raised.lock().ok().and_then(|mut raised| raised.take())
    }

    /// Calls `f` with the GIL; keeps what it raises, and stops the run.
    fn call<T>(&self, f: impl FnOnce(Python<'_>) -> PyResult<T>) -> Result<T> {
        Python::attach(|py| {
            f(py).map_err(|e| {
                if let Ok(mut slot) = self.raised.lock() {
                    slot.get_or_insert(e);
                }
                Error::Interrupted
            })
        })
    }
}

impl Device for Called {
    fn name(&self) -> &str {
        &self.name
    }

    fn slots(&self) -> usize {
        self.slots
    }

    fn takes(&self, output: usize, tensor: usize) -> bool {
        // What it raises is heard of when its tensors are made: none is.
        self.call(|py| self.object.call_method1(py, "takes", (output, tensor))?.extract(py)).unwrap_or(false)
    }

    fn slot(&self) -> Result<Box<dyn Slot + '_>> {
        let object = self.call(|py| self.object.call_method0(py, "slot"))?;
        Ok(Box::new(CalledSlot { device: self, object }))
    }
}

/// An object with `begin`, `room`, `put`, `compute`, `get` and `end`; memory crosses as addresses and lengths.
struct CalledSlot<'d> {
    device: &'d Called,
    object: Py<PyAny>,
}

impl Slot for CalledSlot<'_> {
    fn begin(&mut self, ask: &Ask) -> Result<()> {
        let dtypes: Vec<&str> = ask.operands.iter().map(|d| d.name()).collect();
        self.device.call(|py| {
            let arguments = (ask.at.0, ask.at.1, dtypes, ask.keys.clone());
            self.object.call_method1(py, "begin", arguments).map(|_| ())
        })
    }

    fn room(&mut self) -> Result<&mut [u8]> {
        let (address, len): (usize, usize) =
            self.device.call(|py| self.object.call_method0(py, "room")?.extract(py))?;
        // SAFETY: the slot owns this memory for as long as it lives, gives it out until the next call of `room`, and
        // nothing else reads or writes it in between; `&mut self` keeps the slice from outliving that.
        Ok(unsafe { std::slice::from_raw_parts_mut(address as *mut u8, len) })
    }

    fn put(&mut self, operand: usize, at: u64, len: usize) -> Result<()> {
        self.device.call(|py| self.object.call_method1(py, "put", (operand, at, len)).map(|_| ()))
    }

    fn compute(&mut self) -> Result<()> {
        self.device.call(|py| self.object.call_method0(py, "compute").map(|_| ()))
    }

    fn get(&mut self, at: u64, most: usize) -> Result<&[u8]> {
        let (address, len): (usize, usize) =
            self.device.call(|py| self.object.call_method1(py, "get", (at, most))?.extract(py))?;
        // SAFETY: as in `room`; the copy into it is complete when `get` returns.
        Ok(unsafe { std::slice::from_raw_parts(address as *const u8, len) })
    }

    fn end(&mut self) {
        // What it raises is kept, and ends the run.
        let _ = self.device.call(|py| self.object.call_method0(py, "end").map(|_| ()));
    }
}
