//! What a pickle holds once it is read: values that are copied freely, and the long things they point to.

use super::global::Rebuild;

/// A value of a pickle, as far as weights are made of it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Value {
    /// A whole number.
    Int(i64),
    /// Text: from this byte of the pickle, so many.
    Text(u32, u32),
    /// Several values: from this one of [`Pickle::items`], so many.
    Tuple(u32, u32),
    /// The dict of this number.
    Dict(u32),
    /// The list of this number; lists and dicts are numbered together. What it holds is in no dict, and so no weight.
    List(u32),
    /// A name that the reader knows.
    Global(super::global::Global),
    /// A storage, and where the values are that say which.
    Storage(u32),
    /// A tensor, and where the arguments are of the function that makes it.
    Tensor(u32, Rebuild),
    /// None, and what else no empty argument may be told from.
    None,
    /// A truth value.
    Bool(bool),
    /// Anything else: numbers that are not whole, bytes, sets.
    Other,
}

/// A pickle that is read.
pub(super) struct Pickle<'p> {
    pub bytes: &'p [u8],
    /// What the pickle is of.
    pub top: Value,
    /// The values of all tuples, one behind the other.
    pub items: Vec<Value>,
    /// What all dicts hold, dict by dict, each in the order in which it was put there; lists as [`Form`] says.
    pub entries: Vec<Entry>,
    /// Where in [`Self::items`] the values are of every storage; none in an archive.
    pub storages: Vec<u32>,
}

/// How a file holds its pickles.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) enum Form {
    /// One pickle, a member of an archive.
    #[default]
    Archive,
    /// Several, one behind the other, as torch wrote them before 1.6. A storage is told by a value more, and it matters what
    /// lists hold: they are kept as dicts whose keys are none.
    Stream,
}

/// A key and its value in the dict of this number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entry {
    pub dict: u32,
    pub key: Value,
    pub value: Value,
}

impl<'p> Pickle<'p> {
    /// The text that `value` is.
    pub fn text(&self, value: Value) -> Option<&'p str> {
        let Value::Text(start, len) = value else { return None };
        std::str::from_utf8(self.bytes.get(start as usize..)?.get(..len as usize)?).ok()
    }

    /// The values that a tuple consists of.
    pub fn tuple(&self, value: Value) -> Option<&[Value]> {
        let Value::Tuple(start, len) = value else { return None };
        self.items.get(start as usize..)?.get(..len as usize)
    }

    /// What the dict of this number holds.
    pub fn dict(&self, dict: u32) -> &[Entry] {
        let first = self.entries.partition_point(|e| e.dict < dict);
        let len = self.entries[first..].partition_point(|e| e.dict == dict);
        &self.entries[first..first + len]
    }
}
