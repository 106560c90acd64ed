//! Tensors of a pickle, each held against the bytes of its storage.

use std::collections::HashMap;
use std::ops::Range;

use super::archive::{Archive, shown};
use super::global::{Global, Rebuild};
use super::pickle::{Pickle, Value};
use crate::checkpoint::Tensor;
use crate::checkpoint::header::tensor_bytes;
use crate::dtype::Dtype;

/// Most dimensions of a tensor, as in a safetensors header.
const MOST_DIMENSIONS: usize = 64;
/// Most bytes of all tensors together, 256 TiB: strides of 0 make much of few bytes.
const MOST_BYTES: u64 = 1 << 48;

/// Where storages lie in a file, by their keys.
pub(super) enum Storages<'a> {
    /// Members of an archive, in this folder of it.
    Members(&'a Archive, &'a [u8]),
    /// Behind the pickles.
    Behind(&'a HashMap<&'a str, Range<u64>>),
}

impl Storages<'_> {
    /// What a storage is called in its file, for a message, and its bytes.
    fn find(&self, key: &str) -> Result<(String, Range<u64>), String> {
        let name = match self {
            Self::Members(_, root) => [*root, &b"/data/"[..], key.as_bytes()].concat(),
            Self::Behind(_) => key.as_bytes().to_vec(),
        };
        let bytes = match self {
            Self::Members(archive, _) => archive.find(&name).map(|member| member.bytes.clone()),
            Self::Behind(storages) => storages.get(key).cloned(),
        };
        let name = shown(&name);
        match bytes {
            Some(bytes) => Ok((name, bytes)),
            None => Err(format!("its storage, {name}, is not in the file; was it cut short?")),
        }
    }
}

/// Places the tensors called so in their file, in the order of their bytes.
///
/// # Errors
/// The name of a tensor that is not sound, and what is wrong with it.
pub(super) fn place(
    pickle: &Pickle,
    storages: &Storages,
    named: Vec<(String, Value)>,
    file: usize,
) -> Result<Vec<Tensor>, (String, String)> {
    let (mut tensors, mut bytes) = (Vec::with_capacity(named.len()), 0u64);
    for (name, value) in named {
        let at = || place_one(pickle, storages, value);
        let (dtype, shape, strides, begin) = match at() {
            Ok(found) => found,
            Err(problem) => return Err((name, problem)),
        };
        let nbytes = tensor_bytes(dtype, &shape).filter(|n| bytes + n <= MOST_BYTES);
        let Some(nbytes) = nbytes else {
            return Err((name, format!("{} of shape {shape:?} is too large", dtype.name())));
        };
        bytes += nbytes;
        let strides = strides.filter(|strides| !contiguous(&shape, strides));
        tensors.push(Tensor { name, dtype, shape, file, begin, nbytes, strides, made: None });
    }
    tensors.sort_by_key(|t| t.begin);
    Ok(tensors)
}

/// Dtype, shape, strides (none where nothing depends on them) and first byte of a tensor.
type Placed = (Dtype, Vec<u64>, Option<Vec<u64>>, u64);

fn place_one(pickle: &Pickle, storages: &Storages, value: Value) -> Result<Placed, String> {
    let unsound = || "its entry in the pickle is not sound".to_owned();
    let Value::Tensor(args, how) = value else { return Err(unsound()) };
    let Some([Value::Storage(id), offset, shape, strides, rest @ ..]) = pickle.items.get(args as usize..) else {
        return Err(unsound());
    };
    let Some([_, Value::Global(Global::Storage(kind)), key, _, Value::Int(numel)]) =
        pickle.items.get(*id as usize..*id as usize + 5)
    else {
        return Err(unsound());
    };
    let dtype = match (kind, how, rest.get(2)) {
        (None, Rebuild::Third, Some(Value::Global(Global::Dtype(dtype)))) => *dtype,
        (Some(dtype), Rebuild::First | Rebuild::Second, _) => *dtype,
        _ => return Err("its storage has no dtype, or two".to_owned()),
    };
    let (storage, bytes) = storages.find(pickle.text(*key).unwrap_or_default())?;
    let (size, width) = (bytes.end - bytes.start, dtype.bits() / 8);
    let unit = unit(*kind);
    let whole = u64::try_from(*numel).ok().and_then(|n| n.checked_mul(unit)) == Some(size);
    if !whole {
        return Err(format!(
            "its storage has {numel} elements of {unit} bytes, and {storage} has {size} bytes; was the file cut short?"
        ));
    }
    let (shape, strides) = (sizes(pickle, *shape)?, sizes(pickle, *strides)?);
    let offset = whole_number(*offset)?;
    if shape.len() != strides.len() || shape.len() > MOST_DIMENSIONS {
        return Err(format!(
            "it has {} dimensions and {} strides; expected as many, and at most {MOST_DIMENSIONS}",
            shape.len(),
            strides.len()
        ));
    }
    if shape.contains(&0) {
        return Ok((dtype, shape, None, bytes.start));
    }
    let reach = |at: u64, (n, stride): (&u64, &u64)| at.checked_add((n - 1).checked_mul(*stride)?);
    let last = shape.iter().zip(&strides).try_fold(offset, reach);
    if last.and_then(|last| last.checked_add(1)?.checked_mul(width)).is_none_or(|end| end > size) {
        return Err(format!(
            "with shape {shape:?}, strides {strides:?} and offset {offset} it reaches beyond the {size} bytes of its storage"
        ));
    }
    Ok((dtype, shape, Some(strides), bytes.start + offset * width))
}

/// Bytes of what a class of storages counts: elements, or bytes if it has no dtype.
pub(super) fn unit(kind: Option<Dtype>) -> u64 {
    kind.map_or(1, |dtype| dtype.bits() / 8)
}

fn sizes(pickle: &Pickle, value: Value) -> Result<Vec<u64>, String> {
    pickle.tuple(value).unwrap_or_default().iter().take(MOST_DIMENSIONS + 1).map(|v| whole_number(*v)).collect()
}

fn whole_number(value: Value) -> Result<u64, String> {
    match value {
        Value::Int(n) if n >= 0 => Ok(n as u64),
        _ => Err("expected whole numbers of 0 and more as its shape, strides and offset".to_owned()),
    }
}

/// Whether elements lie one behind the other; the stride of a dimension of one element does not matter.
fn contiguous(shape: &[u64], strides: &[u64]) -> bool {
    let mut expected = 1u64;
    shape.iter().zip(strides).rev().filter(|(n, _)| **n != 1).all(|(n, stride)| {
        let fits = *stride == expected;
        expected = expected.saturating_mul(*n);
        fits
    })
}
