//! What leads from a model to another, taken out of both and kept by itself: a [`Delta`].
//!
//! Both models are read side by side, piece by piece, in parallel; what is kept is appended to files in the order of the pieces. What
//! the k largest changes are is found before, by passes over all. What makes a delta exact is taken after: the bits that are left
//! between what the delta makes of the base and the tuned model, and the other way.

pub mod compose;
mod exact;
mod files;
mod memory;
pub mod options;
mod ordered;
mod pieces;
mod report;
mod select;
mod sizes;
mod taker;
pub mod tensors;

use std::path::Path;

use crate::checkpoint::delta::{Delta, FILE, Kept, Part, Said, Sampled};
use crate::checkpoint::{Checkpoint, JOURNAL, REPORT, Staging, Target, WriteMode};
use crate::digest;
use crate::engine::observer::{Observer, Progress};
use crate::engine::threads;
use crate::error::{Error, Result};
use crate::model::tied;
use crate::source::IoMode;
use files::Files;
use options::{Form, Options};
use ordered::Ordered;
use pieces::{Limit, Models, Of, Own, Piece, Task};
use taker::Taker;
use tensors::{Item, items, task};

pub use report::look;

/// How an extraction goes about it, and where it goes.
pub struct How<'a> {
    /// Where the delta goes.
    pub target: &'a Target,
    /// Replace what is there.
    pub overwrite: bool,
    /// Files that go beside it, and their bytes.
    pub beside: &'a [(String, Vec<u8>)],
    /// How files are read.
    pub io: IoMode,
    /// Threads that compute.
    pub threads: usize,
    /// Who is told how far it is, and may stop it.
    pub observer: &'a dyn Observer,
}

/// Bytes that [`extract`] reads at most.
pub fn work_bytes(base: &Checkpoint, tuned: &Checkpoint, options: &Options) -> u64 {
    let passes = match options {
        Options { exact: true, .. } => 2,
        _ => 1,
    };
    passes * (base.total_bytes() + tuned.total_bytes())
}

/// Takes the delta between two models and publishes it; returns its report, which is also its `suture.json`.
///
/// # Errors
/// Input that cannot be read or is not finite, output that cannot be written, [`Error::Interrupted`].
pub fn extract(base: &Checkpoint, tuned: &Checkpoint, options: &Options, how: &How) -> Result<String> {
    check_target(base, tuned, how)?;
    let alike = crate::delta::alike(tuned, base)?;
    let tuned = alike.as_ref().unwrap_or(tuned);
    stored_alone(base)?;
    stored_alone(tuned)?;
    let items = items(base, tuned, options)?;
    let threads = memory::fitting(base, tuned, &items, options, how.threads)?;
    let how = &How { threads, ..*how };
    let names = items.iter().flat_map(|item| item.parts().into_iter().map(move |p| (p, item)));
    let names: Vec<(Part, String)> = names.map(|(p, item)| (p, name_of(options.form, p, &item.name))).collect();
    let pool = rayon::ThreadPoolBuilder::new().num_threads(how.threads).build();
    let models = Models {
        base,
        tuned,
        base_files: base.sources(how.io),
        tuned_files: tuned.sources(how.io),
        items,
        options,
        pool: Some(pool.map_err(|e| Error::bug(format!("no threads for matrices: {e}")))?),
    };
    let staging = stage(how)?;
    let folder = staging.folder().to_owned();
    let files = Files::new(&folder, options.form == Form::Lora, names.iter().map(|(p, n)| (*p, n.as_str())));
    let progress = Progress::default();
    let (mut said, mut files) = first(&models, files, how, &progress)?;
    said.files = files.finish()?;
    if options.exact {
        let delta = Delta::of(&folder, said)?;
        said = exact::add(&models, delta, &mut files, how, &progress)?;
        said.files.extend(files.finish()?);
    }
    models.base_files.iter().chain(&models.tuned_files).try_for_each(|s| s.check())?;
    let written = said.files.iter().map(|name| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len()));
    said.figures.insert("bytes".into(), written.sum::<u64>() as f64);
    let beside: Vec<(String, Vec<u8>)> =
        report::adapter(&models, &said).into_iter().chain(how.beside.to_vec()).collect();
    let about = report::about(&models, &said, &files.kept);
    publish(staging, &said, &beside, about, how)
}

/// Refuses a model that holds what is made when it is read: who asks has it written first.
fn stored_alone(model: &Checkpoint) -> Result<()> {
    let Some(t) = model.tensors.iter().find(|t| !t.moves()) else { return Ok(()) };
    let problem = "is computed when it is read, and deltas are taken of stored tensors; write the model first \
                   (`suture convert`, `suture lora fold`)";
    Err(Error::tensor(&model.written(), &t.name, problem))
}

/// The folder that a delta is made in.
fn stage(how: &How) -> Result<Staging> {
    Staging::open(how.target, &[], WriteMode::Buffered, |_| false)
}

/// Puts a delta in its place, with its record, what goes `beside` it, and its report; which is returned.
fn publish(
    staging: Staging,
    said: &Said,
    beside: &[(String, Vec<u8>)],
    about: serde_json::Value,
    how: &How,
) -> Result<String> {
    let folder = staging.folder().to_owned();
    let record = serde_json::to_vec(said).map_err(|e| Error::bug(e.to_string()))?;
    let beside: Vec<(String, Vec<u8>)> = std::iter::once((FILE.to_owned(), record)).chain(beside.to_vec()).collect();
    let report = report::render(said, about, &beside);
    let listed = said.files.iter().chain(beside.iter().map(|(name, _)| name)).map(std::path::PathBuf::from);
    let listed: Vec<std::path::PathBuf> = listed.chain([REPORT.into()]).collect();
    // Publishing ends with its removal: there is nothing to be taken up again.
    write(&folder.join(JOURNAL), b"")?;
    staging.publish(&[], &listed, JOURNAL, how.overwrite, |folder| {
        for (name, bytes) in &beside {
            write(&folder.join(name), bytes)?;
        }
        write(&folder.join(REPORT), report.as_bytes())
    })?;
    Ok(report)
}

/// Checks where the delta is to go.
///
/// # Errors
/// [`Error::Output`] with what is in the way.
pub fn check_target(base: &Checkpoint, tuned: &Checkpoint, how: &How) -> Result<()> {
    if how.target.file().is_some() {
        return Err(Error::output(
            how.target.path(),
            "is a single file, and a delta is a folder; choose another output",
        ));
    }
    let files =
        [base, tuned].into_iter().flat_map(|m| m.files.iter().map(|f| f.path.as_path()).chain([m.path.as_path()]));
    how.target.check(&files.collect::<Vec<_>>(), how.overwrite)
}

fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    let fail = |e| Error::io(path, "write", e);
    let mut file = std::fs::File::create(path).map_err(fail)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(fail)
}

/// The name of the tensor that keeps a part of another.
pub(crate) fn name_of(form: Form, part: Part, of: &str) -> String {
    let module = of.strip_suffix(".weight");
    match (form, part, module) {
        (Form::Lora, Part::Left, Some(module)) if tied::is_table(of) => {
            format!("base_model.model.{module}.lora_embedding_B")
        }
        (Form::Lora, Part::Right, Some(module)) if tied::is_table(of) => {
            format!("base_model.model.{module}.lora_embedding_A")
        }
        (Form::Lora, Part::Left, Some(module)) => format!("base_model.model.{module}.lora_B.weight"),
        (Form::Lora, Part::Right, Some(module)) => format!("base_model.model.{module}.lora_A.weight"),
        (Form::Lora, Part::Whole, _) => format!("base_model.model.{of}"),
        _ => format!("{of}{}", part.suffix()),
    }
}

/// Everything but what makes it exact.
fn first(models: &Models, files: Files, how: &How, progress: &Progress) -> Result<(Said, Files)> {
    let tasks = tasks(models);
    let limits = limits(models, &tasks, how, progress)?;
    let taker = Taker::new(models, files);
    let last: Vec<bool> = (0..tasks.len()).map(|i| tasks.get(i + 1).is_none_or(|t| t.item != tasks[i].item)).collect();
    let queue: Ordered<Piece, Taker> = Ordered::new(taker, 2 * how.threads);
    threads::each(tasks.len(), how.threads, progress, how.observer, |i, own: &mut Own| {
        progress.alive()?;
        let piece = models.piece(&tasks[i], limits.get(i).copied(), own)?;
        progress.add(bytes_of(models, &tasks[i]));
        queue.put(i, piece, progress, |taker, i, piece| taker.take(tasks[i].item, piece, last[i]))
    })?;
    let taker = queue.into_inner();
    let (base, tuned) = (&mut Sampled::new(models.base), &mut Sampled::new(models.tuned));
    taker.finish(base, tuned)
}

/// Bytes that a task reads.
fn bytes_of(models: &Models, task: &Task) -> u64 {
    let item = &models.items[task.item];
    let bits = |t: Option<usize>, of: &Checkpoint| t.map_or(0, |t| of.tensors[t].dtype.bits());
    let (base, tuned) = (bits(item.base, models.base), bits(item.tuned, models.tuned));
    let bits = match task.of {
        Of::Both | Of::Matrix => base + tuned,
        Of::Tuned => tuned,
        Of::Base => base,
    };
    (task.range.end - task.range.start) * bits / 8
}

/// The pieces of all tensors, in order; one at least of each.
fn tasks(models: &Models) -> Vec<Task> {
    let mut out = Vec::new();
    let mut cut = |item: usize, of: Of, elements: u64, step: u64| {
        for start in (0..elements.max(1)).step_by(step as usize) {
            out.push(Task { item, of, range: start..(start + step).min(elements) });
        }
    };
    for (i, item) in models.items.iter().enumerate() {
        let base = item.base.map(|b| &models.base.tensors[b]);
        let tuned = item.tuned.map(|t| &models.tuned.tensors[t]);
        match (item, base, tuned) {
            (Item { matrix: Some(_), .. }, Some(b), _) => cut(i, Of::Matrix, b.elements(), b.elements().max(1)),
            (_, Some(b), Some(t)) if b.shape == t.shape && (b.dtype == t.dtype || item.kept != Kept::Whole) => {
                cut(i, Of::Both, b.elements(), task(b).max(task(t)));
            }
            _ => {
                if let Some(t) = tuned {
                    cut(i, Of::Tuned, t.elements(), task(t));
                }
                if let Some(b) = base {
                    cut(i, Of::Base, b.elements(), task(b));
                }
            }
        }
    }
    out
}

/// What each task keeps of the largest changes; empty where all are kept.
fn limits(models: &Models, tasks: &[Task], how: &How, progress: &Progress) -> Result<Vec<Limit>> {
    let chosen: Vec<usize> = (0..tasks.len())
        .filter(|i| models.items[tasks[*i].item].kept == Kept::Sparse && !tasks[*i].range.is_empty())
        .collect();
    // Of random elements none is larger than another.
    if models.options.random.is_some() {
        return Ok(vec![]);
    }
    let of_item = |a: &usize, b: &usize| tasks[*a].item == tasks[*b].item;
    let groups: Vec<&[usize]> = match models.options.by_tensor {
        true => chosen.chunk_by(of_item).collect(),
        false => vec![&chosen],
    };
    let mut limits = vec![Limit { least: 1, ties: u64::MAX }; tasks.len()];
    for group in groups {
        let elements: u64 = group.iter().map(|i| tasks[*i].range.end - tasks[*i].range.start).sum();
        let Some(keep) = models.options.kept_of(elements).filter(|keep| *keep < elements) else { continue };
        let own: Vec<Task> = group.iter().map(|i| tasks[*i].clone()).collect();
        let found = select::largest(models, &own, keep.max(1), how.threads, progress, how.observer)?;
        group.iter().zip(found).for_each(|(i, limit)| limits[*i] = limit);
    }
    Ok(limits)
}

/// The digest of a model: of the names and digests of its tensors.
fn of_model<'a>(tensors: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let text: String = tensors.map(|(name, digest)| format!("{name}\0{digest}\n")).collect();
    digest::hex(digest::of_bytes(text.as_bytes()))
}
