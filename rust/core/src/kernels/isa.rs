//! Instruction sets: one algorithm, compiled once for each; which is run is found out once.
//!
//! All give the same bytes: nothing here lets a compiler reorder a sum or contract a product. `SUTURE_ISA` (`portable`, `avx2`,
//! `avx512`) has a lesser one run than the processor could, to compare. What is particular to a processor is in this file and,
//! where loops are written out, in modules named after the set.

use std::sync::OnceLock;

use crate::error::{Error, Result};

/// The variable that asks for an instruction set.
const VARIABLE: &str = "SUTURE_ISA";

/// An instruction set, from the least to the most able.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// What every processor of the target has.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 with bytes, words and short vectors, besides.
    Avx512,
}

impl Isa {
    /// All, the least able first.
    pub const ALL: [Self; 3] = [Self::Portable, Self::Avx2, Self::Avx512];

    /// What it is called.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Portable => "portable",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }
}

/// The most able set of this processor.
#[cfg(target_arch = "x86_64")]
pub fn best() -> Isa {
    let avx2 = std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma");
    let avx512 = std::arch::is_x86_feature_detected!("avx512f")
        && std::arch::is_x86_feature_detected!("avx512bw")
        && std::arch::is_x86_feature_detected!("avx512vl")
        && std::arch::is_x86_feature_detected!("avx512dq");
    match (avx2, avx512) {
        (true, true) => Isa::Avx512,
        (true, false) => Isa::Avx2,
        _ => Isa::Portable,
    }
}

/// The most able set of this processor.
#[cfg(not(target_arch = "x86_64"))]
pub fn best() -> Isa {
    Isa::Portable
}

/// The set that kernels run: the best, or the lesser one that the variable asks for; never one that the processor lacks.
#[inline]
pub fn chosen() -> Isa {
    static CHOSEN: OnceLock<Isa> = OnceLock::new();
    *CHOSEN.get_or_init(|| asked().ok().flatten().unwrap_or(Isa::Avx512).min(best()))
}

/// Holds the variable against what there is.
///
/// # Errors
/// [`Error::Recipe`] if it names no instruction set, or one that this processor lacks.
pub fn check() -> Result<()> {
    match asked()? {
        Some(isa) if isa > best() => {
            let problem = format!("this processor has no {}; the most it has is {}", isa.name(), best().name());
            Err(Error::recipe(VARIABLE, problem))
        }
        _ => Ok(()),
    }
}

fn asked() -> Result<Option<Isa>> {
    let Some(value) = std::env::var_os(VARIABLE).filter(|v| !v.is_empty()) else { return Ok(None) };
    let found = Isa::ALL.into_iter().find(|isa| value == isa.name());
    let problem = || format!("expected portable, avx2 or avx512, found `{}`", value.to_string_lossy());
    found.map(Some).ok_or_else(|| Error::recipe(VARIABLE, problem()))
}

/// Compiles a function once for each instruction set, and has the one run that was chosen.
///
/// Generic parameters stand in brackets behind its name, once as they are declared and once as they are passed on.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident $([$($generic:tt)*][$($passed:tt)*])? (
        $($arg:ident: $type:ty),* $(,)?
    ) $(-> $out:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name $(<$($generic)*>)? ($($arg: $type),*) $(-> $out)? {
            // The body stands in each, not in a function that they inline: closures in it have the features of the function around
            // them, and `sce` took twice as long without.
            fn portable $(<$($generic)*>)? ($($arg: $type),*) $(-> $out)? $body

            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn avx2 $(<$($generic)*>)? ($($arg: $type),*) $(-> $out)? $body

                #[target_feature(enable = "avx2,fma,avx512f,avx512bw,avx512vl,avx512dq")]
                fn avx512 $(<$($generic)*>)? ($($arg: $type),*) $(-> $out)? $body

                match $crate::kernels::isa::chosen() {
                    // SAFETY: the processor has what is chosen.
                    $crate::kernels::isa::Isa::Avx512 => return unsafe { avx512 $(::<$($passed)*>)? ($($arg),*) },
                    // SAFETY: as above.
                    $crate::kernels::isa::Isa::Avx2 => return unsafe { avx2 $(::<$($passed)*>)? ($($arg),*) },
                    $crate::kernels::isa::Isa::Portable => {}
                }
            }
            portable $(::<$($passed)*>)? ($($arg),*)
        }
    };
}

pub(crate) use vectorised;
