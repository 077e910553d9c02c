use serde_json::{Value, json};
use state::assign::QuietNetwork;
use state::desired::Owner;
use state::store::{Limits, Store};

use super::host::Machine;
use super::lsm::{AppArmor, SecurityModules, Selinux};
use super::*;
use crate::cgroup::Cgroup;

mod layers;
mod limits;
mod own_ids;

/// Record that a deploy body with these fields becomes.
pub(crate) fn record(fields: &Value) -> Record {
    let mut body = json!({"name": "web", "image": "nginx"});
    body.as_object_mut()
        .unwrap()
        .extend(fields.as_object().unwrap().clone());
    let directory = tempfile::tempdir().unwrap();
    let addresses = std::net::Ipv4Addr::new(10, 0, 0, 2)..=std::net::Ipv4Addr::new(10, 0, 0, 2);
    let limits = Limits {
        ports: 1..=1,
        network: std::sync::Arc::new(QuietNetwork(addresses)),
        containers_max: 1,
        capacity: state::capacity::Capacity::ENDLESS,
        new_privileges: true,
        random: state::store::random,
        disk: state::store::sound_disk,
    };
    let store = Store::open(directory.path(), limits).unwrap();
    let deploy = state::spec::parse::deploy(&body).unwrap();
    Record::clone(&store.deploy(deploy, Owner::Push, true, 0).unwrap().record)
}

/// Host whose kernel has no security module.
const NO_MODULES: SecurityModules = SecurityModules {
    apparmor: AppArmor::Off,
    selinux: Selinux::Off,
};

/// Confinement of a node that is configured by nothing.
fn node_default() -> Confinement {
    let withheld = ["CAP_MKNOD", "CAP_NET_RAW"];
    let granted = state::spec::DEFAULT_CAPABILITIES.iter();
    let granted = granted.filter(|name| !withheld.contains(name));
    Confinement {
        capabilities: granted.map(|&name| name.to_owned()).collect(),
        socketcall: false,
        user_ids: None,
    }
}

fn image(config: &Value) -> ImageConfig {
    ImageConfig::parse(json!({"config": config}).to_string().as_bytes()).unwrap()
}

fn build(config: &Value, fields: &Value, user: &User, cgroup: Cgroup) -> Result<Value, Failure> {
    let mounts = [
        Mount::read_only("/r".into(), "/etc/resolv.conf"),
        Mount::read_only("/h".into(), "/etc/hosts"),
        Mount::read_only("/hn".into(), "/etc/hostname"),
    ];
    let place = Placement {
        volumes: &[],
        netns: Some(Path::new("/n")),
        devices: &DeviceGrant::NONE,
        cgroups_path: "/chas/x-1",
        mounts: &mounts,
        sysfs: Path::new("/k"),
        ids: None,
        given: None,
    };
    let host = Host {
        machine: Machine::X86_64,
        cgroup,
        open_files_max: 4096,
        oom_score_min: 0,
        modules: NO_MODULES,
    };
    let facts = ImageFacts {
        user: user.clone(),
        ..ImageFacts::default()
    };
    let json = spec(
        &image(config),
        &record(fields),
        &facts,
        &host,
        &node_default(),
        place,
    )?;
    Ok(serde_json::from_slice(&json).unwrap())
}

#[test]
fn a_container_with_values_begins_with_the_program_that_sets_them_and_none_is_in_its_spec() {
    let body = json!({"command": ["run", "-x"], "environment": {"OLD": "readable"}});
    let mut record = record(&body);
    record.spec.environment = None;
    let build = |variables: &BTreeMap<String, String>| {
        let place = Placement {
            volumes: &[],
            netns: Some(Path::new("/n")),
            devices: &DeviceGrant::NONE,
            cgroups_path: "/chas/x-1",
            mounts: &[],
            sysfs: Path::new("/k"),
            ids: None,
            given: Some(Given {
                mounts: &[("/run/x-1".into(), "/.chas".to_owned())],
                init: &["/.chas/init".to_owned(), "/.chas/env".to_owned()],
                variables,
            }),
        };
        let image = image(&json!({"Env": ["A=of the image", "PATH=/bin"]}));
        let facts = ImageFacts::default();
        let host = Host {
            machine: Machine::X86_64,
            cgroup: Cgroup::V2,
            open_files_max: 4096,
            oom_score_min: 0,
            modules: NO_MODULES,
        };
        spec(&image, &record, &facts, &host, &node_default(), place)
    };
    let mut variables = BTreeMap::from([("A".to_owned(), "word".to_owned())]);
    let made = String::from_utf8(build(&variables).unwrap()).unwrap();
    assert!(!made.contains("word"), "{made}");
    let made: Value = serde_json::from_str(&made).unwrap();
    assert_eq!(
        made["process"]["args"],
        json!(["/.chas/init", "/.chas/env", "run", "-x"])
    );
    let mounts = made["mounts"].as_array().unwrap();
    let given = mounts.last().unwrap();
    assert_eq!(given["destination"], "/.chas");
    assert_eq!(given["options"], json!(["rbind", "ro", "nosuid", "nodev"]));
    variables.insert("LONG".to_owned(), "word".repeat(40 << 10));
    let refused = build(&variables).unwrap_err();
    assert_eq!(refused.reason, Reason::CommandNotExecutable);
    assert!(refused.message.contains("LONG"), "{refused}");
    assert!(!refused.message.contains("word"), "{refused}");
}

fn plain(config: &Value, fields: &Value) -> Value {
    build(config, fields, &User::default(), Cgroup::V1 { swap: true }).unwrap()
}

#[test]
fn command_and_args_replace_entrypoint_and_cmd_as_in_kubernetes() {
    let both = json!({"Entrypoint": ["e"], "Cmd": ["c"]});
    for (fields, args) in [
        (json!({}), vec!["e", "c"]),
        (json!({"args": ["a"]}), vec!["e", "a"]),
        (json!({"args": []}), vec!["e"]),
        (json!({"command": ["x"]}), vec!["x"]),
        (json!({"command": ["x"], "args": ["a"]}), vec!["x", "a"]),
    ] {
        assert_eq!(plain(&both, &fields)["process"]["args"], json!(args));
    }
    let nothing = build(&json!({}), &json!({}), &User::default(), Cgroup::V2).unwrap_err();
    assert_eq!(nothing.reason, Reason::NoCommand);
}

#[test]
fn an_entrypoint_of_one_empty_word_is_none() {
    let reset = json!({"Entrypoint": [""], "Cmd": ["c", ""]});
    for (fields, args) in [
        (json!({}), json!(["c", ""])),
        (json!({"args": ["a"]}), json!(["a"])),
        (json!({"command": ["x"]}), json!(["x"])),
    ] {
        assert_eq!(plain(&reset, &fields)["process"]["args"], args);
    }
    for config in [
        json!({"Entrypoint": [""]}),
        json!({"Entrypoint": ["", "a"]}),
        json!({"Cmd": ["", "a"]}),
    ] {
        let none = build(&config, &json!({}), &User::default(), Cgroup::V2).unwrap_err();
        assert_eq!(none.reason, Reason::NoCommand, "{config}");
    }
}

#[test]
fn the_environment_is_ours_then_the_images_then_what_was_asked() {
    let user = User {
        home: Some("/srv".to_owned()),
        ..User::default()
    };
    let config = json!({"Cmd": ["c"], "Env": ["PATH=/p", "A=1", "B=0", "B=1", "HOSTNAME=0.0.0.0", "=x", "C", ""]});
    let spec = build(
        &config,
        &json!({"environment": {"B": "2", "C": "x=y"}}),
        &user,
        Cgroup::V2,
    )
    .unwrap();
    assert_eq!(
        spec["process"]["env"],
        json!([
            "A=1",
            "B=2",
            "C=x=y",
            "HOME=/srv",
            "HOSTNAME=0.0.0.0",
            "PATH=/p"
        ])
    );
    let asked = json!({"environment": {"HOSTNAME": "x"}});
    assert_eq!(
        plain(&config, &asked)["process"]["env"][2],
        json!("HOSTNAME=x")
    );
    let bare = plain(&json!({"Cmd": ["c"]}), &json!({}));
    assert_eq!(
        bare["process"]["env"],
        json!(["HOSTNAME=web", format!("PATH={}", process::PATH_DEFAULT)])
    );
}

#[test]
fn a_command_that_is_longer_than_the_kernel_takes_is_refused_by_its_size() {
    let cmd = |words: Vec<String>| {
        let config = json!({"Cmd": words});
        build(&config, &json!({}), &User::default(), Cgroup::V2)
    };
    assert!(cmd(vec!["x".repeat((128 << 10) - 1)]).is_ok());
    for (words, part) in [
        (vec!["x".repeat(128 << 10)], "131072 bytes"),
        (vec!["x".repeat(100_000); 21], "together"),
    ] {
        let failure = cmd(words).unwrap_err();
        assert_eq!(failure.reason, Reason::CommandNotExecutable);
        assert!(failure.message.contains(part), "{failure}");
    }
}

#[test]
fn it_is_confined() {
    let spec = plain(
        &json!({"Cmd": ["c"]}),
        &json!({"security": {"read_only_rootfs": true, "capabilities": {"drop": ["ALL"]}}}),
    );
    assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
    let asked = json!({"security": {"no_new_privileges": false}});
    let lifted = plain(&json!({"Cmd": ["c"]}), &asked);
    assert_eq!(lifted["process"]["noNewPrivileges"], json!(false));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!([]));
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(
        spec["linux"]["seccomp"]["defaultAction"],
        json!("SCMP_ACT_ERRNO")
    );
    assert!(
        spec["linux"]["maskedPaths"]
            .as_array()
            .unwrap()
            .contains(&json!("/proc/kcore"))
    );
    let kinds = |spec: &Value| {
        spec["linux"]["namespaces"]
            .as_array()
            .unwrap()
            .iter()
            .map(|n| n["type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(kinds(&spec), ["pid", "ipc", "uts", "mount", "network"]);
    let unified = build(
        &json!({"Cmd": ["c"]}),
        &json!({}),
        &User::default(),
        Cgroup::V2,
    )
    .unwrap();
    assert_eq!(
        kinds(&unified),
        ["pid", "ipc", "uts", "mount", "network", "cgroup"]
    );
}

#[test]
fn what_the_node_withholds_is_in_the_record_and_not_in_the_spec() {
    let cmd = json!({"Cmd": ["c"]});
    let sets = |fields: &Value| {
        let sets = plain(&cmd, fields)["process"]["capabilities"].clone();
        assert_eq!(sets["bounding"], sets["effective"]);
        assert_eq!(sets["bounding"], sets["permitted"]);
        serde_json::from_value::<Vec<String>>(sets["bounding"].clone()).unwrap()
    };
    assert_eq!(sets(&json!({})), node_default().capabilities);
    let asked =
        json!({"security": {"capabilities": {"drop": ["ALL"], "add": ["NET_RAW", "CHOWN"]}}});
    assert_eq!(sets(&asked), ["CAP_CHOWN"]);
    assert_eq!(
        record(&asked).spec.security.capabilities.0,
        ["CAP_CHOWN", "CAP_NET_RAW"]
    );
    let bare = json!({"security": {"capabilities": {"drop": ["SYS_CHROOT"]}}});
    let calls = plain(&cmd, &bare)["linux"]["seccomp"].to_string();
    assert!(
        !calls.contains("chroot"),
        "the filter follows what is granted"
    );
}

#[test]
fn user_directory_and_signal_come_from_the_record_or_else_the_image() {
    let config =
        image(&json!({"Cmd": ["c"], "User": "web", "WorkingDir": "srv", "StopSignal": "SIGQUIT"}));
    assert_eq!(wanted_user(&config, &record(&json!({}))), "web");
    assert_eq!(wanted_user(&config, &record(&json!({"user": "0"}))), "0");
    assert_eq!(working_dir(&config, &record(&json!({}))), "/srv");
    assert_eq!(
        working_dir(&config, &record(&json!({"working_dir": "/x"}))),
        "/x"
    );
    let signal = |config: &ImageConfig, fields: Value| stop_signal(config, &record(&fields));
    assert_eq!(signal(&config, json!({})), Ok("SIGQUIT".parse().ok()));
    let none = image(&json!({"StopSignal": "SIGNONE"}));
    let refused = signal(&none, json!({})).unwrap_err();
    assert_eq!(refused.reason, Reason::ImageInvalid);
    assert!(refused.message.contains("SIGNONE"), "{refused}");
    assert_eq!(signal(&none, json!({"stop": {"signal": "INT"}})), Ok(None));
    assert_eq!(
        signal(&image(&json!({"StopSignal": ""})), json!({})),
        Ok(None)
    );
}

#[test]
fn names_and_paths_are_its_own() {
    let spec = plain(&json!({"Cmd": ["c"]}), &json!({}));
    assert_eq!(spec["hostname"], json!("web"));
    assert_eq!(spec["linux"]["cgroupsPath"], json!("/chas/x-1"));
    assert_eq!(
        spec["linux"]["namespaces"][4],
        json!({"type": "network", "path": "/n"})
    );
    let binds: Vec<_> = spec["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|mount| mount["type"] == "bind")
        .collect();
    let pairs: Vec<_> = binds
        .iter()
        .map(|mount| (&mount["source"], &mount["destination"]))
        .collect();
    let expected = [
        (json!("/r"), json!("/etc/resolv.conf")),
        (json!("/h"), json!("/etc/hosts")),
        (json!("/hn"), json!("/etc/hostname")),
    ];
    assert_eq!(
        pairs,
        expected
            .iter()
            .map(|(source, at)| (source, at))
            .collect::<Vec<_>>()
    );
    assert!(
        binds
            .iter()
            .all(|mount| mount["options"] == json!(["rbind", "ro", "nosuid", "nodev"]))
    );
}

#[test]
fn open_files_stay_below_what_the_host_allows() {
    let process = plain(&json!({"Cmd": ["c"]}), &json!({}))["process"].clone();
    assert_eq!(
        process["rlimits"],
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 1024, "hard": 4096},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ])
    );
    assert_eq!(process["oomScoreAdj"], json!(0));
}

#[test]
fn every_field_is_one_that_the_oci_schema_knows() {
    let spec = plain(
        &json!({"Cmd": ["c"]}),
        &json!({"resources": {"cpu": "1", "memory": "64m"}}),
    );
    let typed: oci_spec::runtime::Spec = serde_json::from_value(spec.clone()).unwrap();
    let back = serde_json::to_value(&typed).unwrap();
    for field in [
        "/process/args",
        "/process/noNewPrivileges",
        "/process/rlimits",
        "/root",
        "/mounts",
        "/linux/cgroupsPath",
        "/linux/namespaces",
        "/linux/resources/cpu",
        "/linux/resources/memory",
        "/linux/sysctl",
        "/linux/maskedPaths",
    ] {
        assert_eq!(back.pointer(field), spec.pointer(field), "{field}");
    }
}

/// Compares a whole spec byte for byte: containers in the field must not change by accident.
#[track_caller]
fn check_golden(
    expected: &str,
    config: &Value,
    fields: &Value,
    user: &User,
    machine: Machine,
    cgroup: Cgroup,
) {
    let mounts = [
        Mount::read_only("/run/chas/files/x-1/resolv.conf".into(), "/etc/resolv.conf"),
        Mount::read_only("/run/chas/files/x-1/hosts".into(), "/etc/hosts"),
        Mount::read_only("/run/chas/files/x-1/hostname".into(), "/etc/hostname"),
    ];
    let place = Placement {
        volumes: &[],
        netns: Some(Path::new("/run/chas/netns/x-1")),
        devices: &DeviceGrant::NONE,
        cgroups_path: "/chas/x-1",
        mounts: &mounts,
        sysfs: Path::new("/run/chas/files/x-1/sys"),
        ids: None,
        given: None,
    };
    let host = Host {
        machine,
        cgroup,
        open_files_max: 524_288,
        oom_score_min: -10,
        modules: NO_MODULES,
    };
    let (image, record) = (image(config), record(fields));
    let facts = ImageFacts {
        user: user.clone(),
        ..ImageFacts::default()
    };
    let json = spec(&image, &record, &facts, &host, &node_default(), place).unwrap();
    assert_eq!(String::from_utf8(json).unwrap(), expected.trim_end());
}

#[test]
fn a_plain_spec_is_written_as_ever() {
    check_golden(
        include_str!("tests/plain.json"),
        &json!({"Cmd": ["c"]}),
        &json!({}),
        &User::default(),
        Machine::X86_64,
        Cgroup::V1 { swap: true },
    );
}

#[test]
fn a_full_spec_is_written_as_ever() {
    let config = json!({
        "Entrypoint": ["/entry"], "Cmd": ["c"], "Env": ["PATH=/p", "A=1", "=x", "C"],
        "User": "web", "WorkingDir": "srv", "StopSignal": "SIGQUIT",
    });
    let fields = json!({
        "command": ["/bin/x"], "args": ["a", "b"], "environment": {"B": "2", "A": "x=y"},
        "user": "1000:1001", "working_dir": "/work",
        "resources": {"cpu": "0.5", "memory": "512m", "pids": 64},
        "security": {"read_only_rootfs": true, "capabilities": {"drop": ["ALL"], "add": ["SYS_CHROOT"]}},
    });
    let user = User {
        uid: 1000,
        gid: 1001,
        groups: vec![1500, 2000],
        home: Some("/srv/web".to_owned()),
    };
    check_golden(
        include_str!("tests/full.json"),
        &config,
        &fields,
        &user,
        Machine::Aarch64,
        Cgroup::V2,
    );
}
