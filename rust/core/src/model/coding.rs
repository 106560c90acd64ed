//! How the stored tensors of a quantised weight make its elements: data, of which [`crate::view`] makes decoders.
//!
//! Elements are numbered in the order of the weight as a plain model has it: `row * columns + column`, matrices of experts one behind
//! the other. Everything here has been held against the shapes of the stored tensors by [`super::quantised`].

use crate::dtype::Dtype;

/// How a quantised weight is stored. What each form says of its parts is their order.
#[derive(Debug, Clone, PartialEq)]
pub enum Coding {
    /// A byte an element, times a scale for each tile. Parts: codes, scales, zero points where there are some.
    Scaled(Scaled),
    /// Two 4-bit floats a byte, the even one low, and a scale for each group. Parts: codes, scales, the scale of all.
    Fp4(Fp4),
    /// The same stored column by column, as gpt-oss keeps its experts. Parts: blocks, scales.
    Turned(Turned),
    /// Integers packed along the inputs, input by input. Parts: words, zeros, scales, groups of the inputs.
    Gptq(Gptq),
    /// 4-bit integers packed along the outputs, input by input. Parts: words, zeros, scales.
    Awq(Awq),
    /// Integers packed along the inputs, row by row. Parts: words, scales, zeros, groups of the inputs.
    Packed(Packed),
    /// Two 4-bit indices into a table a byte, the even one high, over all elements. Parts: codes, table, scales; of nested scales
    /// these as codes, then their scales and their table.
    Flat(Flat),
    /// Blocks of one size, each with its scales inside. Parts: the bytes of all blocks; what all elements are multiplied by.
    Blocks(Blocks),
    /// The same of several tensors whose columns take turns, or one that is stored column by column (gpt-oss in GGUF). Parts: their
    /// bytes.
    Woven(Woven),
}

/// What a byte stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// An 8-bit float of this dtype.
    Float(Dtype),
    /// A signed integer.
    Int8,
}

/// How a number is stored that elements are multiplied by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Number {
    /// 32 bits.
    F32,
    /// 16 bits.
    F16,
    /// The upper half of 32 bits.
    Bf16,
    /// An exponent: `2^(byte - 127)`, and 255 is NaN.
    E8m0,
    /// An 8-bit float.
    E4m3,
}

impl Number {
    /// How a dtype's numbers are stored; bytes are exponents.
    pub fn of(dtype: Dtype) -> Option<Self> {
        match dtype {
            Dtype::F32 => Some(Self::F32),
            Dtype::F16 => Some(Self::F16),
            Dtype::Bf16 => Some(Self::Bf16),
            Dtype::U8 | Dtype::F8E8m0 => Some(Self::E8m0),
            Dtype::F8E4m3 => Some(Self::E4m3),
            _ => None,
        }
    }

    /// Bytes of one.
    pub fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
            Self::E8m0 | Self::E4m3 => 1,
        }
    }
}

/// What is done with a code and its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// `(code - zero) * scale`, rounded once.
    Times,
    /// `code * scale`, rounded, times 1/127, rounded (LLM.int8).
    Over127,
}

/// See [`Coding::Scaled`].
#[derive(Debug, Clone, PartialEq)]
pub struct Scaled {
    /// What a code is.
    pub table: Table,
    /// Rows of a matrix.
    pub rows: u64,
    /// Columns of a matrix.
    pub columns: u64,
    /// Rows and columns that share a scale.
    pub tile: (u64, u64),
    /// Scales of a matrix: down, and along.
    pub grid: (u64, u64),
    /// How scales are stored.
    pub scale: Number,
    /// What is done.
    pub rule: Rule,
    /// Whether there are zero points, a signed byte each, in a grid like that of the scales.
    pub zeros: bool,
}

/// What the scale of the whole tensor does to those of the groups, rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whole {
    /// There is none.
    None,
    /// They are divided by it (compressed-tensors).
    Over,
    /// They are multiplied by it (ModelOpt), and there is no negative zero.
    Times,
}

/// See [`Coding::Fp4`]. Rows are whole groups.
#[derive(Debug, Clone, PartialEq)]
pub struct Fp4 {
    /// Elements that share a scale.
    pub group: u64,
    /// How scales are stored.
    pub scale: Number,
    /// The scale of all.
    pub whole: Whole,
}

/// See [`Coding::Turned`]: an expert is stored as `columns` rows of `rows` values each, in blocks of 32.
#[derive(Debug, Clone, PartialEq)]
pub struct Turned {
    /// Rows of a matrix of the plain model.
    pub rows: u64,
    /// Columns of it.
    pub columns: u64,
}

/// See [`Coding::Gptq`].
#[derive(Debug, Clone, PartialEq)]
pub struct Gptq {
    /// Bits of an element.
    pub bits: u64,
    /// Columns of the weight.
    pub inputs: u64,
    /// Rows of the weight.
    pub outputs: u64,
    /// Inputs that share a scale, in order, where no part says otherwise.
    pub group: u64,
    /// Number of groups.
    pub groups: u64,
    /// What is added to a stored zero: 1 in the first form of the format.
    pub add: u32,
    /// How scales are stored.
    pub scale: Number,
    /// Whether a part says the group of each input.
    pub ordered: bool,
}

/// See [`Coding::Awq`].
#[derive(Debug, Clone, PartialEq)]
pub struct Awq {
    /// Columns of the weight.
    pub inputs: u64,
    /// Rows of the weight.
    pub outputs: u64,
    /// Inputs that share a scale.
    pub group: u64,
    /// Number of groups.
    pub groups: u64,
    /// How scales are stored.
    pub scale: Number,
    /// Whether everything is stored row by row and in plain order, with so many words of zeros a row (`gemv`).
    pub rowwise: Option<u64>,
}

/// How zero points are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Zeros {
    /// There are none.
    None,
    /// As the weight is, but along the rows.
    Packed,
    /// A signed byte each.
    Int8,
}

/// See [`Coding::Packed`].
#[derive(Debug, Clone, PartialEq)]
pub struct Packed {
    /// Bits of an element.
    pub bits: u64,
    /// Rows of the weight.
    pub rows: u64,
    /// Columns of it.
    pub columns: u64,
    /// Words of a row.
    pub words: u64,
    /// Columns that share a scale.
    pub group: u64,
    /// Scales of a row.
    pub groups: u64,
    /// How scales are stored.
    pub scale: Number,
    /// How zero points are stored.
    pub zeros: Zeros,
    /// Whether a part says the group of each column.
    pub ordered: bool,
    /// Whether fields may cross words; older files of 3, 5, 6 and 7 bits have as many whole ones in a word as fit.
    pub crossing: bool,
}

/// See [`Coding::Flat`].
#[derive(Debug, Clone, PartialEq)]
pub struct Flat {
    /// Elements that share a scale, over the ends of rows.
    pub block: u64,
    /// Scales that share one of theirs, and what is added to each; `None` where they are stored as numbers.
    pub nested: Option<(u64, f32)>,
}

/// See [`Coding::Blocks`].
#[derive(Debug, Clone, PartialEq)]
pub struct Blocks {
    /// Number of the kind, as GGML has it.
    pub kind: u32,
    /// Elements of a block.
    pub elements: u64,
    /// Bytes of a block.
    pub bytes: u64,
    /// Whether 1 is subtracted from each element.
    pub less: bool,
    /// Whether a second part, one F32, is what all elements are multiplied by.
    pub scaled: bool,
}

/// See [`Coding::Woven`].
#[derive(Debug, Clone, PartialEq)]
pub struct Woven {
    /// How each part is stored.
    pub blocks: Blocks,
    /// Rows of a matrix of the plain model.
    pub rows: u64,
    /// Columns of it.
    pub columns: u64,
    /// How many parts: column `c` is one of part `c % parts`.
    pub parts: u64,
    /// Whether a part holds the transpose of each matrix, `columns / parts` rows of `rows` values; else its rows are `columns / parts`
    /// long.
    pub turned: bool,
}

impl Coding {
    /// Elements whose bytes have to be read for any one of them, those of rows that are stored together.
    pub fn unit(&self) -> u64 {
        match self {
            Self::Scaled(_) => 1,
            Self::Fp4(_) | Self::Flat(_) => 2,
            Self::Turned(t) => 32 * t.columns,
            Self::Gptq(g) => g.inputs,
            Self::Awq(a) => 8 * a.inputs,
            Self::Packed(p) => 32 / p.bits,
            Self::Blocks(b) => b.elements,
            Self::Woven(w) if w.turned => w.blocks.elements * w.columns,
            Self::Woven(w) => w.columns,
        }
    }
}
