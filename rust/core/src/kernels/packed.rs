//! Differences of bytes, packed: XOR, the bytes of elements put apart by their place (planes), and zstd over each block.
//!
//! Fine-tunes mostly change the low bits: sign, exponent and high bits of the XOR are long runs of zeros once they lie together.

use zstd::bulk::{Compressor, Decompressor};

use super::isa::vectorised;
use crate::error::{Error, Result};

/// The fastest of zstd's usual levels: what differs is noise, which no level makes smaller.
const LEVEL: i32 = 1;

/// Bytes of an element that are put apart: those of whole bytes, of at most eight.
pub fn width(bits: u64) -> usize {
    match bits {
        16 => 2,
        32 => 4,
        64 => 8,
        _ => 1,
    }
}

/// Packs differences.
pub struct Packer {
    zstd: Compressor<'static>,
    planes: Vec<u8>,
}

impl Packer {
    /// A packer.
    ///
    /// # Errors
    /// [`Error::Bug`] if there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self { zstd: Compressor::new(LEVEL).map_err(failed)?, planes: Vec::new() })
    }

    /// Appends the difference of `a` and `b`, of elements of `width` bytes, to `out`; returns its length, 0 if there is none.
    ///
    /// # Errors
    /// [`Error::Bug`] if there is no memory for it.
    pub fn pack(&mut self, a: &[u8], b: &[u8], width: usize, out: &mut Vec<u8>) -> Result<u32> {
        if a == b {
            return Ok(0);
        }
        self.planes.resize(a.len(), 0);
        match width {
            2 => split::<2>(a, b, &mut self.planes),
            4 => split::<4>(a, b, &mut self.planes),
            8 => split::<8>(a, b, &mut self.planes),
            _ => split::<1>(a, b, &mut self.planes),
        }
        let start = out.len();
        out.resize(start + zstd::zstd_safe::compress_bound(a.len()), 0);
        let len = self.zstd.compress_to_buffer(&self.planes, &mut out[start..]).map_err(failed)?;
        out.truncate(start + len);
        Ok(len as u32)
    }
}

/// Bytes that a difference of so many bytes takes at most.
pub fn bound(bytes: u64) -> u64 {
    zstd::zstd_safe::compress_bound(bytes as usize) as u64
}

fn failed(e: std::io::Error) -> Error {
    Error::bug(format!("zstd: {e}"))
}

/// Unpacks differences.
pub struct Unpacker {
    zstd: Decompressor<'static>,
    planes: Vec<u8>,
}

impl Unpacker {
    /// An unpacker.
    ///
    /// # Errors
    /// [`Error::Bug`] if there is no memory for it.
    pub fn new() -> Result<Self> {
        Ok(Self { zstd: Decompressor::new().map_err(failed)?, planes: Vec::new() })
    }

    /// Unpacks a difference, of elements of `width` bytes, that must have exactly the length of `out`.
    ///
    /// # Errors
    /// In words, if it is damaged or of another length. Nothing beyond that length is ever written, whatever it says of itself.
    pub fn unpack(&mut self, packed: &[u8], width: usize, out: &mut [u8]) -> std::result::Result<(), String> {
        self.planes.resize(out.len(), 0);
        let found = self.zstd.decompress_to_buffer(packed, &mut self.planes[..]);
        match found {
            Ok(len) if len == out.len() => {}
            Ok(len) => return Err(format!("unpacks to {len} bytes, expected {}", out.len())),
            Err(e) => return Err(format!("cannot be unpacked to {} bytes ({e})", out.len())),
        }
        match width {
            2 => join::<2>(&self.planes, out),
            4 => join::<4>(&self.planes, out),
            8 => join::<8>(&self.planes, out),
            _ => out.copy_from_slice(&self.planes),
        }
        Ok(())
    }
}

vectorised! {
    /// The XOR of `a` and `b`, the bytes of each place in an element together.
    fn split[const W: usize][W](a: &[u8], b: &[u8], planes: &mut [u8]) {
        let each = a.len() / W;
        for (place, plane) in planes.chunks_exact_mut(each.max(1)).enumerate().take(W) {
            for ((o, a), b) in plane.iter_mut().zip(a.as_chunks::<W>().0).zip(b.as_chunks::<W>().0) {
                *o = a[place] ^ b[place];
            }
        }
    }
}

vectorised! {
    fn join[const W: usize][W](planes: &[u8], out: &mut [u8]) {
        let each = out.len() / W;
        for (place, plane) in planes.chunks_exact(each.max(1)).enumerate().take(W) {
            for (o, p) in out.as_chunks_mut::<W>().0.iter_mut().zip(plane) {
                o[place] = *p;
            }
        }
    }
}

vectorised! {
    /// `out ^= with`.
    pub fn change(out: &mut [u8], with: &[u8]) {
        for (o, w) in out.iter_mut().zip(with) {
            *o ^= w;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Law: what was packed unpacks to the same bytes, whatever they are and whatever an element takes.
        #[test]
        fn packing_is_lossless(pairs in proptest::collection::vec((0u8.., 0u8..), 0..500), width in 0usize..4) {
            let width = 1 << width;
            let len = pairs.len() / width * width;
            let (a, b): (Vec<u8>, Vec<u8>) = pairs[..len].iter().copied().unzip();
            let mut packed = Vec::new();
            let size = Packer::new().unwrap().pack(&a, &b, width, &mut packed).unwrap();
            proptest::prop_assert_eq!(size as usize, packed.len());
            let mut back = a.clone();
            if size > 0 {
                let mut difference = vec![0; len];
                Unpacker::new().unwrap().unpack(&packed, width, &mut difference).unwrap();
                change(&mut back, &difference);
            }
            proptest::prop_assert_eq!(back, b);
        }
    }

    /// Law 7: a block that would unpack to more than it should is refused, and takes no memory.
    #[test]
    fn bombs_are_refused() {
        let mut packed = Vec::new();
        Packer::new().unwrap().pack(&vec![1; 1 << 24], &vec![0; 1 << 24], 1, &mut packed).unwrap();
        assert!(packed.len() < 1 << 12);
        assert!(Unpacker::new().unwrap().unpack(&packed, 1, &mut vec![0; 1 << 10]).is_err());
        assert!(Unpacker::new().unwrap().unpack(&packed, 1, &mut vec![0; 1 << 25]).is_err());
        assert!(Unpacker::new().unwrap().unpack(b"nonsense", 1, &mut [0; 16]).is_err());
    }
}
