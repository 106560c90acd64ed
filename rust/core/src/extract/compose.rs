//! Several deltas as one: the sum of deltas of one base, or a chain of lossless ones, each of what the one before makes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::files::Files;
use super::memory::{PROCESS, too_little};
use super::pieces::write as write_numbers;
use super::report::action;
use super::{How, publish};
use crate::checkpoint::Tensor;
use crate::checkpoint::delta::{Delta, Entry, Kept, Model, Part, Said, said};
use crate::dtype::Dtype;
use crate::engine::observer::Progress;
use crate::error::{Error, Result};
use crate::kernels::packed::{Packer, Unpacker, change, width};
use crate::sizes::PACKED;
use crate::source::{self, IoMode, Source};
use crate::view::{Slot, read, stored};

/// A delta, its files and its weight.
struct Of {
    delta: Delta,
    sources: Vec<Box<dyn Source>>,
    weight: f64,
}

impl Of {
    fn bytes(&self, entry: &Entry, part: Part) -> Result<(Vec<u8>, &Tensor)> {
        let tensor = self.delta.part(entry, part)?;
        let mut bytes = vec![0; tensor.nbytes as usize];
        read(tensor, &self.sources, 0..tensor.elements(), &mut bytes)?;
        Ok((bytes, tensor))
    }

    fn numbers(&self, entry: &Entry, part: Part) -> Result<(Vec<f64>, &Tensor)> {
        let tensor = self.delta.part(entry, part)?;
        let (view, all, mut slot) = (stored(tensor, &self.sources), 0..tensor.elements(), Slot::default());
        let mut out = vec![0f64; all.end as usize];
        view.decode_exactly(view.read(&all, &mut slot)?, &all, &all, &mut out)?;
        Ok((out, tensor))
    }

    fn places(&self, entry: &Entry) -> Result<Vec<u64>> {
        let (bytes, tensor) = self.bytes(entry, Part::Index)?;
        Ok(match tensor.dtype {
            Dtype::U64 => bytes.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b)).collect(),
            _ => bytes.as_chunks::<4>().0.iter().map(|b| u64::from(u32::from_le_bytes(*b))).collect(),
        })
    }
}

/// Writes the sum or the chain of deltas; returns its report.
///
/// # Errors
/// [`Error::Checkpoint`], [`Error::Tensor`] if they are not of one base nor a chain, or of forms that do not add up.
pub fn compose(paths: &[(PathBuf, f64)], memory: Option<u64>, how: &How) -> Result<String> {
    let mut all = Vec::new();
    for (path, weight) in paths {
        let delta = Delta::open(path)?;
        let open = |f: &crate::checkpoint::ShardFile| source::open(&f.path, f.identity, IoMode::Pread);
        let sources = delta.files.iter().map(open).collect();
        all.push(Of { delta, sources, weight: *weight });
    }
    let (Some(first), Some(last)) = (all.first(), all.last()) else {
        return Err(Error::recipe("", "expected at least one delta, found none"));
    };
    let inputs: Vec<&std::path::Path> = all.iter().map(|a| a.delta.path.as_path()).collect();
    how.target.check(&inputs, how.overwrite)?;
    if let Some(lora) = all.iter().find(|a| a.delta.said.form == "lora") {
        let problem = "is an adapter; adapters are composed by `suture lora merge`";
        return Err(Error::checkpoint(&lora.delta.path, problem));
    }
    let chain = all.len() > 1
        && all.windows(2).all(|w| w[1].delta.said.base.digest == w[0].delta.said.tuned.digest)
        && all.iter().all(|a| a.weight == 1.0);
    if let Some(other) =
        all.iter().find(|a| a.delta.said.base.digest != first.delta.said.base.digest).filter(|_| !chain)
    {
        let problem = format!(
            "belongs to `{}`, and {} to `{}`; only deltas of one base add up, and only lossless ones (weight 1) follow each other",
            other.delta.said.base.name,
            first.delta.path.display(),
            first.delta.said.base.name
        );
        return Err(Error::checkpoint(&other.delta.path, problem));
    }
    let mut entries: Vec<&Entry> = Vec::new();
    let mut known: BTreeMap<&str, Vec<(usize, &Entry)>> = BTreeMap::new();
    for (i, of) in all.iter().enumerate() {
        for entry in &of.delta.said.tensors {
            let list = known.entry(&entry.name).or_default();
            if list.is_empty() {
                entries.push(entry);
            }
            list.push((i, entry));
        }
    }
    if let Some(memory) = memory {
        check(memory, &all, known.values())?;
    }
    let staging = super::stage(how)?;
    let folder = staging.folder().to_owned();
    let names = entries.iter().flat_map(|e| PARTS.iter().map(move |p| (*p, format!("{}{}", e.name, p.suffix()))));
    let names: Vec<(Part, String)> = names.collect();
    let mut files = Files::new(&folder, false, names.iter().map(|(p, n)| (*p, n.as_str())));
    let progress = Progress::default();
    let mut out = Vec::with_capacity(entries.len());
    for (index, lead) in entries.iter().enumerate() {
        if !how.observer.tick(progress.done()) {
            return Err(Error::Interrupted);
        }
        let of: Vec<(&Of, &Entry)> = (known[lead.name.as_str()].iter())
            .filter(|(_, e)| e.kept != Kept::Same)
            .map(|(i, e)| (&all[*i], *e))
            .collect();
        let mut entry = Entry { parts: BTreeMap::new(), figures: BTreeMap::new(), tuned: None, ..(*lead).clone() };
        if of.is_empty() {
            out.push(entry);
            continue;
        }
        let mut kept = Composed { files: &mut files, index, entry: &mut entry };
        if chain {
            kept.chain(&of)?;
        } else {
            kept.sum(&of)?;
        }
        out.push(entry);
    }
    let same_form = all.iter().all(|a| a.delta.said.form == first.delta.said.form);
    let labels: Vec<String> = all.iter().map(|a| crate::checkpoint::reference::called(&a.delta.path)).collect();
    let tuned = if chain {
        last.delta.said.tuned.clone()
    } else {
        let name = format!("{}+{}", first.delta.said.base.name, labels.join("+"));
        Model { name, digest: String::new(), bytes: first.delta.said.base.bytes }
    };
    let count = |kept: Kept| out.iter().filter(|e| e.kept == kept).count() as f64;
    let figures =
        [("tensors", out.len() as f64), ("tensors_same", count(Kept::Same)), ("tensors_whole", count(Kept::Whole))];
    let mut said = Said {
        format: said::FORMAT.into(),
        version: said::VERSION,
        form: if same_form { first.delta.said.form.clone() } else { "mixed".into() },
        exact: chain,
        base: first.delta.said.base.clone(),
        tuned,
        files: files.finish()?,
        figures: figures.into_iter().map(|(k, v)| (k.to_owned(), v)).collect(),
        tensors: out,
    };
    let bytes = said.files.iter().map(|name| std::fs::metadata(folder.join(name)).map_or(0, |m| m.len()));
    said.figures.insert("bytes".into(), bytes.sum::<u64>() as f64);
    let tensors: Map<String, Value> = files
        .kept
        .iter()
        .map(|k| {
            let from: Vec<Value> = labels.iter().map(|l| json!([l, said.tensors[k.of].name, null])).collect();
            (
                k.name.clone(),
                json!({"dtype": k.dtype, "shape": k.shape, "action": action(said.tensors[k.of].kept), "digest": k.digest, "from": from}),
            )
        })
        .collect();
    let models: Vec<Value> = labels.iter().map(|l| json!({"label": l, "path": l, "files": []})).collect();
    let listed: Vec<Value> = labels.iter().zip(paths).map(|(l, (_, w))| json!({"delta": l, "weight": w})).collect();
    let about = json!({
        "title": "delta compose",
        "recipe": {"delta": {"compose": listed}},
        "models": models,
        "warnings": [],
        "tensors": tensors,
    });
    publish(staging, &said, &[], about, how)
}

/// Refuses a budget that the largest sum does not keep: each tensor is composed by itself, on one thread.
///
/// # Errors
/// [`Error::Recipe`] with the smallest that works.
fn check<'a>(memory: u64, all: &[Of], entries: impl Iterator<Item = &'a Vec<(usize, &'a Entry)>>) -> Result<()> {
    let (mut most, mut whose, mut names) = (0, "", 0);
    for of in entries {
        let (mut read, mut largest) = (0, 0);
        for (i, entry) in of {
            names += 1;
            for part in entry.parts.keys() {
                let t = all[*i].delta.part(entry, *part)?;
                // Numbers are widened to f64, and what is made of them stands beside them until it is written.
                let wide = if matches!(part, Part::Xor | Part::Whole | Part::Signs) {
                    1
                } else {
                    24 * t.elements() / t.nbytes.max(1) + 1
                };
                read += t.nbytes * wide;
                largest = largest.max(t.nbytes);
            }
        }
        if read + largest > most {
            (most, whose) = (read + largest, of[0].1.name.as_str());
        }
    }
    let fixed = PROCESS + names * 4000 + (4 << 20);
    let whose = if most > fixed { whose } else { "" };
    if fixed + most <= memory {
        Ok(())
    } else {
        Err(too_little(memory, fixed + most, whose, "the sum of these deltas", ""))
    }
}

/// Every part there is.
const PARTS: [Part; 9] = [
    Part::Xor,
    Part::Index,
    Part::Values,
    Part::Signs,
    Part::Scale,
    Part::Left,
    Part::Middle,
    Part::Right,
    Part::Whole,
];

/// A tensor's change, being composed.
struct Composed<'a> {
    files: &'a mut Files,
    index: usize,
    entry: &'a mut Entry,
}

impl Composed<'_> {
    fn put(&mut self, part: Part, bytes: &[u8]) -> Result<()> {
        self.files.append(part, bytes)
    }

    fn close(&mut self, part: Part, dtype: Dtype, shape: Vec<u64>) -> Result<()> {
        let name = format!("{}{}", self.entry.name, part.suffix());
        self.entry.parts.insert(part, name.clone());
        self.files.close(part, name, dtype, shape, self.index)
    }

    fn refuse<T>(&self, of: &Of, why: &str) -> Result<T> {
        Err(Error::tensor(&of.delta.path, &self.entry.name, why.to_owned()))
    }

    fn sum(&mut self, of: &[(&Of, &Entry)]) -> Result<()> {
        let is = |kept: Kept| of.iter().filter(|(_, e)| e.kept != Kept::Left).all(|(_, e)| e.kept == kept);
        let one = of.len() == 1;
        let (first, lead) = of[0];
        if of.iter().all(|(_, e)| e.kept == Kept::Left) {
            self.entry.kept = Kept::Left;
            return Ok(());
        }
        if is(Kept::Sparse) {
            return self.sparse(of);
        }
        if is(Kept::LowRank) {
            return self.factors(of);
        }
        if one && lead.kept == Kept::Bits {
            let (signs, t) = first.bytes(lead, Part::Signs)?;
            let (scale, _) = first.numbers(lead, Part::Scale)?;
            self.entry.kept = Kept::Bits;
            self.put(Part::Signs, &signs)?;
            self.close(Part::Signs, t.dtype, t.shape.clone())?;
            self.put(Part::Scale, &((scale[0] * first.weight) as f32).to_le_bytes())?;
            return self.close(Part::Scale, Dtype::F32, vec![1]);
        }
        if one && first.weight == 1.0 && matches!(lead.kept, Kept::Xor | Kept::Whole) {
            let part = if lead.kept == Kept::Xor { Part::Xor } else { Part::Whole };
            let (bytes, t) = first.bytes(lead, part)?;
            (self.entry.kept, self.entry.tuned) = (lead.kept, lead.tuned.clone());
            self.put(part, &bytes)?;
            return self.close(part, t.dtype, t.shape.clone());
        }
        if one && lead.kept == Kept::Gone {
            self.entry.kept = Kept::Gone;
            return Ok(());
        }
        let why = "its changes are kept in ways that do not add up to one of them (sparse ones do, and factors); name the deltas \
                   together instead: BASE+DELTA+DELTA";
        self.refuse(of[of.len() - 1].0, why)
    }

    fn sparse(&mut self, of: &[(&Of, &Entry)]) -> Result<()> {
        let mut every: Vec<(u64, f64)> = Vec::new();
        let mut dtype = Dtype::F32;
        for (of, entry) in of.iter().filter(|(_, e)| e.kept == Kept::Sparse) {
            let (values, t) = of.numbers(entry, Part::Values)?;
            if t.dtype == Dtype::F64 {
                dtype = Dtype::F64;
            }
            every.reserve_exact(values.len());
            every.extend(of.places(entry)?.into_iter().zip(values).map(|(place, value)| (place, of.weight * value)));
        }
        // Of one place in the order of the deltas.
        every.sort_by_key(|(place, _)| *place);
        every.dedup_by(|next, sum| {
            let same = next.0 == sum.0;
            sum.1 += if same { next.1 } else { 0.0 };
            same
        });
        let sum = every;
        let elements: u64 = self.entry.base.as_ref().map_or(0, |b| b.shape.iter().product());
        let wide = elements > u64::from(u32::MAX);
        let mut index = Vec::new();
        for (place, _) in &sum {
            match wide {
                true => index.extend_from_slice(&place.to_le_bytes()),
                false => index.extend_from_slice(&(*place as u32).to_le_bytes()),
            }
        }
        let mut values = Vec::new();
        write_numbers(dtype, sum.iter().map(|(_, value)| *value), &mut values);
        self.entry.kept = Kept::Sparse;
        self.put(Part::Index, &index)?;
        self.close(Part::Index, if wide { Dtype::U64 } else { Dtype::U32 }, vec![sum.len() as u64])?;
        self.put(Part::Values, &values)?;
        self.close(Part::Values, dtype, vec![sum.len() as u64])?;
        self.entry.figures.insert("kept".into(), sum.len() as f64);
        Ok(())
    }

    /// Ranks side by side.
    fn factors(&mut self, of: &[(&Of, &Entry)]) -> Result<()> {
        let of: Vec<_> = of.iter().filter(|(_, e)| e.kept == Kept::LowRank).collect();
        let mut parts = Vec::new();
        for (of, entry) in &of {
            let (left, t) = of.numbers(entry, Part::Left)?;
            let (mut middle, _) = of.numbers(entry, Part::Middle)?;
            let (right, r) = of.numbers(entry, Part::Right)?;
            middle.iter_mut().for_each(|m| *m *= of.weight);
            parts.push((left, middle, right, t.shape.clone(), r.shape.clone(), t.dtype));
        }
        let (shape, across) = (parts[0].3.clone(), parts[0].4.clone());
        let stacked = shape.len() == 3;
        let at = usize::from(stacked);
        let (count, rows, columns) =
            (if stacked { shape[0] } else { 1 } as usize, shape[at] as usize, across[at + 1] as usize);
        let ranks: Vec<usize> = parts.iter().map(|p| p.3[at + 1] as usize).collect();
        let rank: usize = ranks.iter().sum();
        let (mut left, mut middle, mut right) = (Vec::new(), Vec::new(), Vec::new());
        for block in 0..count {
            for row in 0..rows {
                for (p, r) in parts.iter().zip(&ranks) {
                    let first = (block * rows + row) * r;
                    left.extend_from_slice(&p.0[first..first + r]);
                }
            }
            for (p, r) in parts.iter().zip(&ranks) {
                middle.extend_from_slice(&p.1[block * r..(block + 1) * r]);
                right.extend_from_slice(&p.2[block * r * columns..(block + 1) * r * columns]);
            }
        }
        let dtype = parts.iter().map(|p| p.5).reduce(Dtype::promote).unwrap_or(Dtype::F32);
        self.entry.kept = Kept::LowRank;
        let dims = |own: &[u64]| if stacked { [&[count as u64], own].concat() } else { own.to_vec() };
        let (m, n, r) = (rows as u64, columns as u64, rank as u64);
        for (part, values, shape) in
            [(Part::Left, left, dims(&[m, r])), (Part::Middle, middle, dims(&[r])), (Part::Right, right, dims(&[r, n]))]
        {
            let mut bytes = Vec::new();
            write_numbers(dtype, values.into_iter(), &mut bytes);
            self.put(part, &bytes)?;
            self.close(part, dtype, shape)?;
        }
        self.entry.figures.insert("rank".into(), rank as f64);
        Ok(())
    }

    /// The bits of lossless changes, one after the other.
    fn chain(&mut self, of: &[(&Of, &Entry)]) -> Result<()> {
        if let Some((of, _)) = of.iter().find(|(_, e)| e.kept != Kept::Xor) {
            return self
                .refuse(of, "is not kept as bits; extract the delta of the first base and the last model instead");
        }
        let stored = self.entry.base.clone();
        let Some(base) = stored else {
            return self.refuse(of[0].0, "is new to the base; extract the delta anew instead");
        };
        let bits = base.dtype.bits();
        let all = (base.shape.iter().product::<u64>() * bits / 8) as usize;
        let block = (PACKED * bits / 8) as usize;
        let mut read = Vec::new();
        for (of, entry) in of {
            let (bytes, _) = of.bytes(entry, Part::Xor)?;
            let starts = starts(&bytes, all.div_ceil(block));
            let Some(starts) = starts else {
                return self.refuse(of, "its blocks do not have the lengths it says; it is damaged");
            };
            read.push((*of, bytes, starts));
        }
        let (mut packer, mut unpacker) = (Packer::new()?, Unpacker::new()?);
        let (mut table, mut size) = (Vec::new(), 0u64);
        for (number, first) in (0..all).step_by(block).enumerate() {
            let len = block.min(all - first);
            let (mut sum, mut one) = (vec![0u8; len], vec![0u8; len]);
            for (of, bytes, starts) in &read {
                let place = starts[number]..starts[number + 1];
                if !place.is_empty() {
                    let found = unpacker.unpack(&bytes[place], width(bits), &mut one);
                    found
                        .map_err(|p| Error::tensor(&of.delta.path, &self.entry.name, format!("{p}; it is damaged")))?;
                    change(&mut sum, &one);
                }
            }
            let mut packed = Vec::new();
            let length = packer.pack(&sum, &vec![0u8; len], width(bits), &mut packed)?;
            self.put(Part::Xor, &packed)?;
            size += u64::from(length);
            table.extend_from_slice(&length.to_le_bytes());
        }
        self.put(Part::Xor, &table)?;
        let last = of[of.len() - 1].1;
        (self.entry.kept, self.entry.tuned) = (Kept::Xor, last.tuned.clone());
        self.close(Part::Xor, Dtype::U8, vec![size + table.len() as u64])
    }
}

/// Where packed blocks begin, and the last ends.
fn starts(bytes: &[u8], count: usize) -> Option<Vec<usize>> {
    let table = bytes.len().checked_sub(4 * count)?;
    let mut starts = vec![0usize];
    for length in bytes[table..].as_chunks::<4>().0 {
        starts.push(starts[starts.len() - 1].checked_add(u32::from_le_bytes(*length) as usize)?);
    }
    (starts[count] == table).then_some(starts)
}
