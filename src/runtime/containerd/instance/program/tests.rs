//! Programs that the kernel would refuse, and those that it would not.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn refusal(files: &[(&str, &[u8])], args0: &str, lenient: bool) -> Option<Failure> {
    refusal_of(files, (args0, false), lenient)
}

fn refusal_of(
    files: &[(&str, &[u8])],
    (name, by_init): (&str, bool),
    lenient: bool,
) -> Option<Failure> {
    let root = tempfile::tempdir().unwrap();
    for (path, content) in files {
        let path = root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }
    let program = Program {
        name: name.to_owned(),
        search: "/none:/bin".to_owned(),
        directory: "/srv".to_owned(),
        by_init,
    };
    program.refusal_in(&directory(root.path()).unwrap(), lenient)
}

#[test]
fn a_directory_of_the_kernel_is_denied_whoever_named_it() {
    for (cwd, is_denied) in [
        ("/proc/self/fd/7", true),
        ("/srv/../sys", true),
        ("/dev/shm", false),
        ("/", false),
    ] {
        let spec = serde_json::json!({"process": {"cwd": cwd}}).to_string();
        let denial = Program::of(spec.as_bytes()).denial();
        let reason = denial.map_err(|failure| failure.reason);
        assert_eq!(reason == Err(Reason::PolicyDenied), is_denied, "{cwd}");
    }
}

#[track_caller]
fn check(content: &[u8], reason: Reason, part: &str) {
    let failure = refusal(&[("bin/run", content)], "run", false).unwrap();
    assert_eq!(failure.reason, reason, "{failure}");
    assert!(
        failure.message.starts_with("exec /bin/run: it "),
        "{failure}"
    );
    assert!(failure.message.contains(part), "{part}: {failure}");
}

fn elf(machine: u8, interpreter: &str) -> Vec<u8> {
    let mut head = vec![0; 120];
    head[..6].copy_from_slice(b"\x7fELF\x02\x01");
    head[18] = machine;
    head[32] = 64;
    head[54] = 56;
    head[56] = 1;
    head[64] = 3;
    head[72] = 120;
    head[96] = u8::try_from(interpreter.len() + 1).unwrap();
    head.extend(interpreter.as_bytes());
    head.push(0);
    head
}

fn own_machine() -> (u8, u8) {
    if cfg!(target_arch = "aarch64") {
        (183, 62)
    } else {
        (62, 183)
    }
}

#[test]
fn what_the_kernel_refuses_is_told_with_its_cause() {
    let refused = Reason::CommandNotExecutable;
    check(b"echo hi\n", refused, "neither a program nor a script");
    check(b"", refused, "empty file");
    check(b"#!/bin/sh\r\nsleep 9\r\n", refused, "CRLF");
    check(b"#! /usr/bin/python3 -u\n", refused, "/usr/bin/python3");
    check(b"#!\n", refused, "no interpreter");
    let (own, other) = own_machine();
    check(
        &elf(own, "/lib64/ld.so"),
        refused,
        "the loader /lib64/ld.so",
    );
    check(
        &elf(other, "/lib/ld.so"),
        Reason::ImagePlatformMismatch,
        "a program for a",
    );
}

#[test]
fn what_runs_or_cannot_be_told_passes() {
    let (own, other) = own_machine();
    let shell: (&str, &[u8]) = ("bin/sh", b"x");
    let pass = |content: &[u8], lenient| {
        let files = [shell, ("bin/run", content), ("lib64/ld.so", b"x")];
        let found = refusal(&files, "run", lenient);
        assert_eq!(found, None, "{}", String::from_utf8_lossy(content));
    };
    pass(b"#!/bin/sh\n", false);
    pass(b"#! \t/bin/sh -e\n", false);
    pass(b"#!relative\n", false);
    pass(&[b"#!/none".as_slice(), &[b'x'; 300]].concat(), false);
    pass(&elf(own, "/lib64/ld.so"), false);
    pass(b"\x7fELF", false);
    pass(&elf(other, "/lib/ld.so"), true);
    pass(b"other format", true);
    assert_eq!(refusal(&[shell], "run", false), None, "runc names it");
    assert_eq!(refusal(&[shell], "", false), None);
}

#[test]
fn the_program_is_looked_for_where_the_kernel_will() {
    for (at, name) in [
        ("srv/run", "./run"),
        ("srv/sub/run", "sub/run"),
        ("run", "/run"),
        ("bin/run", "run"),
    ] {
        assert!(refusal(&[(at, b"")], name, false).is_some(), "{name}");
    }
    let spec = br#"{"process": {"args": ["a"], "env": ["X=1", "PATH=/p"], "cwd": "/d"}}"#;
    let expected = Program {
        name: "a".to_owned(),
        search: "/p".to_owned(),
        directory: "/d".to_owned(),
        by_init: false,
    };
    assert_eq!(Program::of(spec), expected);
    assert_eq!(Program::of(b"no json"), Program::default());
    let begun = br#"{"process": {"args": ["/.chas/init", "/.chas/env", "a"], "env": ["PATH=/p"], "cwd": "/d"}}"#;
    let begun = Program::of(begun);
    let by_init = Program {
        by_init: true,
        ..expected
    };
    assert_eq!(begun, by_init);
    let other = begun.searched_in("/q");
    assert_eq!(other.search, "/q");
}

#[test]
fn what_the_oci_runtime_does_not_look_for_is_looked_for_here() {
    let files: [(&str, &[u8]); 1] = [("bin/run", b"#!/bin/run\n")];
    for (name, expected) in [
        ("run", None),
        ("/bin/run", None),
        ("none", Some(Reason::CommandNotFound)),
        ("/none", Some(Reason::CommandNotFound)),
        ("/bin/run/x", Some(Reason::CommandNotFound)),
        ("/bin", Some(Reason::CommandNotExecutable)),
    ] {
        let found = refusal_of(&files, (name, true), false);
        assert_eq!(found.map(|failure| failure.reason), expected, "{name}");
    }
}
