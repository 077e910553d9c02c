//! Values in memory: as they were given, and an instance's alone.

use super::*;

fn owner() -> (u32, u32) {
    (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    )
}

fn file(content: &str) -> GivenFile {
    GivenFile {
        content: content.into(),
        mode: 0o440,
        owner: owner(),
    }
}

#[test]
fn values_are_as_they_were_given_and_an_instance_s_alone() {
    let run_dir = tempfile::tempdir().unwrap();
    let memory = SecretMemory::new(run_dir.path());
    let (one, two) = (
        "000000000abc-1".parse().unwrap(),
        "000000000abc-2".parse().unwrap(),
    );
    assert!(memory.variables(one).is_err());
    assert!(!memory.remove(one).unwrap());
    let variables = BTreeMap::from([
        ("A".to_owned(), "x=\ny".to_owned()),
        ("EMPTY".to_owned(), String::new()),
    ]);
    let owner = owner();
    let given = GivenValues {
        variables: Some((variables.clone(), owner)),
        files: vec![file("first"), file("second")],
        directories: vec![BTreeMap::from([("key".to_owned(), file("one"))])],
    };
    if memory.give(one, &given).is_err() {
        // Only root may mount.
        return;
    }
    memory.give(two, &given).unwrap();
    memory.give(two, &given).unwrap();
    assert_eq!(memory.variables(one).unwrap(), variables);
    let variables_file = memory.give_exec(one, "e1", &variables, owner).unwrap();
    assert_eq!(variables_file, "/.chas/env-e1");
    assert!(memory.variables_dir(one).join("env-e1").exists());
    memory.take_exec(one, "e1");
    assert!(!memory.variables_dir(one).join("env-e1").exists());
    assert_eq!(fs::read(memory.file(two, 1)).unwrap(), b"second");
    let path = memory.variables_dir(two);
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
    assert_eq!(mode(&path.join("env")), 0o400);
    assert_eq!(mode(&path.join("init")), 0o555);
    assert_eq!(mode(&memory.file(two, 0)), 0o440);
    let program = path.join("init");
    let ran = std::process::Command::new(program).output().unwrap();
    assert_eq!(ran.status.code(), Some(127), "it names no program");
    let next = [BTreeMap::from([("key".to_owned(), file("two"))])];
    memory.replace(one, &next).unwrap();
    let key = memory.directory(one, 0).join("key");
    assert_eq!(fs::read(key).unwrap(), b"two");
    fs::remove_dir_all(memory.of(one)).unwrap();
    let unseen = memory.replace(one, &next).unwrap_err();
    assert!(unseen.to_string().contains("restart it"), "{unseen}");
    memory.give(one, &given).unwrap();
    assert!(memory.remove(one).unwrap());
    assert_eq!(memory.listed().unwrap(), [two]);
    assert!(memory.remove(two).unwrap());
    assert!(!memory.directory.exists(), "unmounted with the last");
}
