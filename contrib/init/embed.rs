//! Builds the program that is the first in containers with values of their own (`init.rs`):
//! static, so that it runs in any image. The agent carries it (`src/secrets/helper.rs`).

#![allow(clippy::print_stdout, reason = "cargo reads it")]

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "contrib/init/init.rs";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let variable = |name: &str| env::var_os(name).expect("cargo sets it");
    let out = PathBuf::from(variable("OUT_DIR")).join("chas-init");
    let mut rustc = Command::new(variable("RUSTC"));
    rustc
        .args(["--edition", "2024", "--crate-name", "chas_init", "--target"])
        .arg(variable("TARGET"))
        .args([
            "-C",
            "target-feature=+crt-static",
            "-C",
            "panic=abort",
            "-C",
            "opt-level=s",
        ])
        .args([
            "-C",
            "lto=fat",
            "-C",
            "codegen-units=1",
            "-C",
            "strip=symbols",
        ]);
    if let Some(linker) = env::var_os("RUSTC_LINKER") {
        rustc.arg("-C").arg(format!("linker={}", linker.display()));
    }
    let built = rustc.arg("-o").arg(&out).arg(SOURCE).status();
    assert!(
        built.is_ok_and(|status| status.success()),
        "{SOURCE} cannot be built as a static program; its C library is missing its static part"
    );
}
