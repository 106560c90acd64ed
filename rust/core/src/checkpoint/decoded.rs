//! A quantised checkpoint as the plain model: its weights are decoded as they are read, and what comes with them is gone.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde_json::Value;

use super::made::{Coded, Made};
use super::{Checkpoint, Tensor, read_json};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::model::families::Families;
use crate::model::quantised::{Found, Seen, recognise};
use crate::source::{self, IoMode};

/// Files beside a model that say how it is quantised, where config.json does not.
const BESIDE: [&str; 4] =
    ["quantize_config.json", "quant_config.json", "quantization_config.json", "hf_quant_config.json"];

/// What was decoded of a checkpoint, or why nothing was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decoded {
    /// Something is.
    Forms {
        /// The forms, and how many weights are of each.
        forms: BTreeMap<String, usize>,
        /// Stored tensors that the plain model has no tensor of the name of, and the weight that each is decoded into, if it is.
        gone: Vec<(String, Option<String>)>,
    },
    /// It is quantised in a way that is not decoded.
    Refused(String),
}

impl Checkpoint {
    /// What config.json, or a file beside it, says of how weights are quantised.
    pub fn quantisation(&self) -> Option<Value> {
        let config = self.config.as_ref();
        let sections = [Some("quantization_config"), Some("compression_config")];
        let inside = |c: &Value| sections.iter().flatten().find_map(|k| c.get(*k)).filter(|v| v.is_object()).cloned();
        let nested = |c: &Value| ["text_config", "llm_config"].iter().find_map(|k| inside(c.get(*k)?));
        let said = config.and_then(|c| inside(c).or_else(|| nested(c)));
        said.or_else(|| BESIDE.iter().find_map(|file| read_json(&self.path.join(file))))
    }

    /// What is quantised in it, as it is stored.
    ///
    /// # Errors
    /// [`Error::Tensor`] for stored tensors that do not fit each other.
    pub fn recognised(&self) -> Result<Found> {
        let seen: Vec<Seen> =
            (self.tensors.iter()).map(|t| Seen { name: &t.name, dtype: t.dtype, shape: &t.shape }).collect();
        if seen.iter().all(|t| t.dtype.computes()) {
            return Ok(Found::default());
        }
        let quantisation = self.quantisation();
        recognise(&seen, quantisation.as_ref(), &|i| self.small(i))
            .map_err(|(tensor, problem)| Error::tensor(&self.file_of(tensor), &self.tensors[tensor].name, problem))
    }

    fn file_of(&self, tensor: usize) -> std::path::PathBuf {
        self.files.get(self.tensors[tensor].file).map_or_else(|| self.path.clone(), |f| f.path.clone())
    }

    /// The bytes of a small tensor.
    fn small(&self, tensor: usize) -> std::result::Result<Vec<u8>, String> {
        let t = &self.tensors[tensor];
        if t.made.is_some() {
            let problem =
                "is changed by a delta, and says something of others; write the model first (`suture delta apply`)";
            return Err(problem.to_owned());
        }
        if !t.is_contiguous() {
            return Err("is stored with strides, and says something of others; save the model again".to_owned());
        }
        let file = &self.files[t.file];
        let source = source::open(&file.path, file.identity, IoMode::Pread);
        let bytes = source.read(t.begin..t.begin + t.nbytes, &mut None).map(<[u8]>::to_vec);
        bytes.map_err(|e| e.to_string())
    }

    /// The dtype that its decoded weights have: the one that config.json says, else bf16.
    pub(super) fn plain_dtype(&self) -> Dtype {
        let config = self.config.as_ref();
        let of = |c: &Value| ["dtype", "torch_dtype"].iter().find_map(|k| Dtype::from_user(c[*k].as_str()?));
        let inner = |c: &Value| ["text_config", "llm_config"].iter().find_map(|k| of(c.get(*k)?));
        config.and_then(|c| of(c).or_else(|| inner(c))).filter(|d| *d != Dtype::F64).unwrap_or(Dtype::Bf16)
    }

    /// The plain model: quantised weights are made of their codes and scales as they are read, under the names, shapes and dtype that
    /// the plain model has them in; scales and the like are gone. Where anything is quantised in a way that is not decoded, all stays
    /// as it is stored, and [`Self::decoded`] says why. A plain model is as it was.
    ///
    /// # Errors
    /// [`Error::Tensor`] for stored tensors that do not fit each other, or two weights of one name.
    pub fn plain(mut self) -> Result<Self> {
        if self.decoded.is_some() {
            return Ok(self);
        }
        let found = self.recognised()?;
        if let Some(reason) = found.refused {
            self.decoded = Some(Decoded::Refused(reason));
            return Ok(self);
        }
        if found.weights.is_empty() {
            if self.quantisation().is_some() {
                self.warn_of_bare();
            }
            return Ok(self);
        }
        if found.wrapped > 0 {
            let problem =
                "of GPTQ (v1) are stored as ones alone, and read as 0; other decoders may read them as 2^bits";
            self.warnings.push(format!("{}: {} zero points {problem}", self.path.display(), found.wrapped));
        }
        let dtype = self.plain_dtype();
        let mut forms: BTreeMap<String, usize> = BTreeMap::new();
        let mut weights: BTreeMap<usize, Tensor> = BTreeMap::new();
        let mut read: BTreeMap<usize, String> = BTreeMap::new();
        for w in found.weights {
            *forms.entry(w.form.clone()).or_default() += 1;
            read.extend(w.parts.iter().map(|part| (*part, w.name.clone())));
            let parts: Vec<Tensor> = w.parts.iter().map(|i| self.tensors[*i].clone()).collect();
            let elements = w.shape.iter().product::<u64>();
            let coded = Coded::new(w.coding, w.form, parts, elements);
            let stands = &self.tensors[w.stands];
            let tensor = Tensor {
                name: w.name,
                dtype,
                nbytes: elements * dtype.bits() / 8,
                shape: w.shape,
                made: Some(Arc::new(Made::Coded(coded))),
                strides: None,
                ..stands.clone()
            };
            weights.insert(w.stands, tensor);
        }
        let gone: HashSet<usize> = found.beside.into_iter().collect();
        let mut lost: Vec<(String, Option<String>)> = Vec::new();
        let mut tensors = Vec::with_capacity(self.tensors.len());
        for (i, t) in std::mem::take(&mut self.tensors).into_iter().enumerate() {
            match weights.remove(&i) {
                Some(weight) => {
                    if weight.name != t.name {
                        lost.push((t.name, Some(weight.name.clone())));
                    }
                    tensors.push(weight);
                }
                None if gone.contains(&i) => lost.push((t.name, read.remove(&i))),
                None => tensors.push(t),
            }
        }
        let mut names = HashSet::new();
        if let Some(twice) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
            let problem = "is there quantised and plain; which of them the model has cannot be told";
            return Err(Error::tensor(&self.path, &twice.name, problem));
        }
        self.tensors = tensors;
        self.warn_of_bare();
        self.decoded = Some(Decoded::Forms { forms, gone: lost });
        self.reindex();
        Ok(self)
    }

    /// Warns of weights that mean something with a scale only, and have none.
    fn warn_of_bare(&mut self) {
        let bare =
            |t: &&Tensor| matches!(t.name.rsplit('.').next(), Some("weight")) && t.made.is_none() && bare(t.dtype);
        let left: Vec<&Tensor> = self.tensors.iter().filter(bare).collect();
        if let [first, ..] = left.as_slice() {
            let n = left.len();
            let (are, stay) = if n == 1 { ("weight has", "stays") } else { ("weights have", "stay") };
            let problem =
                format!("{n} {are} no scale and {stay} as stored, in {} (first: `{}`)", first.dtype.name(), first.name);
            self.warnings.push(format!("{}: {problem}", self.path.display()));
        }
    }

    /// What was decoded of it, for people.
    pub fn decoded_told(&self) -> Option<String> {
        match self.decoded.as_ref()? {
            Decoded::Forms { forms, .. } => {
                let of = |(form, n): (&String, &usize)| {
                    format!("{n} {} of {form}", if *n == 1 { "weight" } else { "weights" })
                };
                Some(forms.iter().map(of).collect::<Vec<_>>().join("; "))
            }
            Decoded::Refused(_) => None,
        }
    }

    /// The forms that its weights are stored in, with the number of each, and by tensor; why it cannot be decoded, if so.
    pub fn forms(&self) -> (BTreeMap<String, usize>, BTreeMap<usize, String>, Option<String>) {
        if let Some(Decoded::Forms { forms, .. }) = &self.decoded {
            return (forms.clone(), BTreeMap::new(), None);
        }
        let found = match self.recognised() {
            Ok(found) => found,
            Err(problem) => return (BTreeMap::new(), BTreeMap::new(), Some(problem.to_string())),
        };
        let (mut forms, mut of) = (BTreeMap::new(), BTreeMap::new());
        for w in found.weights {
            *forms.entry(w.form.clone()).or_default() += 1;
            of.insert(w.stands, w.form);
        }
        (forms, of, found.refused)
    }

    /// How many tensors are quantised weights or come with one.
    pub fn quantised(&self) -> usize {
        let families = Families::of(self.tensors.iter().map(|t| (t.name.as_str(), t.dtype)));
        (0..self.tensors.len()).filter(|i| families.module(*i).is_some()).count()
    }

    /// Why its weights are not decoded, where they were to be.
    pub(super) fn undecoded(&self) -> Option<String> {
        match self.decoded.as_ref()? {
            Decoded::Refused(reason) => Some(format!("{reason}; its quantised tensors are moved as they are stored")),
            Decoded::Forms { .. } => None,
        }
    }

    /// Whether weights of it are decoded.
    pub fn is_decoded(&self) -> bool {
        matches!(self.decoded, Some(Decoded::Forms { .. }))
    }

    /// Whether weights of it are quantised and moved as they are stored.
    pub fn is_coded(&self) -> bool {
        let families = || Families::of(self.tensors.iter().map(|t| (t.name.as_str(), t.dtype)));
        !self.is_decoded() && !families().is_empty()
    }
}

/// Whether weights of a dtype mean nothing without a scale.
fn bare(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F8E4m3 | Dtype::F8E5m2 | Dtype::F8E4m3Fnuz | Dtype::F8E5m2Fnuz | Dtype::U8 | Dtype::I8)
}
