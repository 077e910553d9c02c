//! Limits of a container in an OCI spec.

use super::*;

#[test]
fn limits_of_a_process_are_the_nodes_but_for_those_asked_for() {
    let cmd = json!({"Cmd": ["c"]});
    let process = plain(&cmd, &json!({}))["process"].clone();
    let limit =
        |name: &str, soft: u64, hard: u64| json!({"type": name, "soft": soft, "hard": hard});
    let (nofile, core) = (
        limit("RLIMIT_NOFILE", 1024, 4096),
        limit("RLIMIT_CORE", 0, 0),
    );
    assert_eq!(process["rlimits"], json!([nofile, core]));
    assert_eq!(process["oomScoreAdj"], json!(0));
    let asked = json!({"ulimits": {"nofile": "70:unlimited", "stack": 900_000}, "oom_score": 300, "shm_size": "1g"});
    let spec = plain(&cmd, &asked);
    let expected = [
        core,
        limit("RLIMIT_NOFILE", 70, u64::MAX),
        limit("RLIMIT_STACK", 900_000, 900_000),
    ];
    assert_eq!(spec["process"]["rlimits"], json!(expected));
    assert_eq!(spec["process"]["oomScoreAdj"], json!(300));
    let mounts = spec["mounts"].as_array().unwrap();
    let shm = mounts
        .iter()
        .find(|mount| mount["destination"] == "/dev/shm");
    assert_eq!(shm.unwrap()["options"][4], "size=1048576k");
}

#[test]
fn limits_are_in_the_kernels_terms() {
    let cmd = json!({"Cmd": ["c"]});
    let wanted = json!({"resources": {"cpu": "0.5", "memory": "512m", "pids": 64}});
    let resources = plain(&cmd, &wanted)["linux"]["resources"].clone();
    assert_eq!(
        resources["devices"][0],
        json!({"allow": false, "access": "rwm"})
    );
    assert_eq!(
        resources["cpu"],
        json!({"period": 100_000, "quota": 50_000, "shares": 512})
    );
    assert_eq!(
        resources["memory"],
        json!({"limit": 536_870_912, "swap": 536_870_912})
    );
    assert_eq!(resources["pids"], json!({"limit": 64}));
    let most = plain(&cmd, &json!({"resources": {"cpu": "1024"}}));
    assert_eq!(most["linux"]["resources"]["cpu"]["shares"], json!(262_144));
    let least = plain(&cmd, &json!({"resources": {"cpu": "0.01"}}));
    assert_eq!(
        least["linux"]["resources"]["cpu"],
        json!({"period": 100_000, "quota": 1000, "shares": 10})
    );
    let all = json!({"resources": {
        "cpu": 2, "cpu_reservation": "0.25", "cpuset": "1,0", "memory": "64m", "swap": "16m",
        "memory_reservation": "32m", "io": {"weight": 200},
    }});
    let resources = plain(&cmd, &all)["linux"]["resources"].clone();
    assert_eq!(
        resources["cpu"],
        json!({"period": 100_000, "quota": 200_000, "shares": 256, "cpus": "0-1"})
    );
    assert_eq!(
        resources["memory"],
        json!({"limit": 64 << 20, "swap": 80 << 20, "reservation": 32 << 20})
    );
    assert_eq!(resources["blockIO"], json!({"weight": 200}));
    let weighed = json!({"resources": {"cpu": 2, "cpu_reservation": 1, "cpu_shares": 10, "memory": "64m", "swap": "unlimited"}});
    let resources = plain(&cmd, &weighed)["linux"]["resources"].clone();
    assert_eq!(resources["cpu"]["shares"], json!(10));
    assert_eq!(resources["memory"]["swap"], json!(-1));
    let unaccounted = build(&cmd, &wanted, &User::default(), Cgroup::V1 { swap: false }).unwrap();
    assert_eq!(
        unaccounted["linux"]["resources"]["memory"],
        json!({"limit": 536_870_912})
    );
    let unlimited = plain(&cmd, &json!({}));
    assert_eq!(
        (
            &unlimited["linux"]["resources"]["cpu"],
            &unlimited["linux"]["resources"]["memory"]
        ),
        (&Value::Null, &Value::Null)
    );
}
