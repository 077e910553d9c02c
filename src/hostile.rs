//! Inputs of others, given to the parser that meets them first. For fuzzing (`tests/fuzz`), and for
//! the inputs that it found worth keeping, which the unit tests give again.
//!
//! A parser answers any input with a value or an error, of bounded length, in bounded time.

use std::path::Path;

use bytes::Bytes;
use state::spec::Spec;

use crate::logs::line::{self, LineStamp, LogLine, Stream};
use crate::logs::split::LineSplitter;
use crate::network::bridge::hostile;
use crate::oci::image::ImageConfig;
use crate::runtime::containerd::image::parse_manifest;
use crate::{api, chas, config, registry};

/// Longest error, whatever the input: it goes into answers, events and logs.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// Parser of an input, by the name of its fuzz target.
pub type FuzzTarget = (&'static str, fn(&[u8]));

/// Parsers that meet inputs of others first.
pub const TARGETS: [FuzzTarget; 10] = [
    ("body", body),
    ("set", set),
    ("manifest", manifest),
    ("image_config", image_config),
    ("log_record", log_record),
    ("nft_listing", |bytes| on_text(bytes, hostile::listing)),
    ("netlink", hostile::attributes),
    ("challenge", |bytes| on_text(bytes, challenge)),
    ("configuration", |bytes| on_text(bytes, configuration)),
    ("clients", |bytes| on_text(bytes, clients)),
];

/// Gives an input to the parser of this name.
///
/// # Panics
/// There is none of this name, or it does not keep the promise at the top of this file.
pub fn survive(name: &str, bytes: &[u8]) {
    let target = TARGETS.iter().find(|(known, _)| *known == name);
    let (_, parse) = target.expect("a fuzz target has the name of a parser");
    parse(bytes);
}

fn on_text(bytes: &[u8], parse: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        parse(text);
    }
}

fn bounded(error: &str) {
    assert!(error.len() <= ERROR_BYTES_MAX, "{} bytes", error.len());
}

/// Body of a deploy. One that is accepted is stored and read again as what it was.
fn body(bytes: &[u8]) {
    let value = match api::parse_body(bytes) {
        Ok(value) => value,
        Err(problem) => return bounded(&format!("{problem:?}")),
    };
    match state::spec::parse::deploy(&value) {
        Ok(deploy) => {
            let stored = serde_json::to_value(&deploy.spec).expect("a spec can be stored");
            let read: Spec = serde_json::from_value(stored).expect("what was stored can be read");
            assert_eq!(read, deploy.spec);
            assert_eq!(read.hash(), deploy.spec.hash());
        }
        Err(faults) => {
            let faults: Vec<String> = faults.iter().map(|fault| format!("{fault:?}")).collect();
            bounded(&faults.concat());
        }
    }
}

/// Set of CHaS.
fn set(bytes: &[u8]) {
    if let Err(fault) = chas::wire::parse_set(bytes, "node-1", None, 0) {
        bounded(&fault);
    }
}

/// Manifest or index of a registry.
fn manifest(bytes: &[u8]) {
    if let Err(failure) = parse_manifest(bytes, "application/vnd.oci.image.manifest.v1+json") {
        bounded(&failure.message);
    }
}

/// Configuration of an image.
fn image_config(bytes: &[u8]) {
    if let Err(faults) = ImageConfig::parse(bytes) {
        bounded(&faults);
    }
}

/// Output of a container, which is cut into lines, and read again as it was; and a line of a log
/// file that something else wrote.
fn log_record(bytes: &[u8]) {
    let mut splitter = LineSplitter::default();
    let stamp = LineStamp::after(None);
    let mut check = |line: &[u8], partial: bool| {
        let mut record = Vec::new();
        line::encode(&mut record, &stamp, Stream::Stdout, partial, line);
        assert_eq!(record.pop(), Some(b'\n'));
        let read = LogLine::decode(&Bytes::from(record)).expect("a written line is read");
        assert_eq!((&read.bytes[..], read.partial), (line, partial));
    };
    for piece in bytes.chunks(7) {
        splitter.push(piece, &mut check);
    }
    splitter.finish(&mut check);
    drop(LogLine::decode(&Bytes::copy_from_slice(bytes)));
}

/// `WWW-Authenticate` of a registry.
fn challenge(header: &str) {
    drop(registry::best_challenge([header].into_iter()));
}

/// Configuration file.
fn configuration(text: &str) {
    let (_, errors) = config::read_file(Path::new("node-agent.yaml"), text);
    for error in errors {
        bounded(&error.to_string());
    }
}

/// File of the API's clients. What is accepted is written as what it was.
fn clients(text: &str) {
    match config::parse_clients(text) {
        Ok(clients) => {
            let written = state::access::written(&clients);
            let read = state::access::read(&written).expect("what was written can be read");
            // Times are written to the second.
            assert_eq!(state::access::written(&read), written);
        }
        Err(fault) => bounded(&fault),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Folder with the kept inputs of each target.
    fn kept(target: &str) -> Vec<(String, Vec<u8>)> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus");
        let entries = fs::read_dir(folder.join(target)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .map(|path| (path.display().to_string(), fs::read(&path).unwrap()))
            .collect()
    }

    #[test]
    fn every_kept_input_is_survived() {
        for (name, parse) in TARGETS {
            let inputs = kept(name);
            assert!(!inputs.is_empty(), "{name} has no kept inputs");
            for (path, bytes) in inputs {
                let survived = std::panic::catch_unwind(|| parse(&bytes));
                assert!(survived.is_ok(), "{path}");
            }
        }
    }

    #[test]
    fn every_target_is_fuzzed() {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/Cargo.toml");
        let manifest = fs::read_to_string(manifest).unwrap();
        for (name, _) in TARGETS {
            assert!(manifest.contains(&format!("name = \"{name}\"")), "{name}");
        }
    }
}
