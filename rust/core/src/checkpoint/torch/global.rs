//! The names a pickle of weights refers to. There are no others: what is not here is refused, and nothing here runs anything.

use crate::dtype::Dtype;

/// What a name in a pickle stands for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Global {
    /// `collections.OrderedDict`.
    Dict,
    /// `set`, whose items are of no use here.
    Set,
    /// `torch.Size`: a tuple.
    Size,
    /// A function of which nothing is needed: it makes a device or a layout.
    Idle,
    /// A function that makes a tensor of a storage.
    Tensor(Rebuild),
    /// A function that makes a parameter of a tensor, and the number of its arguments.
    Parameter(usize),
    /// A class of storages; without a dtype it is one of bytes.
    Storage(Option<Dtype>),
    /// A dtype.
    Dtype(Dtype),
}

/// What is given to a function that makes a tensor: storage, offset, sizes, strides, then this.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Rebuild {
    /// Nothing more.
    First,
    /// Whether it requires a gradient, hooks, and metadata if there are any.
    Second,
    /// The same, with the dtype before the metadata.
    Third,
}

impl Global {
    /// What `name` of `module` stands for, if it is known.
    pub fn find(module: &str, name: &str) -> Option<Self> {
        let found = match (module, name) {
            ("collections", "OrderedDict") => Self::Dict,
            ("builtins" | "__builtin__", "set") => Self::Set,
            ("torch", "Size") => Self::Size,
            ("torch", "device") | ("torch.serialization", "_get_layout") => Self::Idle,
            ("torch._utils", "_rebuild_tensor") => Self::Tensor(Rebuild::First),
            ("torch._utils", "_rebuild_tensor_v2") => Self::Tensor(Rebuild::Second),
            ("torch._utils", "_rebuild_tensor_v3") => Self::Tensor(Rebuild::Third),
            ("torch._utils", "_rebuild_parameter") => Self::Parameter(3),
            ("torch._utils", "_rebuild_parameter_with_state") => Self::Parameter(4),
            ("torch.storage", "UntypedStorage") => Self::Storage(None),
            ("torch", name) => match name.strip_suffix("Storage") {
                Some(kind) => Self::Storage(Some(of_storage(kind)?)),
                None => Self::Dtype(of_torch(name)?),
            },
            _ => return None,
        };
        Some(found)
    }
}

/// The dtype of the class of storages that is called so before `Storage`.
fn of_storage(kind: &str) -> Option<Dtype> {
    Some(match kind {
        "Double" => Dtype::F64,
        "Float" => Dtype::F32,
        "Half" => Dtype::F16,
        "BFloat16" => Dtype::Bf16,
        "Long" => Dtype::I64,
        "Int" => Dtype::I32,
        "Short" => Dtype::I16,
        "Char" => Dtype::I8,
        "Byte" => Dtype::U8,
        "Bool" => Dtype::Bool,
        "ComplexFloat" => Dtype::C64,
        _ => return None,
    })
}

/// The dtype that torch calls so.
fn of_torch(name: &str) -> Option<Dtype> {
    Some(match name {
        "float64" => Dtype::F64,
        "float32" => Dtype::F32,
        "float16" => Dtype::F16,
        "bfloat16" => Dtype::Bf16,
        "int64" => Dtype::I64,
        "int32" => Dtype::I32,
        "int16" => Dtype::I16,
        "int8" => Dtype::I8,
        "uint64" => Dtype::U64,
        "uint32" => Dtype::U32,
        "uint16" => Dtype::U16,
        "uint8" => Dtype::U8,
        "bool" => Dtype::Bool,
        "complex64" => Dtype::C64,
        "float8_e5m2" => Dtype::F8E5m2,
        "float8_e4m3fn" => Dtype::F8E4m3,
        "float8_e8m0fnu" => Dtype::F8E8m0,
        "float8_e5m2fnuz" => Dtype::F8E5m2Fnuz,
        "float8_e4m3fnuz" => Dtype::F8E4m3Fnuz,
        _ => return None,
    })
}
