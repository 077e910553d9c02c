//! Bounds on swap, weights, groups and sysctls.

use super::*;

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
    ];
    for (rule, deploy, expected) in table {
        assert_eq!(denied(&rule, &deploy), expected, "{rule} {deploy}");
    }
    for wrong in ["", "net core", "*.x"] {
        assert!(wrong.parse::<sysctls::SysctlPattern>().is_err());
    }
}
