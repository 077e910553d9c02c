//! The program of version 0.1.0, built from the sources beside this file (see `README.md` there).

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::harness::{finish, run};

/// The archive's name, and that of the directory in it.
const NAME: &str = "agent-0.1.0-b2df8dd";

/// The program. The first call builds it.
pub(crate) fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build().unwrap_or_else(|error| panic!("{error}")))
}

fn build() -> Result<PathBuf, String> {
    // As in target/debug/deps/real-0123456789abcdef.
    let test = std::env::current_exe().expect("Linux tells");
    let target = test.ancestors().nth(3).expect("cargo built it");
    let sources = unpack(&target.join("tmp"))?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Only a test has the features that this one's dependencies were built with. Other tests run meanwhile, some of them
    // against the clock.
    let mut build = Command::new("nice");
    build
        .arg(cargo)
        .args(["test", "--locked", "--no-run", "--test", "hold"]);
    build
        .current_dir(sources.join("v1"))
        .env("CARGO_TARGET_DIR", target);
    // What cargo tells a test of its own package: build scripts (ring's) take another value for a reason to run again.
    let is_told = |name: &OsStr| {
        let name = name.to_string_lossy();
        name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
    };
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_told(name)) {
        build.env_remove(name);
    }
    finish(&mut build)?;
    Ok(target.join("debug/chas-node-agent-v1"))
}

/// Unpacks the archive, once for all runs: its files are older than whatever was built of them, and so is nothing built
/// again.
fn unpack(into: &Path) -> Result<PathBuf, String> {
    let sources = into.join(NAME);
    if sources.exists() {
        return Ok(sources);
    }
    // Whole or not at all, also where two runs do it at once.
    let part = into.join(format!("{NAME}.{}", std::process::id()));
    fs::create_dir_all(&part).map_err(|error| format!("{}: {error}", part.display()))?;
    let archive = format!(
        "{}/tests/real/upgrade/{NAME}.tar.zst",
        env!("CARGO_MANIFEST_DIR")
    );
    run(
        "tar",
        [
            OsStr::new("--zstd"),
            "-xf".as_ref(),
            archive.as_ref(),
            "-C".as_ref(),
            part.as_ref(),
        ],
    )?;
    let _other_run_was_first = fs::rename(part.join(NAME), &sources);
    let _leftover = fs::remove_dir_all(&part);
    Ok(sources)
}
