//! The types of elements that GGUF files have: blocks of GGML, and plain numbers.

use crate::dtype::Dtype;

/// How the elements of a tensor are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    /// Its number in a file.
    pub number: u32,
    /// What it is called.
    pub name: &'static str,
    /// Elements of a block, one behind the other in a row.
    pub elements: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// What it is.
    pub is: Is,
}

/// What a type is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Is {
    /// Numbers of this dtype.
    Plain(Dtype),
    /// Blocks that are decoded.
    Blocks,
    /// Blocks that are not: they are indices into grids of hundreds of entries, or are never in files.
    Refused,
}

const fn plain(number: u32, name: &'static str, bytes: u64, dtype: Dtype) -> Type {
    Type { number, name, elements: 1, bytes, is: Is::Plain(dtype) }
}

const fn blocks(number: u32, name: &'static str, elements: u64, bytes: u64) -> Type {
    Type { number, name, elements, bytes, is: Is::Blocks }
}

const fn refused(number: u32, name: &'static str, elements: u64, bytes: u64) -> Type {
    Type { number, name, elements, bytes, is: Is::Refused }
}

/// NVFP4, whose tensors have a scale beside them.
pub const NVFP4: u32 = 40;

/// The types there are (ggml.h; 4, 5, 31 to 33 and 36 to 38 were removed).
pub const TYPES: [Type; 34] = [
    plain(0, "F32", 4, Dtype::F32),
    plain(1, "F16", 2, Dtype::F16),
    blocks(2, "Q4_0", 32, 18),
    blocks(3, "Q4_1", 32, 20),
    blocks(6, "Q5_0", 32, 22),
    blocks(7, "Q5_1", 32, 24),
    blocks(8, "Q8_0", 32, 34),
    refused(9, "Q8_1", 32, 36),
    blocks(10, "Q2_K", 256, 84),
    blocks(11, "Q3_K", 256, 110),
    blocks(12, "Q4_K", 256, 144),
    blocks(13, "Q5_K", 256, 176),
    blocks(14, "Q6_K", 256, 210),
    blocks(15, "Q8_K", 256, 292),
    refused(16, "IQ2_XXS", 256, 66),
    refused(17, "IQ2_XS", 256, 74),
    refused(18, "IQ3_XXS", 256, 98),
    refused(19, "IQ1_S", 256, 50),
    blocks(20, "IQ4_NL", 32, 18),
    refused(21, "IQ3_S", 256, 110),
    refused(22, "IQ2_S", 256, 82),
    blocks(23, "IQ4_XS", 256, 136),
    plain(24, "I8", 1, Dtype::I8),
    plain(25, "I16", 2, Dtype::I16),
    plain(26, "I32", 4, Dtype::I32),
    plain(27, "I64", 8, Dtype::I64),
    plain(28, "F64", 8, Dtype::F64),
    refused(29, "IQ1_M", 256, 56),
    plain(30, "BF16", 2, Dtype::Bf16),
    blocks(34, "TQ1_0", 256, 54),
    blocks(35, "TQ2_0", 256, 66),
    blocks(39, "MXFP4", 32, 17),
    blocks(NVFP4, "NVFP4", 64, 36),
    blocks(41, "Q1_0", 128, 18),
];

impl Type {
    /// The type of that number.
    pub fn of(number: u32) -> Option<&'static Self> {
        TYPES.iter().find(|t| t.number == number)
    }

    /// Bytes of a row of so many elements, if they are whole blocks.
    pub fn row(&self, elements: u64) -> Option<u64> {
        if elements.is_multiple_of(self.elements) { (elements / self.elements).checked_mul(self.bytes) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_there_once_and_in_order() {
        assert!(TYPES.windows(2).all(|w| w[0].number < w[1].number));
        assert_eq!(Type::of(12).map(|t| (t.name, t.row(512))), Some(("Q4_K", Some(288))));
        assert_eq!(Type::of(8).and_then(|t| t.row(48)), None);
        assert!([4, 5, 31, 33, 36, 38, 42, u32::MAX].iter().all(|n| Type::of(*n).is_none()));
    }
}
