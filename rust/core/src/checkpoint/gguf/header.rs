//! The header of a GGUF file: keys and values, then what there is of tensors. Every count is held against the size of the file before
//! anything is made of it.

use std::collections::HashSet;
use std::fs::File;

use serde_json::{Map, Value};

use super::bytes::Bytes;
use super::metadata::{Reader, short};
use crate::digest;
use crate::model::ggml::{Is, Type};

/// Bytes that a tensor's name may have.
const LONGEST: usize = 64;

/// Where data begins, and every tensor, unless the file says otherwise.
const ALIGNMENT: u64 = 32;

/// A tensor as the header has it.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::checkpoint) struct Info {
    /// Its name there.
    pub name: String,
    /// How it is stored.
    pub kind: &'static Type,
    /// Dimensions, outermost first.
    pub shape: Vec<u64>,
    /// Its first byte in the file.
    pub begin: u64,
    /// Its size in bytes.
    pub nbytes: u64,
}

/// What a header says.
#[derive(Debug)]
pub(in crate::checkpoint) struct Header {
    /// Keys and values; long lists are null, unless they were asked for.
    pub metadata: Map<String, Value>,
    /// The tensors, in the order of their bytes.
    pub tensors: Vec<Info>,
    /// Digest of the header, as hexadecimal.
    pub digest: String,
}

/// Reads the header of a file of `size` bytes, with its long lists if `all`.
///
/// # Errors
/// What is not sound or not read, in words without the path.
pub(in crate::checkpoint) fn read(file: &File, size: u64, all: bool) -> Result<Header, String> {
    let mut bytes = Bytes::of(file, size);
    if &bytes.array::<4>()? != b"GGUF" {
        return Err("does not begin as a GGUF file does".to_owned());
    }
    match bytes.u32()? {
        2 | 3 => {}
        1 => return Err("is GGUF of version 1, which is not read; write it again with a newer tool".to_owned()),
        v if v > 0xffff && v.swap_bytes() <= 0xffff => {
            return Err("is a big-endian GGUF file, which is not read; write it again as little-endian \
                        (gguf_convert_endian.py)"
                .to_owned());
        }
        v => return Err(format!("is GGUF of version {v}, expected 2 or 3; suture may be too old for it")),
    }
    let tensors = bytes.count("tensors", 24)?;
    let keys = bytes.count("keys", 13)?;
    let metadata = Reader::new(all).read(&mut bytes, keys)?;
    let align = alignment(&metadata)?;
    let mut infos = Vec::new();
    let mut names = HashSet::new();
    for i in 0..tensors {
        let info = info(&mut bytes, i)?;
        if !names.insert(info.name.clone()) {
            return Err(format!("tensor `{}` is there twice; expected once", info.name));
        }
        infos.push(info);
    }
    let start = bytes.at().checked_next_multiple_of(align).unwrap_or(u64::MAX);
    for info in &mut infos {
        place(info, start, align, size).map_err(|e| format!("tensor `{}`: {e}", info.name))?;
    }
    infos.sort_by_key(|t| (t.begin, t.nbytes));
    if let Some(pair) = infos.windows(2).find(|p| p[1].begin < p[0].begin + p[0].nbytes) {
        return Err(format!("tensors `{}` and `{}` lie over each other; it is damaged", pair[0].name, pair[1].name));
    }
    let digest = digest::hex(digest::of_bytes(bytes.read()));
    Ok(Header { metadata, tensors: infos, digest })
}

fn alignment(metadata: &Map<String, Value>) -> Result<u64, String> {
    let Some(found) = metadata.get("general.alignment") else { return Ok(ALIGNMENT) };
    let sound = found.as_u64().filter(|a| a.is_power_of_two() && *a <= u64::from(u32::MAX));
    sound.ok_or_else(|| format!("`general.alignment`: expected a power of two, found {}", short(&found.to_string())))
}

/// A tensor; its first byte is still counted from the first of the data.
fn info(bytes: &mut Bytes, index: u64) -> Result<Info, String> {
    let name = bytes.text(|| format!("the name of tensor {index}"))?.to_owned();
    let at = |e: String| format!("tensor `{}`: {e}", short(&name));
    if name.len() > LONGEST {
        return Err(at(format!("its name has {} bytes, expected {LONGEST} at most", name.len())));
    }
    let dimensions = bytes.u32().map_err(at)?;
    if dimensions > 4 {
        return Err(at(format!("has {dimensions} dimensions, expected 4 at most")));
    }
    let mut shape: Vec<u64> = (0..dimensions).map(|_| bytes.u64()).collect::<Result<_, _>>().map_err(at)?;
    // The fastest comes first.
    shape.reverse();
    let number = bytes.u32().map_err(at)?;
    let begin = bytes.u64().map_err(at)?;
    let Some(kind) = Type::of(number) else {
        return Err(at(format!(
            "has the type {number}, which is none of GGML's that are known; suture may be too old for it, or it is of a fork"
        )));
    };
    if kind.is == Is::Refused {
        return Err(at(format!(
            "is {}, which is not decoded (it needs tables of hundreds of vectors); write the model again as Q8_0 or BF16 \
             (llama-quantize --allow-requantize), or take another file of it",
            kind.name
        )));
    }
    let width = shape.last().copied().unwrap_or(1);
    let rows = shape.iter().rev().skip(1).try_fold(1u64, |n, d| n.checked_mul(*d));
    if !width.is_multiple_of(kind.elements) {
        let problem =
            format!("has rows of {width} elements, expected whole blocks of {} ({})", kind.elements, kind.name);
        return Err(at(problem));
    }
    // As bytes, and as bits of the widest element, which others count in.
    let sizes = rows.zip(kind.row(width));
    let sizes = sizes.and_then(|(r, row)| Some((r.checked_mul(row)?, r.checked_mul(width)?.checked_mul(64)?)));
    let (nbytes, _) = sizes.ok_or_else(|| at(format!("{} of shape {shape:?} has no size in bytes", kind.name)))?;
    Ok(Info { name, kind, shape, begin, nbytes })
}

/// Holds the offset of a tensor against the file, and counts it from the first byte of the file on.
fn place(info: &mut Info, start: u64, align: u64, size: u64) -> Result<(), String> {
    if !info.begin.is_multiple_of(align) {
        return Err(format!("begins at byte {} of the data, expected a multiple of {align}", info.begin));
    }
    let end = start.checked_add(info.begin).and_then(|b| b.checked_add(info.nbytes));
    if end.is_none_or(|e| e > size) {
        return Err(format!(
            "takes {} bytes from byte {} of the data on, the file holds {} there; it is truncated, fetch it again",
            info.nbytes,
            info.begin,
            size.saturating_sub(start)
        ));
    }
    info.begin += start;
    Ok(())
}
