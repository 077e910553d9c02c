//! Tests of the devices that are found.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn asked(names: &[&str]) -> Vec<Device> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// Directories with these files, each in the directory of its number.
fn dirs(files: &[(usize, &str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
    let root = tempfile::tempdir().unwrap();
    let dirs: Vec<_> = ["etc", "run"].map(|name| root.path().join(name)).into();
    for (dir, name, text) in files {
        fs::create_dir_all(&dirs[*dir]).unwrap();
        let path = dirs[*dir].join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    (root, dirs)
}

const VENDOR: &str = r#"{"cdiVersion": "0.6.0", "kind": "vendor.com/gpu",
 "devices": [
  {"name": "0", "containerEdits": {
    "deviceNodes": [{"path": "/dev/vendor0", "hostPath": "/dev/null", "permissions": "rw", "gid": 44}],
    "mounts": [{"hostPath": "/etc/hostname", "containerPath": "/vendor/name", "options": ["ro", "nosuid"]}],
    "env": ["VENDOR=0"]}},
  {"name": "1", "containerEdits": {"env": ["VENDOR=1"]}}],
 "containerEdits": {"env": ["DRIVER=7"],
  "hooks": [{"hookName": "createRuntime", "path": "/bin/hook", "args": ["hook", "a"], "timeout": 3}]}}"#;

#[test]
fn a_node_is_what_the_host_has_at_its_path_and_nothing_else_is_one() {
    let grant = find_in(&asked(&["/dev/null:/dev/nothing:r"]), &[]).unwrap();
    let [node] = grant.nodes.as_slice() else {
        panic!("{grant:?}");
    };
    assert_eq!((node.kind, node.number), (NodeKind::Char, (1, 3)));
    assert_eq!(
        (node.container.as_str(), node.access.as_str()),
        ("/dev/nothing", "r")
    );
    let missing = find_in(
        &asked(&["/dev/no-such", "/dev/shm/none:/dev/x", "a.b/c=d"]),
        &[],
    )
    .unwrap_err();
    assert_eq!(missing.reason, Reason::DeviceMissing);
    for part in ["/dev/no-such", "/dev/shm/none", "a.b/c=d"] {
        assert!(missing.message.contains(part), "{missing}");
    }
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    let name = file.path().to_str().unwrap();
    let refused = find_in(&asked(&[&format!("{name}:/dev/x")]), &[]).unwrap_err();
    assert!(refused.message.contains("no device node"), "{refused}");
}

#[test]
fn a_directory_gives_the_nodes_in_it() {
    let grant = find_in(&asked(&["/dev/pts:/dev/terminals"]), &[]).unwrap();
    let is_there = |node: &GrantedNode| node.container.starts_with("/dev/terminals/");
    assert!(
        !grant.nodes.is_empty() && grant.nodes.iter().all(is_there),
        "{grant:?}"
    );
}

#[test]
fn a_cdi_device_brings_its_edits_and_once_those_of_its_file() {
    let (_root, dirs) = dirs(&[(0, "vendor.json", VENDOR)]);
    let grant = find_in(&asked(&["vendor.com/gpu=0", "vendor.com/gpu=1"]), &dirs).unwrap();
    assert_eq!(grant.environment, ["DRIVER=7", "VENDOR=0", "VENDOR=1"]);
    assert_eq!(grant.hooks.len(), 1);
    assert_eq!(grant.hooks[0].args, ["hook", "a"]);
    let node = &grant.nodes[0];
    assert_eq!(
        (node.number, node.owner.1, node.access.as_str()),
        ((1, 3), 44, "rw")
    );
    assert_eq!(grant.mounts[0].options, ["ro", "nosuid", "rbind"]);
}

#[test]
fn a_later_directory_counts_more_and_two_files_of_one_are_told() {
    let other = VENDOR.replace("VENDOR=0", "VENDOR=later");
    let (_root, places) = dirs(&[(0, "vendor.json", VENDOR), (1, "vendor.yaml", &other)]);
    let grant = find_in(&asked(&["vendor.com/gpu=0"]), &places).unwrap();
    assert!(grant.environment.contains(&"VENDOR=later".to_owned()));
    let (_root, places) = dirs(&[(1, "a.json", VENDOR), (1, "b.json", VENDOR)]);
    let refused = find_in(&asked(&["vendor.com/gpu=0"]), &places).unwrap_err();
    assert!(refused.message.contains("two CDI files"), "{refused}");
}

#[test]
fn a_file_that_cannot_be_read_is_told_with_the_device_that_is_missing() {
    for (text, part) in [
        (VENDOR.replace("0.6.0", "9.0.0"), "9.0.0"),
        (VENDOR.replace("\"env\"", "\"envs\""), "envs"),
        (
            VENDOR.replace("\"timeout\"", "\"netDevices\""),
            "netDevices",
        ),
        ("{".to_owned(), "v.json"),
    ] {
        let (_root, dirs) = dirs(&[(0, "v.json", &text)]);
        let refused = find_in(&asked(&["vendor.com/gpu=0"]), &dirs).unwrap_err();
        assert!(refused.message.contains(part), "{refused}");
    }
    let (_root, dirs) = dirs(&[(0, "v.json", VENDOR)]);
    let path = dirs[0].join("v.json");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let refused = find_in(&asked(&["vendor.com/gpu=0"]), &dirs).unwrap_err();
    assert!(refused.message.contains("chmod go-w"), "{refused}");
}
