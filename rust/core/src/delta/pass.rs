//! The first pass over all tensors: sums and histograms, span by span.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

use parking_lot::Mutex;

use super::moments::Moments;
use super::options::Options;
use super::pairs::Pair;
use super::spread::{Counter, Spread};
use super::{Asked, Compared, Group, Open, all_pairs, pairs, tiles};
use crate::dtype::Dtype;
use crate::engine::chunks::{self, Buffers};
use crate::engine::observer::Progress;
use crate::error::Result;
use crate::model::slices::Slicing;
use crate::sizes::CHUNK;
use crate::view::Decode;

/// What a span says: of each fine-tune, and of every two.
type Spans = (Vec<Option<Seen>>, Vec<Option<Pair>>);
/// What a tensor's spans say together.
type Joined = (Vec<Option<Compared>>, Vec<Option<Pair>>);

/// What a span of a tensor says of one fine-tune.
pub(super) struct Seen {
    equal: bool,
    /// The first part the span has something of, and the sums of it and those after it.
    first: usize,
    parts: Vec<Moments>,
    spread: Spread,
}

/// A fine-tune while a span of one of its tensors is looked at.
struct Look {
    seen: Seen,
    /// The changes of the last tile, where anything asks for them.
    changes: tiles::Changes,
    /// The histogram of the changes, if it is wanted.
    counter: Option<Counter>,
}

impl Look {
    /// Takes a tile that lies at `at` in the tensor; `paired` if its changes are held against another fine-tune's.
    fn add(
        &mut self,
        at: Range<u64>,
        base: &tiles::Elements,
        tuned: &tiles::Tuned,
        slicing: Option<&Slicing>,
        paired: bool,
    ) {
        let seen = &mut self.seen;
        seen.equal &= tuned.same;
        let mut skipped = 0;
        let mut add = |part: usize, run: Range<usize>| {
            let (b, t) = (base.part(run.clone()), tuned.elements.part(run.clone()));
            let mut found = match (b.exact, t.exact) {
                _ if tuned.same => Moments::of_equal(b.values),
                (Some(b), Some(t)) => Moments::of_exact(b, t),
                _ => Moments::of(b.values, t.values),
            };
            if let Some([own, next]) = tuned.steps {
                found.count_steps(b.values, t.values, &own[run.clone()], &next[run]);
            }
            skipped += found.skipped;
            seen.parts[part - seen.first] += found;
        };
        match slicing {
            None => add(0, 0..base.values.len()),
            Some(s) => s.runs(at.clone()).for_each(|(part, run)| {
                add(part, (run.start - at.start) as usize..(run.end - at.start) as usize);
            }),
        }
        if !paired && self.counter.is_none() {
            return;
        }
        let unchanged = tuned.same && skipped == 0;
        if unchanged {
            self.changes.clear(base.values.len());
        } else {
            self.changes.take(base, &tuned.elements);
        }
        if paired {
            self.changes.square = if unchanged { 0.0 } else { pairs::dot(&self.changes.all, &self.changes.all) };
        }
        match &mut self.counter {
            Some(counter) if unchanged => counter.add_unchanged(base.values.len() as u64),
            Some(counter) => counter.add(self.changes.finite()),
            None => {}
        }
    }
}

/// The first pass, which sees every element.
pub(super) struct First<'a> {
    pub open: &'a Open<'a>,
    /// How each row is cut into parts.
    pub slicing: Vec<Option<Slicing>>,
    pub options: &'a Options,
    /// The histograms of each fine-tune's groups.
    pub spreads: Vec<Mutex<BTreeMap<Group, Spread>>>,
}

impl First<'_> {
    /// What a span of row `i` says of each fine-tune and of every two.
    pub fn span(&self, i: usize, elements: Range<u64>, buffers: &mut Buffers, progress: &Progress) -> Result<Spans> {
        let Self { open, options, .. } = self;
        let slicing = self.slicing[i].as_ref();
        let row = &open.rows[i];
        let stored = open.stored(row, |_| true);
        let present: Vec<usize> = (0..row.tuned.len()).filter(|m| row.tuned[*m].is_some()).collect();
        let place: HashMap<usize, usize> = present.iter().enumerate().map(|(at, m)| (*m, at)).collect();
        let same_dtype = |at: usize| stored[at + 1].dtype() == stored[0].dtype();
        let touched = slicing.map_or(0..1, |s| s.touched(&elements));
        let mut looks: Vec<Look> = (0..present.len())
            .map(|at| Look {
                seen: Seen {
                    equal: same_dtype(at),
                    first: touched.start,
                    parts: vec![Moments::default(); touched.len()],
                    spread: Spread::default(),
                },
                changes: tiles::Changes::default(),
                counter: options.spread.as_ref().and_then(|_| Counter::new()),
            })
            .collect();
        let mates: Vec<Option<(usize, usize)>> =
            all_pairs(row.tuned.len()).map(|(a, b)| Some((*place.get(&a)?, *place.get(&b)?))).collect();
        let dtype = stored[0].dtype();
        let mut related: Vec<Option<Pair>> =
            mates.iter().map(|m| m.filter(|_| dtype.computes()).map(|_| Pair::default())).collect();
        if dtype.computes() {
            let paired = related.iter().any(Option::is_some);
            tiles::each(&stored, elements, buffers, progress, |at, base, tuned| {
                for (look, tuned) in looks.iter_mut().zip(tuned) {
                    look.add(at.clone(), base, tuned, slicing, paired);
                }
                for (related, mates) in related.iter_mut().zip(&mates) {
                    if let (Some(related), Some((a, b))) = (related, mates) {
                        *related += Pair::of(&looks[*a].changes, &looks[*b].changes);
                    }
                }
            })?;
        } else {
            let views: Vec<&dyn Decode> = stored.iter().map(|s| &**s).collect();
            chunks::each(&views, elements, CHUNK, true, buffers, |part, raw| {
                progress.alive()?;
                for (Look { seen, .. }, tuned) in looks.iter_mut().zip(&raw[1..]) {
                    seen.equal &= raw[0] == *tuned;
                    seen.parts[0] += counted(raw[0], tuned, dtype, (part.end - part.start) as usize);
                }
                progress.add(raw.iter().map(|r| r.len() as u64).sum());
                Ok(())
            })?;
        }
        let mut all: Vec<Option<Seen>> = row.tuned.iter().map(|_| None).collect();
        for (m, mut look) in present.into_iter().zip(looks) {
            if let Some(counter) = look.counter {
                look.seen.spread = counter.finish();
            }
            all[m] = Some(look.seen);
        }
        Ok((all, related))
    }

    /// What the spans of row `i` say together.
    pub fn join(&self, i: usize, spans: Vec<Spans>) -> Joined {
        let Self { open, options, spreads, .. } = self;
        let slicing = self.slicing[i].as_ref();
        let row = &open.rows[i];
        let b = &open.base.tensors[row.base];
        let (seen, related): (Vec<_>, Vec<_>) = spans.into_iter().unzip();
        let mut by_model: Vec<Vec<Seen>> = row.tuned.iter().map(|_| Vec::new()).collect();
        for span in seen {
            for (all, seen) in by_model.iter_mut().zip(span) {
                all.extend(seen);
            }
        }
        let compared = by_model.into_iter().enumerate().map(|(m, seen)| {
            let tensor = &open.tuned[m].tensors[row.tuned[m]?];
            let mut compared = Compared {
                index: row.base,
                name: b.name.clone(),
                layer: open.layer(row),
                dtype: b.dtype,
                shape: b.shape.clone(),
                equal: tensor.dtype == b.dtype && seen.iter().all(|s| s.equal),
                moments: Moments::default(),
                parts: vec![Moments::default(); slicing.map_or(1, Slicing::pieces)],
                slicing: slicing.cloned(),
                asked: None,
            };
            let mut spread = Spread::default();
            for s in &seen {
                compared.parts.iter_mut().skip(s.first).zip(&s.parts).for_each(|(p, s)| *p += *s);
                spread.add(&s.spread);
            }
            compared.moments = compared.parts.iter().fold(Moments::default(), |mut all, p| {
                all += *p;
                all
            });
            if options.spread.is_some() && b.dtype.computes() {
                compared.asked = Some(Asked::of(&spread, &compared.moments, options));
                let mut groups = spreads[m].lock();
                for group in open.groups(row) {
                    groups.entry(group).or_default().add(&spread);
                }
            }
            compared.keep_most_changed(options.tokens);
            Some(compared)
        });
        let compared = compared.collect();
        let pairs = all_pairs(row.tuned.len()).enumerate().map(|(p, _)| {
            let mut found: Option<Pair> = None;
            for pair in related.iter().filter_map(|r| r[p]) {
                *found.get_or_insert_default() += pair;
            }
            found
        });
        (compared, pairs.collect())
    }
}

/// Elements that differ, for dtypes without arithmetic; those of less than a byte are packed from the low bits up.
fn counted(base: &[u8], tuned: &[u8], dtype: Dtype, elements: usize) -> Moments {
    let bits = dtype.bits() as usize;
    let differing = if bits >= 8 {
        base.chunks(bits / 8).zip(tuned.chunks(bits / 8)).filter(|(b, t)| b != t).count()
    } else {
        let bit = |i: usize| (base[i / 8] ^ tuned[i / 8]) >> (i % 8) & 1 == 1;
        (0..elements).filter(|e| (e * bits..(e + 1) * bits).any(bit)).count()
    };
    Moments { elements: elements as u64, changed: differing as u64, ..Moments::default() }
}
