//! The report of a run, `suture.json`: written straight to text, for a model may have tens of thousands of tensors.

use std::collections::{BTreeMap, HashMap};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::journal::Done;
use crate::checkpoint::{ReadMode, Source};
use crate::digest;
use crate::dtype::Dtype;
use crate::plan::{Action, Plan, Unused};

#[derive(Serialize)]
struct Report<'a> {
    suture: &'static str,
    title: &'a str,
    recipe: &'a Value,
    plan: &'a str,
    digest: &'static str,
    models: Vec<Value>,
    run: Value,
    warnings: Vec<&'a str>,
    notes: &'a [(&'static str, String)],
    unused: &'a [Unused],
    /// Every file of the output; `--overwrite` deletes no others.
    files: Vec<String>,
    tensors: Tensors<'a>,
}

/// Every output tensor by name; made into text one at a time.
struct Tensors<'a> {
    plan: &'a Plan,
    done: &'a HashMap<usize, Done>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    action: &'a str,
    digest: &'a str,
    /// Model, tensor and digest of every input.
    from: Vec<(&'a str, &'a str, &'a str)>,
    /// What the method found, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'a BTreeMap<String, f64>>,
}

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let plan = self.plan;
        s.collect_map(plan.tensors.iter().enumerate().map(|(i, t)| {
            let (digest, inputs, found) = match self.done.get(&i) {
                Some(d) => (d.digest.as_str(), d.inputs.as_slice(), Some(&d.found).filter(|f| !f.is_empty())),
                None => ("", &[][..], None),
            };
            let operands = t.action.operands();
            let from = operands.iter().zip(inputs);
            let from = from.map(|(o, d)| (plan.labels[o.model].as_str(), plan.tensor(*o).name.as_str(), d.as_str()));
            let action = match &t.action {
                Action::Copy { .. } => "copy",
                Action::Merge { method, .. } => method.spec().name,
            };
            (&t.name, Tensor { dtype: t.dtype, shape: &t.shape, action, digest, from: from.collect(), found })
        }))
    }
}

/// The report as JSON text.
pub(super) fn render(
    plan: &Plan,
    done: &HashMap<usize, Done>,
    sources: &[Vec<Source>],
    resumed: usize,
    shared: u64,
    files: Vec<String>,
    doubts: &[String],
) -> String {
    let models = plan.labels.iter().zip(&plan.models).map(|(label, m)| {
        let files = m.files.iter().map(|f| {
            json!({
                "file": f.path.file_name().map(|n| n.to_string_lossy()),
                "bytes": f.size,
                "header": f.header_digest,
            })
        });
        json!({"label": label, "path": m.path.to_string_lossy(), "files": files.collect::<Vec<_>>()})
    });
    let read = |mode| sources.iter().flatten().filter(|s| s.mode() == mode).count();
    let report = Report {
        suture: env!("CARGO_PKG_VERSION"),
        title: &plan.title,
        recipe: &plan.recipe,
        plan: plan.hash(),
        digest: digest::SCHEME,
        models: models.collect(),
        run: json!({
            "tensors_resumed": resumed,
            "bytes_shared": shared,
            "files_mapped": read(ReadMode::Mmap),
            "files_direct": read(ReadMode::Direct),
            "files_pread": read(ReadMode::Pread),
        }),
        warnings: plan.warnings.iter().chain(doubts).map(String::as_str).collect(),
        notes: &plan.notes,
        unused: &plan.unused,
        files,
        tensors: Tensors { plan, done },
    };
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}
