//! What fine-tunes changed: a base and its fine-tunes streamed side by side, in parallel.
//!
//! One pass gives every sum ([`moments`], [`pairs`]) and the histograms of the changes ([`spread`]); what these leave
//! open takes a second ([`inside`]), and the overlap of what two fine-tunes changed most a third.

pub mod ancestry;
mod inside;
pub mod metrics;
pub mod moments;
pub mod options;
pub mod pairs;
mod pass;
mod report;

pub mod spread;
pub mod summary;
mod tiles;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use parking_lot::Mutex;

use crate::checkpoint::{Checkpoint, Tensor};
use crate::dtype::Dtype;
use crate::engine::chunks::Buffers;
use crate::engine::observer::{Observer, Progress};
use crate::engine::spans;
use crate::error::{Error, Result};
use crate::model::anatomy::Anatomy;
use crate::model::attention::Attention;
use crate::model::cuts::{Wanted, slicing};
use crate::model::names::module_kind;
use crate::model::slices::{Part, Slicing};
use crate::source::{IoMode, Source};
use crate::view::{Decode, stored};
use moments::Moments;
use options::Options;
use pairs::Pair;
use spread::{Ask, Question, Spread};

/// How fine-tunes relate to their base and to each other.
pub struct Comparison {
    base: PathBuf,
    /// The base's stacks, by which layers are named.
    anatomy: Anatomy,
    options: Options,
    /// Whether any of the models has quantised weights, which are decoded.
    quantised: bool,
    models: Vec<Model>,
    /// The changes of every two fine-tunes, by their indices.
    pairs: Vec<Related>,
}

/// A fine-tune against the base.
struct Model {
    path: PathBuf,
    /// What it is called.
    name: String,
    /// Tensors of both, in the order of the base's bytes.
    tensors: Vec<Compared>,
    /// Groups of tensors whose distribution was asked for.
    groups: BTreeMap<Group, Asked>,
    only_base: Vec<String>,
    only_tuned: Vec<String>,
    /// Names both have, with different shapes or dtypes that cannot be compared.
    reshaped: Vec<String>,
    /// The layer of each of these, as the model that has it names it.
    lost: Vec<(String, String)>,
}

/// One tensor of both.
struct Compared {
    /// Index in the base.
    index: usize,
    name: String,
    /// The layer it is in, as a key that sorts.
    layer: Layer,
    dtype: Dtype,
    shape: Vec<u64>,
    /// True if both hold the same bytes of the same dtype.
    equal: bool,
    /// Sums over its elements; for dtypes that do not compute, only the counts.
    moments: Moments,
    /// Of its parts, with what they are.
    parts: Vec<Moments>,
    slicing: Option<Slicing>,
    asked: Option<Asked>,
}

/// The changes of two fine-tunes, tensor by tensor.
struct Related {
    models: (usize, usize),
    tensors: Vec<Shared>,
}

/// A tensor of two fine-tunes.
struct Shared {
    /// Index of its row.
    row: usize,
    name: String,
    layer: Layer,
    sums: Pair,
}

/// Tensors whose changes are looked at together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// A layer; the last is what is in no layer.
    Layer(Layer),
    Module(String),
    All,
}

/// A layer by the order of its stack and its number; see [`Anatomy::order`].
type Layer = (usize, usize);

impl Group {
    /// The groups of a tensor.
    fn of(name: &str, layer: Layer) -> [Self; 3] {
        [Self::Layer(layer), Self::Module(module_kind(name)), Self::All]
    }
}

/// What was asked of the distribution of a tensor's or a group's changes.
#[derive(Clone)]
struct Asked {
    gini: f64,
    questions: Vec<Question>,
}

/// Shares whose quantiles are given, with their names.
const QUANTILES: [(&str, f64); 4] = [("q50", 0.5), ("q90", 0.9), ("q99", 0.99), ("q999", 0.999)];
/// Index of the quantile that tells the elements that changed most.
const Q99: usize = 2;
/// Share of the elements whose share of the change is given.
const TOP: f64 = 0.01;

impl Asked {
    fn of(spread: &Spread, moments: &Moments, options: &Options) -> Self {
        let near = metrics::ratio(moments.abs_base, (moments.elements - moments.skipped) as f64);
        let above = options.spread.iter().flatten().map(|t| if t.relative { t.value * near } else { t.value });
        let asks = QUANTILES.iter().map(|(_, q)| Ask::Quantile(*q)).chain([Ask::Top(TOP)]).chain(above.map(Ask::Above));
        Self { gini: spread.gini(), questions: asks.map(|a| spread.ask(a)).collect() }
    }

    /// Answers what is open about the bins whose insides `lows` knows.
    fn look<'a>(&mut self, lows: impl Fn(u32) -> Option<&'a [u64]>) {
        for q in &mut self.questions {
            if let Some(lows) = q.open().and_then(&lows) {
                q.look(lows);
            }
        }
    }

    /// The bins whose insides have to be known.
    fn open(&self) -> impl Iterator<Item = u32> {
        self.questions.iter().filter_map(Question::open)
    }
}

/// A tensor of the base and where the fine-tunes have it; `None` where it cannot be compared.
struct Row {
    base: usize,
    tuned: Vec<Option<usize>>,
}

/// Whether two tensors can be compared; those without arithmetic only as the bytes of one dtype.
fn comparable(b: &Tensor, t: &Tensor) -> bool {
    t.shape == b.shape && (t.dtype == b.dtype || (t.dtype.computes() && b.dtype.computes()))
}

/// The tensors to compare.
fn rows(base: &Checkpoint, tuned: &[&Checkpoint], options: &Options) -> Vec<Row> {
    let anatomy = base.anatomy();
    let name = |i: usize| anatomy.layer_name(anatomy.place(&base.tensors[i].name));
    let wanted = |i: &usize| options.layers.as_ref().is_none_or(|layers| layers.contains(&name(*i)));
    let mate = |i: usize, t: &Checkpoint| {
        let b = &base.tensors[i];
        t.find_alike(&b.name).filter(|j| comparable(b, &t.tensors[*j]))
    };
    let row = |i| Row { base: i, tuned: tuned.iter().map(|t| mate(i, t)).collect() };
    (0..base.tensors.len()).filter(wanted).map(row).filter(|r| r.tuned.iter().any(Option::is_some)).collect()
}

/// Bytes that [`compare`] reads at most.
pub fn read_bytes(base: &Checkpoint, tuned: &[&Checkpoint], options: &Options) -> u64 {
    let passes = match (&options.spread, tuned.len()) {
        (None, _) => 1,
        (Some(_), 1) => 2,
        (Some(_), _) => 3,
    };
    passes * once(base, tuned, options)
}

/// Bytes of one pass over everything.
fn once(base: &Checkpoint, tuned: &[&Checkpoint], options: &Options) -> u64 {
    rows(base, tuned, options)
        .iter()
        .map(|r| {
            let tuned = r.tuned.iter().zip(tuned).filter_map(|(i, t)| i.map(|i| t.tensors[i].read_bytes()));
            base.tensors[r.base].read_bytes() + tuned.sum::<u64>()
        })
        .sum()
}

/// An observer of a later pass, which goes on counting where the one before would have ended had it read everything.
struct Later<'a> {
    observer: &'a dyn Observer,
    before: u64,
}

impl Observer for Later<'_> {
    fn tick(&self, done: u64) -> bool {
        self.observer.tick(self.before + done)
    }
}

/// The files of a comparison, open.
struct Open<'a> {
    base: &'a Checkpoint,
    tuned: &'a [&'a Checkpoint],
    base_files: Vec<Box<dyn Source>>,
    tuned_files: Vec<Vec<Box<dyn Source>>>,
    rows: Vec<Row>,
    threads: usize,
}

impl Open<'_> {
    /// The layer that a row's tensor is in.
    fn layer(&self, row: &Row) -> Layer {
        self.base.anatomy().order(&self.base.tensors[row.base].name)
    }

    /// The groups that a row's tensor is in.
    fn groups(&self, row: &Row) -> [Group; 3] {
        Group::of(&self.base.tensors[row.base].name, self.layer(row))
    }

    /// A row's tensor in the base and in the fine-tunes that `which` picks.
    fn stored(&self, row: &Row, which: impl Fn(usize) -> bool) -> Vec<Box<dyn Decode + '_>> {
        let base = stored(&self.base.tensors[row.base], &self.base_files);
        let tuned = row
            .tuned
            .iter()
            .enumerate()
            .filter(|(m, _)| which(*m))
            .filter_map(|(m, i)| Some(stored(&self.tuned[m].tensors[(*i)?], &self.tuned_files[m])));
        std::iter::once(base).chain(tuned).collect()
    }

    /// Reads the rows of which a fine-tune is `wanted`, by their numbers, and joins what `f` finds in their spans.
    fn each<T: Send, R: Send>(
        &self,
        observer: &dyn Observer,
        wanted: impl Fn(usize, usize) -> bool + Sync,
        f: impl Fn(usize, Range<u64>, &mut Buffers, &Progress) -> Result<T> + Sync,
        join: impl Fn(usize, Vec<T>) -> R + Sync,
    ) -> Result<Vec<R>> {
        let elements = self.rows.iter().enumerate();
        let any = |i: usize, row: &Row| (0..row.tuned.len()).any(|m| wanted(i, m));
        let elements = elements.map(|(i, r)| if any(i, r) { self.base.tensors[r.base].elements() } else { 0 });
        spans::each(elements, |i| self.stored(&self.rows[i], |m| wanted(i, m)), self.threads, observer, f, join)
    }
}

/// Compares fine-tunes with their base, reading each once, or as often as the options make necessary.
///
/// # Errors
/// Input that cannot be read, [`crate::error::Error::Interrupted`] when the observer stops it.
pub fn compare(
    base: &Checkpoint,
    tuned: &[&Checkpoint],
    options: &Options,
    io: IoMode,
    threads: usize,
    observer: &dyn Observer,
) -> Result<Comparison> {
    let alike: Vec<Option<Checkpoint>> = tuned.iter().map(|t| alike(t, base)).collect::<Result<_>>()?;
    let tuned: Vec<&Checkpoint> = alike.iter().zip(tuned).map(|(alike, own)| alike.as_ref().unwrap_or(own)).collect();
    let tuned = tuned.as_slice();
    let open = Open {
        base,
        tuned,
        base_files: base.sources(io),
        tuned_files: tuned.iter().map(|t| t.sources(io)).collect(),
        rows: rows(base, tuned, options),
        threads,
    };
    let anatomy = base.anatomy();
    let attentions: Vec<Option<Attention>> =
        anatomy.stacks.iter().map(|s| if options.heads { base.attention(s) } else { None }).collect();
    if options.heads && !attentions.is_empty() && attentions.iter().all(Option::is_none) {
        let problem = "the number of heads is not known; the base needs a config.json with `num_attention_heads`";
        return Err(Error::checkpoint(&base.path, problem));
    }
    let cut = |t: &Tensor| {
        let heads = anatomy.place(&t.name).and_then(|(stack, _)| attentions[stack]);
        slicing(&t.name, &t.shape, &Wanted { heads, neurons: options.neurons, tokens: options.tokens > 0 })
    };
    let slicing: Vec<Option<Slicing>> = open
        .rows
        .iter()
        .map(|r| &base.tensors[r.base])
        .map(|t| if t.dtype.computes() { cut(t) } else { None })
        .collect();
    let spreads: Vec<Mutex<BTreeMap<Group, Spread>>> = tuned.iter().map(|_| Mutex::default()).collect();
    let first = pass::First { open: &open, slicing, options, spreads };
    let joined = open.each(
        observer,
        |_, _| true,
        |i, elements, buffers, progress| first.span(i, elements, buffers, progress),
        |i, spans| first.join(i, spans),
    )?;
    let mut models: Vec<Model> = tuned.iter().map(|t| Model::new(base, t)).collect();
    let mut pairs: Vec<Related> = all_pairs(tuned.len()).map(|models| Related { models, tensors: vec![] }).collect();
    for (row, (compared, related)) in joined.into_iter().enumerate() {
        let name = &base.tensors[open.rows[row].base].name;
        for (model, compared) in models.iter_mut().zip(compared) {
            model.tensors.extend(compared);
        }
        for (pair, found) in pairs.iter_mut().zip(related) {
            pair.tensors.extend(found.map(|sums| Shared { row, name: name.clone(), layer: anatomy.order(name), sums }));
        }
    }
    if options.spread.is_some() {
        for (model, spreads) in models.iter_mut().zip(first.spreads) {
            model.ask(spreads.into_inner(), options);
        }
        let once = once(base, tuned, options);
        inside::look(&open, &mut models, &Later { observer, before: once })?;
        inside::overlap(&open, &models, &mut pairs, &Later { observer, before: 2 * once })?;
        observer.tick(read_bytes(base, tuned, options));
    }
    open.base_files.iter().chain(open.tuned_files.iter().flatten()).try_for_each(|s| s.check())?;
    let quantised = std::iter::once(&base).chain(tuned).any(|c| c.is_decoded());
    Ok(Comparison {
        base: base.written(),
        anatomy: anatomy.clone(),
        options: options.clone(),
        quantised,
        models,
        pairs,
    })
}

/// A fine-tune under the names that the base has, its experts stored as the base's; `None` if it is so as it is.
///
/// # Errors
/// [`crate::error::Error::Tensor`] if its experts cannot be stored so.
pub fn alike(tuned: &Checkpoint, base: &Checkpoint) -> Result<Option<Checkpoint>> {
    let packed = match base.packing() {
        Some(form) if tuned.stores_experts_unlike(base) => Some(tuned.with_experts(form, base)?),
        _ => None,
    };
    let named = packed.as_ref().unwrap_or(tuned).named_as(base).map(|(named, ..)| named);
    Ok(named.or(packed))
}

/// Every two of `n`.
fn all_pairs(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).flat_map(move |i| (i + 1..n).map(move |j| (i, j)))
}

impl Compared {
    /// Of the parts that are tokens only the most changed are kept, and a count: there may be a quarter of a million.
    fn keep_most_changed(&mut self, tokens: usize) {
        let Some(slicing) = self.slicing.as_mut().filter(|s| s.part == Part::Token) else { return };
        let mut order: Vec<usize> = (0..self.parts.len()).filter(|i| self.parts[*i].changed > 0).collect();
        order.sort_by(|a, b| self.parts[*b].square_delta.total_cmp(&self.parts[*a].square_delta).then(a.cmp(b)));
        let changed = order.len() as u64;
        order.truncate(tokens);
        self.parts = order.iter().map(|i| self.parts[*i]).collect();
        // The rows that are kept, and after them how many changed.
        slicing.bounds = order.iter().map(|i| *i as u64).chain([changed]).collect();
    }
}

impl Model {
    fn new(base: &Checkpoint, tuned: &Checkpoint) -> Self {
        let missing = |a: &Checkpoint, b: &Checkpoint| {
            a.tensors.iter().filter(|t| b.find_alike(&t.name).is_none()).map(|t| t.name.clone()).collect()
        };
        let reshaped = |b: &&Tensor| tuned.find_alike(&b.name).is_some_and(|t| !comparable(b, &tuned.tensors[t]));
        let only_base: Vec<String> = missing(base, tuned);
        let only_tuned: Vec<String> = missing(tuned, base);
        let reshaped: Vec<String> = base.tensors.iter().filter(reshaped).map(|t| t.name.clone()).collect();
        let layer = |c: &Checkpoint, n: &String| (n.clone(), c.anatomy().layer_name(c.anatomy().place(n)));
        let of_base = only_base.iter().chain(&reshaped).map(|n| layer(base, n));
        let lost = of_base.chain(only_tuned.iter().map(|n| layer(tuned, n))).collect();
        Self {
            path: tuned.written(),
            name: tuned.name(),
            tensors: Vec::new(),
            groups: BTreeMap::new(),
            only_base,
            only_tuned,
            reshaped,
            lost,
        }
    }

    /// Puts the questions to the groups' histograms.
    fn ask(&mut self, spreads: BTreeMap<Group, Spread>, options: &Options) {
        let mut moments: BTreeMap<Group, Moments> = BTreeMap::new();
        for t in self.tensors.iter().filter(|t| t.dtype.computes()) {
            for group in Group::of(&t.name, t.layer) {
                *moments.entry(group).or_default() += t.moments;
            }
        }
        let asked = |(group, spread): (Group, Spread)| {
            let asked = Asked::of(&spread, &moments.get(&group).copied().unwrap_or_default(), options);
            (group, asked)
        };
        self.groups = spreads.into_iter().map(asked).collect();
    }
}
