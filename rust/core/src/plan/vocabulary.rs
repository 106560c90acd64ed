//! Models of different vocabularies, brought to one: their tables of tokens become tables of each other's rows.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};

use super::Models;
use crate::checkpoint::made::Made;
use crate::checkpoint::rows::{Layout, Mixes, Rows, Segment};
use crate::checkpoint::{Checkpoint, Reference, Tensor};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::names::split_layer;
use crate::model::tied;

/// The rows of one vocabulary, for each model.
#[derive(Debug)]
pub struct Vocabulary {
    models: Vec<Reference>,
    /// For each model; `None` of one that lends rows and is not changed.
    layouts: Vec<Option<Own>>,
    mixes: Arc<Mixes>,
}

/// What becomes of a model's tables.
#[derive(Debug)]
struct Own {
    tables: Arc<Layout>,
    /// Of heads, where they have other rows.
    heads: Option<Arc<Layout>>,
}

#[derive(Deserialize)]
struct Given {
    models: Vec<Value>,
    segments: Vec<Option<Vec<Segment>>>,
    #[serde(default)]
    heads: Option<Vec<Segment>>,
    #[serde(default)]
    mixes: Mixes,
}

impl Vocabulary {
    /// Reads a vocabulary: `{"models": [...], "segments": [[...], null, ...]}`, see [`Segment`]; null for a model that lends rows and
    /// is not changed. `heads` are the segments of the first model's heads, where they are others, and `mixes` what mixed rows
    /// are, see [`Mixes`].
    ///
    /// # Errors
    /// [`Error::Recipe`] if it is none.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = |problem: &str| Error::recipe("vocabulary", problem);
        let given: Given = serde_json::from_str(text).map_err(|e| wrong(&e.to_string()))?;
        let models: Vec<Reference> =
            given.models.iter().map(|m| crate::recipe::model("vocabulary", m)).collect::<Result<_>>()?;
        if !given.mixes.sound() {
            return Err(wrong("its mixes have rows without weights, or weights that are no numbers"));
        }
        // Of none there is one form: what is written of a plan is digested as what it was made of.
        let mixes = Arc::new(if given.mixes.is_empty() { Mixes::default() } else { given.mixes });
        let layout = |segments| Arc::new(Layout::new(segments, Arc::clone(&mixes)));
        let mut heads = given.heads.map(layout);
        let own = |s: Option<Vec<Segment>>| s.map(|s| Own { tables: layout(s), heads: heads.take() });
        let layouts: Vec<Option<Own>> = given.segments.into_iter().map(own).collect();
        let all = || layouts.iter().flatten().flat_map(|o| std::iter::once(&o.tables).chain(&o.heads));
        let rows = all().next().map_or(0, |l| l.rows);
        let known = |l: &Layout| l.sound() && l.reads().all(|(model, _)| model < models.len());
        if layouts.len() != models.len() || all().any(|l| l.rows != rows || !known(l)) {
            return Err(wrong("its models have different numbers of rows, or rows of models that are not listed"));
        }
        Ok(Self { models, layouts, mixes })
    }

    /// The vocabulary as [`Self::parse`] reads it.
    pub fn to_json(&self) -> Value {
        let segments: Vec<Option<&[Segment]>> =
            self.layouts.iter().map(|o| o.as_ref().map(|o| o.tables.segments.as_slice())).collect();
        let models: Vec<Value> = self.models.iter().map(super::references::model_json).collect();
        let mut told = json!({"models": models, "segments": segments});
        if let Some(heads) = self.layouts.iter().flatten().find_map(|o| o.heads.as_ref()) {
            told["heads"] = json!(heads.segments);
        }
        if !self.mixes.is_empty() {
            told["mixes"] = json!(*self.mixes);
        }
        told
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> u64 {
        let own = |o: &Own| o.tables.bytes() + o.heads.as_ref().map_or(0, |l| l.bytes());
        self.mixes.bytes() + self.layouts.iter().flatten().map(own).sum::<u64>()
    }
}

impl Models {
    /// Opens the models of a vocabulary and gives each the rows it says.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a table that has no such rows, or whose rows are not of one width in all models.
    pub fn align(&mut self, vocabulary: &Vocabulary) -> Result<()> {
        let places: Vec<usize> = vocabulary.models.iter().map(|m| self.open(m)).collect::<Result<_>>()?;
        let before: Vec<Arc<Checkpoint>> = places.iter().map(|i| Arc::clone(&self.checkpoints[*i])).collect();
        for (own, (place, given)) in places.iter().zip(&vocabulary.layouts).enumerate() {
            let Some(given) = given else {
                self.lent.insert(*place);
                continue;
            };
            if let Some(aligned) = aligned(&before, own, given)? {
                self.checkpoints[*place] = Arc::new(aligned);
            }
        }
        Ok(())
    }
}

/// The model at `own` with the rows that are given; `None` if these are what it has.
fn aligned(models: &[Arc<Checkpoint>], own: usize, given: &Own) -> Result<Option<Checkpoint>> {
    let Own { tables: layout, heads } = given;
    let model = &models[own];
    let Some(table) = model.tables().first().map(|i| &model.tensors[*i]) else {
        return Err(Error::checkpoint(
            &model.path,
            "has no table of tokens, whose rows are to be those of a vocabulary",
        ));
    };
    let rows = table.shape.first().copied().unwrap_or(0);
    let same = |l: &Layout| matches!(l.segments[..], [Segment::Rows(count, from, 0)] if count == rows && from == own);
    if same(layout) && heads.as_ref().is_none_or(|l| same(l)) {
        return Ok(None);
    }
    let mut out = Checkpoint::clone(model);
    let mut first_files: BTreeMap<usize, usize> = BTreeMap::from([(own, 0)]);
    let told = (&layout.segments, heads.as_ref().map(|l| &l.segments), &*layout.mixes);
    let text = serde_json::to_vec(&told).unwrap_or_default();
    let about = crate::digest::hex(crate::digest::of_bytes(&text));
    for file in &mut out.files {
        // What is read depends on the rows as it does on the header.
        file.header_digest.push_str(&about);
    }
    for t in &with_heads(models, own, layout, rows) {
        // Biases are the heads'.
        let of_head = tied::is_head(&t.name) || width(t, rows) == Some(1);
        let layout = heads.as_ref().filter(|_| of_head).unwrap_or(layout);
        let Some(columns) = width(t, rows) else {
            let problem = format!("has shape {:?}, expected {rows} rows, as many as `{}` has", t.shape, table.name);
            return Err(Error::tensor(&model.path, &t.name, problem));
        };
        let mut tables: Vec<Option<Tensor>> = vec![None; models.len()];
        for (from, end) in layout.reads() {
            if tables[from].is_none() {
                let donor = donor(models, from, own, t, columns)?;
                let first = *first_files.entry(from).or_insert_with(|| out.lend(&models[from]));
                tables[from] = Some(donor.shifted(first));
            }
            let have = tables[from].as_ref().map_or(0, |t| t.elements() / columns);
            if end > have {
                let problem =
                    format!("has {have} rows, and row {} is wanted; the tokenizer has more tokens than it", end - 1);
                return Err(Error::tensor(&models[from].path, &t.name, problem));
            }
        }
        let dtypes = std::iter::once(t.dtype).chain(tables.iter().flatten().map(|t| t.dtype));
        let dtype = dtypes.reduce(Dtype::promote).unwrap_or(t.dtype);
        let mut shape = t.shape.clone();
        let axis = usize::from(shape.len() == 2 && shape[0] == 1 && columns == 1);
        shape[axis] = layout.rows;
        let rows = Rows { layout: Arc::clone(layout), tables, columns, formed: Mutex::new(None) };
        let nbytes = layout.rows * columns * dtype.bits() / 8;
        out.put(Tensor { dtype, shape, nbytes, made: Some(Arc::new(Made::Rows(rows))), ..t.clone() });
    }
    Ok(Some(out))
}

/// The tensors of the model at `own` that have a row for each token; and the heads that it ties to its table where others, of which
/// it takes rows, have heads of their own: its head is then its table's rows and the heads' of these.
fn with_heads(models: &[Arc<Checkpoint>], own: usize, layout: &Layout, rows: u64) -> Vec<Tensor> {
    let model = &models[own];
    let mut found: Vec<Tensor> = of_tokens(model, rows).cloned().collect();
    let mut donors: Vec<usize> = layout.reads().map(|(from, _)| from).collect();
    donors.sort_unstable();
    donors.dedup();
    for head in donors.iter().flat_map(|d| &models[*d].tensors).filter(|t| tied::is_head(&t.name)) {
        let known = found.iter().any(|t| t.name == head.name) || model.find_alike(&head.name).is_some();
        if let (false, Some(table)) = (known, model.counterpart(&head.name)) {
            found.push(Tensor { name: head.name.clone(), ..model.tensors[table].clone() });
        }
    }
    found
}

/// The tensors of a model that have a row for each of `rows` tokens: tables, heads and biases.
pub fn of_tokens(model: &Checkpoint, rows: u64) -> impl Iterator<Item = &Tensor> {
    let unnamed = unnamed(model, rows);
    model.tensors.iter().filter(move |t| tied::has_row_per_token(&t.name) || unnamed.contains(t.name.as_str()))
}

/// The tensors whose names say nothing, and that have an axis as long as the table of tokens: where no tensor of a layer has one of
/// that length, it is the same axis. Tables of positions may be as long by chance.
fn unnamed(model: &Checkpoint, rows: u64) -> HashSet<&str> {
    let outside = |t: &&Tensor| split_layer(&t.name).is_none();
    if model.tensors.iter().filter(|t| !outside(t)).any(|t| t.shape.contains(&rows)) {
        return HashSet::new();
    }
    let place = |name: &str| ["position", "pos_emb", "wpe"].iter().any(|p| name.contains(p));
    let tells = |t: &&Tensor| !tied::has_row_per_token(&t.name) && t.shape.contains(&rows) && !place(&t.name);
    model.tensors.iter().filter(outside).filter(tells).map(|t| t.name.as_str()).collect()
}

/// Elements of a row of a tensor that has one for each token: [rows, width], [rows] or [1, rows].
fn width(t: &Tensor, rows: u64) -> Option<u64> {
    match t.shape[..] {
        [own, ref rest @ ..] if own == rows => Some(rest.iter().product::<u64>().max(1)),
        [1, own] if own == rows => Some(1),
        _ => None,
    }
}

/// The table of the model at `from` that stands for `t` of the model at `own`.
fn donor<'a>(models: &'a [Arc<Checkpoint>], from: usize, own: usize, t: &Tensor, columns: u64) -> Result<&'a Tensor> {
    let (model, wanted_by) = (&models[from], models[own].path.display());
    let Some(found) = model.counterpart(&t.name).map(|i| &model.tensors[i]) else {
        let problem = format!("is missing, and rows of it go into {wanted_by}; write it out first");
        return Err(Error::tensor(&model.path, &t.name, problem));
    };
    if found.elements() % columns != 0 || found.shape.last() != t.shape.last() && t.shape.len() == 2 && columns > 1 {
        let problem =
            format!("has shape {:?}, and {:?} in {wanted_by}; rows must be of one width", found.shape, t.shape);
        return Err(Error::tensor(&model.path, &found.name, problem));
    }
    if !found.dtype.computes() || !t.dtype.computes() {
        let dtype = if found.dtype.computes() { t.dtype } else { found.dtype };
        let problem =
            format!("is {}; vocabularies of quantised tables are not aligned: dequantise them first", dtype.name());
        return Err(Error::tensor(&model.path, &found.name, problem));
    }
    Ok(found)
}
