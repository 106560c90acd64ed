//! Reads a pickle of protocol 2 to 5 without running anything: the opcodes that build values build plain data, the few functions
//! that weights are made with ([`Global`](super::global::Global)) are known by name, and any other is refused where it is named.

use super::machine::{Machine, Result};
use super::pickle::{Pickle, Value};

/// Reads a pickle.
///
/// # Errors
/// What of it is no weights, or is not sound, in words without the path.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>> {
    let mut machine = Machine { bytes, ..Machine::default() };
    let top = machine.pickle()?;
    if machine.at != bytes.len() {
        return machine.wrong(LEFT_OVER);
    }
    Ok(machine.finish(top))
}

const LEFT_OVER: &str = "it ends with something left over";

impl<'p> Machine<'p> {
    /// Reads the pickle that comes next, to its end; returns what it is of.
    pub(super) fn pickle(&mut self) -> Result<Value> {
        self.begin = self.at;
        self.memo.clear();
        loop {
            if let Some(top) = self.step()? {
                return Ok(top);
            }
        }
    }

    /// What was read, of which this is asked.
    pub(super) fn finish(self, top: Value) -> Pickle<'p> {
        let Self { bytes, items, mut entries, storages, .. } = self;
        entries.sort_by_key(|e| e.dict);
        Pickle { bytes, top, items, entries, storages }
    }

    /// Carries out an opcode; returns what the pickle is of at its end.
    fn step(&mut self) -> Result<Option<Value>> {
        self.op = self.at;
        let code = self.take(1)?[0];
        if self.op == self.begin && code != 0x80 {
            return self.wrong("it is of protocol 0 or 1, expected 2 to 5");
        }
        match code {
            // What frames it: PROTO, FRAME, STOP.
            0x80 => match self.number(1)? {
                2..=5 => {}
                n => return self.wrong(&format!("it is of protocol {n}, expected 2 to 5")),
            },
            0x95 => {
                let len = self.number(8)?;
                if len > (self.bytes.len() - self.at) as u64 {
                    return self.ends();
                }
            }
            b'.' => {
                let top = self.pop()?;
                if !self.stack.is_empty() || !self.marks.is_empty() {
                    return self.wrong(LEFT_OVER);
                }
                return Ok(Some(top));
            }
            // The stack: MARK, POP, POP_MARK, DUP.
            b'(' => {
                self.count(1)?;
                self.marks.push(self.stack.len() as u32);
            }
            b'0' if self.marks.last().is_some_and(|m| *m as usize == self.stack.len()) => drop(self.marks.pop()),
            b'0' => drop(self.pop()?),
            b'1' => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
            }
            b'2' => {
                let top = self.top()?;
                self.push(top)?;
            }
            // NONE, NEWTRUE, NEWFALSE, BINFLOAT.
            b'N' => self.push(Value::None)?,
            0x88 | 0x89 => self.push(Value::Bool(code == 0x88))?,
            b'G' => self.skip(8)?,
            // BININT, BININT1, BININT2, LONG1, LONG4.
            b'J' => {
                let n = self.number(4)? as u32 as i32;
                self.push(Value::Int(i64::from(n)))?;
            }
            b'K' | b'M' => {
                let n = self.number(if code == b'K' { 1 } else { 2 })?;
                self.push(Value::Int(n as i64))?;
            }
            0x8a | 0x8b => {
                let len = self.number(if code == 0x8a { 1 } else { 4 })?;
                let value = long(self.take(len)?);
                self.push(value)?;
            }
            // SHORT_BINUNICODE, BINUNICODE, BINUNICODE8.
            0x8c | b'X' | 0x8d => {
                let len = self.number(width(code, 0x8c, b'X'))?;
                self.text(len)?;
            }
            // SHORT_BINBYTES, BINBYTES, BINBYTES8, BYTEARRAY8.
            b'C' | b'B' | 0x8e | 0x96 => {
                let len = self.number(width(code, b'C', b'B'))?;
                self.skip(len)?;
            }
            // EMPTY_TUPLE, TUPLE, TUPLE1, TUPLE2, TUPLE3.
            b')' => self.tuple(self.stack.len())?,
            b't' => {
                let mark = self.mark()?;
                self.tuple(mark)?;
            }
            0x85..=0x87 => match self.stack.len().checked_sub(code as usize - 0x84) {
                Some(first) => self.tuple(first)?,
                None => return self.wrong("it takes a value that is not there"),
            },
            // EMPTY_LIST, LIST, APPEND, APPENDS.
            b']' => {
                let list = self.list()?;
                self.push(list)?;
            }
            b'l' => {
                let mark = self.mark()?;
                let list = self.list()?;
                self.count(1)?;
                self.stack.insert(mark, list);
                self.add_items(mark + 1, true)?;
            }
            b'a' => self.add_items(self.stack.len().saturating_sub(1), true)?,
            b'e' => {
                let mark = self.mark()?;
                self.add_items(mark, true)?;
            }
            // EMPTY_DICT, DICT, SETITEM, SETITEMS.
            b'}' => {
                let dict = self.dict()?;
                self.push(dict)?;
            }
            b'd' => {
                let mark = self.mark()?;
                let dict = self.dict()?;
                self.count(1)?;
                self.stack.insert(mark, dict);
                self.set_items(mark + 1)?;
            }
            b's' => self.set_items(self.stack.len().saturating_sub(2))?,
            b'u' => {
                let mark = self.mark()?;
                self.set_items(mark)?;
            }
            // EMPTY_SET, ADDITEMS, FROZENSET.
            0x8f => self.push(Value::Other)?,
            0x90 => {
                let mark = self.mark()?;
                self.add_items(mark, false)?;
            }
            0x91 => {
                let mark = self.mark()?;
                self.stack.truncate(mark);
                self.push(Value::Other)?;
            }
            // BINPUT, LONG_BINPUT, MEMOIZE, BINGET, LONG_BINGET.
            b'q' | b'r' => {
                let place = self.number(if code == b'q' { 1 } else { 4 })?;
                self.put(place)?;
            }
            0x94 => self.put(self.memo.len() as u64)?,
            b'h' | b'j' => {
                let place = self.number(if code == b'h' { 1 } else { 4 })?;
                self.get(place)?;
            }
            // GLOBAL, STACK_GLOBAL.
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)?;
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(m, m_len), Value::Text(n, n_len)) = (module, name) else {
                    return self.refuse("a name that is no text");
                };
                let part =
                    |start: u32, len: u32| std::str::from_utf8(&self.bytes[start as usize..(start + len) as usize]);
                match (part(m, m_len), part(n, n_len)) {
                    (Ok(module), Ok(name)) => self.global(module, name)?,
                    _ => return self.wrong("a text is not UTF-8"),
                }
            }
            // REDUCE, BUILD, BINPERSID.
            b'R' => self.call()?,
            b'b' => match (self.pop()?, self.top()?) {
                // The state of an OrderedDict is what a module says of itself.
                (_, Value::Dict(_)) => {}
                _ => return self.refuse("a state for what is no dict"),
            },
            b'Q' => self.storage()?,
            _ => return self.forbidden(code),
        }
        Ok(None)
    }

    /// Refuses an opcode that makes objects, or that none of the protocols 2 to 5 writes.
    fn forbidden(&mut self, code: u8) -> Result<Option<Value>> {
        if code == b'i' {
            let (module, name) = (self.line()?, self.line()?);
            return self.refuse(&format!("an object of `{module}.{name}`"));
        }
        let what = match code {
            b'o' | 0x81 | 0x92 => "an object of a class",
            0x82..=0x84 => "a name by its number",
            b'P' => "a persistent id in text",
            0x97 | 0x98 => "a buffer from elsewhere",
            b'I' | b'L' | b'F' | b'S' | b'T' | b'U' | b'V' | b'p' | b'g' => "an opcode of protocol 0 or 1",
            _ => return self.wrong(&format!("0x{code:02x} is no opcode")),
        };
        self.refuse(&format!("{what} (opcode 0x{code:02x})"))
    }
}

/// Bytes of the length before a text, by its opcode: the one for short ones, the middle one, or another.
fn width(code: u8, short: u8, middle: u8) -> u64 {
    if code == short {
        1
    } else if code == middle {
        4
    } else {
        8
    }
}

/// A whole number of any length in two's complement; more than 64 bits are of no use here.
fn long(bytes: &[u8]) -> Value {
    if bytes.len() > 8 {
        return Value::Other;
    }
    let fill = if bytes.last().is_some_and(|b| *b > 0x7f) { 0xff } else { 0 };
    let mut wide = [fill; 8];
    wide[..bytes.len()].copy_from_slice(bytes);
    Value::Int(i64::from_le_bytes(wide))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Opcodes that build values, and pieces of what follows them.
    const PIECES: [&[u8]; 40] = [
        b"}",
        b"]",
        b")",
        b"(",
        b"t",
        b"l",
        b"d",
        b"a",
        b"e",
        b"s",
        b"u",
        b"0",
        b"1",
        b"2",
        b"N",
        b"R",
        b"Q",
        b"b",
        b".",
        b"K\x01",
        b"J\xff\xff\xff\xff",
        b"\x8a\x02\xff\xff",
        b"X\x01\0\0\0a",
        b"\x8c\x07storage",
        b"C\x01a",
        b"\x85",
        b"\x86",
        b"\x87",
        b"\x8f",
        b"\x90",
        b"\x91",
        b"\x94",
        b"h\0",
        b"q\0",
        b"\x93",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nSize\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_tensor_v2\n",
        b"ctorch._utils\n_rebuild_parameter\n",
    ];

    proptest::proptest! {
        /// Law 7: any bytes and any opcodes are an error or a value, and never a panic.
        #[test]
        fn nothing_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            pieces in proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..60),
        ) {
            let _ = read(&bytes);
            let _ = read(&[b"\x80\x02", &bytes[..]].concat());
            let _ = read(&[b"\x80\x04", &pieces.concat()[..], b"."].concat());
        }
    }

    /// What is built is what was written: a dict of numbers, text and tuples, shared by the memo.
    #[test]
    fn values_are_those_that_were_written() {
        let pickle =
            read(b"\x80\x02}q\0(X\x01\0\0\0aK\x07X\x01\0\0\0b\x8a\x01\xfe\x85q\x01X\x01\0\0\0ch\x01u.").unwrap();
        let Value::Dict(top) = pickle.top else { panic!("a dict") };
        let entries = pickle.dict(top);
        assert_eq!(entries.iter().filter_map(|e| pickle.text(e.key)).collect::<String>(), "abc");
        assert_eq!(entries[0].value, Value::Int(7));
        assert_eq!(pickle.tuple(entries[1].value), Some(&[Value::Int(-2)][..]));
        assert_eq!(entries[1].value, entries[2].value);
    }

    /// Law 7: a name that is not known is refused where it is named, before anything could use it.
    #[test]
    fn unknown_names_are_refused() {
        for (code, name) in [
            (&b"\x80\x02cos\nsystem\n."[..], "`os.system` at byte 2 "),
            (b"\x80\x02cbuiltins\neval\n.", "`builtins.eval` at byte 2 "),
            (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "`os.system` at byte 14 "),
        ] {
            let problem = read(code).err().unwrap();
            assert!(problem.starts_with(name) && problem.contains("nothing of it was run"), "{problem}");
        }
    }
}
