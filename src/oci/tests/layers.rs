//! Security modules of the host, in the spec and as they are told.

use super::*;

#[test]
fn a_container_has_the_profile_of_apparmor_if_it_is_loaded() {
    let (image, record) = (image(&json!({"Cmd": ["c"]})), record(&json!({})));
    let place = Placement {
        volumes: &[],
        netns: Some(Path::new("/n")),
        devices: &DeviceGrant::NONE,
        cgroups_path: "/chas/x-1",
        mounts: &[],
        sysfs: Path::new("/k"),
        ids: None,
        given: None,
    };
    let profile = |apparmor| {
        let host = Host {
            machine: Machine::X86_64,
            cgroup: Cgroup::V2,
            open_files_max: 4096,
            oom_score_min: 0,
            modules: SecurityModules {
                apparmor,
                ..NO_MODULES
            },
        };
        let facts = ImageFacts::default();
        let made = spec(&image, &record, &facts, &host, &node_default(), place).unwrap();
        serde_json::from_slice::<Value>(&made).unwrap()["process"]["apparmorProfile"].take()
    };
    assert_eq!(profile(AppArmor::Enforcing), "chas-default");
    assert_eq!(profile(AppArmor::Complaining), "chas-default");
    assert_eq!(profile(AppArmor::NoProfile), Value::Null);
    assert_eq!(profile(AppArmor::Off), Value::Null);
}

#[test]
fn what_is_in_force_is_told_with_the_reason_for_what_is_not() {
    let told = |cgroup, apparmor, selinux| {
        let host = Host {
            machine: Machine::X86_64,
            cgroup,
            open_files_max: 4096,
            oom_score_min: 0,
            modules: SecurityModules { apparmor, selinux },
        };
        let layers = node_default().layers(&host);
        let layers = layers.into_iter();
        layers
            .map(|layer| (layer.name, layer))
            .collect::<BTreeMap<_, _>>()
    };
    let debian = told(Cgroup::V2, AppArmor::NoProfile, Selinux::Off);
    let expected = [
        ("apparmor", false, "not loaded"),
        ("seccomp", true, "moby's list"),
        ("selinux", false, "not on"),
        ("tunnels", false, "cgroup v2"),
    ];
    assert_eq!(debian.len(), expected.len());
    for (name, in_force, part) in expected {
        assert_eq!(debian[name].in_force, in_force, "{name}");
        assert!(debian[name].detail.contains(part), "{:?}", debian[name]);
    }
    let loaded = told(
        Cgroup::V1 { swap: true },
        AppArmor::Enforcing,
        Selinux::Enforcing,
    );
    assert!(loaded["apparmor"].in_force && loaded["tunnels"].in_force);
    assert!(!loaded["selinux"].in_force, "containers get no label");
    assert!(told(Cgroup::V2, AppArmor::Enforcing, Selinux::Off)["tunnels"].in_force);
}
