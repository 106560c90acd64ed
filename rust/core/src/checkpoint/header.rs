//! The safetensors header: eight bytes of length, then JSON. Bounded, and checked in full before any byte is used.

use std::collections::HashSet;
use std::fmt;

use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

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

/// Most dimensions a tensor may have; more than any framework's.
const MAX_DIMENSIONS: usize = 64;

/// Reads a shape without taking memory for more dimensions than are allowed.
fn bounded_shape<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u64>, D::Error> {
    struct V;
    impl<'de> Visitor<'de> for V {
        type Value = Vec<u64>;
        fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
            write!(f, "a shape of at most {MAX_DIMENSIONS} dimensions")
        }
        fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Vec<u64>, S::Error> {
            let mut shape = Vec::new();
            while let Some(d) = seq.next_element()? {
                if shape.len() == MAX_DIMENSIONS {
                    return Err(S::Error::invalid_length(shape.len() + 1, &self));
                }
                shape.push(d);
            }
            Ok(shape)
        }
    }
    d.deserialize_seq(V)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    dtype: String,
    #[serde(deserialize_with = "bounded_shape")]
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

struct RawHeader(Vec<(String, RawEntry)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = RawHeader;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RawHeader, M::Error> {
                let mut seen = HashSet::new();
                let mut entries = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    if !seen.insert(name.clone()) {
                        return Err(M::Error::custom(format!("duplicate name `{name}`")));
                    }
                    if name == "__metadata__" {
                        map.next_value::<std::collections::HashMap<String, String>>()?;
                    } else {
                        entries.push((name, map.next_value()?));
                    }
                }
                Ok(RawHeader(entries))
            }
        }
        d.deserialize_map(V)
    }
}

/// Bytes that `shape` of `dtype` takes, or `None` if that overflows or does not end on a whole byte.
pub fn tensor_bytes(dtype: Dtype, shape: &[u64]) -> Option<u64> {
    let elements = shape.iter().try_fold(1u64, |n, d| n.checked_mul(*d))?;
    let bits = elements.checked_mul(dtype.bits())?;
    (bits % 8 == 0).then_some(bits / 8)
}

/// Reads the header's JSON and checks that the tensors tile `data_len` bytes without gap or overlap.
///
/// Returns the tensors in the order of their bytes. The error says what is wrong, without the path.
pub fn parse(json: &[u8], data_len: u64) -> Result<Vec<Entry>, String> {
    if json.first() != Some(&b'{') {
        return Err("the header is not a JSON object; is this a safetensors file?".into());
    }
    let raw: RawHeader = serde_json::from_slice(json).map_err(|e| format!("the header is not valid: {e}"))?;
    let mut entries = Vec::with_capacity(raw.0.len());
    for (name, r) in raw.0 {
        let dtype = Dtype::from_name(&r.dtype)
            .ok_or_else(|| format!("tensor `{name}`: unknown dtype `{}`; suture may be too old for it", r.dtype))?;
        let (begin, end) = r.data_offsets;
        let need = tensor_bytes(dtype, &r.shape)
            .ok_or_else(|| format!("tensor `{name}`: {} of shape {:?} has no size in bytes", r.dtype, r.shape))?;
        if begin > end || end - begin != need {
            return Err(format!(
                "tensor `{name}`: {} of shape {:?} takes {need} bytes, its offsets are {begin} to {end}",
                r.dtype, r.shape
            ));
        }
        entries.push(Entry { name, dtype, shape: r.shape, begin, end });
    }
    entries.sort_by_key(|e| (e.begin, e.end));
    let mut at = 0;
    for e in &entries {
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
    Ok(entries)
}

#[derive(Serialize)]
struct OutEntry<'a> {
    dtype: Dtype,
    shape: &'a [u64],
    data_offsets: (u64, u64),
}

/// The bytes of a header for `entries`, length included, padded with spaces so that the data starts at a file
/// offset congruent to `phase` modulo [`crate::sizes::ALIGN`].
pub fn render(entries: &[Entry], phase: u64) -> Vec<u8> {
    let mut map = serde_json::Map::new();
    map.insert("__metadata__".into(), serde_json::json!({"format": "pt"}));
    for e in entries {
        let out = OutEntry { dtype: e.dtype, shape: &e.shape, data_offsets: (e.begin, e.end) };
        map.insert(e.name.clone(), serde_json::to_value(out).unwrap_or_default());
    }
    let mut json = serde_json::Value::Object(map).to_string().into_bytes();
    let align = crate::sizes::ALIGN;
    let pad = (phase + align - (8 + json.len() as u64) % align) % align;
    json.resize(json.len() + pad as usize, b' ');
    let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
    bytes.extend(json);
    bytes
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
            let bytes = render(&entries, phase);
            assert_eq!(bytes.len() as u64 % crate::sizes::ALIGN, phase);
            let n = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert_eq!(n as usize, bytes.len() - 8);
            assert_eq!(parse(&bytes[8..], 14).unwrap(), entries);
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
}
