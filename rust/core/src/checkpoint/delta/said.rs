//! What a delta says of itself: `delta.json`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::dtype::Dtype;

/// The name of the format.
pub const FORMAT: &str = "suture delta";
/// The version of the format.
pub const VERSION: u32 = 1;

/// All of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Said {
    /// [`FORMAT`].
    pub format: String,
    /// [`VERSION`].
    pub version: u32,
    /// Its form: `sparse`, `lowrank`, `lora`, `bits`, `xor`.
    pub form: String,
    /// Whether applying it gives the tuned model's bytes, and reverting it the base's.
    pub exact: bool,
    /// The model it belongs to.
    pub base: Model,
    /// The model it leads to.
    pub tuned: Model,
    /// Files of tensors, in its folder.
    pub files: Vec<String>,
    /// What was asked for and what came of it, in numbers.
    pub figures: BTreeMap<String, f64>,
    /// Every tensor of both models.
    pub tensors: Vec<Entry>,
}

/// A model that a delta is of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// What it is called.
    pub name: String,
    /// The digest of the names and digests of all its tensors.
    pub digest: String,
    /// Bytes of its tensors.
    pub bytes: u64,
}

/// A tensor of the models.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name in the base, or in the tuned model where the base has none.
    pub name: String,
    /// How its change is kept.
    pub kept: Kept,
    /// The tensors that keep it, by what they are.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub parts: BTreeMap<Part, String>,
    /// Whether a product lies the other way round than the weight: of a model that keeps matrices as [in, out].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub turned: bool,
    /// The tensor of the base, if there is one.
    pub base: Option<Stored>,
    /// That of the tuned model, if there is one and it is another.
    pub tuned: Option<Stored>,
    /// Figures of the change: `changed` elements, `norm`, `rank`, `error` (relative, of what is kept), `energy`, `scale`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
}

/// A tensor as it was when the delta was taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Element type.
    pub dtype: Dtype,
    /// Dimensions.
    pub shape: Vec<u64>,
    /// Digest of all its bytes.
    pub digest: String,
    /// Digest of some of them, by which it is known again without reading it; none if these do not lie in order.
    pub sample: Option<String>,
}

/// How the change of a tensor is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kept {
    /// There is none.
    Same,
    /// It is not.
    Left,
    /// As packed bits.
    Xor,
    /// As single elements.
    Sparse,
    /// As signs and a scale.
    Bits,
    /// As factors.
    LowRank,
    /// The tuned tensor itself.
    Whole,
    /// The tuned model has no such tensor.
    Gone,
}

/// What a tensor of a delta is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Packed bits, both ways.
    Xor,
    /// Packed bits that are left between what the form makes of the base and the tuned tensor.
    Forward,
    /// Packed bits that are left between the tuned tensor without the change and the base.
    Back,
    /// Places of elements.
    Index,
    /// What is added to them.
    Values,
    /// A bit an element.
    Signs,
    /// What the signs are multiplied by.
    Scale,
    /// Rows by ranks: U, or B of an adapter.
    Left,
    /// The singular values.
    Middle,
    /// Ranks by columns: V transposed, or A of an adapter.
    Right,
    /// The tuned tensor.
    Whole,
    /// The base's.
    Old,
}

impl Part {
    /// What is added to a tensor's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Xor => ".xor",
            Self::Forward => ".forward",
            Self::Back => ".back",
            Self::Index => ".index",
            Self::Values => ".values",
            Self::Signs => ".signs",
            Self::Scale => ".scale",
            Self::Left => ".U",
            Self::Middle => ".S",
            Self::Right => ".Vt",
            Self::Whole => ".whole",
            Self::Old => ".old",
        }
    }

    /// The file it is in.
    pub fn file(self) -> &'static str {
        match self {
            Self::Xor => "xor.safetensors",
            Self::Forward => "forward.safetensors",
            Self::Back => "back.safetensors",
            Self::Index => "index.safetensors",
            Self::Values => "values.safetensors",
            Self::Signs => "signs.safetensors",
            Self::Scale => "scales.safetensors",
            Self::Left | Self::Middle | Self::Right => "factors.safetensors",
            Self::Whole => "whole.safetensors",
            Self::Old => "old.safetensors",
        }
    }
}
