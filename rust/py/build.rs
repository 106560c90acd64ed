//! Tells the binding what it is built with, for `suture --version --verbose`. No path of the machine goes in.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=../../Cargo.toml");
    // Given by whoever builds a release, not asked of git here: the binding would be linked anew after every commit.
    println!("cargo::rerun-if-env-changed=SUTURE_COMMIT");
    let commit = var("SUTURE_COMMIT");
    let profile = var("PROFILE");
    println!("cargo::rustc-env=SUTURE_COMMIT={commit}");
    println!("cargo::rustc-env=SUTURE_RUSTC={}", rustc());
    println!("cargo::rustc-env=SUTURE_TARGET={}", var("TARGET"));
    println!("cargo::rustc-env=SUTURE_LTO={}", lto(&profile));
    println!("cargo::rustc-env=SUTURE_OPT_LEVEL={}", var("OPT_LEVEL"));
    println!("cargo::rustc-env=SUTURE_PROFILE={profile}");
}

fn var(name: &str) -> String {
    std::env::var(name).unwrap_or_default()
}

/// `rustc 1.88.0 (6b00bc388 2025-06-23)`, or nothing.
fn rustc() -> String {
    let told = Command::new(var("RUSTC")).arg("--version").output();
    told.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default()
}

/// What the profile says of link-time optimisation: cargo tells build scripts all but that.
fn lto(profile: &str) -> String {
    let profile = if profile == "debug" { "dev" } else { profile };
    let name = format!("CARGO_PROFILE_{}_LTO", profile.to_uppercase());
    println!("cargo::rerun-if-env-changed={name}");
    if let Ok(given) = std::env::var(name) {
        return given;
    }
    let manifest = std::fs::read_to_string("../../Cargo.toml").unwrap_or_default();
    let table = format!("[profile.{profile}]");
    let lines = manifest.lines().skip_while(|l| l.trim() != table).skip(1).take_while(|l| !l.starts_with('['));
    let value = lines.filter_map(|l| l.split_once('=')).find(|(key, _)| key.trim() == "lto").map(|(_, value)| value);
    value.map_or("off".to_owned(), |v| v.trim().trim_matches('"').to_owned())
}
