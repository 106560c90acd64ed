//! Takes pieces in order: appends what is kept, and closes each tensor with its last piece.

use std::collections::{BTreeMap, HashMap};

use super::files::Files;
use super::options::Form;
use super::pieces::{Models, Piece, Sums};
use super::{name_of, of_model};
use crate::checkpoint::Checkpoint;
use crate::checkpoint::delta::{Entry, Kept, Model, Part, Said, Sampled, Stored, said};
use crate::digest;
use crate::dtype::Dtype;
use crate::error::Result;

/// The files and what is known so far.
pub struct Taker<'a> {
    models: &'a Models<'a>,
    files: Files,
    entries: Vec<Entry>,
    /// Of the tensor that is open.
    base: Vec<u128>,
    tuned: Vec<u128>,
    lengths: Vec<u32>,
    sums: Sums,
    bytes: HashMap<Part, u64>,
    ranks: u64,
    /// Of all.
    total: Sums,
}

impl<'a> Taker<'a> {
    /// Before the first piece.
    pub fn new(models: &'a Models<'a>, files: Files) -> Self {
        let (entries, base, tuned, lengths, sums, bytes, ranks, total) = Default::default();
        Self { models, files, entries, base, tuned, lengths, sums, bytes, ranks, total }
    }

    /// Takes a piece of a tensor, its `last` or one before.
    ///
    /// # Errors
    /// As [`Files::append`].
    pub fn take(&mut self, item: usize, piece: Piece, last: bool) -> Result<()> {
        for (part, bytes) in &piece.bytes {
            self.files.append(*part, bytes)?;
            *self.bytes.entry(*part).or_default() += bytes.len() as u64;
        }
        self.base.extend(piece.base);
        self.tuned.extend(piece.tuned);
        self.lengths.extend(piece.lengths);
        self.sums += piece.sums;
        self.ranks = self.ranks.max(piece.ranks);
        if last { self.close(item) } else { Ok(()) }
    }

    fn close(&mut self, index: usize) -> Result<()> {
        let (models, options) = (self.models, self.models.options);
        let item = &models.items[index];
        let sums = std::mem::take(&mut self.sums);
        let bytes = std::mem::take(&mut self.bytes);
        let ranks = std::mem::take(&mut self.ranks);
        let lengths = std::mem::take(&mut self.lengths);
        let hex = |leaves: &mut Vec<u128>| digest::hex(digest::combine(std::mem::take(leaves).into_iter()));
        let stored = |model: &Checkpoint, index: usize, digest: String| {
            let t = &model.tensors[index];
            Stored { dtype: t.dtype, shape: t.shape.clone(), digest, sample: None }
        };
        let base = item.base.map(|i| stored(models.base, i, hex(&mut self.base)));
        let tuned = item.tuned.map(|i| stored(models.tuned, i, hex(&mut self.tuned)));
        let mut entry = Entry {
            name: item.name.clone(),
            kept: item.kept,
            parts: BTreeMap::new(),
            turned: item.matrix.is_some_and(|m| m.turned),
            base,
            tuned,
            figures: BTreeMap::new(),
        };
        self.total += sums;
        if entry.base.is_some() && entry.base == entry.tuned {
            self.files.discard();
            (entry.kept, entry.tuned, entry.turned) = (Kept::Same, None, false);
            self.entries.push(entry);
            return Ok(());
        }
        let number = sums.squares > 0.0;
        if sums.changed > 0 {
            entry.figures.insert("changed".into(), sums.changed as f64);
        }
        if number && matches!(item.kept, Kept::Sparse | Kept::Bits | Kept::LowRank) {
            let elements = entry.base.as_ref().map_or(1, |b| b.shape.iter().product::<u64>()).max(1) as f64;
            let mean = sums.magnitudes / elements;
            // Of signs: |x - m s|^2 summed is the squares less n m^2.
            let held = if item.kept == Kept::Bits { elements * mean * mean } else { sums.held };
            entry.figures.insert("norm".into(), sums.squares.sqrt());
            if options.random.is_none() {
                entry.figures.insert("energy".into(), (held / sums.squares).min(1.0));
            }
            entry.figures.insert("error".into(), (1.0 - held / sums.squares).max(0.0).sqrt());
            if item.kept == Kept::Bits {
                entry.figures.insert("scale".into(), mean);
                self.files.append(Part::Scale, &(mean as f32).to_le_bytes())?;
            }
            self.total.held += if item.kept == Kept::Bits { held } else { 0.0 };
        }
        let nothing = (item.kept == Kept::Sparse && sums.kept == 0)
            || (item.kept == Kept::LowRank && !number)
            || (item.kept == Kept::Bits && !number);
        if nothing {
            self.files.discard();
            (entry.kept, entry.turned) = (Kept::Left, false);
            self.entries.push(entry);
            return Ok(());
        }
        if item.kept == Kept::Xor {
            let table: Vec<u8> = lengths.iter().flat_map(|l| l.to_le_bytes()).collect();
            self.files.append(Part::Xor, &table)?;
        }
        if item.kept == Kept::Sparse {
            entry.figures.insert("kept".into(), sums.kept as f64);
        }
        if item.kept == Kept::LowRank {
            entry.figures.insert("rank".into(), ranks as f64);
        }
        let lora = options.form == Form::Lora;
        for part in item.parts().into_iter().filter(|p| !matches!(p, Part::Forward | Part::Back)) {
            if lora && part == Part::Middle {
                continue;
            }
            let own = |of: &Option<Stored>| of.as_ref().map_or((Dtype::U8, vec![]), |s| (s.dtype, s.shape.clone()));
            let elements = entry.base.as_ref().map_or(0, |b| b.shape.iter().product::<u64>());
            let f64s = [&entry.base, &entry.tuned].iter().any(|s| s.as_ref().is_some_and(|s| s.dtype == Dtype::F64));
            let (dtype, shape) = match part {
                Part::Xor => {
                    let all = bytes.get(&Part::Xor).copied().unwrap_or(0) + 4 * lengths.len() as u64;
                    (Dtype::U8, vec![all])
                }
                Part::Index if elements > u64::from(u32::MAX) => (Dtype::U64, vec![sums.kept]),
                Part::Index => (Dtype::U32, vec![sums.kept]),
                Part::Values => (if f64s { Dtype::F64 } else { Dtype::F32 }, vec![sums.kept]),
                Part::Signs => (Dtype::U8, vec![elements.div_ceil(8)]),
                Part::Scale => (Dtype::F32, vec![1]),
                Part::Left | Part::Middle | Part::Right => (options.factor_dtype(), self.shape(index, part, ranks)),
                Part::Whole => own(&entry.tuned),
                Part::Old | Part::Forward | Part::Back => own(&entry.base),
            };
            let mut name = name_of(options.form, part, &item.name);
            // The parameters of a layer that PEFT wraps lie one deeper.
            if lora && part == Part::Whole && self.wrapped(&item.name) {
                name = name.replace(".bias", ".base_layer.bias");
            }
            self.files.close(part, name.clone(), dtype, shape, index)?;
            entry.parts.insert(part, name);
        }
        self.entries.push(entry);
        Ok(())
    }

    /// The shape of factors.
    fn shape(&self, index: usize, part: Part, rank: u64) -> Vec<u64> {
        let item = &self.models.items[index];
        let Some(m) = item.matrix else { return vec![] };
        let own = item.base.map(|b| self.models.base.tensors[b].shape.clone()).unwrap_or_default();
        let (rows, columns) = if m.turned { (m.columns, m.rows) } else { (m.rows, m.columns) };
        let lora = self.models.options.form == Form::Lora;
        let mut shape = match part {
            // As PEFT has those of convolutions.
            Part::Left if lora && own.len() > 2 => {
                let ones = own.len() - 2;
                [vec![rows, rank], vec![1; ones]].concat()
            }
            Part::Right if lora && own.len() > 2 => [&[rank], &own[1..]].concat(),
            Part::Left => vec![rows, rank],
            Part::Middle => vec![rank],
            _ => vec![rank, columns],
        };
        if m.count > 1 || (own.len() == 3 && !lora && item.name.contains("experts")) {
            shape.insert(0, m.count);
        }
        shape
    }

    /// Whether a bias is that of a layer with factors.
    fn wrapped(&self, name: &str) -> bool {
        let Some(module) = name.strip_suffix(".bias") else { return false };
        let weight = format!("{module}.weight");
        self.models.items.iter().any(|i| i.kept == Kept::LowRank && i.name == weight)
    }

    /// What the delta says of itself, but for its files.
    ///
    /// # Errors
    /// Input that cannot be read.
    pub fn finish(mut self, base: &mut Sampled, tuned: &mut Sampled) -> Result<(Said, Files)> {
        let models = self.models;
        for (entry, item) in self.entries.iter_mut().zip(&models.items) {
            if let (Some(stored), Some(i)) = (&mut entry.base, item.base) {
                stored.sample = base.of(&models.base.tensors[i])?;
            }
            if let (Some(stored), Some(i)) = (&mut entry.tuned, item.tuned) {
                stored.sample = tuned.of(&models.tuned.tensors[i])?;
            }
        }
        let model = |checkpoint: &Checkpoint, of: &dyn Fn(&Entry) -> Option<String>| {
            let named: Vec<(String, String)> =
                self.entries.iter().filter_map(|e| Some((e.name.clone(), of(e)?))).collect();
            Model {
                name: checkpoint.name(),
                digest: of_model(named.iter().map(|(n, d)| (n.as_str(), d.as_str()))),
                bytes: checkpoint.total_bytes(),
            }
        };
        let same = |e: &Entry| e.base.as_ref().filter(|_| e.kept == Kept::Same).map(|s| s.digest.clone());
        let of_base = model(models.base, &|e| e.base.as_ref().map(|s| s.digest.clone()));
        let of_tuned = model(models.tuned, &|e| same(e).or_else(|| e.tuned.as_ref().map(|s| s.digest.clone())));
        let mut figures = BTreeMap::new();
        let count = |kept: Kept| self.entries.iter().filter(|e| e.kept == kept).count() as f64;
        figures.insert("tensors".into(), self.entries.len() as f64);
        figures.insert("tensors_same".into(), count(Kept::Same));
        figures.insert("tensors_whole".into(), count(Kept::Whole));
        figures.insert("tensors_left".into(), count(Kept::Left));
        figures.insert("changed".into(), self.total.changed as f64);
        if self.total.squares > 0.0 {
            figures.insert("norm".into(), self.total.squares.sqrt());
            let held = self.total.held / self.total.squares;
            figures.insert("error".into(), (1.0 - held).max(0.0).sqrt());
            // Of random elements, which are made larger, what is lost may be more than there was.
            if models.options.random.is_none() {
                figures.insert("energy".into(), held.min(1.0));
            }
        }
        if self.total.kept > 0 {
            figures.insert("kept".into(), self.total.kept as f64);
        }
        let said = Said {
            format: said::FORMAT.into(),
            version: said::VERSION,
            form: models.options.form.name().into(),
            exact: models.options.exact || models.options.form == Form::Xor,
            base: of_base,
            tuned: of_tuned,
            files: vec![],
            figures,
            tensors: self.entries,
        };
        Ok((said, self.files))
    }
}
