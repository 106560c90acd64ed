//! The safetensors header: eight bytes of length, then JSON. Bounded, and checked in full before any byte is used.

use std::collections::{BTreeMap, HashSet};

use safetensors::tensor::{Metadata, TensorInfo};

use super::json::Header;
use crate::dtype::Dtype;

/// Longest header accepted, in bytes; the bound the safetensors library uses.
pub const MAX_HEADER: u64 = 100_000_000;

/// One tensor as its header describes it; offsets count from the end of the header.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Name, unique in the file.
    pub name: String,
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions, outermost first; empty for a scalar.
    pub shape: Vec<u64>,
    /// First byte.
    pub begin: u64,
    /// One past the last byte.
    pub end: u64,
}

/// Bytes that `shape` of `dtype` takes, or `None` if that overflows or does not end on a whole byte.
pub fn tensor_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let bits = elements.checked_mul(dtype.bits())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// What a header says.
#[derive(Debug, PartialEq)]
pub struct Parsed {
    /// The tensors, in the order of their bytes.
    pub entries: Vec<Entry>,
    /// What the file says of itself, its `__metadata__`.
    pub metadata: BTreeMap<String, String>,
    /// What was passed over, for the user to know; without the path.
    pub warning: Option<String>,
}

/// Reads the header's JSON and checks that the tensors tile `data_len` bytes without gap or overlap.
///
/// The error says what is wrong, without the path.
pub fn parse(json: &[u8], data_len: u64) -> Result<Parsed, String> {
    if json.trim_ascii_start().first() != Some(&b'{') {
        return Err("the header is not a JSON object; is this a safetensors file?".into());
    }
    let text = std::str::from_utf8(json).map_err(|e| format!("the header is not UTF-8: {e}"))?;
    let header: Header = serde_json::from_str(text).map_err(|e| format!("the header is not valid: {e}"))?;
    let mut entries = Vec::with_capacity(header.tensors.len());
    for (name, e) in header.tensors {
        let dtype = Dtype::from_name(&e.dtype)
            .ok_or_else(|| format!("tensor `{name}`: unknown dtype `{}`; suture may be too old for it", e.dtype))?;
        let (begin, end) = e.offsets;
        let need = tensor_bytes(dtype, &e.shape)
            .ok_or_else(|| format!("tensor `{name}`: {} of shape {:?} has no size in bytes", e.dtype, e.shape))?;
        if begin > end || end - begin != need {
            return Err(format!(
                "tensor `{name}`: {} of shape {:?} takes {need} bytes, its offsets are {begin} to {end}",
                e.dtype, e.shape
            ));
        }
        entries.push(Entry { name, dtype, shape: e.shape, begin, end });
    }
    entries.sort_by_key(|e| (e.begin, e.end));
    check(&entries, data_len)?;
    let warning = header.unknown.map(|(name, key)| {
        format!("tensor `{name}`: its entry has a key `{key}`, which is not of the format; it is passed over")
    });
    let too_long = header.metadata.too_long.then(|| "its `__metadata__` is too long to be carried over".to_owned());
    Ok(Parsed { entries, metadata: header.metadata.texts, warning: warning.or(too_long) })
}

/// Checks that names are unique and that the tensors, in the order of their bytes, tile `data_len` bytes.
fn check(entries: &[Entry], data_len: u64) -> Result<(), String> {
    let (mut names, mut at) = (HashSet::with_capacity(entries.len()), 0);
    for e in entries {
        if !names.insert(&e.name) {
            return Err(format!("tensor `{}`: duplicate name; expected one entry of each", e.name));
        }
        if e.begin != at {
            let what = if e.begin > at { "a gap" } else { "an overlap" };
            return Err(format!("tensor `{}`: starts at byte {}, expected {at}: {what} in the data", e.name, e.begin));
        }
        at = e.end;
    }
    if at != data_len {
        return Err(format!(
            "the tensors take {at} bytes, the file holds {data_len} after its header; it is truncated or has bytes \
             that belong to no tensor"
        ));
    }
    // The owner of the format has the last word; what it refuses is refused above, in words that name the tensor.
    tensors(entries).map(drop)
}

/// The tensors as the library has them, with its own checks done.
fn tensors(entries: &[Entry]) -> Result<Metadata, String> {
    let size = |n: u64| usize::try_from(n).map_err(|_| format!("{n} is too large for this machine"));
    let info = |e: &Entry| {
        let shape = e.shape.iter().map(|d| size(*d)).collect::<Result<_, _>>()?;
        let info = TensorInfo { dtype: e.dtype.into(), shape, data_offsets: (size(e.begin)?, size(e.end)?) };
        Ok((e.name.clone(), info))
    };
    let tensors = entries.iter().map(info).collect::<Result<_, String>>()?;
    Metadata::new(None, tensors).map_err(|e| e.to_string())
}

/// What every file of this kind says of itself, if nothing else: that its layout is PyTorch's.
pub fn plain_metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("format".to_owned(), "pt".to_owned())])
}

/// The bytes of a header for `entries`, which tile their data in order: length included, padded with spaces so that
/// the data starts at a file offset congruent to `phase` modulo [`crate::sizes::ALIGN`]. `metadata` is what the file says of
/// itself.
///
/// # Errors
/// If no reader would take it, in words without the path.
pub fn render(entries: &[Entry], metadata: &BTreeMap<String, String>, phase: u64) -> Result<Vec<u8>, String> {
    // The library would write the keys of the metadata in any order; the same plan gives the same bytes.
    let about = serde_json::to_string(metadata).map_err(|e| e.to_string())?;
    let listed = serde_json::to_string(&tensors(entries)?).map_err(|e| e.to_string())?;
    let listed = listed.strip_prefix('{').unwrap_or(&listed);
    let comma = if entries.is_empty() { "" } else { "," };
    let mut json = format!("{{\"__metadata__\":{about}{comma}{listed}").into_bytes();
    let align = crate::sizes::ALIGN;
    let pad = (phase + align - (8 + json.len() as u64) % align) % align;
    json.resize(json.len() + pad as usize, b' ');
    let len = json.len() as u64;
    if len > MAX_HEADER {
        return Err(format!(
            "a header of {len} bytes for {} tensors, more than the {MAX_HEADER} that readers take; choose smaller shards",
            entries.len()
        ));
    }
    let mut bytes = len.to_le_bytes().to_vec();
    bytes.extend(json);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, shape: &[u64], begin: u64, end: u64) -> Entry {
        Entry { name: name.into(), dtype: Dtype::Bf16, shape: shape.to_vec(), begin, end }
    }

    #[test]
    fn a_rendered_header_reads_back_and_is_aligned() {
        let entries = vec![entry("a", &[2, 3], 0, 12), entry("empty", &[0], 12, 12), entry("s", &[], 12, 14)];
        for phase in [0, 8, 1234] {
            let bytes = render(&entries, &plain_metadata(), phase).unwrap();
            assert_eq!(bytes.len() as u64 % crate::sizes::ALIGN, phase);
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(n as usize, bytes.len() - 8);
            assert_eq!(
                parse(&bytes[8..], 14).unwrap(),
                Parsed { entries: entries.clone(), metadata: plain_metadata(), warning: None }
            );
        }
    }

    #[test]
    fn sizes_that_overflow_are_refused() {
        let json = br#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#;
        assert!(parse(json, 0).unwrap_err().contains("no size in bytes"));
        assert!(parse(br#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#, 2).is_err());
    }

    #[test]
    fn gaps_overlaps_and_duplicates_are_refused() {
        let gap = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[3,5]}}"#;
        assert!(parse(gap, 5).unwrap_err().contains("a gap"));
        let overlap = br#"{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]},"b":{"dtype":"U8","shape":[2],"data_offsets":[1,3]}}"#;
        assert!(parse(overlap, 3).unwrap_err().contains("an overlap"));
        let twice = br#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}"#;
        assert!(parse(twice, 2).unwrap_err().contains("duplicate"));
    }

    /// The bytes that 0.1.0 wrote: digests and plans of finished outputs depend on them.
    #[test]
    fn a_rendered_header_is_these_bytes() {
        let entries = [entry("b", &[2, 3], 0, 12), entry("\"ü\n\u{1}", &[], 12, 14)];
        let json = r#"{"__metadata__":{"format":"pt"},"b":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},"#
            .to_owned()
            + r#""\"ü\n\u0001":{"dtype":"BF16","shape":[],"data_offsets":[12,14]}}"#;
        let bytes = render(&entries, &plain_metadata(), 0).unwrap();
        assert_eq!((bytes.len(), &bytes[..8]), (4096, &4088u64.to_le_bytes()[..]));
        assert_eq!(std::str::from_utf8(&bytes[8..]).unwrap().trim_end_matches(' '), json);
        let nothing = br#"{"__metadata__":{"format":"pt"}}"#;
        assert_eq!(render(&[], &plain_metadata(), 40).unwrap(), [&32u64.to_le_bytes()[..], nothing].concat());
    }

    #[test]
    fn what_no_reader_takes_is_not_rendered() {
        assert!(render(&[entry("a", &[3], 0, 4)], &plain_metadata(), 0).is_err());
        assert!(render(&[entry("a", &[3], 2, 8)], &plain_metadata(), 0).is_err());
        let long = "x".repeat(MAX_HEADER as usize);
        assert!(render(&[entry(&long, &[3], 0, 6)], &plain_metadata(), 0).unwrap_err().contains("smaller shards"));
    }

    #[test]
    fn space_null_and_unknown_keys_are_read() {
        let json = br#"
            {"__metadata__": null, "a": {"dtype": "U8", "note": [[{}]], "shape": [2], "data_offsets": [0, 2], "x": 1}} "#;
        let parsed = parse(json, 2).unwrap();
        assert_eq!(parsed.entries, [Entry { dtype: Dtype::U8, ..entry("a", &[2], 0, 2) }]);
        assert!(parsed.warning.unwrap().contains("`note`"));
        for (json, what) in [
            (&br#"{"__metadata__": null, "__metadata__": {}}"#[..], "duplicate field `__metadata__`"),
            (br#"{"__metadata__": {"a": 1}}"#, "expected a text"),
            (br#"{"a": {"dtype": "U8", "dtype": "U8"}}"#, "tensor `a`: duplicate field `dtype` at line 1 column"),
            (br#"{"a": {"dtype": "U8", "shape": [0]}}"#, "tensor `a`: missing field `data_offsets`"),
        ] {
            let found = parse(json, 0).unwrap_err();
            assert!(found.contains(what), "{found}");
        }
        let deep = format!(r#"{{"a": {{"dtype": "U8", "shape": [{}1]}}}}"#, "1,".repeat(64));
        assert!(parse(deep.as_bytes(), 1).unwrap_err().contains("at most 64 dimensions"));
    }
}
