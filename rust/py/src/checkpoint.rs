//! `Checkpoint`: an opened checkpoint.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::json;
use suture_core::checkpoint as core;
use suture_core::delta;
use suture_core::delta::summary::summarise;
use suture_core::plan::of_tokens;
use suture_core::source::IoMode;
use suture_core::view::read;

use crate::errors::to_py;
use crate::gil::long;

#[pyclass(frozen, module = "suture._core")]
pub struct Checkpoint(pub Arc<core::Checkpoint>);

impl Checkpoint {
    fn info(t: &core::Tensor, file: &str) -> serde_json::Value {
        json!({"name": t.name, "dtype": t.dtype, "shape": t.shape, "nbytes": t.nbytes, "shard": file})
    }

    fn file_name(&self, index: usize) -> String {
        self.0.files[index].path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

#[pymethods]
impl Checkpoint {
    #[new]
    #[pyo3(signature = (path, adapters=Vec::new(), name=None))]
    fn new(py: Python<'_>, path: PathBuf, adapters: Vec<(PathBuf, f64)>, name: Option<String>) -> PyResult<Self> {
        let adapters = adapters.into_iter().map(|(path, weight)| core::Applied::new(path, weight)).collect();
        let reference = core::Reference { path, adapters, name };
        long(py, None, |_| core::Checkpoint::of(&reference)).map(|c| Self(Arc::new(c)))
    }

    /// The tensors that a delta keeps its changes in; of any other folder what the constructor opens.
    #[staticmethod]
    fn stored(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        long(py, None, |_| core::Checkpoint::stored(&path)).map(|c| Self(Arc::new(c)))
    }

    /// The plain model: quantised weights are decoded when they are read.
    fn plain(&self, py: Python<'_>) -> PyResult<Self> {
        let model = core::Checkpoint::clone(&self.0);
        long(py, None, |_| model.plain()).map(|c| Self(Arc::new(c)))
    }

    /// What was decoded of it, for people.
    fn decoded(&self) -> Option<String> {
        self.0.decoded_told()
    }

    fn to_json(&self) -> String {
        let c = &self.0;
        let files: Vec<_> =
            c.files.iter().map(|f| json!({"path": f.path.to_string_lossy(), "bytes": f.identity.size})).collect();
        let names: Vec<String> = (0..c.files.len()).map(|i| self.file_name(i)).collect();
        let (forms, of, refused) = c.forms();
        let tensors = c.tensors.iter().enumerate().map(|(i, t)| {
            let mut info = Self::info(t, &names[t.file]);
            let made = t.coded().first().map(|coded| &coded.name);
            if let Some(form) = made.or_else(|| of.get(&i)) {
                info["form"] = json!(form);
            }
            info
        });
        let tensors: Vec<_> = tensors.collect();
        json!({
            "path": c.written().to_string_lossy(),
            "bytes": c.total_bytes(),
            "files": files,
            "stacks": c.anatomy().to_json(),
            "tied": c.tied(),
            "quantised": c.quantised(),
            "forms": forms,
            "refused": refused,
            "tensors": tensors,
            "warnings": c.told(),
        })
        .to_string()
    }

    /// The file or folder that was opened: of a repository in a hub's cache its snapshot.
    #[getter]
    fn path(&self) -> PathBuf {
        self.0.path.clone()
    }

    /// Of a GGUF file what it says of the model, as JSON: `metadata` (keys and values), `config` (what a config.json of it is), `missing`
    /// (what that lacks); `None` of other files.
    fn gguf_json(&self, py: Python<'_>) -> PyResult<Option<String>> {
        let Some((config, missing)) = self.0.gguf_config() else { return Ok(None) };
        let metadata = long(py, None, |_| self.0.gguf_metadata())?;
        Ok(Some(json!({"metadata": metadata, "config": config, "missing": missing}).to_string()))
    }

    #[getter]
    fn warnings(&self) -> Vec<String> {
        self.0.told()
    }

    /// The stacks of layers, as JSON.
    fn stacks_json(&self) -> String {
        self.0.anatomy().to_json().to_string()
    }

    fn names(&self) -> Vec<String> {
        self.0.tensors.iter().map(|t| t.name.clone()).collect()
    }

    fn info_json(&self, name: &str) -> PyResult<String> {
        let t = self.0.find(name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        let t = &self.0.tensors[t];
        Ok(Self::info(t, &self.file_name(t.file)).to_string())
    }

    /// Whether its head is its table of tokens, as far as config.json or its family tells.
    #[getter]
    fn tied(&self) -> Option<bool> {
        self.0.tied()
    }

    /// The names of the tables that have a row for each token; heads are not among them.
    fn tables(&self) -> Vec<String> {
        self.0.tables().iter().map(|i| self.0.tensors[*i].name.clone()).collect()
    }

    /// The name of the tensor that stands for one of another model, if there is one.
    fn counterpart(&self, name: &str) -> Option<String> {
        self.0.counterpart(name).map(|i| self.0.tensors[i].name.clone())
    }

    /// The same under the names that a base has, its experts stored as the base's, as comparisons take it.
    fn alike(&self, py: Python<'_>, base: &Self) -> PyResult<Self> {
        let found = delta::alike(&self.0, &base.0).map_err(|e| to_py(py, &e))?;
        Ok(Self(found.map_or_else(|| Arc::clone(&self.0), Arc::new)))
    }

    /// A tensor that is computed when it is read, if there is one: of a model with adapters.
    fn computed(&self) -> Option<String> {
        self.0.tensors.iter().find(|t| t.made.is_some() && !t.moves()).map(|t| t.name.clone())
    }

    /// The prefix of the stack that a tensor is in, and the number of its layer there.
    fn place(&self, name: &str) -> Option<(String, usize)> {
        let (stack, layer) = self.0.anatomy().place(name)?;
        Some((self.0.anatomy().stacks[stack].prefix.clone(), layer))
    }

    /// The tensors that have a row for each token, as plans of rows change them: tables, heads and biases.
    fn of_tokens(&self) -> Vec<String> {
        let table = self.0.tables().first().map(|i| &self.0.tensors[*i]);
        let rows = table.and_then(|t| t.shape.first()).copied().unwrap_or(0);
        of_tokens(&self.0, rows).map(|t| t.name.clone()).collect()
    }

    /// The bytes of a tensor, or of its elements from `start` to `stop`.
    #[pyo3(signature = (name, start=None, stop=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        name: &str,
        start: Option<u64>,
        stop: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let index = self.0.find(name).ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
        let t = &self.0.tensors[index];
        let part = start.unwrap_or(0)..stop.unwrap_or(t.elements());
        if part.start > part.end || part.end > t.elements() || !(part.start * t.dtype.bits()).is_multiple_of(8) {
            return Err(PyIndexError::new_err(format!("`{name}` has {} elements", t.elements())));
        }
        let sources = self.0.sources(IoMode::Pread);
        let bytes = ((part.end - part.start) * t.dtype.bits()).div_ceil(8);
        // Without the GIL: what is fetched from a store is fetched by Python.
        PyBytes::new_with(py, bytes as usize, |target| long(py, None, |_| read(t, &sources, part, target)))
    }

    #[pyo3(signature = (io, threads, progress=None))]
    fn stats_json(&self, py: Python<'_>, io: &str, threads: usize, progress: Option<Py<PyAny>>) -> PyResult<String> {
        let io = IoMode::from_name(io).map_err(|e| to_py(py, &e))?;
        let found = long(py, progress, |o| summarise(&self.0, io, threads, o))?;
        Ok(serde_json::to_string(&found).unwrap_or_default())
    }
}
