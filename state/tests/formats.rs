//! Stored forms of every past version: each is read, and written again to the letter, with the same
//! fingerprint. The rule that this holds stands beside [`state::spec`].
//!
//! A folder below `formats` is what that version wrote. It is never edited; a change that stores
//! something new adds a folder, or files to the newest one that is not released yet.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that has no module of its own"
)]

use std::path::{Path, PathBuf};

use serde_json::Value;
use state::contact::StoredContact;
use state::desired::chronicle::Chapter;
use state::desired::set::Desired;
use state::desired::{Entries, Record};
use state::history::StoredHistory;
use state::ownership;

const VERSIONS: [&str; 2] = ["v1", "v2"];

fn folder(version: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/formats")
        .join(version)
}

fn read(path: &Path) -> Value {
    let text = std::fs::read_to_string(path).unwrap();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The files of all versions whose names begin so.
fn all(prefix: &str) -> Vec<PathBuf> {
    VERSIONS
        .iter()
        .flat_map(|version| files(version, prefix))
        .collect()
}

fn files(version: &str, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder(version))
        .unwrap()
        .map(|entry| entry.unwrap().path());
    let is_wanted = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(prefix))
    };
    let mut files: Vec<_> = entries.filter(is_wanted).collect();
    files.sort();
    files
}

#[test]
fn a_record_of_any_version_is_read_and_written_again_to_the_letter() {
    for path in all("record-") {
        let stored = read(&path);
        let record: Record = serde_json::from_value(stored.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            serde_json::to_value(&record).unwrap(),
            stored,
            "{}",
            path.display()
        );
        assert_eq!(record.spec.hash(), record.spec_hash, "{}", path.display());
    }
}

#[test]
fn a_body_of_version_1_is_what_its_record_says_with_the_same_hash() {
    let hashes = read(&folder("v1").join("hashes.json"));
    for kind in ["plain", "everything"] {
        let body = read(&folder("v1").join(format!("body-{kind}.json")));
        let deploy = state::spec::parse::deploy(&body).unwrap();
        let record: Record =
            serde_json::from_value(read(&folder("v1").join(format!("record-{kind}.json"))))
                .unwrap();
        assert_eq!(deploy.spec, record.spec, "{kind}");
        assert_eq!(deploy.spec.hash(), hashes[kind], "{kind}");
    }
}

#[test]
fn a_state_of_any_version_is_read_whole_and_written_again_to_the_letter() {
    let etag = read(&folder("v1").join("hashes.json"))["etag"]
        .as_str()
        .unwrap()
        .to_owned();
    for path in all("entries") {
        let stored: Entries = serde_json::from_value(read(&path)).unwrap();
        let desired = Desired::from_entries(stored.clone());
        assert_eq!(desired.unreadable_count(), 0, "{}", path.display());
        assert_eq!(desired.entries(), stored, "{}", path.display());
        assert_eq!(ownership::etag(&desired), etag);
    }
}

#[test]
fn a_chapter_of_any_version_is_read_and_written_again_to_the_letter() {
    for path in all("chapter-") {
        let stored = read(&path);
        let chapter: Chapter = serde_json::from_value(stored.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let written = serde_json::to_value(&chapter).unwrap();
        assert_eq!(written, stored, "{}", path.display());
    }
}

#[test]
fn a_history_of_any_version_is_read_and_written_again_to_the_letter() {
    for path in all("memory-") {
        let stored = read(&path);
        let history: StoredHistory = serde_json::from_value(stored.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            serde_json::to_value(&history).unwrap(),
            stored,
            "{}",
            path.display()
        );
    }
}

#[test]
fn a_note_of_the_contact_with_chas_is_read_and_written_again_to_the_letter() {
    for path in all("contact-") {
        let stored = read(&path);
        let contact: StoredContact = serde_json::from_value(stored.clone())
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let written = serde_json::to_value(&contact).unwrap();
        assert_eq!(written, stored, "{}", path.display());
    }
}
