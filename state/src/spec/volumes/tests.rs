//! Volumes as they are written and read.

use super::*;
use crate::spec::fields::FieldError;
use crate::spec::parse;

fn section(volumes: &Value) -> Result<Vec<VolumeMount>, Vec<FieldError>> {
    let body = json!({"name": "web", "image": "nginx", "volumes": volumes});
    parse::deploy(&body).map(|deploy| deploy.spec.volumes)
}

#[test]
fn a_volume_is_shown_with_every_default_written_out() {
    let volumes = section(&json!([
        {"volume": "data", "path": "//srv/./data/"},
        {"volume": "more", "path": "/more", "size": "10Gi"},
        {"tmpfs": 65536, "path": "/tmp"},
        {"host_path": "//srv/./x/", "path": "/x"},
        {"host_path": "/srv/y", "path": "/y", "propagation": "rslave"},
    ]));
    let shown = to_json(&volumes.unwrap());
    assert_eq!(
        shown,
        json!([
            {"volume": "data", "path": "/srv/data", "read_only": false, "shared": false},
            {"volume": "more", "path": "/more", "read_only": false, "size": "10g", "shared": false},
            {"tmpfs": "64k", "path": "/tmp", "mode": "1777"},
            {"host_path": "/srv/x", "path": "/x", "read_only": false, "shared": false, "propagation": "rprivate"},
            {"host_path": "/srv/y", "path": "/y", "read_only": false, "shared": false, "propagation": "rslave"},
        ])
    );
    assert_eq!(to_json(&section(&shown).unwrap()), shown);
}

#[test]
fn every_fault_of_a_volume_is_told_with_its_field() {
    #[track_caller]
    fn check(volume: &Value, faults: &[(&str, &str)]) {
        let found = section(&json!([volume])).err().unwrap_or_default();
        assert_eq!(found.len(), faults.len(), "{found:#?}");
        for (error, (field, part)) in found.iter().zip(faults) {
            assert_eq!(error.field, format!("volumes[0].{field}"), "{found:#?}");
            assert!(error.message.contains(part), "{found:#?}");
        }
    }
    let named = |path: &str| json!({"volume": "data", "path": path});
    check(&named("/data"), &[]);
    for path in ["data", "", "/a\nb", &format!("/{}", "a".repeat(1024))] {
        check(&named(path), &[("path", "absolute path")]);
    }
    check(&named("/a/../b"), &[("path", "\"..\"")]);
    check(&named("//./"), &[("path", "below /")]);
    for path in ["/proc", "/proc/self", "/sys/fs/cgroup", "/dev/shm"] {
        check(&named(path), &[("path", "the kernel's")]);
    }
    check(&named("/processes"), &[]);
    check(&named("/etc//hosts"), &[("path", "keeps itself")]);
    check(
        &json!({"path": "/x"}),
        &[("volume", "is required, as the name of a volume")],
    );
    check(&json!({"volume": "data"}), &[("path", "is required")]);
    check(
        &json!({"volume": "Data", "path": "/x"}),
        &[("volume", "DNS label")],
    );
    check(
        &json!({"volume": "data", "tmpfs": "1m", "path": "/x"}),
        &[("tmpfs", "another source")],
    );
    check(
        &json!({"volume": "data", "path": "/x", "size": "1k", "mode": "0700"}),
        &[("mode", "for \"tmpfs\" only"), ("size", "1m or more")],
    );
    check(
        &json!({"volume": "data", "path": "/x", "size": "much"}),
        &[("size", "is not a size")],
    );
    check(
        &json!({"tmpfs": "1m", "path": "/x", "size": "1g"}),
        &[("size", "for \"volume\" only")],
    );
    check(
        &json!({"tmpfs": "0", "path": "/x", "read_only": true, "mode": "999"}),
        &[
            ("mode", "octal digits"),
            ("read_only", "stay empty"),
            ("tmpfs", "more than 0"),
        ],
    );
    for mode in [json!("17770"), json!("+77"), json!("77"), json!(1777)] {
        check(
            &json!({"tmpfs": "1m", "path": "/x", "mode": mode}),
            &[("mode", "must be")],
        );
    }
    for (host_path, part) in [
        ("/", "all of the host"),
        ("srv", "absolute path"),
        ("/srv/../etc", "\"..\""),
        ("/proc/1/root", "the kernel's"),
        ("/dev//fuse", "see \"devices\""),
    ] {
        check(
            &json!({"host_path": host_path, "path": "/x"}),
            &[("host_path", part)],
        );
    }
    check(
        &json!({"host_path": "/srv", "path": "/x", "propagation": "rshared", "mode": "0700"}),
        &[("propagation", "\"rslave\""), ("mode", "\"tmpfs\" only")],
    );
    check(
        &json!({"host_path": "/srv", "path": "/x", "propagation": "rslave", "read_only": true}),
        &[("propagation", "read_only cannot promise")],
    );
    check(
        &json!({"volume": "a", "host_path": "/srv", "path": "/x"}),
        &[("host_path", "another source")],
    );
    check(
        &json!({"volume": "a", "path": "/x", "propagation": "rslave"}),
        &[("propagation", "\"host_path\" only")],
    );
}

#[test]
fn no_two_volumes_are_at_one_path_and_there_are_64_at_most() {
    let one = |path: &str| json!({"volume": "data", "path": path});
    let faults = section(&json!([one("/a"), one("/b"), one("//a/")])).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].field, "volumes[2].path");
    let many = |count: usize| {
        (0..count)
            .map(|n| one(&format!("/{n}")))
            .collect::<Vec<_>>()
    };
    assert_eq!(section(&json!(many(64))).unwrap().len(), 64);
    let faults = section(&json!(many(65))).unwrap_err();
    assert_eq!(faults[0].message, "must not be more than 64");
}

#[test]
fn a_volume_that_is_mounted_twice_has_one_size() {
    let at = |path: &str, size: &Value| json!({"volume": "data", "path": path, "size": size});
    let (one, none, other) = (json!("1g"), Value::Null, json!("2g"));
    let same = section(&json!([
        at("/a", &one),
        at("/b", &none),
        at("/c", &json!("1024m"))
    ]));
    assert_eq!(same.unwrap()[1].size, None);
    let faults = section(&json!([at("/a", &one), at("/b", &none), at("/c", &other)])).unwrap_err();
    assert_eq!(faults[0].field, "volumes[2].size");
    assert!(faults[0].message.contains("1g"), "{faults:?}");
}
