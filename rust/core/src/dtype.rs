//! Element types of the safetensors format: those of the `safetensors` crate, as an enum that matches can exhaust.

use safetensors::Dtype as Format;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

macro_rules! dtypes {
    ($($variant:ident = $format:ident;)*) => {
        /// Element type of a tensor.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[allow(missing_docs)]
        pub enum Dtype { $($variant),* }

        impl Dtype {
            /// Every dtype, in order of size.
            pub const ALL: &'static [Dtype] = &[$(Dtype::$variant),*];

            /// Name in a safetensors header, such as `BF16`.
            pub fn name(self) -> &'static str {
                match self { $(Dtype::$variant => stringify!($format)),* }
            }
        }

        impl From<Dtype> for Format {
            fn from(dtype: Dtype) -> Self {
                match dtype { $(Dtype::$variant => Format::$format),* }
            }
        }
    };
}

dtypes! {
    F4 = F4;
    F6E2m3 = F6_E2M3;
    F6E3m2 = F6_E3M2;
    Bool = BOOL;
    U8 = U8;
    I8 = I8;
    F8E5m2 = F8_E5M2;
    F8E4m3 = F8_E4M3;
    F8E8m0 = F8_E8M0;
    F8E5m2Fnuz = F8_E5M2FNUZ;
    F8E4m3Fnuz = F8_E4M3FNUZ;
    I16 = I16;
    U16 = U16;
    F16 = F16;
    Bf16 = BF16;
    I32 = I32;
    U32 = U32;
    F32 = F32;
    C64 = C64;
    F64 = F64;
    I64 = I64;
    U64 = U64;
}

impl Dtype {
    /// The dtype a safetensors header calls `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|d| d.name() == name)
    }

    /// Bits an element takes.
    pub fn bits(self) -> u64 {
        Format::from(self).bitsize() as u64
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

    /// True for floats of any size, complex ones too.
    pub fn is_float(self) -> bool {
        self.name().starts_with(['F', 'C']) || self == Self::Bf16
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A header names dtypes as the library does: what one writes the other reads.
    #[test]
    fn names_are_those_of_the_library() {
        for dtype in Dtype::ALL {
            let format = Format::from(*dtype);
            assert_eq!(format.to_string(), dtype.name());
            assert_eq!(serde_json::to_value(format).unwrap(), dtype.name());
            assert_eq!(Dtype::from_name(dtype.name()), Some(*dtype));
        }
        assert_eq!(Dtype::from_name("F33"), None);
    }
}
