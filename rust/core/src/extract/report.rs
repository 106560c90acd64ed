//! What is told of a delta: the report of an extraction, the look at one before, and the config of an adapter.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::files;
use super::options::{Form, Options};
use super::pieces::Models;
use super::sizes::Sizes;
use super::tensors::{Item, items};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::delta::{Kept, Part, Said};
use crate::digest;
use crate::error::Result;
use crate::model::tied;

/// How the change of every tensor would be kept, from headers, as JSON: what is told of a dry run.
///
/// # Errors
/// As [`super::extract`], as far as headers tell.
pub fn look(base: &Checkpoint, tuned: &Checkpoint, options: &Options, threads: usize) -> Result<Value> {
    let alike = crate::delta::alike(tuned, base)?;
    let tuned = alike.as_ref().unwrap_or(tuned);
    let items = items(base, tuned, options)?;
    let threads = super::memory::fitting(base, tuned, &items, options, threads)?;
    let (peak, _) = super::memory::most(base, tuned, &items, options, threads);
    let sizes = Sizes::of(base, tuned, &items, options);
    let all = tuned.total_bytes();
    let less = if sizes.certain { "" } else { ", and what is compressed or chosen by its size mostly takes less" };
    let mut notes =
        vec![("size", format!("at most {}; what did not change takes none{less}", share_of(sizes.total(), all)))];
    let ranks = items.iter().filter(|i| i.kept == Kept::LowRank).filter_map(|i| i.matrix);
    let ranks = ranks.map(|m| options.rank_of(m.rows, m.columns)).collect::<Vec<u64>>();
    notes.extend(ranks_of(&ranks, &items, options, if options.energy.is_some() { "at most " } else { "" }));
    let tensors = items.iter().zip(&sizes.tensors).map(|(item, bytes)| {
        let t = item.base.map(|i| &base.tensors[i]).or(item.tuned.map(|i| &tuned.tensors[i]));
        let parts: Vec<&str> = item.parts().iter().map(|p| p.suffix()).collect();
        json!({
            "name": item.name,
            "dtype": t.map(|t| t.dtype),
            "shape": t.map(|t| &t.shape),
            "kept": item.kept,
            "parts": parts,
            "bytes": bytes,
            "rank": item.matrix.filter(|_| item.kept == Kept::LowRank).map(|m| options.rank_of(m.rows, m.columns)),
        })
    });
    Ok(json!({
        "form": options.form.name(),
        "exact": options.exact || options.form == Form::Xor,
        "read_bytes": super::work_bytes(base, tuned, options),
        "write_bytes": sizes.total(),
        "files": sizes.files.iter().map(|(file, bytes)| json!({"file": file, "bytes": bytes})).collect::<Vec<_>>(),
        "notes": notes,
        "peak_bytes": peak,
        "tensors": tensors.collect::<Vec<_>>(),
    }))
}

/// What the report says of the models and the tensors.
pub fn about(models: &Models, said: &Said, kept: &[files::Kept]) -> Value {
    let labels = [models.base.name(), models.tuned.name()];
    let model = |(m, label): (&Checkpoint, &String)| {
        let files = m.files.iter().map(|f| {
            let name = f.path.file_name().map(|n| n.to_string_lossy());
            json!({"file": name, "bytes": f.identity.size, "header": f.header_digest})
        });
        json!({"label": label, "path": label, "files": files.collect::<Vec<_>>()})
    };
    let one = |k: &files::Kept| {
        let entry = &said.tensors[k.of];
        let from = [(&labels[0], &entry.base), (&labels[1], &entry.tuned)];
        let from = from.iter().filter_map(|(label, s)| Some(json!([label, entry.name, s.as_ref()?.digest])));
        let from: Vec<Value> = from.collect();
        let told =
            json!({"dtype": k.dtype, "shape": k.shape, "action": action(entry.kept), "digest": k.digest, "from": from});
        (k.name.clone(), told)
    };
    let tensors: Map<String, Value> = kept.iter().map(one).collect();
    let o = models.options;
    let factored = said.tensors.iter().filter(|e| e.kept == Kept::LowRank);
    let ranks: Vec<u64> = factored.filter_map(|e| e.figures.get("rank")).map(|r| *r as u64).collect();
    json!({
        "title": format!("delta extract {}", said.form),
        "recipe": {"delta": {
            "base": labels[0],
            "tuned": labels[1],
            "form": said.form,
            "rank": o.rank,
            "rank_share": o.rank_share,
            "energy": o.energy,
            "density": o.density,
            "keep": o.keep,
            "exact": said.exact,
            "embed": o.embed,
            "by_tensor": o.by_tensor,
            "random": o.random,
        }},
        "models": [model((models.base, &labels[0])), model((models.tuned, &labels[1]))],
        "warnings": warnings(models, said),
        "notes": ranks_of(&ranks, &models.items, o, ""),
        "tensors": tensors,
    })
}

/// The report, as JSON text.
pub fn render(said: &Said, about: Value, beside: &[(String, Vec<u8>)]) -> String {
    let files = said.files.iter().cloned().chain(beside.iter().map(|(n, _)| n.clone()));
    let digests: BTreeMap<&str, String> =
        beside.iter().map(|(n, b)| (n.as_str(), digest::hex(digest::of_bytes(b)))).collect();
    let report = json!({
        "schema": crate::plan::SCHEMA,
        "suture": env!("CARGO_PKG_VERSION"),
        "title": about["title"],
        "recipe": about["recipe"],
        "plan": Value::Null,
        "digest": digest::SCHEME,
        "models": about["models"],
        "run": {
            "tensors_resumed": 0,
            "bytes_shared": 0,
            "files_mapped": 0,
            "files_direct": 0,
            "files_pread": 0,
            "cold_reads": [],
        },
        "backend": "cpu",
        "warnings": about["warnings"],
        "notes": notes(said, &about["notes"]),
        "unused": [],
        "files": files.chain([crate::checkpoint::REPORT.to_owned()]).collect::<Vec<_>>(),
        "beside": digests,
        "figures": said.figures,
        "tensors": about["tensors"],
    });
    let mut text = serde_json::to_string_pretty(&report).unwrap_or_default();
    text.push('\n');
    text
}

/// What is done with a tensor whose change is kept so.
pub fn action(kept: Kept) -> String {
    format!("kept {}", json!(kept).as_str().unwrap_or_default())
}

/// Bytes of files, as a share of a model's.
fn share_of(bytes: u64, all: u64) -> String {
    let share = 100.0 * bytes as f64 / all.max(1) as f64;
    format!("{} bytes, {share:.1} % of the model's {}", grouped(bytes), grouped(all))
}

/// A number in groups of three digits.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|g| String::from_utf8_lossy(g).into_owned());
    groups.collect::<Vec<_>>().join(",")
}

/// The ranks of factors, and of which matrices one was asked for that they do not have.
fn ranks_of(ranks: &[u64], items: &[Item], options: &Options, most: &str) -> Option<(&'static str, String)> {
    let plural = |n: usize| if n == 1 { "matrix" } else { "matrices" };
    let mut told = match (ranks.iter().min(), ranks.iter().max()) {
        (Some(low), Some(high)) if low == high => format!("{most}{low}, of {} {}", ranks.len(), plural(ranks.len())),
        (Some(low), Some(high)) => format!("{most}{low} to {high}, of {} {}", ranks.len(), plural(ranks.len())),
        _ => String::new(),
    };
    if let Some(rank) = options.rank_alone() {
        let mut above = items.iter().filter(|item| item.side.is_some_and(|side| side < rank));
        if let Some(first) = above.next() {
            let n = 1 + above.count();
            let how = if options.form == Form::Lora { "is of full rank" } else { "is kept whole" };
            let side = first.side.unwrap_or(0);
            told += if told.is_empty() { "" } else { "; " };
            told += &format!("{rank} is above {n} {}, which {how} (first: `{}`, {side})", plural(n), first.name);
        }
    }
    (!told.is_empty()).then_some(("ranks", told))
}

/// What it came to, for people; `more` is what else is told.
fn notes(said: &Said, more: &Value) -> Vec<(String, String)> {
    let figure = |key: &str| said.figures.get(key).copied();
    let mut notes = Vec::new();
    let bytes = figure("bytes").unwrap_or(0.0) as u64;
    notes.push(("size".to_owned(), share_of(bytes, said.tuned.bytes)));
    let count = |key: &str| figure(key).unwrap_or(0.0);
    let unchanged = format!("{} of {} tensors unchanged", count("tensors_same"), count("tensors"));
    let whole = match count("tensors_whole") {
        0.0 => String::new(),
        n => format!(", {n} kept whole"),
    };
    notes.push(("tensors".to_owned(), unchanged + &whole));
    // A title and a text, if there is something.
    if let (Some(title), Some(text)) = (more[0].as_str(), more[1].as_str()) {
        notes.push((title.to_owned(), text.to_owned()));
    }
    if let Some(kept) = figure("kept") {
        let of = grouped(count("changed") as u64);
        notes.push(("kept".to_owned(), format!("{} changes of {of}", grouped(kept as u64))));
    }
    match (figure("energy"), figure("error")) {
        (Some(energy), Some(error)) => {
            notes.push((
                "energy".to_owned(),
                format!("{:.2} % of the squares; relative error {error:.4}", 100.0 * energy),
            ));
        }
        (None, Some(error)) => notes.push(("error".to_owned(), format!("{error:.4} of the change's norm"))),
        _ => {}
    }
    notes.push(if said.exact {
        ("exact".to_owned(), "applying it gives the tuned model's bytes, and reverting it the base's".to_owned())
    } else {
        ("lossy".to_owned(), "applying it comes near the tuned model, and does not give its bytes".to_owned())
    });
    notes
}

fn warnings(models: &Models, said: &Said) -> Vec<String> {
    let mut told = models.base.told();
    told.extend(models.tuned.told());
    let gone: Vec<&str> = said.tensors.iter().filter(|e| e.kept == Kept::Gone).map(|e| e.name.as_str()).collect();
    if let [first, ..] = gone.as_slice() {
        told.push(format!("{} tensors of the base are not in the tuned model (first: `{first}`)", gone.len()));
    }
    told
}

/// The config of an adapter, if the delta is one.
pub fn adapter(models: &Models, said: &Said) -> Option<(String, Vec<u8>)> {
    if models.options.form != Form::Lora {
        return None;
    }
    let module = |e: &crate::checkpoint::delta::Entry| e.name.strip_suffix(".weight").map(str::to_owned);
    let rank = |e: &crate::checkpoint::delta::Entry| e.figures.get("rank").copied().unwrap_or(1.0) as u64;
    let factors: Vec<_> = said.tensors.iter().filter(|e| e.parts.contains_key(&Part::Left)).collect();
    let targets: Vec<String> = factors.iter().filter_map(|e| module(e)).collect();
    let most = factors.iter().map(|e| rank(e)).max().unwrap_or(1);
    let others: BTreeMap<String, u64> =
        factors.iter().filter(|e| rank(e) != most).filter_map(|e| Some((module(e)?, rank(e)))).collect();
    let mut whole: Vec<String> = Vec::new();
    let mut biases = false;
    for e in said.tensors.iter().filter(|e| e.kept == Kept::Whole) {
        let Some((parent, own)) = e.name.rsplit_once('.') else { continue };
        match own {
            "bias" if targets.iter().any(|t| t == parent) => biases = true,
            "weight" | "bias" if !whole.iter().any(|w| w == parent) => whole.push(parent.to_owned()),
            _ => {}
        }
    }
    let config = json!({
        "peft_type": "LORA",
        "base_model_name_or_path": said.base.name,
        "r": most,
        "lora_alpha": most,
        "rank_pattern": others,
        // The scale is 1 whatever the rank.
        "alpha_pattern": others,
        "target_modules": targets,
        "modules_to_save": if whole.is_empty() { Value::Null } else { json!(whole) },
        "bias": if biases { "all" } else { "none" },
        "fan_in_fan_out": said.tensors.iter().any(|e| e.turned && !tied::is_table(&e.name)),
        "lora_dropout": 0.0,
        "use_rslora": false,
        "use_dora": false,
        "init_lora_weights": true,
        "inference_mode": true,
        "task_type": Value::Null,
    });
    let mut text = serde_json::to_vec_pretty(&config).unwrap_or_default();
    text.push(b'\n');
    Some(("adapter_config.json".to_owned(), text))
}
