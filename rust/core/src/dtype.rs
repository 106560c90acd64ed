//! Element types of the safetensors format.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! dtypes {
    ($($variant:ident, $name:literal, $bits:literal;)*) => {
        /// Element type of a tensor, named as in a safetensors header.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Dtype { $($variant),* }

        impl Dtype {
            /// Every dtype, in order of size.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),*];

            /// Name in a safetensors header, such as `BF16`.
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => $name),* }
            }

            /// Bits an element takes.
            pub fn bits(self) -> u64 {
                match self { $(Dtype::$variant => $bits),* }
            }
        }
    };
}

dtypes! {
    F4, "F4", 4;
    F6E2m3, "F6_E2M3", 6;
    F6E3m2, "F6_E3M2", 6;
    Bool, "BOOL", 8;
    U8, "U8", 8;
    I8, "I8", 8;
    F8E5m2, "F8_E5M2", 8;
    F8E4m3, "F8_E4M3", 8;
    F8E8m0, "F8_E8M0", 8;
    F8E5m2Fnuz, "F8_E5M2FNUZ", 8;
    F8E4m3Fnuz, "F8_E4M3FNUZ", 8;
    I16, "I16", 16;
    U16, "U16", 16;
    F16, "F16", 16;
    Bf16, "BF16", 16;
    I32, "I32", 32;
    U32, "U32", 32;
    F32, "F32", 32;
    C64, "C64", 64;
    F64, "F64", 64;
    I64, "I64", 64;
    U64, "U64", 64;
}

impl Dtype {
    /// The dtype a safetensors header calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// The float dtype a user or a Hugging Face config calls `name` (`bfloat16`, `bf16`, `BF16`, ...).
    pub fn from_user(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().trim_start_matches("torch.") {
            "float64" | "f64" | "double" => Some(Self::F64),
            "float32" | "f32" | "float" => Some(Self::F32),
            "float16" | "f16" | "fp16" | "half" => Some(Self::F16),
            "bfloat16" | "bf16" => Some(Self::Bf16),
            _ => None,
        }
    }

    /// True for the dtypes arithmetic is done on: f64, f32, f16, bf16.
    pub fn computes(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::Bf16)
    }

    /// True for the dtypes that can be read as numbers: those that compute, and booleans as 0 and 1.
    pub fn widens(self) -> bool {
        self.computes() || self == Self::Bool
    }

    /// Bytes of one element of a dtype that widens.
    pub fn bytes(self) -> usize {
        (self.bits() / 8) as usize
    }

    /// The smallest computing dtype that holds both without loss, as torch promotes them.
    pub fn promote(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a == b => a,
            (Self::F64, _) | (_, Self::F64) => Self::F64,
            _ => Self::F32,
        }
    }
}

impl Serialize for Dtype {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.name())
    }
}

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let name = String::deserialize(d)?;
        Self::from_name(&name).ok_or_else(|| serde::de::Error::custom(format!("unknown dtype `{name}`")))
    }
}
