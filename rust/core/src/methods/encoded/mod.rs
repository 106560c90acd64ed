//! Results written in a quantised form. A weight then is several tensors of the output, its codes and their scales, each computed of
//! the same values; what is rounded are the values in f32, once.
//!
//! Where a scale belongs to a group of consecutive elements, the group is encoded when it is written ([`crate::kernels::encode`]).
//! Where it belongs to a tile of several rows ([`Tiled`]), one more scan finds the largest magnitude of every tile, which no order of
//! the work changes.

mod tiled;

use serde::{Deserialize, Serialize};

use super::{Cost, Kernel, Span};
use crate::dtype::Dtype;
use crate::kernels::encode::{GROUP, Q8_0};
pub use tiled::Tiled;

/// Rows and columns of a tile of the 8-bit form.
pub const TILE: u64 = 128;

/// A form that can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// F8_E4M3 and an F32 scale for each 128 x 128 tile, as transformers' `fp8` has it.
    Fp8,
    /// Pairs of 4-bit floats and a power of two for each 32 of a row, as compressed-tensors' `mxfp4-pack-quantized` has it.
    Mxfp4,
    /// A GGUF file of blocks of 32 integers with their scale inside (GGML's Q8_0).
    #[serde(rename = "gguf:q8_0")]
    Q8_0,
}

impl Form {
    /// All forms.
    pub const ALL: [Self; 3] = [Self::Fp8, Self::Mxfp4, Self::Q8_0];

    /// The form that a user calls `name`.
    pub fn from_user(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// What a user calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fp8 => "fp8",
            Self::Mxfp4 => "mxfp4",
            Self::Q8_0 => "gguf:q8_0",
        }
    }
}

/// Which of the tensors that a weight becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// A code for each element.
    Codes,
    /// The scales of the codes.
    Scales,
    /// The values as F32: what a file of the form holds beside its weights, where something is done to it.
    Plain,
}

/// What is done to values on their way into a GGUF file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Undone {
    /// Nothing.
    #[default]
    Nothing,
    /// In each of so many heads the rows of its two halves take turns.
    Turns(u64),
    /// 1 is added.
    More,
}

/// How the values that are computed become the elements of an output tensor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Encode {
    /// The form.
    pub form: Form,
    /// What of it this tensor is.
    pub part: Part,
    /// Dimensions of the values.
    pub shape: Vec<u64>,
    /// Name of the weight where it is plain: random numbers go by it.
    pub weight: String,
    /// What is done besides.
    #[serde(default)]
    pub change: Undone,
}

impl Encode {
    /// Number of values.
    pub fn values(&self) -> u64 {
        self.shape.iter().product()
    }

    /// The values that are encoded together where they are written, and the bytes that come of them; `None` of scales that are
    /// known only when all values are seen.
    pub fn group(&self) -> Option<(usize, usize)> {
        match (self.form, self.part) {
            (Form::Fp8, Part::Codes) => Some((1, 1)),
            (Form::Fp8, Part::Scales) => None,
            (Form::Mxfp4, Part::Codes) => Some((GROUP, GROUP / 2)),
            (Form::Mxfp4, Part::Scales) => Some((GROUP, 1)),
            (Form::Q8_0, Part::Codes) => Some((GROUP, Q8_0)),
            (_, Part::Plain) => Some((1, 4)),
            (Form::Q8_0, Part::Scales) => None,
        }
    }

    /// Bytes that the first `values` take.
    pub fn bytes_of(&self, values: u64) -> u64 {
        self.group().map_or(0, |(of, bytes)| values / of as u64 * bytes as u64)
    }

    /// Where a group of values goes that begins with this one: the first of its bytes; `None` if they stay in order.
    pub fn place(&self, value: u64) -> Option<u64> {
        let Undone::Turns(heads) = self.change else { return None };
        let rows = self.shape.first().copied().unwrap_or(1);
        let (columns, of) = (self.values() / rows.max(1), rows / heads.max(1));
        let (row, column) = (value / columns.max(1), value % columns.max(1));
        let (head, inside) = (row / of.max(1), row % of.max(1));
        let (half, own) = (inside / (of / 2).max(1), inside % (of / 2).max(1));
        Some(self.bytes_of((head * of + 2 * own + half) * columns + column))
    }

    /// Whether the whole tensor is put together before it is written.
    pub fn collected(&self) -> bool {
        matches!(self.change, Undone::Turns(_))
    }

    /// Bytes that are kept of the tensor while it is made.
    pub fn keeps(&self) -> u64 {
        match self.form {
            Form::Q8_0 if self.collected() => self.bytes_of(self.values()),
            Form::Q8_0 => 0,
            Form::Fp8 => 8 * self.values() / (TILE * TILE),
            Form::Mxfp4 => 0,
        }
    }

    /// Dtype and dimensions of the tensor.
    pub fn tensor(&self) -> (Dtype, Vec<u64>) {
        match (self.form, self.part) {
            (Form::Fp8, Part::Codes) => (Dtype::F8E4m3, self.shape.clone()),
            (Form::Fp8, Part::Scales) => {
                let mut grid = self.shape.clone();
                grid.iter_mut().rev().take(2).for_each(|n| *n /= TILE);
                (Dtype::F32, grid)
            }
            (_, Part::Plain) => (Dtype::F32, self.shape.clone()),
            (Form::Q8_0, _) => {
                let mut shape = self.shape.clone();
                shape.iter_mut().next_back().into_iter().for_each(|n| *n = *n / GROUP as u64 * Q8_0 as u64);
                (Dtype::U8, shape)
            }
            (Form::Mxfp4, part) => {
                let per_byte = if part == Part::Codes { 2 } else { GROUP as u64 };
                let mut shape = self.shape.clone();
                shape.iter_mut().next_back().into_iter().for_each(|n| *n /= per_byte);
                (Dtype::U8, shape)
            }
        }
    }

    /// Name of the tensor.
    pub fn name(&self) -> String {
        match (self.form, self.part) {
            (Form::Q8_0, _) | (_, Part::Plain) | (Form::Fp8, Part::Codes) => self.weight.clone(),
            (Form::Fp8, Part::Scales) => format!("{}_scale_inv", self.weight),
            (Form::Mxfp4, Part::Codes) => format!("{}_packed", self.weight),
            (Form::Mxfp4, Part::Scales) => format!("{}_scale", self.weight),
        }
    }

    /// A kernel of the values, with what the form needs to know of them.
    pub fn kernel(&self, kernel: Box<dyn Kernel>) -> Box<dyn Kernel> {
        match self.form {
            Form::Fp8 => Box::new(Tiled::new(kernel, &self.shape, self.part)),
            Form::Mxfp4 | Form::Q8_0 => kernel,
        }
    }

    /// What a kernel costs with that.
    pub fn cost(&self, own: Cost) -> Cost {
        let columns = self.shape.last().copied().unwrap_or(1);
        match (self.form, own.span, self.part) {
            (Form::Mxfp4 | Form::Q8_0, ..) | (.., Part::Plain) => own,
            (Form::Fp8, Span::Whole { keeps }, _) => {
                let span = Span::Whole { keeps: keeps + 4 * TILE * columns };
                Cost { span, ..own }
            }
            // The scan that finds the scales computes all values, and what reads none writes the scales.
            (Form::Fp8, Span::Fixed, Part::Codes) => Cost { reads: own.reads + 1, scratch: own.scratch + 4, ..own },
            (Form::Fp8, Span::Fixed, Part::Scales) => Cost { scratch: own.scratch + 4, ..own },
        }
    }
}
