//! Tensors made of the bytes of a GGUF file.

use std::sync::Arc;

use super::header::Info;
use crate::checkpoint::Tensor;
use crate::checkpoint::made::{Coded, Made};
use crate::dtype::Dtype;
use crate::model::coding::{Blocks, Coding, Woven};
use crate::model::ggml::Is;

/// A stored tensor, or some of its rows, and the file it is in.
#[derive(Clone)]
pub(super) struct Stored<'a> {
    pub info: &'a Info,
    pub file: usize,
    /// The first byte, and how many.
    pub begin: u64,
    pub nbytes: u64,
    /// What it is multiplied by besides, one number in the file (NVFP4).
    pub scale: Option<Tensor>,
}

/// What was done to the elements, to be undone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Undo {
    Nothing,
    /// Rows of the halves of so many heads take turns.
    Turns(u64),
    /// 1 was added.
    More,
}

impl<'a> Stored<'a> {
    /// All of a tensor.
    pub fn of(info: &'a Info, file: usize) -> Self {
        Self { info, file, begin: info.begin, nbytes: info.nbytes, scale: None }
    }

    /// The `index`th of `parts` equal ones.
    pub fn part(&self, index: u64, parts: u64) -> Self {
        let nbytes = self.nbytes / parts;
        let own = |scale: &Tensor| {
            let many = scale.nbytes / 4 == parts && parts > 1;
            let begin = scale.begin + if many { 4 * index } else { 0 };
            Tensor { begin, nbytes: 4, shape: vec![1], ..scale.clone() }
        };
        Self { begin: self.begin + index * nbytes, nbytes, scale: self.scale.as_ref().map(own), ..self.clone() }
    }

    /// The dtype that its elements have as numbers: that of blocks is the one that decoded weights have.
    pub fn dtype(&self, decoded: Dtype) -> Dtype {
        if let Is::Plain(dtype) = self.info.kind.is { dtype } else { decoded }
    }

    /// Whether nothing has to be computed.
    fn plain(&self) -> bool {
        matches!(self.info.kind.is, Is::Plain(_))
    }

    /// What an element of a block is.
    fn blocks(&self, less: bool) -> Blocks {
        let kind = self.info.kind;
        Blocks { kind: kind.number, elements: kind.elements, bytes: kind.bytes, less, scaled: self.scale.is_some() }
    }

    fn stands(&self, name: String, dtype: Dtype, shape: Vec<u64>) -> Tensor {
        let nbytes = shape.iter().product::<u64>() * dtype.bits() / 8;
        Tensor { name, dtype, shape, file: self.file, begin: self.begin, nbytes, made: None, strides: None }
    }

    /// Its bytes, as they lie.
    fn bytes(&self) -> Tensor {
        let mut out = self.stands(self.info.name.clone(), Dtype::U8, vec![self.nbytes]);
        out.nbytes = self.nbytes;
        out
    }

    /// It as a tensor.
    ///
    /// # Errors
    /// If what was done to it cannot be undone, in words without the path.
    pub fn tensor(&self, name: String, shape: Vec<u64>, undo: Undo, decoded: Dtype) -> Result<Tensor, String> {
        let dtype = self.dtype(decoded);
        let elements: u64 = shape.iter().product();
        if self.plain() && undo == Undo::Nothing {
            return Ok(self.stands(name, dtype, shape));
        }
        if self.plain() && !dtype.computes() || dtype == Dtype::F64 {
            return Err(format!(
                "is {}; what was done to it when it was written cannot be undone",
                self.info.kind.name
            ));
        }
        let mut bytes = self.bytes();
        if let Undo::Turns(heads) = undo {
            let rows = shape.first().copied().unwrap_or(0);
            if heads == 0 || !rows.is_multiple_of(2 * heads) {
                return Err(format!("has {rows} rows, which are not halves of {heads} heads"));
            }
            if let Some(row) = self.nbytes.checked_div(rows) {
                // Row `2 j + t` of a head is row `t D / 2 + j` of Hugging Face's: whole rows, whatever is in them.
                let half = rows / heads / 2;
                bytes.shape = vec![heads, 2, half, row];
                bytes.strides = Some(vec![2 * half * row, row, 2 * row, 1]);
            }
        }
        let coding = Coding::Blocks(self.blocks(undo == Undo::More));
        let parts = [bytes].into_iter().chain(self.scale.clone()).collect();
        let coded = Coded::new(coding, self.form(), parts, elements);
        Ok(Tensor { made: Some(Arc::new(Made::Coded(coded))), ..self.stands(name, dtype, shape) })
    }

    /// What it is called, for people.
    fn form(&self) -> String {
        format!("GGUF {}", self.info.kind.name)
    }

    /// Tensors of which the columns of one take turns; matrices are the transposes of what is stored if `turned`.
    ///
    /// # Errors
    /// If they do not fit each other, in words without the path.
    pub fn woven(all: &[Self], name: String, turned: bool, decoded: Dtype) -> Result<Tensor, String> {
        let Some(first) = all.first() else { return Err("is not there".to_owned()) };
        let own = first.info;
        if let Some(other) = all.iter().find(|s| s.info.shape != own.shape || s.info.kind != own.kind) {
            let (a, b) = (&own.shape, &other.info.shape);
            return Err(format!(
                "is {} {a:?}, and `{}`, with which it makes one tensor, {} {b:?}",
                own.kind.name, other.info.name, other.info.kind.name
            ));
        }
        let parts = all.len() as u64;
        let shape = match (own.shape.as_slice(), turned) {
            (&[experts, outputs, inputs], true) => vec![experts, inputs, outputs * parts],
            (&[experts, outputs], false) if own.kind.elements == 1 => vec![experts, outputs * parts],
            (shape, _) => return Err(format!("has shape {shape:?}, expected one matrix, or one row, for each expert")),
        };
        let dtype = first.dtype(decoded);
        if first.plain() && (!dtype.computes() || dtype == Dtype::F64) {
            return Err(format!("is {}; experts are floats of at most 32 bits", own.kind.name));
        }
        if first.scale.is_some() {
            return Err(
                "is NVFP4 with a scale for each expert, which is not decoded where matrices are transposed".to_owned()
            );
        }
        let elements = shape.iter().product();
        let coding = Coding::Woven(Woven {
            blocks: first.blocks(false),
            rows: shape[shape.len() - 2],
            columns: shape[shape.len() - 1],
            parts,
            turned,
        });
        let stored = all.iter().map(Self::bytes).collect();
        let coded = Coded::new(coding, first.form(), stored, elements);
        Ok(Tensor { made: Some(Arc::new(Made::Coded(coded))), ..first.stands(name, dtype, shape) })
    }
}

/// A tensor as the file has it: of blocks, rows of bytes.
pub(super) fn as_written(info: &Info, file: usize) -> Tensor {
    let kind = info.kind;
    let (dtype, width) = match kind.is {
        Is::Plain(dtype) => (dtype, 1),
        _ => (Dtype::U8, kind.bytes),
    };
    let mut shape = info.shape.clone();
    let of = if matches!(kind.is, Is::Plain(_)) { 1 } else { kind.elements };
    shape.iter_mut().next_back().into_iter().for_each(|n| *n = *n / of * width);
    let (begin, nbytes) = (info.begin, info.nbytes);
    Tensor { name: info.name.clone(), dtype, shape, file, begin, nbytes, made: None, strides: None }
}
