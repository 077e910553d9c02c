//! Glances at what is stored, beside an agent and without one.

use super::*;

#[test]
fn a_glance_sees_what_is_stored_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    assert_eq!(StoredGlance::at(path), Ok(None));
    let store = open(path);
    let record = deploy(&store, &json!({"name": "web", "image": "nginx:1"}))
        .unwrap()
        .record;
    store.copy().unwrap();
    let files = || {
        let mut files: Vec<_> = std::fs::read_dir(path)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let about = entry.metadata().unwrap();
                (entry.file_name(), about.len(), about.modified().unwrap())
            })
            .collect();
        files.sort();
        files
    };
    let before = files();
    // Also beside an agent that has the store open.
    let glance = StoredGlance::at(path).unwrap().unwrap();
    assert_eq!(glance.ids, [record.id].into());
    assert_eq!(glance.images, std::slice::from_ref(&record.spec.image));
    assert_eq!(files(), before);
    let taken = StateLock::take(path).unwrap_err();
    assert_eq!(taken.kind(), std::io::ErrorKind::WouldBlock);
    drop(store);
    StateLock::take(path).unwrap();
    for name in ["desired.json.a", "desired.json.b"] {
        if path.join(name).exists() {
            std::fs::write(path.join(name), "spoilt").unwrap();
        }
    }
    let fault = StoredGlance::at(path).unwrap_err();
    assert!(fault.contains("desired.json"), "{fault}");
}
