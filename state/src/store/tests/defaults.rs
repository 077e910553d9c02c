//! A new directory has the new defaults for ever, and one from before keeps its own.

use super::*;
use crate::store::Defaults;

const GOLDEN: &str = include_str!("../../../tests/formats/v2/defaults");

#[test]
fn a_directory_that_is_made_now_has_the_defaults_of_now_for_ever() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("new");
    assert_eq!(Defaults::of(&path), Defaults::Current);
    for _ in 0..2 {
        drop(open(&path));
        assert_eq!(Defaults::of(&path), Defaults::Current);
    }
    let mark = std::fs::read_to_string(path.join("defaults")).unwrap();
    assert_eq!(mark, GOLDEN);
}

#[test]
fn a_directory_from_before_keeps_its_defaults_whatever_is_left_of_it() {
    for left in ["state", "desired.json.a", "desired.json.b", "last-change"] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        for generation in 0..2 {
            let body = json!({"name": "a", "image": "x", "labels": {"n": generation.to_string()}});
            deploy(&store, &body).unwrap();
            store.copy().unwrap();
        }
        drop(store);
        std::fs::remove_file(directory.path().join("defaults")).unwrap();
        for entry in std::fs::read_dir(directory.path()).unwrap() {
            let path = entry.unwrap().path();
            if !path.ends_with(left) {
                let _file = std::fs::remove_file(&path);
                let _folder = std::fs::remove_dir_all(&path);
            }
        }
        assert_eq!(Defaults::of(directory.path()), Defaults::Earlier, "{left}");
        drop(open(directory.path()));
        assert_eq!(Defaults::of(directory.path()), Defaults::Earlier, "{left}");
    }
}
