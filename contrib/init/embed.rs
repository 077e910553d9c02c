//! Builds the program that is the first in a container (`init.rs`): static, so that it runs in any
//! image, and for itself, since an agent's own build may be neither. The agent carries it
//! (`src/secrets.rs`).

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

const PACKAGE: &str = "chas-init";
const DIRECTORY: &str = "contrib/init";

fn main() {
    println!("cargo::rerun-if-changed={DIRECTORY}");
    println!("cargo::rerun-if-changed=Cargo.lock");
    println!("cargo::rerun-if-changed=Cargo.toml");
    let variable = |name: &str| env::var_os(name).expect("cargo sets it");
    let out = PathBuf::from(variable("OUT_DIR"));
    let target = variable("TARGET");
    let built_in = out.join("init");
    let mut cargo = Command::new(variable("CARGO"));
    cargo
        .args(["build", "--quiet", "--locked", "--profile", "init"])
        .args(["--package", PACKAGE, "--target"])
        .arg(&target)
        .arg("--target-dir")
        .arg(&built_in)
        .env("CARGO_ENCODED_RUSTFLAGS", "-Ctarget-feature=+crt-static");
    // clippy's, which compiles nothing.
    cargo.env_remove("RUSTC_WORKSPACE_WRAPPER");
    let built = cargo.status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "{DIRECTORY} cannot be built as a static program; its C library may be missing its static part"
    );
    let program = built_in.join(target).join("init").join(PACKAGE);
    fs::copy(program, out.join(PACKAGE)).expect("cargo built it");
}
