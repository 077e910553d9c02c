use serde_json::json;
use state::assign::Pool;
use state::desired::Owner;
use state::store::{Limits, Store};

use super::host::Machine;
use super::*;

/// The record that a deploy body with these fields becomes.
pub(crate) fn record(fields: &Value) -> Record {
    let mut body = json!({"name": "web", "image": "nginx"});
    body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let directory = tempfile::tempdir().unwrap();
    let addresses = std::net::Ipv4Addr::new(10, 0, 0, 2)..=std::net::Ipv4Addr::new(10, 0, 0, 2);
    let limits = Limits { pool: Pool { addresses, ports: 1..=1 }, containers_max: 1 };
    let store = Store::open(directory.path(), limits).unwrap();
    let deploy = state::spec::parse::deploy(&body).unwrap();
    Record::clone(&store.deploy(deploy, Owner::Push, true, 0, |_| false).unwrap().record)
}

fn image(config: &Value) -> ImageConfiguration {
    let whole = json!({"architecture": "amd64", "os": "linux", "config": config, "rootfs": {"type": "layers", "diff_ids": []}});
    serde_json::from_value(whole).unwrap()
}

fn build(config: &Value, fields: &Value, user: &User, cgroup: Cgroup) -> Result<Value, RuntimeError> {
    let attached = Attached { netns: "/n".into(), resolv_conf: "/r".into(), hosts: "/h".into(), hostname: "/hn".into() };
    let host = Host { machine: Machine::X86_64, cgroup, open_files_max: 4096, oom_score_min: 0 };
    let json = spec(&image(config), &record(fields), user, &attached, &host, "/chas/x-1")?;
    Ok(serde_json::from_slice(&json).unwrap())
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
    assert!(matches!(nothing, RuntimeError::Failed { reason: Reason::CommandNotFound, .. }));
}

#[test]
fn the_environment_is_the_images_then_ours_then_what_was_asked() {
    let user = User { home: Some("/srv".to_owned()), ..User::default() };
    let config = json!({"Cmd": ["c"], "Env": ["PATH=/p", "A=1", "B=1"]});
    let spec = build(&config, &json!({"environment": {"B": "2", "C": "x=y"}}), &user, Cgroup::V2).unwrap();
    assert_eq!(spec["process"]["env"], json!(["A=1", "B=2", "C=x=y", "HOME=/srv", "HOSTNAME=web", "PATH=/p"]));
    let bare = plain(&json!({"Cmd": ["c"]}), &json!({}));
    assert_eq!(bare["process"]["env"], json!(["HOSTNAME=web", format!("PATH={PATH_DEFAULT}")]));
}

#[test]
fn limits_are_in_the_kernels_terms() {
    let cmd = json!({"Cmd": ["c"]});
    let wanted = json!({"resources": {"cpu": "0.5", "memory": "512m", "pids": 64}});
    let resources = plain(&cmd, &wanted)["linux"]["resources"].clone();
    assert_eq!(resources["devices"][0], json!({"allow": false, "access": "rwm"}));
    assert_eq!(resources["cpu"], json!({"period": 100_000, "quota": 50_000, "shares": 512}));
    assert_eq!(resources["memory"], json!({"limit": 536_870_912, "swap": 536_870_912}));
    assert_eq!(resources["pids"], json!({"limit": 64}));
    let unaccounted = build(&cmd, &wanted, &User::default(), Cgroup::V1 { swap: false }).unwrap();
    assert_eq!(unaccounted["linux"]["resources"]["memory"], json!({"limit": 536_870_912}));
    let unlimited = plain(&cmd, &json!({}));
    assert_eq!(
        (&unlimited["linux"]["resources"]["cpu"], &unlimited["linux"]["resources"]["memory"]),
        (&Value::Null, &Value::Null)
    );
}

#[test]
fn it_is_confined() {
    let spec = plain(&json!({"Cmd": ["c"]}), &json!({"security": {"read_only_rootfs": true, "capabilities": {"drop": ["ALL"]}}}));
    assert_eq!(spec["process"]["noNewPrivileges"], json!(true));
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!([]));
    assert_eq!(spec["root"], json!({"path": "rootfs", "readonly": true}));
    assert_eq!(spec["linux"]["seccomp"]["defaultAction"], json!("SCMP_ACT_ERRNO"));
    assert!(spec["linux"]["maskedPaths"].as_array().unwrap().contains(&json!("/proc/kcore")));
    let kinds = |spec: &Value| {
        spec["linux"]["namespaces"].as_array().unwrap().iter().map(|n| n["type"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&spec), ["pid", "ipc", "uts", "mount", "network"]);
    let unified = build(&json!({"Cmd": ["c"]}), &json!({}), &User::default(), Cgroup::V2).unwrap();
    assert_eq!(kinds(&unified), ["pid", "ipc", "uts", "mount", "network", "cgroup"]);
}

#[test]
fn user_directory_and_signal_come_from_the_record_or_else_the_image() {
    let config = image(&json!({"Cmd": ["c"], "User": "web", "WorkingDir": "srv", "StopSignal": "SIGQUIT"}));
    assert_eq!(wanted_user(&config, &record(&json!({}))), "web");
    assert_eq!(wanted_user(&config, &record(&json!({"user": "0"}))), "0");
    assert_eq!(working_dir(&config, &record(&json!({}))), "/srv");
    assert_eq!(working_dir(&config, &record(&json!({"working_dir": "/x"}))), "/x");
    assert_eq!(stop_signal(&config), "SIGQUIT".parse().ok());
}
