//! What `torch.save` wrote before torch 1.6, and still writes when asked: five pickles one behind the other (a number that stands
//! for the form, its version, the machine, the object, the keys of the storages), then the storages, each behind the number of its
//! elements.
//!
//! Where the pickles end, only reading them tells: the file's beginning is read in pieces that grow until they are whole.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::archive::shown;
use super::global::Global;
use super::machine::Machine;
use super::pickle::{Form, Pickle, Value};
use super::tensors::{self, Storages, unit};
use super::{MAX_PICKLE, Read, state};
use crate::digest;
use crate::dtype::Dtype;
use crate::error::{Error, Result};

/// The number that stands for the form, 0x1950a86a20f9469cfc6c, as the opcodes LONG1 and STOP have it.
const MAGIC: &[u8] = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
/// What frames it from protocol 4 on.
const FRAME: &[u8] = b"\x95\x0d\0\0\0\0\0\0\0";
/// The version of the form; there was no other.
const VERSION: Value = Value::Int(1001);
/// What is read of a file at first, in bytes; the pickles of most models are shorter.
const FIRST: u64 = 1 << 20;
/// By how much what is read grows where it was too little.
const GROWTH: u64 = 8;

/// Whether `file` begins as one of this form does.
///
/// # Errors
/// If it cannot be read.
pub(in crate::checkpoint) fn is_legacy(file: &File, size: u64) -> io::Result<bool> {
    let mut first = [0; 2 + FRAME.len() + MAGIC.len()];
    let first = &mut first[..size.min(2 + (FRAME.len() + MAGIC.len()) as u64) as usize];
    file.read_exact_at(first, 0)?;
    Ok(match first {
        [0x80, 2 | 3, rest @ ..] => rest.starts_with(MAGIC),
        [0x80, 4 | 5, rest @ ..] => rest.strip_prefix(FRAME) == Some(MAGIC),
        _ => false,
    })
}

/// Reads what the file at `path` says of its tensors; `size` is its own, `index` its number in the checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] with what is not sound, or is none of weights.
pub(in crate::checkpoint) fn read(path: &Path, file: &File, size: u64, index: usize) -> Result<Read> {
    let failed = |problem: String| Error::checkpoint(path, problem);
    let most = size.min(MAX_PICKLE);
    let mut len = most.min(FIRST);
    loop {
        let mut text = vec![0; len as usize];
        file.read_exact_at(&mut text, 0).map_err(|e| Error::io(path, "read", e))?;
        let mut machine = Machine { bytes: &text, form: Form::Stream, ..Machine::default() };
        let (top, keys) = match pickles(&mut machine) {
            Ok(found) => found,
            Err(_) if machine.short && len < most => {
                len = (len * GROWTH).min(most);
                continue;
            }
            Err(_) if machine.short && len < size => {
                return Err(failed(format!("its pickles have more than the {MAX_PICKLE} bytes allowed")));
            }
            Err(problem) => return Err(failed(problem)),
        };
        let end = machine.at;
        let pickle = machine.finish(top);
        let storages = locate(&pickle, keys, file, end as u64..size).map_err(failed)?;
        let state::Found { tensors, warning } = state::weights(&pickle).map_err(failed)?;
        let tensors = tensors::place(&pickle, &Storages::Behind(&storages), tensors, index);
        let tensors = tensors.map_err(|(name, problem)| Error::tensor(path, &name, problem))?;
        return Ok(Read { tensors, warning, digest: digest::hex(digest::of_bytes(&text[..end])) });
    }
}

/// Reads the five pickles; returns the object and the number of the list of keys.
fn pickles(machine: &mut Machine) -> std::result::Result<(Value, u32), String> {
    machine.pickle()?;
    if machine.pickle()? != VERSION {
        return machine.wrong("expected version 1001 of the form");
    }
    let Value::Dict(system) = machine.pickle()? else {
        return machine.wrong("expected a dict of what machine wrote it");
    };
    let says = |key: Value| match key {
        Value::Text(start, len) => &machine.bytes[start as usize..(start + len) as usize] == b"little_endian",
        _ => false,
    };
    let little = machine.entries.iter().rfind(|e| e.dict == system && says(e.key));
    if little.map(|e| e.value) != Some(Value::Bool(true)) {
        return Err("its numbers are not little-endian; load it and save it again on another machine".to_owned());
    }
    if !machine.storages.is_empty() {
        return machine.wrong("it names a storage before the object");
    }
    let top = machine.pickle()?;
    let named = machine.storages.len();
    match machine.pickle()? {
        Value::List(keys) if machine.storages.len() == named => Ok((top, keys)),
        _ => machine.wrong("expected the list of its storages"),
    }
}

/// Finds the storages of `pickle` in the bytes `rest` of the file, in the order of the list called `keys`.
fn locate<'p>(
    pickle: &Pickle<'p>,
    keys: u32,
    file: &File,
    rest: Range<u64>,
) -> std::result::Result<HashMap<&'p str, Range<u64>>, String> {
    let mut named = named(pickle)?;
    let (mut storages, mut at) = (HashMap::with_capacity(named.len()), rest.start);
    for key in pickle.dict(keys) {
        let Some(key) = pickle.text(key.value) else {
            return Err("lists a storage whose key is no text; load it and save it again with torch.save".to_owned());
        };
        let name = shown(key.as_bytes());
        let Some((kind, numel)) = named.remove(key) else {
            return Err(format!("lists the storage {name}, which is there twice or of no tensor; fetch it again"));
        };
        let cut = || format!("ends before its storage {name} is whole; it was cut short, fetch it again");
        let begin = at.checked_add(8).filter(|begin| *begin <= rest.end).ok_or_else(cut)?;
        let mut count = [0; 8];
        file.read_exact_at(&mut count, at).map_err(|e| format!("cannot be read: {e}"))?;
        let found = i64::from_le_bytes(count);
        if found != numel {
            return Err(format!("its storage {name} has {found} elements, expected {numel}; fetch it again"));
        }
        let size = u64::try_from(numel).ok().and_then(|n| n.checked_mul(unit(kind)));
        at = size.and_then(|size| begin.checked_add(size)).filter(|end| *end <= rest.end).ok_or_else(cut)?;
        storages.insert(key, begin..at);
    }
    if let Some(key) = named.keys().min() {
        return Err(format!("does not list its storage {}; fetch it again", shown(key.as_bytes())));
    }
    if at != rest.end {
        let behind = rest.end - at;
        return Err(format!(
            "has {behind} bytes behind its last storage, expected none; was something appended to it?"
        ));
    }
    Ok(storages)
}

/// The class of a storage, and the number of its elements.
type Kind = (Option<Dtype>, i64);

/// What the pickle says of every storage it names, by keys.
fn named<'p>(pickle: &Pickle<'p>) -> std::result::Result<HashMap<&'p str, Kind>, String> {
    let mut named = HashMap::new();
    for id in &pickle.storages {
        let id = pickle.items.get(*id as usize..).unwrap_or_default();
        let [_, Value::Global(Global::Storage(kind)), key, _, Value::Int(numel), ..] = id else { continue };
        let key = pickle.text(*key).unwrap_or_default();
        if named.insert(key, (*kind, *numel)).is_some_and(|other| other != (*kind, *numel)) {
            let name = shown(key.as_bytes());
            return Err(format!(
                "names the storage {name} twice, as of other types or sizes; save it again with torch.save"
            ));
        }
    }
    Ok(named)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    const HEAD: &[u8] = b"\x80\x02M\xe9\x03.\x80\x02}X\x0d\0\0\0little_endian\x88s.";

    /// A file of two tensors, `a` of three numbers and `b` of the last two of them, and one of bytes, `c`.
    fn file() -> Vec<u8> {
        let id = |class: &str, key: &str, n: &str| {
            format!("(X\x07\0\0\0storagec{class}\nX\x01\0\0\0{key}X\x01\0\0\0cK{n}NtQ")
        };
        let tensor = |name: &str, id: &str, offset: &str, n: &str| {
            format!("X\x01\0\0\0{name}ctorch._utils\n_rebuild_tensor\n({id}K{offset}K{n}")
        };
        let floats = id("torch\nFloatStorage", "7", "\x03");
        let bytes = id("torch\nByteStorage", "5", "\x02");
        let end = b"\x85K\x01\x85tR";
        let mut out = [b"\x80\x02", MAGIC, HEAD, b"\x80\x02}("].concat();
        for (name, id, offset, n) in
            [("a", &floats, "\0", "\x03"), ("b", &floats, "\x01", "\x02"), ("c", &bytes, "\0", "\x02")]
        {
            out.extend([tensor(name, id, offset, n).as_bytes(), end].concat());
        }
        out.extend(b"u.\x80\x02](X\x01\0\0\x005X\x01\0\0\x007e.");
        out.extend([&2u64.to_le_bytes()[..], &[1, 2], &3u64.to_le_bytes(), &[3; 12]].concat());
        out
    }

    fn opened(bytes: &[u8]) -> Result<Read> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let size = bytes.len() as u64;
        if is_legacy(&file, size).unwrap() {
            read(Path::new("w"), &file, size, 0)
        } else {
            Err(Error::checkpoint(Path::new("w"), ""))
        }
    }

    /// Storages lie in the order of the list of keys, each behind its number.
    #[test]
    fn storages_are_found_where_they_lie() {
        let bytes = file();
        let size = bytes.len() as u64;
        let found = opened(&bytes).unwrap().tensors;
        let places = found.iter().map(|t| (&t.name[..], size - t.begin, t.nbytes)).collect::<Vec<_>>();
        assert_eq!(places, [("c", 22, 2), ("a", 12, 12), ("b", 8, 8)]);
    }

    proptest::proptest! {
        /// Law 7: whatever is damaged, a tensor lies in the file, behind the pickles.
        #[test]
        fn tensors_lie_in_the_file(edits in proptest::collection::vec((0usize..600, proptest::prelude::any::<u8>()), 0..4), cut in 0usize..40) {
            let mut bytes = file();
            for (at, byte) in edits {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            bytes.truncate(bytes.len() - if cut < 20 { 0 } else { cut });
            if let Ok(found) = opened(&bytes) {
                for tensor in &found.tensors {
                    proptest::prop_assert!(tensor.begin + tensor.nbytes <= bytes.len() as u64 || tensor.strides.is_some());
                }
            }
        }
    }
}
