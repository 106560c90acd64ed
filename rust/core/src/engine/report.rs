//! The report of a run, `suture.json`: written straight to text, for a model may have tens of thousands of tensors.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::journal::Done;
use crate::digest;
use crate::dtype::Dtype;
use crate::methods::larv;
use crate::plan::{Action, Plan, Unused};
use crate::source::object::Object;
use crate::source::{ReadMode, Tally};
use crate::view::{Sources, View};

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    suture: &'static str,
    title: &'a str,
    recipe: Value,
    plan: &'a str,
    digest: &'static str,
    models: Vec<Value>,
    run: Value,
    /// What computes.
    backend: &'a str,
    warnings: Vec<String>,
    notes: &'a [(String, String)],
    unused: &'a [Unused],
    /// Every file of the output; `--overwrite` deletes no others.
    files: Vec<String>,
    /// Digests of those beside the tensors, but for the index and this report.
    beside: BTreeMap<String, String>,
    /// By how much the changes of each layer are scaled, by layer and model.
    scales: Scales<'a>,
    tensors: Tensors<'a>,
}

/// A factor for each layer and model, in the order of the layers.
struct Scales<'a>(Vec<(String, BTreeMap<&'a str, f64>)>);

impl<'a> Scales<'a> {
    fn of(plan: &'a Plan, done: &HashMap<usize, Done>) -> Self {
        let mut all = Vec::new();
        for (name, stack) in plan.scaled() {
            for (layer, tensors) in stack.scaled {
                let mut own = BTreeMap::new();
                for t in tensors {
                    let Action::Compute { params, inputs, .. } = &plan.tensors[t].action else { continue };
                    for (i, view) in inputs[..params.inputs].iter().enumerate() {
                        let scale = done.get(&t).and_then(|d| d.found.get(&larv::told(i)));
                        if let Some(scale) = scale {
                            own.entry(&*plan.labels[view.like().model]).or_insert(*scale);
                        }
                    }
                }
                all.push((format!("{name}{layer}"), own));
            }
        }
        Self(all)
    }
}

impl Serialize for Scales<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.0.iter().map(|(layer, own)| (layer, own)))
    }
}

/// Every output tensor by name; made into text one at a time.
struct Tensors<'a> {
    plan: &'a Plan,
    device: Option<&'a str>,
    done: &'a HashMap<usize, Done>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    action: &'a str,
    digest: &'a str,
    /// Model, tensor and digest of every input; no digest where only a part of a tensor was taken.
    from: Vec<(&'a str, &'a str, Option<&'a str>)>,
    /// What the method found, by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    found: Option<&'a BTreeMap<String, f64>>,
    /// What computed it, if not what computes the others.
    #[serde(skip_serializing_if = "Option::is_none")]
    backend: Option<&'a str>,
}

/// The method that inverts what layers' inputs are as it finds it, and the condition (of squares of singular values) above which
/// that is worth a word: half of the digits of an f64 are gone.
const UNFILTERED: &str = "wudi";
const CONDITION: f64 = 1e8;

/// What computes where no device does.
const CPU: &str = "cpu";

impl Serialize for Tensors<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let plan = self.plan;
        s.collect_map(plan.tensors.iter().enumerate().map(|(i, t)| {
            let (digest, inputs, found) = match self.done.get(&i) {
                Some(d) => (d.digest.as_str(), d.inputs.as_slice(), Some(&d.found).filter(|f| !f.is_empty())),
                None => ("", &[][..], None),
            };
            let views = t.action.views();
            let place = |p: crate::view::Place| (plan.labels[p.model].as_str(), plan.tensor(p).name.as_str());
            let mut from: Vec<(&str, &str, Option<&str>)> = Vec::new();
            for (view, digest) in views.iter().zip(inputs) {
                from.extend(view.places().into_iter().map(|p| (place(p).0, place(p).1, digest.as_deref())));
            }
            let action = match &t.action {
                Action::Move { from: View::Plain(_), .. } => "copy",
                Action::Move { .. } => "move",
                Action::Compute { method, .. } => method.spec().name,
            };
            let computed = matches!(t.action, Action::Compute { .. });
            let by = self.done.get(&i).and_then(|d| d.backend.as_deref());
            let backend = (computed && by != self.device).then(|| by.unwrap_or(CPU));
            (&t.name, Tensor { dtype: t.dtype, shape: &t.shape, action, digest, from, found, backend })
        }))
    }
}

/// What the run itself has to say.
pub(super) struct How<'a> {
    /// Tensors that an earlier run had made.
    pub resumed: usize,
    /// Bytes shared by reflink.
    pub shared: u64,
    /// Warnings besides the plan's.
    pub warnings: &'a [String],
    /// What was fetched from stores, for all outputs of the run; nothing where no input is there.
    pub fetched: Option<Tally>,
    /// The device that computed what it took.
    pub device: Option<&'a str>,
}

/// The report as JSON text; `beside` are the files of the output besides its shards, of which `digests` has some.
pub(super) fn render(
    plan: &Plan,
    done: &HashMap<usize, Done>,
    sources: &Sources,
    how: &How,
    beside: &[PathBuf],
    digests: BTreeMap<String, String>,
) -> String {
    let local = Local::of(plan);
    let models = plan.labels.iter().zip(&plan.models).map(|(label, m)| {
        let files = m.files.iter().map(|f| {
            let mut said = json!({
                "file": f.path.file_name().map(|n| n.to_string_lossy()),
                "bytes": f.identity.size,
                "header": f.header_digest,
            });
            if let Some(object) = Object::of(f.identity) {
                (said["url"], said["etag"]) = (object.url.clone().into(), object.etag.clone().into());
            }
            said
        });
        json!({"label": label, "path": local.path(&m.path), "files": files.collect::<Vec<_>>()})
    });
    let shards = plan.shards.iter().map(|s| s.file.clone());
    let report = Report {
        schema: crate::plan::SCHEMA,
        suture: env!("CARGO_PKG_VERSION"),
        title: &plan.title,
        recipe: local.value(&plan.recipe),
        plan: plan.hash(),
        digest: digest::SCHEME,
        models: models.collect(),
        run: run_json(sources, how),
        warnings: plan
            .warnings
            .iter()
            .chain(how.warnings)
            .map(|w| local.text(w))
            .chain(ill_conditioned(plan, done))
            .collect(),
        notes: &plan.notes,
        unused: &plan.unused,
        files: shards.chain(beside.iter().map(|f| f.to_string_lossy().into_owned())).collect(),
        beside: digests,
        backend: how.device.unwrap_or(CPU),
        scales: Scales::of(plan, done),
        tensors: Tensors { plan, device: how.device, done },
    };
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}

/// How a run went, as JSON.
pub(super) fn run_json(sources: &Sources, how: &How) -> Value {
    let read = |mode| sources.iter().flatten().filter(|s| s.mode() == Some(mode)).count();
    let mut run = json!({
        "tensors_resumed": how.resumed,
        "bytes_shared": how.shared,
        "files_mapped": read(ReadMode::Mmap),
        "files_direct": read(ReadMode::Direct),
        "files_pread": read(ReadMode::Pread),
        "cold_reads": cold_reads(sources),
    });
    if let Some(Tally { bytes, requests, again }) = how.fetched {
        run["fetched"] = json!({"bytes": bytes, "requests": requests, "again": again});
    }
    run
}

/// By how much the changes of each layer are scaled, of what is `done`, as JSON.
pub(super) fn scales_json(plan: &Plan, done: &HashMap<usize, Done>) -> Value {
    json!(Scales::of(plan, done))
}

/// A caution, if a method had to invert what is nearly singular: then directions that the inputs hardly have decide.
fn ill_conditioned(plan: &Plan, done: &HashMap<usize, Done>) -> Option<String> {
    let own = |i: usize| {
        let found = done.get(&i)?.found.iter().filter(|(name, _)| *name == "condition" || name.ends_with(".condition"));
        found.map(|(_, value)| *value).filter(|c| *c > CONDITION).reduce(f64::max)
    };
    let all: Vec<(&str, f64)> = plan
        .tensors
        .iter()
        .enumerate()
        .filter_map(|(i, t)| match &t.action {
            Action::Compute { method, .. } if method.spec().name == UNFILTERED => Some((t.name.as_str(), own(i)?)),
            _ => None,
        })
        .collect();
    let (name, condition) = all.iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
    let count = if all.len() == 1 { "1 tensor is".to_owned() } else { format!("{} tensors are", all.len()) };
    Some(format!(
        "{UNFILTERED}: {count} ill-conditioned (worst: `{name}`, condition {condition:.1e}): directions that the changes hardly \
         have decide much of the result; compare it by `suture diff`, or take `swudi`, which filters them"
    ))
}

/// What was measured of each device that cold files were read from, in bytes a second: why they were read as they were.
fn cold_reads(sources: &Sources) -> Vec<Value> {
    let devices: BTreeMap<u64, [f64; 2]> = sources.iter().flatten().filter_map(|s| s.rates()).collect();
    devices.into_values().map(|[direct, cached]| json!({"direct": direct as u64, "cached": cached as u64})).collect()
}

/// Paths as others may see them: where a model lies on this machine is nobody's business who gets the output.
struct Local {
    /// Absolute paths and the labels that stand for them, the longest first.
    models: Vec<(String, String)>,
}

impl Local {
    fn of(plan: &Plan) -> Self {
        let all = plan.models.iter().zip(&plan.labels).filter(|(m, _)| m.path.is_absolute());
        let mut models: Vec<_> = all.map(|(m, l)| (m.path.to_string_lossy().into_owned(), l.clone())).collect();
        // Adapters lie elsewhere.
        let folders = plan.models.iter().flat_map(|m| &m.files).filter_map(|f| f.path.parent());
        let known = |p: &Path| plan.models.iter().any(|m| p.starts_with(&m.path) || m.path.starts_with(p));
        for folder in folders.filter(|p| p.is_absolute() && !known(p)) {
            let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
            models.push((folder.to_string_lossy().into_owned(), name));
        }
        models.sort_by_key(|(path, _)| std::cmp::Reverse(path.len()));
        Self { models }
    }

    fn path(&self, path: &Path) -> String {
        self.text(&path.to_string_lossy())
    }

    /// A text with labels in place of the paths.
    fn text(&self, text: &str) -> String {
        self.models.iter().fold(text.to_owned(), |text, (path, label)| text.replace(path, label))
    }

    /// A recipe with labels in place of the paths; any other absolute path by its last part.
    fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(s) => {
                let text = self.text(s);
                let last = Path::new(&text).file_name().map(|n| n.to_string_lossy().into_owned());
                if text.starts_with('/') { last.unwrap_or(text).into() } else { text.into() }
            }
            Value::Array(items) => items.iter().map(|v| self.value(v)).collect(),
            Value::Object(map) => {
                // A model that is named with adapters: the label of its path has them too.
                let with_adapters = |k: &str| k == "path" && map.contains_key("adapters");
                let last = |v: &Value| Some(Path::new(v.as_str()?).file_name()?.to_string_lossy().into_owned().into());
                let own = |k: &str, v: &Value| if with_adapters(k) { last(v) } else { None };
                let one = |(k, v): (&String, &Value)| (k.clone(), own(k, v).unwrap_or_else(|| self.value(v)));
                map.iter().map(one).collect::<serde_json::Map<_, _>>().into()
            }
            other => other.clone(),
        }
    }
}
