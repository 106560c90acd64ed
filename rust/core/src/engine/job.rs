//! One output tensor on its way: its kernel, its statistics, its digests, and how much is left to do.

use std::collections::BTreeMap;

use parking_lot::{Mutex, RwLock};

use super::found::Found;
use super::journal::Done;
use super::statistics::Ordered;
use crate::digest::{self, BLOCK};
use crate::error::{Error, Result};
use crate::kernels::search::{LIST, gather};
use crate::kernels::select::BINS;
use crate::methods::larv::Scaled;
use crate::methods::{Kernel, Stats, Totals, bind};
use crate::plan::{Action, Plan};

/// What the threads do with a span of a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Collect statistics; the number counts from 0.
    Scan(usize),
    /// Compute and write.
    Apply,
}

/// A tensor of one of the plans that run together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct At {
    /// Which plan.
    pub lane: usize,
    /// Which of its tensors.
    pub tensor: usize,
}

/// A tensor being made.
pub struct Job {
    /// Which tensor.
    pub at: At,
    name: String,
    /// Passes that scans of its group have made over the tensor before.
    surveyed: usize,
    /// Number of spans.
    pub spans: u64,
    /// Bytes of a span's output, and of each stored tensor it reads.
    span_bytes: Vec<u64>,
    /// The bound method; `None` for moves.
    pub kernel: RwLock<Option<Box<dyn Kernel>>>,
    /// What a kernel that goes over the whole tensor has found.
    told: Mutex<Vec<(String, f64)>>,
    /// Of a weight that is encoded: elements that changed, and those whose change was rounded away.
    back: Mutex<Option<[u64; 2]>>,
    state: Mutex<State>,
}

struct State {
    /// Spans of this pass, and buffers on their way to the disk, that are not finished.
    left: u64,
    /// Spans not yet computed.
    unapplied: u64,
    /// Scans of all elements so far.
    scans: usize,
    sums: Ordered,
    counts: Vec<Vec<u64>>,
    lists: Vec<Vec<u32>>,
    ranks: Vec<Vec<u64>>,
    /// Running ranks before each span, where a scan of the group has counted them.
    before: Vec<Vec<u64>>,
    /// Leaf digests: the output's first, then every view's; none of views that are no stored tensor.
    leaves: Vec<Vec<u128>>,
    /// Leaves of the output of which spans have brought a part, and how many bytes that is.
    torn: BTreeMap<usize, (Vec<u8>, usize)>,
    /// Bytes of the output.
    nbytes: u64,
    /// Those that are put together before they are written, and the spans that have not brought theirs.
    whole: Vec<u8>,
    lacking: u64,
}

impl Job {
    /// Binds the method of the tensor `at` of `plan`, or takes what was `found` for it.
    ///
    /// # Errors
    /// [`Error::Recipe`] for parameters the plan should have refused.
    pub fn new(plan: &Plan, at: At, found: &Found) -> Result<Self> {
        let index = at.tensor;
        let t = &plan.tensors[index];
        let (kernel, surveyed) = match (&t.action, found.kernel(plan, index)?) {
            (Action::Move { .. }, _) => (None, 0),
            (_, Some((kernel, passes))) => (Some(kernel), passes),
            (Action::Compute { method, params, .. }, None) => {
                let wrong = |p| Error::recipe("", format!("tensor `{}`: {p}", t.name));
                (Some(bind(*method, params, t.values()).map_err(wrong)?), 0)
            }
        };
        let kernel = match found.scales(index) {
            Some(scales) => kernel.map(|k| Box::new(Scaled::new(k, scales.clone())) as Box<dyn Kernel>),
            None => kernel,
        };
        let kernel = match &t.encode {
            Some(encode) => kernel.map(|k| encode.kernel(k)),
            None => kernel,
        };
        let views = t.action.views();
        let read = views.iter().map(|v| t.span() * v.bits(&plan.models) / 8);
        let span_bytes = std::iter::once(t.bytes_of(t.span())).chain(read).collect();
        let stored = |v: &crate::view::View| if v.is_stored(&plan.models) { v.nbytes(&plan.models) } else { 0 };
        let sizes = std::iter::once(t.nbytes).chain(views.iter().map(stored));
        let leaves = sizes.map(|n| vec![0; n.div_ceil(BLOCK as u64) as usize]).collect();
        let spans = t.spans();
        let state = State {
            left: spans,
            unapplied: spans,
            scans: 0,
            sums: Ordered::new(0),
            counts: vec![],
            lists: vec![],
            ranks: vec![],
            before: found.before(plan, index),
            leaves,
            torn: BTreeMap::new(),
            nbytes: t.nbytes,
            whole: Vec::new(),
            lacking: spans,
        };
        let job = Self {
            at,
            name: t.name.clone(),
            surveyed,
            spans,
            span_bytes,
            kernel: RwLock::new(kernel),
            told: Mutex::default(),
            back: Mutex::default(),
            state: Mutex::new(state),
        };
        job.next();
        Ok(job)
    }

    /// The step that comes next, with room made for its statistics.
    pub fn next(&self) -> Step {
        let wants = self.kernel.read().as_ref().and_then(|k| k.wants());
        let mut s = self.state.lock();
        s.left = self.spans;
        let Some(wants) = wants else { return Step::Apply };
        s.sums = Ordered::new(wants.sums);
        s.counts = vec![vec![0; BINS]; if self.spans > 1 { wants.histograms } else { 0 }];
        s.lists = vec![vec![]; wants.lists];
        if wants.ranks > 0 {
            s.ranks = vec![vec![0; wants.ranks]; self.spans as usize];
        }
        Step::Scan(s.scans)
    }

    /// True if the tensor is computed without having been scanned, so that its inputs are not digested yet.
    pub fn unscanned(&self) -> bool {
        self.state.lock().scans == 0
    }

    /// Adds the statistics of a span, or of a `sample` of it. After the last span of a scan, returns the step that follows.
    ///
    /// # Errors
    /// [`Error::Data`] if the data do not allow to go on.
    pub fn scanned(&self, span: u64, stats: &Stats, sample: bool) -> Result<Option<Step>> {
        let mut guard = self.state.lock();
        let s = &mut *guard;
        s.sums.put(span, stats.sums.clone());
        if self.spans == 1 {
            // Nothing to add up: spares small tensors, of which there may be thousands, a pass over empty bins.
            s.counts = stats.counts.iter().map(|c| c.iter().map(|n| u64::from(*n)).collect()).collect();
        }
        for (total, counts) in s.counts.iter_mut().zip(&stats.counts).filter(|_| self.spans > 1) {
            for (t, c) in total.iter_mut().zip(counts) {
                *t += u64::from(*c);
            }
        }
        gather(&mut s.lists, &stats.lists, LIST);
        if !stats.ranks.is_empty() {
            s.ranks[span as usize].copy_from_slice(&stats.ranks);
        }
        s.left -= 1;
        if s.left > 0 {
            return Ok(None);
        }
        s.scans += usize::from(!sample);
        let totals = Totals {
            sums: std::mem::replace(&mut s.sums, Ordered::new(0)).total(),
            counts: std::mem::take(&mut s.counts),
            lists: std::mem::take(&mut s.lists),
            ranks: if stats.ranks.is_empty() { vec![] } else { columns(&s.ranks) },
        };
        drop(guard);
        if let Some(kernel) = self.kernel.write().as_mut() {
            kernel.take(totals).map_err(|p| Error::data(&self.name, p))?;
        }
        Ok(Some(self.next()))
    }

    /// Totals of the ranks over all spans before `span`.
    pub fn ranks_before(&self, span: u64) -> Vec<u64> {
        let s = self.state.lock();
        if let Some(before) = s.before.get(span as usize) {
            return before.clone();
        }
        let mut before = vec![0; s.ranks.first().map_or(0, Vec::len)];
        for row in s.ranks.iter().take(span as usize) {
            before.iter_mut().zip(row).for_each(|(b, r)| *b += r);
        }
        before
    }

    /// Records the leaf digests of a span: `which` is 0 for the output, 1 and up for the views.
    pub fn digested(&self, which: usize, span: u64, leaves: &[u128]) {
        let first = (span * self.span_bytes[which]) as usize / BLOCK;
        let mut s = self.state.lock();
        if !s.leaves[which].is_empty() {
            s.leaves[which][first..first + leaves.len()].copy_from_slice(leaves);
        }
    }

    /// Has `f` put bytes of an output of so many where they belong.
    pub fn collect(&self, nbytes: u64, f: impl FnOnce(&mut [u8])) {
        let mut s = self.state.lock();
        if s.whole.is_empty() {
            s.whole = vec![0; nbytes as usize];
        }
        f(&mut s.whole);
    }

    /// A span has put its bytes there; after the last, all of them.
    pub fn collected(&self) -> Option<Vec<u8>> {
        let mut s = self.state.lock();
        s.lacking -= 1;
        (s.lacking == 0).then(|| std::mem::take(&mut s.whole))
    }

    /// Takes bytes of the output for its digest, all of one leaf, which may have others of other spans.
    pub fn piece(&self, at: u64, bytes: &[u8]) {
        let mut guard = self.state.lock();
        let s = &mut *guard;
        let (leaf, start) = ((at / BLOCK as u64) as usize, (at % BLOCK as u64) as usize);
        let len = (s.nbytes - leaf as u64 * BLOCK as u64).min(BLOCK as u64) as usize;
        if bytes.len() == len {
            s.leaves[0][leaf] = digest::of_bytes(bytes);
            return;
        }
        let (held, filled) = s.torn.entry(leaf).or_insert_with(|| (vec![0; len], 0));
        held[start..start + bytes.len()].copy_from_slice(bytes);
        *filled += bytes.len();
        if *filled == len {
            s.leaves[0][leaf] = digest::of_bytes(held);
            s.torn.remove(&leaf);
        }
    }

    /// What a kernel that goes over the whole tensor has found, and how often it went over it after the first look.
    pub fn tell(&self, found: Vec<(String, f64)>, passes: usize) {
        *self.told.lock() = found;
        self.state.lock().scans = passes;
    }

    /// Adds a span's elements that changed, and those whose change was rounded away.
    pub fn rounded_back(&self, counted: [u64; 2]) {
        let mut back = self.back.lock();
        back.get_or_insert_default().iter_mut().zip(counted).for_each(|(b, n)| *b += n);
    }

    /// A span is computed; true if it was the last of the tensor.
    pub fn applied_one(&self) -> bool {
        let mut s = self.state.lock();
        s.unapplied -= 1;
        s.unapplied == 0
    }

    /// Announces a buffer that is on its way to the disk.
    pub fn sent(&self) {
        self.state.lock().left += 1;
    }

    /// A span is computed or a buffer is on the disk; true if that was the last of the tensor.
    pub fn finished_one(&self) -> bool {
        let mut s = self.state.lock();
        s.left -= 1;
        s.left == 0
    }

    /// Digests of the output and of every view, and the number of scans it took.
    pub fn close(&self) -> (Done, usize) {
        let mut found: BTreeMap<String, f64> =
            self.kernel.read().iter().flat_map(|k| k.found()).chain(self.told.lock().drain(..)).collect();
        if let Some(back) = *self.back.lock() {
            found.extend(["changed", "rounded_back"].map(str::to_owned).into_iter().zip(back.map(|n| n as f64)));
        }
        let s = self.state.lock();
        let hex = |l: &Vec<u128>| digest::hex(digest::combine(l.iter().copied()));
        let empty = s.leaves[0].is_empty();
        let (output, views) = (hex(&s.leaves[0]), s.leaves[1..].iter());
        // No leaf: no stored tensor, unless the tensor is empty.
        let inputs = views.map(|l| (empty || !l.is_empty()).then(|| hex(l))).collect();
        (Done { tensor: self.at.tensor, digest: output, inputs, found, backend: None }, s.scans + self.surveyed)
    }
}

fn columns(rows: &[Vec<u64>]) -> Vec<u64> {
    let mut out = vec![0; rows.first().map_or(0, Vec::len)];
    for row in rows {
        out.iter_mut().zip(row).for_each(|(o, v)| *o += *v);
    }
    out
}
