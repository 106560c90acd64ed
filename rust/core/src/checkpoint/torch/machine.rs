//! The memory of what reads a pickle: a stack, its marks, a memo, and what the values on them are made of.
//!
//! Every value takes 16 bytes, and there are at most [`MOST`] of them, so that no pickle takes more than 256 MiB.

use super::global::{Global, Rebuild};
use super::pickle::{Entry, Form, Value};

/// Values that a pickle may make, wherever it puts them; a tensor takes some fifty.
const MOST: usize = 8 << 20;
/// Characters of a name that a message shows.
const SHOWN: usize = 120;

pub(super) type Result<T> = std::result::Result<T, String>;

#[derive(Default)]
pub(super) struct Machine<'p> {
    pub(super) bytes: &'p [u8],
    pub(super) form: Form,
    /// Where the pickle begins.
    pub(super) begin: usize,
    /// The byte that comes next.
    pub(super) at: usize,
    /// Where the opcode stands that is carried out.
    pub(super) op: usize,
    pub(super) stack: Vec<Value>,
    /// Lengths of the stack at its marks.
    pub(super) marks: Vec<u32>,
    pub(super) memo: Vec<Value>,
    pub(super) items: Vec<Value>,
    pub(super) entries: Vec<Entry>,
    /// The number of entries of every dict, and of every list.
    pub(super) dicts: Vec<u32>,
    /// Where the values are of every storage, unless the file is an archive.
    pub(super) storages: Vec<u32>,
    /// How many values were made.
    pub(super) made: usize,
    /// Whether it went wrong because the bytes end.
    pub(super) short: bool,
}

impl<'p> Machine<'p> {
    pub(super) fn wrong<T>(&self, what: &str) -> Result<T> {
        let place = self.place();
        Err(format!("its pickle is not sound at {place}: {what}; load it and save it again with torch.save"))
    }

    /// Refuses what ends before it is whole.
    pub(super) fn ends<T>(&mut self) -> Result<T> {
        self.short = true;
        self.wrong("it ends too early")
    }

    /// Where the opcode stands, for a message.
    fn place(&self) -> String {
        match self.form {
            Form::Archive => format!("byte {}", self.op),
            Form::Stream => format!("byte {} of the file", self.op),
        }
    }

    /// Refuses what would run something.
    pub(super) fn refuse<T>(&self, what: &str) -> Result<T> {
        let shown: String = what.chars().take(SHOWN).collect();
        let place = self.place() + if self.form == Form::Archive { " of its pickle" } else { "" };
        Err(format!(
            "{shown} at {place} is none of what weights are made of, and nothing of it was run; if you trust the file, load it \
             where it was made and save its state dict alone"
        ))
    }

    pub(super) fn take(&mut self, len: u64) -> Result<&'p [u8]> {
        let taken = usize::try_from(len).ok().and_then(|len| self.bytes[self.at..].get(..len));
        let Some(taken) = taken else { return self.ends() };
        self.at += taken.len();
        Ok(taken)
    }

    /// A number of `len` bytes, without a sign.
    pub(super) fn number(&mut self, len: u64) -> Result<u64> {
        Ok(self.take(len)?.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b)))
    }

    pub(super) fn line(&mut self) -> Result<&'p str> {
        let Some(len) = self.bytes[self.at..].iter().position(|b| *b == b'\n') else {
            return self.ends();
        };
        let line = self.take(len as u64)?;
        self.at += 1;
        std::str::from_utf8(line).or_else(|_| self.wrong("a name is not UTF-8"))
    }

    /// Counts values.
    pub(super) fn count(&mut self, values: usize) -> Result<()> {
        self.made += values;
        if self.made > MOST { self.wrong(&format!("it makes more than {MOST} values; split the file")) } else { Ok(()) }
    }

    pub(super) fn push(&mut self, value: Value) -> Result<()> {
        self.count(1)?;
        self.stack.push(value);
        Ok(())
    }

    /// Takes the value on top, which must lie above the last mark.
    pub(super) fn pop(&mut self) -> Result<Value> {
        let floor = self.marks.last().map_or(0, |m| *m as usize);
        match self.stack.pop() {
            Some(value) if self.stack.len() >= floor => Ok(value),
            _ => self.wrong("it takes a value that is not there"),
        }
    }

    pub(super) fn top(&mut self) -> Result<Value> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    /// Takes the last mark; the values above it stay, from the place returned.
    pub(super) fn mark(&mut self) -> Result<usize> {
        match self.marks.pop() {
            Some(mark) => Ok(mark as usize),
            None => self.wrong("it takes a mark that is not there"),
        }
    }

    /// Makes a tuple of the values from `first` up.
    pub(super) fn tuple(&mut self, first: usize) -> Result<()> {
        let floor = self.marks.last().map_or(0, |m| *m as usize);
        if first < floor || first > self.stack.len() {
            return self.wrong("it takes a value that is not there");
        }
        let (start, len) = (self.items.len(), self.stack.len() - first);
        self.count(len)?;
        self.items.extend(self.stack.drain(first..));
        self.push(Value::Tuple(start as u32, len as u32))
    }

    pub(super) fn text(&mut self, len: u64) -> Result<()> {
        let start = self.at;
        let text = self.take(len)?;
        if std::str::from_utf8(text).is_err() {
            return self.wrong("a text is not UTF-8");
        }
        self.push(Value::Text(start as u32, text.len() as u32))
    }

    pub(super) fn skip(&mut self, len: u64) -> Result<()> {
        self.take(len)?;
        self.push(Value::Other)
    }

    pub(super) fn dict(&mut self) -> Result<Value> {
        self.count(1)?;
        self.dicts.push(0);
        Ok(Value::Dict(self.dicts.len() as u32 - 1))
    }

    pub(super) fn list(&mut self) -> Result<Value> {
        self.count(1)?;
        self.dicts.push(0);
        Ok(Value::List(self.dicts.len() as u32 - 1))
    }

    /// Puts the keys and values from `first` up into the dict below them.
    pub(super) fn set_items(&mut self, first: usize) -> Result<()> {
        let len = self.stack.len().saturating_sub(first);
        let dict = first.checked_sub(1).and_then(|i| self.stack.get(i).copied());
        let floor = self.marks.last().map_or(0, |m| *m as usize);
        let Some(Value::Dict(dict)) = dict.filter(|_| first > floor && len.is_multiple_of(2)) else {
            return self.wrong("it puts items into what is no dict");
        };
        self.count(len + len / 2)?;
        for pair in self.stack[first..].chunks_exact(2) {
            self.entries.push(Entry { dict, key: pair[0], value: pair[1] });
        }
        self.dicts[dict as usize] += len as u32 / 2;
        self.stack.truncate(first);
        Ok(())
    }

    /// Takes the items from `first` up, which go into the list or, unless `list`, the set below them; the form says what is kept.
    pub(super) fn add_items(&mut self, first: usize, list: bool) -> Result<()> {
        let into = first.checked_sub(1).and_then(|i| self.stack.get(i).copied());
        let floor = self.marks.last().map_or(0, |m| *m as usize);
        match into.filter(|_| first > floor) {
            Some(Value::List(number)) if list && self.form == Form::Stream => {
                let len = self.stack.len() - first;
                self.count(len * 2)?;
                let items = self.stack[first..].iter();
                self.entries.extend(items.map(|value| Entry { dict: number, key: Value::None, value: *value }));
                self.dicts[number as usize] += len as u32;
            }
            Some(Value::List(_)) if list => {}
            Some(Value::Other) if !list => {}
            _ => return self.wrong("it puts items into what cannot hold them"),
        }
        self.stack.truncate(first);
        Ok(())
    }

    pub(super) fn global(&mut self, module: &str, name: &str) -> Result<()> {
        match Global::find(module, name) {
            Some(global) => self.push(Value::Global(global)),
            None if module == "torch" && name.ends_with("Storage") => {
                self.refuse(&format!("`torch.{name}`, a type of numbers that safetensors does not have,"))
            }
            None => {
                let mut named: String = module.chars().chain(['.']).chain(name.chars()).take(SHOWN - 2).collect();
                named = named.replace('`', "'");
                self.refuse(&format!("`{named}`"))
            }
        }
    }

    /// Puts the value on top at a place of the memo; picklers number these one after the other.
    pub(super) fn put(&mut self, place: u64) -> Result<()> {
        let top = self.top()?;
        let expected = self.memo.len();
        match self.memo.get_mut(place as usize) {
            Some(there) => *there = top,
            None if place == expected as u64 => {
                self.count(1)?;
                self.memo.push(top);
            }
            None => return self.wrong(&format!("it keeps a value at place {place}, expected {expected}")),
        }
        Ok(())
    }

    pub(super) fn get(&mut self, place: u64) -> Result<()> {
        match self.memo.get(place as usize) {
            Some(value) => self.push(*value),
            None => self.wrong(&format!("it takes what was kept at place {place}, and nothing was")),
        }
    }

    /// What a known function makes of its arguments.
    pub(super) fn call(&mut self) -> Result<()> {
        let (args, callable) = (self.pop()?, self.pop()?);
        let (Value::Global(global), Value::Tuple(start, len)) = (callable, args) else {
            return self.refuse("a call of what is no function");
        };
        // None of the functions takes more; what is copied is bounded.
        if len > 8 {
            return self.refuse("a call with arguments that nothing is known of,");
        }
        let args = self.items[start as usize..(start + len) as usize].to_vec();
        let made = match (global, &args[..]) {
            (Global::Dict, []) => self.dict()?,
            (Global::Set, [] | [Value::List(_)]) | (Global::Idle, _) => Value::Other,
            (Global::Size, [Value::Tuple(..)]) => args[0],
            (Global::Parameter(count), [tensor @ Value::Tensor(..), ..]) if args.len() == count => *tensor,
            (Global::Tensor(how), _) if self.makes_tensor(how, &args) => Value::Tensor(start, how),
            _ => return self.refuse("a call with arguments that nothing is known of,"),
        };
        self.push(made)
    }

    /// Whether a function that makes tensors was given what it takes; whether the numbers fit is asked later.
    fn makes_tensor(&self, how: Rebuild, args: &[Value]) -> bool {
        let metadata = match (how, args) {
            (_, [Value::Storage(_), Value::Int(_), Value::Tuple(..), Value::Tuple(..), rest @ ..]) => match (how, rest)
            {
                (Rebuild::First, []) | (Rebuild::Second, [_, _]) => None,
                (Rebuild::Second, [_, _, metadata]) => Some(*metadata),
                (Rebuild::Third, [_, _, Value::Global(Global::Dtype(_))]) => None,
                (Rebuild::Third, [_, _, Value::Global(Global::Dtype(_)), metadata]) => Some(*metadata),
                _ => return false,
            },
            _ => return false,
        };
        // What it could say is that the numbers are to be negated or conjugated.
        match metadata {
            None | Some(Value::None) => true,
            Some(Value::Dict(dict)) => self.dicts[dict as usize] == 0,
            Some(_) => false,
        }
    }

    /// A storage by its persistent id: `('storage', type, key, location, elements)`, before torch 1.6 with one value more: None,
    /// or which part of the storage it is.
    pub(super) fn storage(&mut self) -> Result<()> {
        let id = self.pop()?;
        let is_text = |value: &Value, text: &str| match value {
            Value::Text(start, len) => &self.bytes[*start as usize..(*start + *len) as usize] == text.as_bytes(),
            _ => false,
        };
        let whole = match (self.form, id) {
            (Form::Archive, Value::Tuple(start, 5)) | (Form::Stream, Value::Tuple(start, 6)) => Some(start),
            _ => None,
        };
        if let Some(start) = whole
            && let [what, Value::Global(Global::Storage(_)), Value::Text(..), Value::Text(..), Value::Int(_)] =
                &self.items[start as usize..start as usize + 5]
            && is_text(what, "storage")
        {
            if self.form == Form::Stream {
                if self.items[start as usize + 5] != Value::None {
                    return self.refuse("a part of a storage that is called one of its own");
                }
                self.count(1)?;
                self.storages.push(start);
            }
            return self.push(Value::Storage(start));
        }
        self.refuse("a persistent id that names no storage")
    }
}
