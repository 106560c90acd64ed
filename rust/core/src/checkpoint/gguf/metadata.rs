//! The keys and values of a GGUF header, as JSON.

use serde_json::{Map, Number, Value};

use super::bytes::Bytes;

/// Elements of a list up to which every reader keeps it; those of vocabularies only who asks for them.
const SHORT: u64 = 1024;

/// Elements of all lists together that are kept: a vocabulary of a million tokens with merges has a quarter of it.
const MOST: u64 = 1 << 24;

/// How deep lists may lie in lists.
const DEPTH: u32 = 4;

/// Reads keys and values.
pub(super) struct Reader {
    /// Whether long lists are kept.
    pub all: bool,
    kept: u64,
}

impl Reader {
    /// Which keeps long lists if `all`.
    pub fn new(all: bool) -> Self {
        Self { all, kept: 0 }
    }

    /// The keys and values, `count` of them.
    ///
    /// # Errors
    /// What is not sound, in words without the path.
    pub fn read(&mut self, bytes: &mut Bytes, count: u64) -> Result<Map<String, Value>, String> {
        let mut out = Map::new();
        for i in 0..count {
            let key = bytes.text(|| format!("key {i}"))?.to_owned();
            let kind = bytes.u32()?;
            let value = self.value(bytes, kind, 0).map_err(|e| format!("`{}`: {e}", short(&key)))?;
            if out.contains_key(&key) {
                return Err(format!("the key `{}` is there twice; expected once", short(&key)));
            }
            out.insert(key, value.unwrap_or(Value::Null));
        }
        Ok(out)
    }

    /// A value; `None` of a list that is too long to be kept.
    fn value(&mut self, bytes: &mut Bytes, kind: u32, depth: u32) -> Result<Option<Value>, String> {
        Ok(Some(match kind {
            0 => Value::from(bytes.array::<1>()?[0]),
            1 => Value::from(i8::from_le_bytes(bytes.array()?)),
            2 => Value::from(u16::from_le_bytes(bytes.array()?)),
            3 => Value::from(i16::from_le_bytes(bytes.array()?)),
            4 => Value::from(bytes.u32()?),
            5 => Value::from(i32::from_le_bytes(bytes.array()?)),
            6 => single(f32::from_le_bytes(bytes.array()?)),
            7 => match bytes.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [other] => return Err(format!("expected true (1) or false (0), found {other}")),
            },
            8 => Value::from(bytes.text(|| "its text".to_owned())?),
            9 => return self.list(bytes, depth),
            10 => Value::from(bytes.u64()?),
            11 => Value::from(i64::from_le_bytes(bytes.array()?)),
            12 => Number::from_f64(f64::from_le_bytes(bytes.array()?)).map_or(Value::Null, Value::Number),
            other => return Err(format!("has the type {other}; expected one from 0 to 12")),
        }))
    }

    fn list(&mut self, bytes: &mut Bytes, depth: u32) -> Result<Option<Value>, String> {
        let kind = bytes.u32()?;
        let least = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 if depth < DEPTH => 12,
            9 => return Err(format!("has lists in lists, deeper than the {DEPTH} allowed")),
            other => return Err(format!("is a list of the type {other}; expected one from 0 to 12")),
        };
        let count = bytes.count("elements", least)?;
        let keep = count <= SHORT || self.all;
        if keep {
            self.kept += count;
            if self.kept > MOST {
                return Err(format!("its lists have more than the {MOST} elements allowed"));
            }
        }
        let mut out = Vec::new();
        for i in 0..count {
            let value = self.value(bytes, kind, depth + 1).map_err(|e| format!("element {i}: {e}"))?;
            if keep {
                out.push(value.unwrap_or(Value::Null));
            }
        }
        Ok(keep.then_some(Value::Array(out)))
    }
}

/// An f32 as the shortest decimal that reads back to it: 1e-05, and not what f64 makes of it.
fn single(value: f32) -> Value {
    let shortest = value.to_string().parse().ok().and_then(Number::from_f64);
    shortest.map_or(Value::Null, Value::Number)
}

/// The beginning of a name, for messages.
pub(super) fn short(name: &str) -> String {
    let begin: String = name.chars().take(80).collect();
    if begin.len() < name.len() { format!("{begin}...") } else { begin }
}
