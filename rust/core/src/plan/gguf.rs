//! Outputs that are GGUF files: GGML's names and order of rows, and the file's header.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use super::encoded::becomes;
use super::{Draft, Encoded, Plan, TensorPlan};
use crate::checkpoint::{Shard, Target};
use crate::error::{Error, Result};
use crate::kernels::encode::GROUP;
use crate::methods::encoded::{Encode, Form, Part, Undone};
use crate::model::ggml_names::Family;
use crate::model::gguf::Change;
use crate::model::names::is_buffer;

/// Under which a shard has what its header says of the model, in hexadecimal.
pub(super) const KEY: &str = "gguf";
/// Under which it has the factors of scaled positions, in the same way.
const FACTORS: &str = "gguf factors";
/// The file that is written.
const FILE: &str = "model.gguf";
/// What tensors begin at multiples of.
const ALIGN: u64 = 32;

impl Draft {
    /// Has every tensor written as GGUF has it: weights in blocks, all else as F32.
    ///
    /// # Errors
    /// [`Error::Recipe`] for families that are not written, [`Error::Tensor`] for tensors that have no place in such a file.
    pub(super) fn as_gguf(&mut self) -> Result<()> {
        let lead = self.models.get(self.config.from);
        let refused = |problem: String| Error::checkpoint(&lead.path, problem);
        let kind = lead.config.as_ref().and_then(|c| c["model_type"].as_str()).unwrap_or_default().to_owned();
        let Some(family) = Family::of(&kind) else {
            let found = if kind.is_empty() {
                "it has no config.json with a `model_type`".to_owned()
            } else {
                format!("`{kind}`")
            };
            return Err(refused(format!(
                "expected a model of the families llama, mistral, qwen2, qwen3, gemma2 or gemma3_text, found {found}; others are not \
                 written as GGUF"
            )));
        };
        let stack =
            lead.anatomy().main().ok_or_else(|| refused("has no layers, which a GGUF file is of".to_owned()))?;
        let heads = stack.heads;
        let (mut items, mut blocks) = (Vec::new(), 0);
        for item in std::mem::take(&mut self.items) {
            // What loaders compute again.
            if is_buffer(&item.name, item.shape.len()) {
                continue;
            }
            let wrong = |problem: &str| Error::tensor(&lead.path, &item.name, problem.to_owned());
            let (name, change) = family.name(&item.name).filter(|_| item.dtype.computes()).ok_or_else(|| {
                wrong("has no place in a GGUF file of this family; leave it out, or write another form")
            })?;
            let turns = |count: Option<u64>| {
                let count = count
                    .ok_or_else(|| wrong("has rows in the order of heads, whose number config.json does not say"))?;
                match item.shape.first() {
                    Some(rows) if count > 0 && rows % (2 * count) == 0 => Ok(Undone::Turns(count)),
                    _ => Err(wrong(&format!("has rows that are not halves of {count} heads"))),
                }
            };
            let change = match change {
                Change::None | Change::Flat => Undone::Nothing,
                Change::More => Undone::More,
                Change::Queries => turns(heads.map(|h| h.query))?,
                Change::Keys => turns(heads.map(|h| h.shared))?,
            };
            let whole = item.shape.len() == 2 && item.shape[1] > 0 && item.shape[1] % GROUP as u64 == 0;
            blocks += usize::from(whole);
            let part = if whole { Part::Codes } else { Part::Plain };
            let encode =
                Encode { form: Form::Q8_0, part, shape: item.shape.clone(), weight: item.name.clone(), change };
            items.push(becomes(&item, name, encode)?);
        }
        let others = items.len() - blocks;
        self.items = items;
        self.notes
            .push(("encoded".to_owned(), format!("{blocks} weights are written as Q8_0, {others} tensors as F32")));
        self.config.encoded = Some(Encoded { form: Form::Q8_0, plain: Vec::new(), words: Vec::new() });
        Ok(())
    }
}

impl Plan {
    /// Whether its weights are written as GGUF.
    pub(super) fn is_gguf(&self) -> bool {
        self.config.encoded.as_ref().is_some_and(|e| e.form == Form::Q8_0)
    }

    /// Checks that what is written as GGUF goes into a folder.
    ///
    /// # Errors
    /// [`Error::Output`] if the target is named as a file.
    pub(super) fn is_for_folder(&self, target: &Target) -> Result<()> {
        let path = target.path();
        let named = target.file().is_some() || path.extension() == Some("gguf".as_ref());
        if !self.is_gguf() || path.is_dir() || !named {
            return Ok(());
        }
        let problem = "is the name of a file; a GGUF model is written into a folder, as `model.gguf`: give one";
        Err(Error::output(path, problem))
    }

    /// The same plan with its one file GGUF: `said` is what its header says of the model, the number of keys (8 bytes) before them;
    /// `factors`, if any, are a tensor of its own (`rope_freqs`).
    ///
    /// # Errors
    /// [`Error::Recipe`] if the plan's weights are of another form.
    pub fn in_gguf(&self, said: &[u8], factors: &[f32]) -> Result<Self> {
        if !self.is_gguf() || self.shards.len() != 1 {
            return Err(Error::recipe("to", "the plan's weights are of no form that GGUF has"));
        }
        let mut plan = self.clone();
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mut metadata = BTreeMap::from([(KEY.to_owned(), hex(said))]);
        if !factors.is_empty() {
            let bytes: Vec<u8> = factors.iter().flat_map(|f| f.to_le_bytes()).collect();
            metadata.insert(FACTORS.to_owned(), hex(&bytes));
        }
        let (shard, offsets) = shard(FILE, metadata, &self.tensors).map_err(|p| Error::recipe("to", p))?;
        let moved = self.tensors.iter().zip(offsets).map(|(t, offset)| TensorPlan { offset, ..t.clone() });
        plan.tensors = moved.collect();
        plan.shards = vec![shard];
        plan.hash = OnceLock::new();
        Ok(plan)
    }
}

/// The file of tensors in this order, and where each lies in it.
///
/// # Errors
/// What is wrong with what the header is to say.
pub(super) fn shard(
    file: &str,
    metadata: BTreeMap<String, String>,
    tensors: &[TensorPlan],
) -> std::result::Result<(Shard, Vec<u64>), String> {
    let bytes = |key: &str| {
        let Some(hex) = metadata.get(key) else { return Some(Vec::new()) };
        (0..hex.len() / 2).map(|i| u8::from_str_radix(hex.get(2 * i..2 * i + 2)?, 16).ok()).collect::<Option<Vec<u8>>>()
    };
    let said = bytes(KEY).filter(|s| s.len() >= 8).ok_or("its keys and values are no hexadecimal text")?;
    let factors = bytes(FACTORS).ok_or("its factors are no hexadecimal text")?;
    let (count, said) = said.split_at(8);
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((tensors.len() as u64 + u64::from(!factors.is_empty())).to_le_bytes());
    header.extend(count);
    header.extend(said);
    let info = |header: &mut Vec<u8>, name: &str, shape: &[u64], kind: u32, at: u64| {
        header.extend((name.len() as u64).to_le_bytes());
        header.extend(name.as_bytes());
        header.extend((shape.len() as u32).to_le_bytes());
        shape.iter().rev().for_each(|n| header.extend(n.to_le_bytes()));
        header.extend(kind.to_le_bytes());
        header.extend(at.to_le_bytes());
    };
    let (mut at, mut begins) = (0u64, Vec::new());
    if !factors.is_empty() {
        info(&mut header, "rope_freqs.weight", &[factors.len() as u64 / 4], 0, 0);
        at = (factors.len() as u64).next_multiple_of(ALIGN);
    }
    let first = at;
    for t in tensors {
        if t.name.len() > 64 {
            return Err(format!("`{}` is longer than the 64 bytes that a name has in GGUF", t.name));
        }
        let blocks = t.encode.as_ref().is_some_and(|e| e.part == Part::Codes);
        info(&mut header, &t.name, t.values(), if blocks { 8 } else { 0 }, at);
        begins.push(at);
        at += t.nbytes.next_multiple_of(ALIGN);
    }
    header.resize(header.len().next_multiple_of(ALIGN as usize), 0);
    let start = header.len() as u64;
    // What is known already is written with the header.
    header.extend(factors);
    header.resize((start + first) as usize, 0);
    let shard = Shard { file: file.to_owned(), header, data_bytes: at - first, metadata };
    Ok((shard, begins.into_iter().map(|b| start + b).collect()))
}
