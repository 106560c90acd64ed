//! The tensors of GGUF files under Hugging Face's names: what was done to them is undone, experts lie apart.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::header::{Header, Info};
use super::weights::{Stored, Undo};
use crate::checkpoint::Tensor;
use crate::dtype::Dtype;
use crate::model::ggml::NVFP4;
use crate::model::gguf::{Architecture, Change, Meaning};

/// What names go by.
pub(super) struct Naming<'a> {
    pub architecture: Option<Architecture>,
    /// What it is called.
    pub name: &'a str,
    pub metadata: &'a Map<String, Value>,
    /// That of decoded weights.
    pub dtype: Dtype,
}

/// Tensors under their new names, and what to tell.
pub(super) struct Taken {
    pub tensors: Vec<Tensor>,
    /// Names that nobody knows.
    pub unknown: Vec<String>,
    /// Tensors that are left out.
    pub dropped: Vec<String>,
}

/// What is wrong with a tensor.
pub(super) struct Fault {
    pub file: usize,
    pub tensor: String,
    pub problem: String,
}

/// Every stored tensor by its name.
type All<'a> = HashMap<&'a str, (usize, &'a Info)>;

impl Naming<'_> {
    /// The tensors of all files.
    ///
    /// # Errors
    /// What does not fit.
    pub fn all(&self, headers: &[Header]) -> Result<Taken, Fault> {
        let mut all: All = HashMap::new();
        for (file, header) in headers.iter().enumerate() {
            for info in &header.tensors {
                if all.insert(&info.name, (file, info)).is_some() {
                    let problem = "is there in another file of the split model too; expected once".to_owned();
                    return Err(Fault { file, tensor: info.name.clone(), problem });
                }
            }
        }
        // A scale is a part of its weight; those of activations are nobody's.
        let scale = |info: &Info| Some(format!("{}.scale", info.name.strip_suffix(".weight")?));
        let scaled = headers.iter().flat_map(|h| &h.tensors).filter(|t| t.kind.number == NVFP4);
        let scales: HashSet<String> = scaled.filter_map(scale).collect();
        let mut out = Taken { tensors: Vec::new(), unknown: Vec::new(), dropped: Vec::new() };
        for (file, info) in headers.iter().enumerate().flat_map(|(i, h)| h.tensors.iter().map(move |t| (i, t))) {
            if scales.contains(&info.name) {
                continue;
            }
            let fault = |problem| Fault { file, tensor: info.name.clone(), problem };
            let mut stored = Stored::of(info, file);
            if info.kind.number == NVFP4
                && let Some((file, scale)) = scale(info).and_then(|name| all.get(name.as_str()).copied())
            {
                let experts = if info.shape.len() == 3 { info.shape[0] } else { 1 };
                let tensor =
                    Stored::of(scale, file).tensor(scale.name.clone(), scale.shape.clone(), Undo::Nothing, self.dtype);
                let fits = |t: &Tensor| t.dtype == Dtype::F32 && (t.elements() == 1 || t.elements() == experts);
                let tensor = tensor.ok().filter(fits);
                let problem = || format!("its scale `{}` is not one number, F32, for each expert", scale.name);
                stored.scale = Some(tensor.ok_or_else(|| fault(problem()))?);
            }
            self.one(&stored, &all, &mut out).map_err(fault)?;
        }
        Ok(out)
    }

    /// What becomes of a stored tensor.
    fn one(&self, stored: &Stored, all: &All, out: &mut Taken) -> Result<(), String> {
        let info = stored.info;
        let shape = &info.shape;
        let meaning = self.architecture.and_then(|a| a.meaning(&info.name));
        let whole = |name: String, shape: Vec<u64>, undo| stored.tensor(name, shape, undo, self.dtype);
        match meaning {
            None => {
                if self.architecture.is_some() {
                    out.unknown.push(info.name.clone());
                }
                out.tensors.push(whole(info.name.clone(), shape.clone(), Undo::Nothing)?);
            }
            Some(Meaning::Nothing) => out.dropped.push(info.name.clone()),
            Some(Meaning::One(name, change)) => {
                let undo = match change {
                    Change::None | Change::Flat => Undo::Nothing,
                    Change::More => Undo::More,
                    Change::Queries => Undo::Turns(self.heads(&["attention.head_count"], &info.name)?),
                    Change::Keys => {
                        Undo::Turns(self.heads(&["attention.head_count_kv", "attention.head_count"], &info.name)?)
                    }
                };
                let shape = match change {
                    Change::Flat if shape.len() == 1 => vec![1, shape[0]],
                    _ => shape.clone(),
                };
                out.tensors.push(whole(name, shape, undo)?);
            }
            Some(Meaning::Each(before, behind)) => {
                let [experts, rows, columns] = three(shape)?;
                for e in 0..experts {
                    let name = format!("{before}.{e}.{behind}");
                    let tensor = stored.part(e, experts).tensor(name, vec![rows, columns], Undo::Nothing, self.dtype);
                    out.tensors.push(tensor?);
                }
            }
            Some(Meaning::Halves(before, behind)) => {
                let [experts, rows, columns] = three(shape)?;
                if rows % 2 != 0 {
                    return Err(format!("has {rows} rows an expert, which are not two halves"));
                }
                for e in 0..experts {
                    for (half, behind) in behind.iter().enumerate() {
                        let name = format!("{before}.{e}.{behind}");
                        let part = stored.part(e, experts).part(half as u64, 2);
                        out.tensors.push(part.tensor(name, vec![rows / 2, columns], Undo::Nothing, self.dtype)?);
                    }
                }
            }
            Some(Meaning::Turned(name)) => {
                out.tensors.push(Stored::woven(std::slice::from_ref(stored), name, true, self.dtype)?);
            }
            Some(Meaning::Woven(name, which)) => {
                let (own, theirs) =
                    if which == 0 { ("ffn_gate_exps", "ffn_up_exps") } else { ("ffn_up_exps", "ffn_gate_exps") };
                let other = info.name.replacen(own, theirs, 1);
                let Some((file, other)) = all.get(other.as_str()) else {
                    return Err(format!("makes one tensor with `{other}`, which is missing"));
                };
                // The gate stands for both.
                if which == 0 {
                    let both = [stored.clone(), Stored::of(other, *file)];
                    out.tensors.push(Stored::woven(&both, name, shape.len() == 3, self.dtype)?);
                }
            }
        }
        Ok(())
    }

    /// How many heads there are in the layer of a tensor, by the first of the keys that is there.
    fn heads(&self, keys: &[&str], tensor: &str) -> Result<u64, String> {
        let layer = tensor.split('.').nth(1).and_then(|n| n.parse::<usize>().ok());
        for key in keys {
            match self.metadata.get(&format!("{}.{key}", self.name)) {
                Some(Value::Array(list)) => {
                    let own = layer.and_then(|i| list.get(i)?.as_u64());
                    return own.ok_or_else(|| format!("`{}.{key}` has no number for its layer", self.name));
                }
                Some(value) if value.is_u64() => return Ok(value.as_u64().unwrap_or(0)),
                _ => {}
            }
        }
        Err(format!("the file lacks `{}.{}`, by which the order of its rows is undone", self.name, keys[0]))
    }
}

/// The dimensions of matrices of experts.
fn three(shape: &[u64]) -> Result<[u64; 3], String> {
    match shape {
        &[experts, rows, columns] if experts > 0 => Ok([experts, rows, columns]),
        shape => Err(format!("has shape {shape:?}, expected a matrix for each expert")),
    }
}
