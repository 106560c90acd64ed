//! The JSON of a header, read in one pass.
//!
//! The `safetensors` crate reads it into maps by way of buffers: a name that is there twice is lost, and a hostile
//! header takes sixteen times its size in memory. Here nothing is kept but what the tensors need.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Most dimensions a tensor may have; more than any framework's.
const MAX_DIMENSIONS: usize = 64;

/// A header as it is written, in the file's order; nothing but its form is checked.
#[derive(Default)]
pub(super) struct Header {
    pub tensors: Vec<(String, Entry)>,
    /// What the file says of itself.
    pub metadata: About,
    /// A key of an entry that nothing reads, with the tensor's name.
    pub unknown: Option<(String, String)>,
}

/// What an entry says of its tensor.
pub(super) struct Entry {
    pub dtype: String,
    pub shape: Vec<u64>,
    pub offsets: (u64, u64),
    /// A key that nothing reads.
    unknown: Option<String>,
}

/// Longest metadata that is kept, in bytes: a hostile header must not take much more than its own size.
const MAX_ABOUT: usize = 16 << 20;

/// What a file says of itself, in the order of the keys; nothing, if that is too long.
#[derive(Default)]
pub(super) struct About {
    pub texts: BTreeMap<String, String>,
    pub too_long: bool,
}

struct Shape(Vec<u64>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Header;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tensors")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
                let (mut header, mut metadata) = (Header::default(), None);
                while let Some(name) = map.next_key::<String>()? {
                    if name == "__metadata__" {
                        let found = map.next_value::<Option<About>>();
                        once(
                            &mut metadata,
                            "__metadata__",
                            found.map_err(|e| M::Error::custom(format!("`{name}`: {e}")))?.unwrap_or_default(),
                        )?;
                        continue;
                    }
                    // The deserializer finds its "at line .. column .." again at the end of the text.
                    let entry: Entry =
                        map.next_value().map_err(|e| M::Error::custom(format!("tensor `{name}`: {e}")))?;
                    if header.unknown.is_none() {
                        header.unknown = entry.unknown.clone().map(|key| (name.clone(), key));
                    }
                    header.tensors.push((name, entry));
                }
                header.metadata = metadata.unwrap_or_default();
                Ok(header)
            }
        }
        d.deserialize_map(V)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Entry;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of `dtype`, `shape` and `data_offsets`")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Entry, M::Error> {
                let (mut dtype, mut shape, mut offsets, mut unknown) = (None, None, None, None);
                while let Some(key) = map.next_key::<String>()? {
                    match key.as_str() {
                        "dtype" => once(&mut dtype, "dtype", map.next_value()?)?,
                        "shape" => once(&mut shape, "shape", map.next_value::<Shape>()?.0)?,
                        "data_offsets" => once(&mut offsets, "data_offsets", map.next_value()?)?,
                        _ => {
                            map.next_value::<IgnoredAny>()?;
                            unknown.get_or_insert(key);
                        }
                    }
                }
                let missing = M::Error::missing_field;
                Ok(Entry {
                    dtype: dtype.ok_or_else(|| missing("dtype"))?,
                    shape: shape.ok_or_else(|| missing("shape"))?,
                    offsets: offsets.ok_or_else(|| missing("data_offsets"))?,
                    unknown,
                })
            }
        }
        d.deserialize_map(V)
    }
}

fn once<T, E: Error>(slot: &mut Option<T>, key: &'static str, value: T) -> Result<(), E> {
    slot.replace(value).map_or(Ok(()), |_| Err(E::duplicate_field(key)))
}

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Shape;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                write!(f, "a shape of at most {MAX_DIMENSIONS} dimensions")
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Shape, S::Error> {
                let mut shape = Vec::new();
                while let Some(d) = seq.next_element()? {
                    if shape.len() == MAX_DIMENSIONS {
                        return Err(S::Error::invalid_length(shape.len() + 1, &self));
                    }
                    shape.push(d);
                }
                Ok(Shape(shape))
            }
        }
        d.deserialize_seq(V)
    }
}

impl<'de> Deserialize<'de> for About {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = About;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of texts")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<About, M::Error> {
                let (mut about, mut bytes) = (About::default(), 0);
                while let Some((Text(key), Text(value))) = map.next_entry()? {
                    bytes += key.len() + value.len();
                    if bytes > MAX_ABOUT {
                        about = About { too_long: true, ..About::default() };
                    }
                    if !about.too_long {
                        about.texts.insert(key, value);
                    }
                }
                Ok(about)
            }
        }
        d.deserialize_map(V)
    }
}

/// A text, and nothing else.
struct Text(String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(Text(text.to_owned()))
            }
        }
        d.deserialize_str(V)
    }
}
