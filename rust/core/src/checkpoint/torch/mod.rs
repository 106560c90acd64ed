//! Files that `torch.save` writes: a zip archive of a pickle and the storages it names, or what torch wrote before 1.6 ([`legacy`]).
//! Storages are read where they lie. The pickle is never run: see [`opcodes`].

mod archive;
mod global;
mod legacy;
mod machine;
mod opcodes;
mod pickle;
mod state;
mod tensors;

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use archive::{Archive, Member, shown};
pub(super) use legacy::{is_legacy, read as read_legacy};
use tensors::Storages;

use super::Tensor;
use crate::digest::{self, Leaves};
use crate::error::{Error, Result};

/// Longest pickle accepted, in bytes; as long as a safetensors header may be.
const MAX_PICKLE: u64 = 100_000_000;

/// What a file says of itself.
pub(super) struct Read {
    /// Its tensors, in the order of their bytes.
    pub tensors: Vec<Tensor>,
    /// What was passed over, without the path.
    pub warning: Option<String>,
    /// Digest of what says where which tensor lies, as hexadecimal.
    pub digest: String,
}

/// Reads what the archive at `path` says of its tensors; `size` is that of the file, `index` its number in the checkpoint.
///
/// # Errors
/// [`Error::Checkpoint`] or [`Error::Tensor`] with what is not sound, or is none of weights.
pub(super) fn read(path: &Path, file: &File, size: u64, index: usize) -> Result<Read> {
    let failed = |problem: String| Error::checkpoint(path, problem);
    let mut archive = Archive::read(file, size).map_err(failed)?;
    let root = root(&archive).map_err(failed)?;
    archive.locate(file).map_err(failed)?;
    if let Some(order) = archive.find(&[&root[..], b"/byteorder"].concat())
        && contents(file, order).map_err(failed)? != b"little"
    {
        return Err(failed("its numbers are not little-endian; load it and save it again on another machine".into()));
    }
    let member = archive.find(&[&root[..], b"/data.pkl"].concat()).ok_or_else(|| Error::bug("data.pkl is gone"))?;
    let text = contents(file, member).map_err(failed)?;
    let pickle = opcodes::read(&text).map_err(failed)?;
    let state::Found { tensors, warning } = state::weights(&pickle).map_err(failed)?;
    let tensors = tensors::place(&pickle, &Storages::Members(&archive, &root), tensors, index);
    let tensors = tensors.map_err(|(name, problem)| Error::tensor(path, &name, problem))?;
    let mut leaves = Leaves::new();
    leaves.update(&text);
    for member in &archive.members {
        leaves.update(&member.name);
        leaves.update(&[0]);
        leaves.update(&member.bytes.start.to_le_bytes());
        leaves.update(&member.bytes.end.to_le_bytes());
    }
    Ok(Read { tensors, warning, digest: digest::hex(digest::combine(leaves.finish().into_iter())) })
}

/// The folder of the archive in which everything lies.
fn root(archive: &Archive) -> std::result::Result<Vec<u8>, String> {
    let inside = |m: &Member| m.name.strip_suffix(b"/data.pkl").filter(|r| !r.contains(&b'/')).map(<[u8]>::to_vec);
    let mut roots = archive.members.iter().filter_map(inside);
    let Some(root) = roots.next() else {
        return Err("is a zip archive without the data.pkl that torch.save writes; are these weights?".to_owned());
    };
    if let Some(other) = roots.next() {
        return Err(format!("holds two archives of weights, {} and {}; expected one", shown(&root), shown(&other)));
    }
    let code = [&root[..], b"/code/"].concat();
    if archive.find(&[&root[..], b"/constants.pkl"].concat()).is_some()
        || archive.members.iter().any(|m| m.name.starts_with(&code))
    {
        return Err("is a TorchScript archive, a program with its weights; save the weights alone: \
                    torch.save(torch.jit.load(FILE).state_dict(), ...)"
            .to_owned());
    }
    Ok(root)
}

/// The bytes of a small member, checked against their CRC if it was computed.
fn contents(file: &File, member: &Member) -> std::result::Result<Vec<u8>, String> {
    let name = shown(&member.name);
    let len = member.bytes.end - member.bytes.start;
    if len > MAX_PICKLE {
        return Err(format!("its member {name} has {len} bytes, more than the {MAX_PICKLE} allowed"));
    }
    let mut bytes = vec![0; len as usize];
    file.read_exact_at(&mut bytes, member.bytes.start).map_err(|e| format!("cannot be read: {e}"))?;
    let found = crc32fast::hash(&bytes);
    if member.crc != 0 && member.crc != found {
        let expected = member.crc;
        return Err(format!(
            "its member {name} is damaged (CRC {found:08x}, expected {expected:08x}); fetch the file again"
        ));
    }
    Ok(bytes)
}
