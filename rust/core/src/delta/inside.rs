//! What the histograms leave open: a look into single bins, and at the elements that two fine-tunes changed most.

use std::collections::{BTreeMap, BTreeSet};

use parking_lot::Mutex;

use super::spread::{Insides, LOWS};
use super::{Asked, Group, Model, Open, Q99, Related, pairs, tiles};
use crate::engine::observer::Observer;
use crate::error::Result;

/// Counts of every place inside a bin.
type Lows = Vec<u64>;

/// Answers the questions that the histograms have left open, reading once the tensors that they are about.
///
/// # Errors
/// As [`super::compare`].
pub(super) fn look(open: &Open, models: &mut [Model], observer: &dyn Observer) -> Result<()> {
    // The bins to look into, by row and fine-tune.
    let mut bins: Vec<Vec<Vec<u32>>> = open.rows.iter().map(|r| vec![vec![]; r.tuned.len()]).collect();
    for (m, model) in models.iter().enumerate() {
        for (row, t) in rows(open, model).filter(|(_, t)| t.dtype.computes()) {
            let groups = open.groups(&open.rows[row]);
            let groups = groups.iter().filter_map(|g| model.groups.get(g)).flat_map(Asked::open);
            let all: BTreeSet<u32> = t.asked.iter().flat_map(Asked::open).chain(groups).collect();
            bins[row][m] = all.into_iter().collect();
        }
    }
    let groups: Vec<Mutex<BTreeMap<(Group, u32), Lows>>> = models.iter().map(|_| Mutex::default()).collect();
    let found = open.each(
        observer,
        |i, m| !bins[i][m].is_empty(),
        |i, elements, buffers, progress| {
            let row = &open.rows[i];
            let which: Vec<usize> = (0..row.tuned.len()).filter(|m| !bins[i][*m].is_empty()).collect();
            let mut insides: Vec<Insides> = which.iter().map(|m| Insides::of(&bins[i][*m])).collect();
            let mut changes = tiles::Changes::default();
            tiles::each(&open.stored(row, |m| which.contains(&m)), elements, buffers, progress, |_, base, tuned| {
                for (inside, tuned) in insides.iter_mut().zip(tuned) {
                    changes.take(base, &tuned.elements);
                    inside.add(changes.finite());
                }
            })?;
            Ok(insides.into_iter().map(Insides::finish).collect::<Vec<_>>())
        },
        |i, spans| {
            let row = &open.rows[i];
            let mut lows: Vec<Vec<Lows>> = bins[i].iter().map(|b| vec![vec![0; LOWS]; b.len()]).collect();
            for span in spans {
                for (lows, span) in lows.iter_mut().filter(|l| !l.is_empty()).zip(span) {
                    for (low, span) in lows.iter_mut().zip(span) {
                        add(low, &span);
                    }
                }
            }
            for (m, lows) in lows.iter().enumerate() {
                let mut groups = groups[m].lock();
                for (bin, low) in bins[i][m].iter().zip(lows) {
                    for group in open.groups(row) {
                        if models[m].groups.get(&group).is_some_and(|g| g.open().any(|b| b == *bin)) {
                            add(groups.entry((group, *bin)).or_insert_with(|| vec![0; LOWS]), low);
                        }
                    }
                }
            }
            // What only this tensor asks is answered at once, so that the counts can go.
            let answered = |(m, lows): (usize, &Vec<Lows>)| {
                let tensors = &models[m].tensors;
                let at = tensors.binary_search_by_key(&row.base, |t| t.index).ok()?;
                let mut asked = tensors[at].asked.clone()?;
                asked.look(|bin| Some(&lows[bins[i][m].binary_search(&bin).ok()?]));
                Some(asked)
            };
            lows.iter().enumerate().map(answered).collect::<Vec<_>>()
        },
    )?;
    for (m, (model, groups)) in models.iter_mut().zip(groups).enumerate() {
        let groups = groups.into_inner();
        for (group, asked) in &mut model.groups {
            asked.look(|bin| groups.get(&(group.clone(), bin)).map(Vec::as_slice));
        }
        let found: BTreeMap<usize, &Asked> =
            (open.rows.iter().zip(&found)).filter_map(|(r, found)| Some((r.base, found[m].as_ref()?))).collect();
        for t in &mut model.tensors {
            if let Some(found) = found.get(&t.index) {
                t.asked = Some((*found).clone());
            }
        }
    }
    Ok(())
}

/// The tensors of a fine-tune with the row they are in.
fn rows<'a>(open: &'a Open, model: &'a Model) -> impl Iterator<Item = (usize, &'a super::Compared)> {
    let mut tensors = model.tensors.iter().peekable();
    open.rows.iter().enumerate().filter_map(move |(i, r)| Some((i, tensors.next_if(|t| t.index == r.base)?)))
}

fn add(total: &mut [u64], counts: &[impl Copy + Into<u64>]) {
    total.iter_mut().zip(counts).for_each(|(t, c)| *t += (*c).into());
}

/// Counts, for every two fine-tunes, the elements that both changed most.
///
/// # Errors
/// As [`super::compare`].
pub(super) fn overlap(open: &Open, models: &[Model], related: &mut [Related], observer: &dyn Observer) -> Result<()> {
    if related.is_empty() {
        return Ok(());
    }
    // For each row and fine-tune the change from which on an element counts; `None` where nothing changed.
    let mut least: Vec<Vec<Option<f32>>> = open.rows.iter().map(|r| vec![None; r.tuned.len()]).collect();
    for (m, model) in models.iter().enumerate() {
        for (row, t) in rows(open, model).filter(|(_, t)| t.moments.square_delta > 0.0) {
            least[row][m] = t.asked.as_ref().and_then(|a| a.questions[Q99].answer()).map(|a| a as f32);
        }
    }
    let found = open.each(
        observer,
        |i, m| least[i][m].is_some(),
        |i, elements, buffers, progress| {
            let row = &open.rows[i];
            let mut all: Vec<tiles::Changes> = row.tuned.iter().map(|_| tiles::Changes::default()).collect();
            let mut counts = vec![(0, 0, 0); related.len()];
            let which: Vec<usize> = (0..row.tuned.len()).filter(|m| least[i][*m].is_some()).collect();
            tiles::each(&open.stored(row, |m| which.contains(&m)), elements, buffers, progress, |_, base, tuned| {
                for (m, tuned) in which.iter().zip(tuned) {
                    all[*m].take(base, &tuned.elements);
                }
                for (count, pair) in counts.iter_mut().zip(&*related) {
                    let (a, b) = pair.models;
                    // What did not change, or is not there, has no elements that changed most.
                    let of = |m: usize| least[i][m].map_or((&[][..], 0.0), |l| (all[m].all.as_slice(), l));
                    let (first, second, both) = pairs::overlap(of(a), of(b));
                    *count = (count.0 + first, count.1 + second, count.2 + both);
                }
            })?;
            Ok(counts)
        },
        |_, spans| {
            let mut total = vec![(0, 0, 0); related.len()];
            for (p, c) in spans.iter().flat_map(|counts| counts.iter().enumerate()) {
                let sum: &mut (u64, u64, u64) = &mut total[p];
                *sum = (sum.0 + c.0, sum.1 + c.1, sum.2 + c.2);
            }
            total
        },
    )?;
    for (p, pair) in related.iter_mut().enumerate() {
        for shared in &mut pair.tensors {
            shared.sums.top = Some(found[shared.row][p]);
        }
    }
    Ok(())
}
