//! The zip archive that `torch.save` writes: where its members lie. Nothing is ever unpacked, so that nothing can blow up.
//!
//! It is judged as strictly as a safetensors header: members lie one behind the other without gap or overlap, each with the header
//! that the directory says, up to the directory, which ends the file. Libraries that read zips are made to be lenient: of two
//! members of one name they show one, and they do not look at what lies between members.

use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;

/// Longest directory accepted, in bytes.
const MAX_DIRECTORY: u64 = 100_000_000;
/// What begins each kind of record.
const LOCAL: &[u8] = b"PK\x03\x04";
const CENTRAL: &[u8] = b"PK\x01\x02";
const DESCRIPTOR: &[u8] = b"PK\x07\x08";
const END: &[u8] = b"PK\x05\x06";
const END_64: &[u8] = b"PK\x06\x06";
const LOCATOR_64: &[u8] = b"PK\x06\x07";
/// What a field of 32 bits holds whose value is in the record's extra fields, in 64.
const ELSEWHERE: u64 = 0xffff_ffff;

/// A member as the directory has it.
#[derive(Debug)]
pub(super) struct Member {
    /// Its path in the archive.
    pub name: Box<[u8]>,
    /// Where its bytes lie in the file.
    pub bytes: Range<u64>,
    /// CRC-32 of its bytes; 0 if it was not computed.
    pub crc: u32,
    /// Whether its bytes are there as they are.
    stored: bool,
    encrypted: bool,
    /// Whether its sizes are said again behind its bytes.
    described: bool,
    /// Where its own header lies; its bytes follow.
    header: u64,
    size: u64,
}

/// The members of an archive, by name.
pub(super) struct Archive {
    pub members: Vec<Member>,
    by_name: HashMap<Box<[u8]>, usize>,
    /// Where the directory begins.
    directory: u64,
}

impl Archive {
    /// Reads the directory of `file`, which has `size` bytes. Where the members' bytes lie says [`Self::locate`].
    ///
    /// # Errors
    /// What is not sound, in words without the path.
    pub fn read(file: &File, size: u64) -> Result<Self, String> {
        let Directory { at, len, members: count } = Directory::find(file, size)?;
        if len > MAX_DIRECTORY {
            return Err(format!("its directory has {len} bytes, more than the {MAX_DIRECTORY} allowed"));
        }
        let text = read(file, at, len as usize)?;
        let mut rest = &text[..];
        let mut members: Vec<Member> = Vec::new();
        let mut by_name = HashMap::new();
        while !rest.is_empty() {
            let member = Member::parse(&mut rest).ok_or_else(|| damaged("its directory"))?;
            if by_name.insert(member.name.clone(), members.len()).is_some() {
                return Err(format!("two members are called {}; expected one of each", shown(&member.name)));
            }
            members.push(member);
        }
        if members.len() as u64 != count {
            return Err(format!("its directory lists {} members and says {count}; {AGAIN}", members.len()));
        }
        Ok(Self { members, by_name, directory: at })
    }

    /// The member called `name`.
    pub fn find(&self, name: &[u8]) -> Option<&Member> {
        self.by_name.get(name).map(|i| &self.members[*i])
    }

    /// Finds the bytes of every member, by the headers before them.
    ///
    /// # Errors
    /// What is not sound, in words without the path.
    pub fn locate(&mut self, file: &File) -> Result<(), String> {
        let mut order: Vec<usize> = (0..self.members.len()).collect();
        order.sort_by_key(|i| self.members[*i].header);
        let nexts = order.iter().skip(1).map(|i| self.members[*i].header).chain([self.directory]).collect::<Vec<_>>();
        if order.first().map_or(self.directory, |i| self.members[*i].header) != 0 {
            return Err(format!("there are bytes before its first member; {AGAIN}"));
        }
        for (i, next) in order.into_iter().zip(nexts) {
            let member = &mut self.members[i];
            member.bytes = member.find_bytes(file, next)?;
        }
        Ok(())
    }
}

/// What to do with an archive that is not sound.
const AGAIN: &str = "load it and save it again with torch.save";

fn damaged(what: &str) -> String {
    format!("{what} is damaged; was the file cut short? Fetch it again, or {AGAIN}")
}

/// A member's name for a message.
pub(super) fn shown(name: &[u8]) -> String {
    format!("`{}`", String::from_utf8_lossy(&name[..name.len().min(200)]))
}

fn read(file: &File, at: u64, len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![0; len];
    file.read_exact_at(&mut bytes, at).map_err(|e| format!("cannot be read: {e}"))?;
    Ok(bytes)
}

/// Takes `N` bytes off the front.
fn take<'b, const N: usize>(rest: &mut &'b [u8]) -> Option<&'b [u8; N]> {
    let (taken, left) = rest.split_first_chunk()?;
    *rest = left;
    Some(taken)
}

fn number<const N: usize>(bytes: &[u8; N]) -> u64 {
    bytes.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

/// Where the directory lies, by the record that ends the file.
struct Directory {
    at: u64,
    len: u64,
    members: u64,
}

impl Directory {
    fn find(file: &File, size: u64) -> Result<Self, String> {
        const SHORT: u64 = 22;
        const BOTH: u64 = 56 + 20 + SHORT;
        let tail = read(file, size.saturating_sub(BOTH), size.min(BOTH) as usize)?;
        let cut = || damaged("the end of the archive");
        let (long, short) = tail.split_at_checked(tail.len().saturating_sub(SHORT as usize)).ok_or_else(cut)?;
        // The record of 64 bits, and the one that says where it is, which must be right before.
        let wide = long.len() == (BOTH - SHORT) as usize && long[56..].starts_with(LOCATOR_64);
        let end = size - if wide { BOTH } else { SHORT };
        let found = if wide { Self::long(long, end) } else { Self::short(short) }.ok_or_else(cut)?;
        // Whatever stood between them would belong to nothing.
        let whole = short.starts_with(END) && found.at.checked_add(found.len) == Some(end);
        if whole { Ok(found) } else { Err(cut()) }
    }

    fn short(mut rest: &[u8]) -> Option<Self> {
        take::<8>(&mut rest)?;
        let (here, members) = (number(take::<2>(&mut rest)?), number(take::<2>(&mut rest)?));
        let (len, at) = (number(take::<4>(&mut rest)?), number(take::<4>(&mut rest)?));
        let comment = number(take::<2>(&mut rest)?);
        (here == members && comment == 0).then_some(Self { at, len, members })
    }

    fn long(mut rest: &[u8], itself: u64) -> Option<Self> {
        let signature = take::<4>(&mut rest)?;
        let size = number(take::<8>(&mut rest)?);
        take::<12>(&mut rest)?;
        let (here, members) = (number(take::<8>(&mut rest)?), number(take::<8>(&mut rest)?));
        let (len, at) = (number(take::<8>(&mut rest)?), number(take::<8>(&mut rest)?));
        take::<8>(&mut rest)?;
        let said = number(take::<8>(&mut rest)?);
        let sound = signature == END_64 && size == 44 && said == itself && here == members;
        sound.then_some(Self { at, len, members })
    }
}

impl Member {
    /// Takes a record off the directory.
    fn parse(rest: &mut &[u8]) -> Option<Self> {
        if take::<4>(rest)? != CENTRAL {
            return None;
        }
        take::<4>(rest)?;
        let (flags, method) = (number(take::<2>(rest)?), number(take::<2>(rest)?));
        take::<4>(rest)?;
        let crc = u32::from_le_bytes(*take(rest)?);
        let (mut packed, mut size) = (number(take::<4>(rest)?), number(take::<4>(rest)?));
        let [name, extra, comment] = [number(take::<2>(rest)?), number(take::<2>(rest)?), number(take::<2>(rest)?)];
        let disk = number(take::<2>(rest)?);
        take::<6>(rest)?;
        let mut header = number(take::<4>(rest)?);
        let (name, left) = rest.split_at_checked(name as usize)?;
        let (mut extra, left) = left.split_at_checked(extra as usize)?;
        *rest = left.split_at_checked(comment as usize)?.1;
        while extra.len() >= 4 {
            let (id, len) = (number(take::<2>(&mut extra)?), number(take::<2>(&mut extra)?));
            let (mut field, left) = extra.split_at_checked(len as usize)?;
            extra = left;
            for value in [&mut size, &mut packed, &mut header] {
                if id == 1 && *value == ELSEWHERE {
                    *value = number(take::<8>(&mut field)?);
                }
            }
        }
        (disk == 0).then(|| Self {
            name: name.into(),
            bytes: 0..0,
            crc,
            stored: method == 0 && packed == size,
            encrypted: flags & 1 != 0,
            described: flags & 8 != 0,
            header,
            size,
        })
    }

    /// Its bytes in the file: behind its header, and up to `next`, where the next member begins.
    fn find_bytes(&self, file: &File, next: u64) -> Result<Range<u64>, String> {
        let name = shown(&self.name);
        if self.encrypted || !self.stored {
            let how = if self.encrypted { "encrypted" } else { "compressed" };
            return Err(format!(
                "its member {name} is {how}, and nothing is unpacked here; unzip it and zip it again with `zip -0`, or {AGAIN}"
            ));
        }
        let wrong = || format!("its member {name} does not lie where its directory says; {AGAIN}");
        let fixed = 30 + self.name.len() as u64;
        if next.checked_sub(self.header).is_none_or(|room| room < fixed) {
            return Err(wrong());
        }
        let head = read(file, self.header, fixed as usize)?;
        let mut rest = &head[..];
        let own = take::<4>(&mut rest).is_some_and(|s| s == LOCAL) && head[30..] == *self.name;
        let lengths = head.get(26..30).and_then(|l| l.first_chunk::<4>()).map_or(0, number);
        let (name_len, extra) = (lengths & 0xffff, lengths >> 16);
        let begin = self.header + fixed + extra;
        let gap = begin.checked_add(self.size).and_then(|end| next.checked_sub(end));
        let Some(gap) = gap.filter(|_| own && name_len == self.name.len() as u64) else { return Err(wrong()) };
        let end = begin + self.size;
        let sound =
            if self.described { self.describes(&read(file, end, gap.min(24) as usize)?, gap) } else { gap == 0 };
        if sound { Ok(begin..end) } else { Err(wrong()) }
    }

    /// Whether `bytes`, the first of the `gap` behind its own, say its CRC and its sizes again, and nothing else.
    fn describes(&self, bytes: &[u8], gap: u64) -> bool {
        let head = [DESCRIPTOR, &self.crc.to_le_bytes()].concat();
        let size = self.size.to_le_bytes();
        match gap {
            16 => bytes == [&head[..], &size[..4], &size[..4]].concat(),
            24 => bytes == [&head[..], &size, &size].concat(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    /// An archive of members, with what may stand between them.
    fn archive(members: &[(&str, &[u8])], gap: usize) -> Vec<u8> {
        let (mut out, mut directory) = (Vec::new(), Vec::new());
        for (name, data) in members {
            let header = out.len() as u32;
            let size = (data.len() as u32).to_le_bytes();
            let lengths = [(name.len() as u16).to_le_bytes(), [0; 2]].concat();
            out.extend([LOCAL, &[0; 14], &size, &size, &lengths, name.as_bytes(), data, &vec![0; gap]].concat());
            directory.extend([CENTRAL, &[0; 16], &size, &size, &lengths, &[0; 10], &header.to_le_bytes()].concat());
            directory.extend(name.as_bytes());
        }
        let (at, len, count) = (out.len() as u32, directory.len() as u32, members.len() as u16);
        out.extend(directory);
        let count = count.to_le_bytes();
        out.extend([END, &[0; 4], &count, &count, &len.to_le_bytes(), &at.to_le_bytes(), &[0; 2]].concat());
        out
    }

    fn located(bytes: &[u8]) -> Result<Archive, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut archive = Archive::read(&file, bytes.len() as u64)?;
        archive.locate(&file).map(|()| archive)
    }

    #[test]
    fn members_are_found_where_they_lie() {
        let bytes = archive(&[("a/data.pkl", b"pickle"), ("a/data/0", b"1234"), ("a/none", b"")], 0);
        let found = located(&bytes).unwrap();
        for (name, data) in [("a/data.pkl", &b"pickle"[..]), ("a/data/0", b"1234"), ("a/none", b"")] {
            let member = found.find(name.as_bytes()).unwrap();
            assert_eq!(&bytes[member.bytes.start as usize..member.bytes.end as usize], data);
        }
        assert!(found.find(b"a").is_none());
    }

    #[test]
    fn gaps_and_members_twice_are_refused() {
        let gap = located(&archive(&[("a", b"1"), ("b", b"2")], 4)).err().unwrap();
        assert!(gap.contains("does not lie where"), "{gap}");
        let twice = located(&archive(&[("a", b"1"), ("a", b"2")], 0)).err().unwrap();
        assert!(twice.contains("two members are called `a`"), "{twice}");
    }

    proptest::proptest! {
        /// Law 7: whatever is damaged, the bytes of a member lie in the file, before its directory.
        #[test]
        fn members_lie_in_the_file(edits in proptest::collection::vec((0usize..300, proptest::prelude::any::<u8>()), 0..4), cut in 0usize..40) {
            let mut bytes = archive(&[("a/data.pkl", b"pickle"), ("a/data/0", b"1234")], 0);
            for (at, byte) in edits {
                let len = bytes.len();
                bytes[at % len] = byte;
            }
            bytes.truncate(bytes.len() - if cut < 20 { 0 } else { cut });
            if let Ok(found) = located(&bytes) {
                for member in &found.members {
                    proptest::prop_assert!(member.bytes.start <= member.bytes.end && member.bytes.end <= found.directory);
                }
            }
        }
    }
}
