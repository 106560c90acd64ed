//! An output that stands, taken up as the beginning of another: what both plans make alike is not made again.

use std::path::Path;

use serde_json::{Value, json};

use super::journal::{self, Done, Journal};
use crate::checkpoint::Target;
use crate::error::{Error, Result};
use crate::plan::Plan;

/// Moves the output in `folder`, which `earlier` made on the CPU and `report` is of, to where `target` is made, as if a run of `plan` had been cut
/// short there: the run reads back the tensors that both plans make alike, keeps those that still have their digests, and makes
/// the others in their place. Returns the bytes of the former; where there are none, nothing is moved.
///
/// # Errors
/// [`Error::Io`] if it cannot be moved.
pub fn take_up(
    plan: &Plan,
    earlier: &Plan,
    report: &str,
    folder: &Path,
    target: &Target,
    allow_nonfinite: bool,
) -> Result<u64> {
    let report: Value = serde_json::from_str(report).unwrap_or_default();
    let said = |tensor: usize| &report["tensors"][&plan.tensors[tensor].name];
    let done: Vec<Done> = plan.alike(earlier).into_iter().filter_map(|t| done(plan, t, said(t))).collect();
    if done.is_empty() {
        return Ok(0);
    }
    let staging = target.staging();
    std::fs::rename(folder, &staging).map_err(|e| Error::io(folder, "go on with the output in", e))?;
    Journal::start(&staging, &journal::key(plan, allow_nonfinite, None), done.iter())?;
    Ok(done.iter().map(|d| plan.tensors[d.tensor].nbytes).sum())
}

/// What a report says of a tensor, as a journal has it.
fn done(plan: &Plan, tensor: usize, said: &Value) -> Option<Done> {
    let mut from = said["from"].as_array()?.iter();
    let digest = |view: &crate::view::View| -> Option<Value> {
        // Of ranges of several tensors none has a digest.
        let all: Option<Vec<&Value>> = view.places().iter().map(|_| from.next()).collect();
        Some(all?.first()?[2].clone())
    };
    let inputs: Option<Vec<Value>> = plan.tensors[tensor].action.views().iter().map(digest).collect();
    let mut line = json!({"tensor": tensor, "digest": said["digest"], "inputs": inputs?});
    if said["found"].is_object() {
        line["found"] = said["found"].clone();
    }
    serde_json::from_value(line).ok()
}
