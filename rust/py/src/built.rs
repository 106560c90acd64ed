//! What this library is built with, and what the processor it runs on offers.

use serde_json::{Value, json};
use suture_core::kernels::isa;

/// Both, as `suture --version --verbose` shows them; null for what was not known when it was built.
pub fn describe() -> Value {
    let known = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "commit": known(env!("SUTURE_COMMIT")),
        "rustc": known(env!("SUTURE_RUSTC")),
        "target": known(env!("SUTURE_TARGET")),
        "profile": known(env!("SUTURE_PROFILE")),
        "opt_level": known(env!("SUTURE_OPT_LEVEL")),
        "lto": known(env!("SUTURE_LTO")),
        "processor": processor(),
        "kernels": isa::chosen().name(),
    })
}

/// Of these extensions those at hand, in the order given.
macro_rules! at_hand {
    ($detected:ident: $($name:tt)*) => {
        [$(($name, std::arch::$detected!($name))),*].into_iter().filter_map(|(name, had)| had.then_some(name)).collect()
    };
}

/// The extensions this processor has of those that matter to tensors.
#[cfg(target_arch = "x86_64")]
fn processor() -> Vec<&'static str> {
    at_hand!(is_x86_feature_detected:
        "sse4.2" "avx" "avx2" "fma" "f16c" "avxvnni" "avx512f" "avx512bw" "avx512vl" "avx512dq" "avx512vnni" "avx512bf16"
        "avx512fp16")
}

/// As above.
#[cfg(target_arch = "aarch64")]
fn processor() -> Vec<&'static str> {
    at_hand!(is_aarch64_feature_detected: "neon" "fp16" "dotprod" "bf16" "i8mm" "sve" "sve2")
}

/// Nothing is asked of another processor.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn processor() -> Vec<&'static str> {
    Vec::new()
}
