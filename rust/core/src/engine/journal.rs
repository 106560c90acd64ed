//! What a run has finished, kept beside its output so that a killed run can go on.
//!
//! One line per finished tensor. A torn last line is ignored. What the journal says is done is read back and
//! compared with its digest before it is believed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::source::object;

/// Its name in the folder.
pub const FILE: &str = crate::checkpoint::JOURNAL;

/// What is known of a finished output tensor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Done {
    /// Index in the plan.
    pub tensor: usize,
    /// Digest of its bytes, hexadecimal.
    pub digest: String,
    /// Digests of the stored tensors it was made from, in the order of [`crate::plan::Action::views`]; none for views of parts
    /// of tensors.
    pub inputs: Vec<Option<String>>,
    /// What its method found; see [`crate::methods::Kernel::found`].
    #[serde(default, deserialize_with = "or_nan")]
    pub found: BTreeMap<String, f64>,
    /// The device that computed it, if not the CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
}

/// What JSON has no number for was written as null.
fn or_nan<'de, D: serde::Deserializer<'de>>(d: D) -> std::result::Result<BTreeMap<String, f64>, D::Error> {
    let read = BTreeMap::<String, Option<f64>>::deserialize(d)?;
    Ok(read.into_iter().map(|(name, value)| (name, value.unwrap_or(f64::NAN))).collect())
}

/// The journal of a run.
pub struct Journal {
    file: Mutex<File>,
}

/// Identifies plan, inputs and the device that computes, if any: a journal of anything else is worthless.
pub fn key(plan: &Plan, allow_nonfinite: bool, device: Option<&str>) -> String {
    let inputs: Vec<_> = plan
        .models
        .iter()
        .flat_map(|m| m.files.iter().map(|f| (object::shown(&f.path.to_string_lossy()), f.identity)))
        .collect();
    let version = env!("CARGO_PKG_VERSION");
    let text = serde_json::json!([version, plan.hash(), allow_nonfinite, inputs, device]).to_string();
    crate::digest::hex(crate::digest::of_bytes(text.as_bytes()))
}

/// The finished tensors recorded in `folder`, if its journal has `key`.
pub fn read(folder: &Path, key: &str) -> Option<HashMap<usize, Done>> {
    let text = std::fs::read_to_string(folder.join(FILE)).ok()?;
    let mut lines = text.split_inclusive('\n');
    if lines.next()?.strip_suffix('\n')? != key {
        return None;
    }
    let done = lines.filter(|l| l.ends_with('\n')).filter_map(|l| serde_json::from_str::<Done>(l).ok());
    Some(done.map(|d| (d.tensor, d)).collect())
}

impl Journal {
    /// Starts the journal of `folder` anew, with what is known to be done.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn start<'a>(folder: &Path, key: &str, done: impl Iterator<Item = &'a Done>) -> Result<Self> {
        let path = folder.join(FILE);
        let fail = |e| Error::io(&path, "write", e);
        let mut text = format!("{key}\n");
        for d in done {
            text.push_str(&line(d));
        }
        // Replaced in one step: a kill in between must not lose what the old one knew.
        let fresh = folder.join(".suture-journal.new");
        std::fs::write(&fresh, text).map_err(fail)?;
        std::fs::rename(&fresh, &path).map_err(fail)?;
        let file = OpenOptions::new().append(true).open(&path).map_err(fail)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Records a finished tensor.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be written.
    pub fn record(&self, done: &Done) -> Result<()> {
        let fail = |e| Error::io(Path::new(FILE), "write", e);
        self.file.lock().write_all(line(done).as_bytes()).map_err(fail)
    }
}

fn line(done: &Done) -> String {
    serde_json::to_string(done).unwrap_or_default() + "\n"
}
