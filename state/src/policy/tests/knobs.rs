//! Bounds on swap, weights, groups and sysctls.

use super::*;

/// A node that gives some of what it need not give.
fn giving() -> NodePrivileges {
    NodePrivileges {
        host_network: true,
        devices: ["/dev/fuse", "v.com/gpu=*"]
            .map(|text| text.parse().unwrap())
            .into(),
        host_paths: ["/srv", "/srv/ro:ro"]
            .map(|text| text.parse().unwrap())
            .into(),
        runtimes: ["crun".to_owned()].into(),
        ..NodePrivileges::default()
    }
}

/// A path to be written, one to be read that is not asked for so, and one of nobody's.
fn host_paths() -> Value {
    let volume = |host: &str| json!({"host_path": host, "path": format!("/mnt{host}")});
    json!({"volumes": [volume("/srv/a"), volume("/srv/ro/a"), volume("/srvs")]})
}

#[test]
fn what_lies_beside_a_bound_is_bounded_with_it() {
    let table = [
        (json!({"swap": 0}), json!({}), vec!["resources.memory"]),
        (
            json!({"swap": 0}),
            json!({"resources": {"memory": "1g"}}),
            vec![],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "1g"}}),
            vec![],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "1025m"}}),
            vec!["resources.swap"],
        ),
        (
            json!({"swap": "1g"}),
            json!({"resources": {"memory": "1g", "swap": "unlimited"}}),
            vec!["resources.swap"],
        ),
        (
            json!({"cpu": 2}),
            json!({"resources": {"cpu": 2, "cpu_shares": 2048, "cpu_reservation": 2}}),
            vec![],
        ),
        (
            json!({"cpu": 2}),
            json!({"resources": {"cpu": 2, "cpu_shares": 2049}}),
            vec!["resources.cpu_shares"],
        ),
        (
            json!({"cpu": 2}),
            json!({"resources": {"cpu_reservation": 3}}),
            vec!["resources.cpu", "resources.cpu_reservation"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "1000", "groups": ["44", "00"]}),
            vec!["groups"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "1000", "groups": ["root"]}),
            vec!["groups"],
        ),
        (
            json!({"non_root": true}),
            json!({"user": "1000", "groups": ["44"]}),
            vec![],
        ),
        (
            json!({"sysctls": ["net.core.*", "kernel.shmmax"]}),
            json!({"sysctls": {"net.core.somaxconn": "1", "kernel.shmmax": "1", "kernel.sem": "1"}}),
            vec!["sysctls.kernel.sem"],
        ),
        (
            json!({"sysctls": []}),
            json!({"sysctls": {"kernel.sem": "1"}}),
            vec!["sysctls.kernel.sem"],
        ),
        (json!({"sysctls": []}), json!({}), vec![]),
        (
            json!({"networks": ["bridge"]}),
            json!({"network": "none"}),
            vec!["network"],
        ),
        (
            json!({"networks": ["bridge", "none"]}),
            json!({"network": "none"}),
            vec![],
        ),
        (json!({"networks": ["none"]}), json!({}), vec!["network"]),
    ];
    for (rule, deploy, expected) in table {
        assert_eq!(denied(&rule, &deploy), expected, "{rule} {deploy}");
    }
    for (node, asked, expected) in [
        (
            NodePrivileges::default(),
            json!({"network": "host"}),
            vec!["network"],
        ),
        (giving(), json!({"network": "host"}), vec![]),
        (
            NodePrivileges::default(),
            json!({"devices": ["/dev/fuse"], "runtime": "crun"}),
            vec!["devices[0]", "runtime"],
        ),
        (
            giving(),
            json!({"devices": ["/dev/fuse", "/dev/sda:/dev/fuse2", "v.com/gpu=0", "v.com/nic=0"], "runtime": "crun"}),
            vec!["devices[1]", "devices[3]"],
        ),
        (giving(), json!({"runtime": "kata"}), vec!["runtime"]),
        (
            NodePrivileges::default(),
            host_paths(),
            vec![
                "volumes[0].host_path",
                "volumes[1].host_path",
                "volumes[2].host_path",
            ],
        ),
        (
            giving(),
            host_paths(),
            vec!["volumes[1].read_only", "volumes[2].host_path"],
        ),
    ] {
        let spec = body(&asked).spec;
        let fields: Vec<_> = node
            .denials(&spec)
            .into_iter()
            .map(|denial| denial.field)
            .collect();
        assert_eq!(fields, expected, "{asked}");
    }
    for (rule, expected) in [
        (
            json!({"host_paths": ["/srv/a/b"]}),
            vec!["volumes[0].host_path"],
        ),
        (
            json!({"host_paths": ["/srv:ro"]}),
            vec!["volumes[0].read_only"],
        ),
        (
            json!({"devices": ["v.com/*"], "runtimes": ["crun"]}),
            vec!["devices[0]"],
        ),
        (
            json!({"devices": [], "runtimes": ["default"]}),
            vec!["devices[0]", "devices[1]", "runtime"],
        ),
    ] {
        let asked = json!({"devices": ["/dev/fuse", "v.com/gpu=0"], "runtime": "crun",
            "volumes": [{"host_path": "/srv/a", "path": "/a"}]});
        let mut policy = with(&rule);
        policy.node = giving();
        let denials = policy.judge_start(&Record {
            spec: body(&asked).spec,
            ..record("web", 1)
        });
        let fields: Vec<_> = denials.into_iter().map(|denial| denial.field).collect();
        assert_eq!(fields, expected, "{rule}");
    }
    for wrong in ["", "net core", "*.x"] {
        assert!(wrong.parse::<patterns::TextPattern>().is_err());
    }
}
