//! Faults of files and secrets in bodies.

use super::*;
use crate::spec::parse;

#[track_caller]
fn faults(more: &Value) -> Vec<String> {
    let mut body = json!({"name": "a", "image": "x"});
    let members = body.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    let faults = parse::deploy(&body).err().unwrap_or_default();
    faults.into_iter().map(|fault| fault.field).collect()
}

#[test]
fn every_fault_of_files_and_secrets_is_told() {
    for (body, fields) in [
        (json!({"files": [{"path": "/a"}]}), vec!["files[0].content"]),
        (
            json!({"files": [{"path": "a", "content": 1, "mode": "999", "user": "root"}]}),
            vec![
                "files[0].path",
                "files[0].content",
                "files[0].mode",
                "files[0].user",
            ],
        ),
        (
            json!({"files": [{"path": "/proc/a", "content": "", "content_base64": "!"}]}),
            vec![
                "files[0].path",
                "files[0].content_base64",
                "files[0].content_base64",
            ],
        ),
        (
            json!({"files": [{"path": "/a", "content": ""}, {"path": "/a", "content": ""}]}),
            vec!["files[1].path"],
        ),
        (
            json!({"files": [{"path": "/.chas/env", "content": ""}]}),
            vec!["files[0].path"],
        ),
        (
            json!({"files": [{"path": "/a", "content": "", "user": "65536:0"}, {"path": "/b", "content": "", "user": "0:65535"}]}),
            vec!["files[0].user"],
        ),
        (
            json!({"files": [{"path": "/a", "content": null}]}),
            vec!["files[0].content"],
        ),
        (
            json!({"secrets": [{"name": "X"}, {"name": "a", "env": "A", "path": "/a"}]}),
            vec!["secrets[0].name", "secrets[0].path", "secrets[1].env"],
        ),
        (
            json!({"secrets": [{"name": "a", "env": "A", "on_change": "replace", "mode": "0400"}]}),
            vec!["secrets[0].mode", "secrets[0].on_change"],
        ),
        (
            json!({"secrets": [{"name": "a", "path": "/a", "on_change": "replace"}]}),
            vec!["secrets[0].path"],
        ),
        (
            json!({"environment": {"A": ""}, "secrets": [{"name": "a", "env": "A"}, {"name": "a", "env": "B="}]}),
            vec!["secrets[1].env", "secrets[0].env"],
        ),
        (
            json!({"files": [{"path": "/run/x/f", "content": ""}],
                "secrets": [{"name": "a", "path": "/run/x/k", "on_change": "replace"}, {"name": "b", "path": "/run/x/l"}]}),
            vec!["files[0].path"],
        ),
        (
            json!({"files": [{"path": "/run/x/sub/f", "content": ""}, {"path": "/run/xy", "content": ""}],
                "volumes": [{"tmpfs": "1m", "path": "/run/x/v"}, {"tmpfs": "1m", "path": "/run"}],
                "secrets": [{"name": "a", "path": "/run/x/k", "on_change": "replace"},
                    {"name": "b", "path": "/run/x/sub/l"},
                    {"name": "b", "path": "/run/x/y/l", "on_change": "replace"}]}),
            vec![
                "files[0].path",
                "secrets[1].path",
                "secrets[2].path",
                "volumes[0].path",
            ],
        ),
        (
            json!({"secrets": [{"name": "a", "path": "/etc/k", "on_change": "replace"},
                {"name": "a", "path": "/etc/tls/k", "on_change": "replace"}]}),
            vec!["secrets[0].path", "secrets[1].path"],
        ),
        (
            json!({"secrets": [{"name": "a", "path": "/etc/tls/k", "on_change": "replace"},
                {"name": "a", "path": "/etc/tls/..data"}, {"name": "a", "path": "/etc/key"}]}),
            vec!["secrets[1].path"],
        ),
        (
            json!({"volumes": [{"tmpfs": "1m", "path": "/run/x"}],
                "secrets": [{"name": "a", "path": "/run/x/k", "on_change": "replace"}]}),
            vec!["volumes[0].path"],
        ),
    ] {
        assert_eq!(faults(&body), fields, "{body}");
    }
    let big = "x".repeat((1 << 20) + 1);
    let body = json!({"files": [{"path": "/a", "content": big}]});
    assert_eq!(faults(&body), ["files"]);
}

#[test]
fn a_value_is_text_or_base64_and_in_no_fault() {
    assert_eq!(value(&json!({"value": "ä"})).unwrap(), "ä".as_bytes());
    assert_eq!(value(&json!({"value_base64": "AA=="})).unwrap(), [0]);
    for body in [
        json!({}),
        json!({"value": 815}),
        json!({"value": "815", "value_base64": "AA=="}),
        json!({"value_base64": "815!"}),
        json!({"value": "x", "more": "815"}),
        json!("815"),
    ] {
        let faults = value(&body).unwrap_err();
        let told = format!("{faults:?}");
        assert!(!faults.is_empty() && !told.contains("815"), "{told}");
    }
}
