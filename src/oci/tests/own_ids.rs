//! Ids of a container's own, in the spec and as they are told.

use super::confinement::IdMapping;
use super::*;

fn with_ids(ids: Option<HostIds>) -> Value {
    let mounts = [Mount::writable("/h".into(), "/etc/hosts")];
    let place = Placement {
        volumes: &[],
        netns: Some(Path::new("/n")),
        devices: &DeviceGrant::NONE,
        cgroups_path: "/chas/x-1",
        mounts: &mounts,
        sysfs: Path::new("/k"),
        ids,
        given: None,
    };
    let host = Host {
        machine: Machine::X86_64,
        cgroup: Cgroup::V2,
        open_files_max: 4096,
        oom_score_min: 0,
        modules: NO_MODULES,
    };
    let (image, record) = (image(&json!({"Cmd": ["c"]})), record(&json!({})));
    let facts = ImageFacts::default();
    let made = spec(&image, &record, &facts, &host, &node_default(), place).unwrap();
    serde_json::from_slice(&made).unwrap()
}

#[test]
fn a_container_with_ids_of_its_own_is_asked_for_nothing_that_only_the_host_s_root_may() {
    let spec = with_ids(Some(HostIds { first: 70_000 }));
    let mapped = json!([{"containerID": 0, "hostID": 70_000, "size": 65_536}]);
    let linux = &spec["linux"];
    assert_eq!(
        (&linux["uidMappings"], &linux["gidMappings"]),
        (&mapped, &mapped)
    );
    assert_eq!(linux["sysctl"], Value::Null, "the network sets them");
    let namespaces = linux["namespaces"].as_array().unwrap();
    assert!(namespaces.contains(&json!({"type": "user"})));
    let mount = |destination: &str| {
        let mut mounts = spec["mounts"].as_array().unwrap().iter();
        let found = mounts.find(|mount| mount["destination"] == destination);
        found.unwrap().clone()
    };
    let options = ["rbind", "ro", "nosuid", "nodev", "noexec"];
    let sys = json!({"destination": "/sys", "type": "bind", "source": "/k", "options": options});
    assert_eq!(mount("/sys"), sys);
    let options = ["rbind", "rw", "nosuid", "nodev", "noexec"];
    assert_eq!(mount("/etc/hosts")["options"], json!(options));
}

#[test]
fn without_them_the_spec_is_what_it_was() {
    let linux = with_ids(None)["linux"].take();
    assert_eq!(linux["uidMappings"], Value::Null);
    let sysctl = json!({"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"});
    assert_eq!(linux["sysctl"], sysctl);
}

#[test]
fn it_is_told_whether_containers_have_them_and_why_not() {
    let auto = Confinement {
        user_ids: Some(100_000..=200_000),
        ..node_default()
    };
    let all = Confinement {
        capabilities: vec!["CAP_NET_RAW".to_owned()],
        ..auto.clone()
    };
    let unable = IdMapping::Unable("containerd 1.6.20 cannot".to_owned());
    for (confinement, mapping, in_force, part) in [
        (&node_default(), &IdMapping::Able, false, "user_namespaces"),
        (&auto, &IdMapping::Unknown, false, "not been asked"),
        (&auto, &unable, false, "1.6.20 cannot"),
        (&all, &IdMapping::Able, false, "that drop CAP_NET_RAW"),
        (&auto, &IdMapping::Able, true, "out of 100000-200000"),
    ] {
        let layer = confinement.user_namespaces(mapping);
        assert_eq!(layer.in_force, in_force, "{layer:?}");
        assert!(layer.detail.contains(part), "{layer:?}");
    }
}
