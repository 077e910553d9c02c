//! Files of clients: what is read of them, and what is not.

use super::*;

fn faults(file: &Value) -> Vec<String> {
    let faults = read(file).unwrap_err();
    let text = |fault: FieldError| format!("{}: {}", fault.field, fault.message);
    faults.into_iter().map(text).collect()
}

#[test]
fn what_is_written_is_read_again_as_it_was() {
    let expires = humantime::parse_rfc3339("2027-01-31T00:00:00Z").unwrap();
    let file = json!({"clients": [
        {"name": "ci", "role": "deploy", "names": ["web-*", "api"], "tokens": [
            {"hash": sha256(b"a"), "expires": "2027-01-31T00:00:00Z"}, {"hash": sha256(b"b")}],
         "certificates": ["ci.example", "spiffe://example/CI"]},
        {"name": "root", "role": "admin"},
    ]});
    let clients = read(&file).unwrap();
    assert_eq!(written(&clients), file);
    assert_eq!(read(&written(&clients)).unwrap(), clients);
    let ci = &clients[0];
    assert_eq!(ci.tokens[0], ClientToken::of("a", Some(expires)));
    assert!(ci.tokens[0].is_over(expires) && !ci.tokens[1].is_over(expires));
    let second = Duration::from_secs(1);
    assert!(!ci.tokens[0].is_over(expires - second));
    for (name, has) in [
        ("web-1", true),
        ("api", true),
        ("api-1", false),
        ("db", false),
    ] {
        assert_eq!(ci.names.has(&name.parse().unwrap()), has, "{name}");
    }
    assert_eq!(ci.names.to_string(), "web-* api");
    assert!(clients[1].names.has(&"db".parse().unwrap()));
    assert_eq!(read(&json!({"clients": []})), Ok(Vec::new()));
}

#[test]
fn every_fault_is_told_and_none_opens_a_door() {
    let hash = sha256(b"a");
    let client = |more: Value| {
        let mut client = json!({"name": "ci", "role": "deploy"});
        for (key, value) in more.as_object().unwrap() {
            client[key] = value.clone();
        }
        json!({"clients": [client]})
    };
    for (file, says) in [
        (json!({"client": []}), "did you mean \"clients\""),
        (json!([]), "must be an object"),
        // What is cut off, or forgotten, is no bound and no end.
        (Value::Null, "must be an object"),
        (json!({}), "clients: is required"),
        (json!({"clients": null}), "clients: has no value"),
        (
            client(json!({"names": null})),
            "clients[0].names: has no value",
        ),
        (
            client(json!({"tokens": [{"hash": hash, "expires": null}]})),
            "tokens[0].expires: has no value",
        ),
        (client(json!({"role": "root"})), "clients[0].role: must be"),
        (
            client(json!({"role": null})),
            "clients[0].role: has no value",
        ),
        (client(json!({"name": "a b"})), "clients[0].name"),
        (
            client(json!({"names": []})),
            "clients[0].names: must not be empty",
        ),
        (client(json!({"names": ["*x"]})), "clients[0].names"),
        (
            client(json!({"name": null})),
            "clients[0].name: has no value",
        ),
        (
            client(json!({"role": "admin", "names": ["web-*"]})),
            "an admin has to do with all",
        ),
        (
            client(json!({"tokens": [{"hash": "secret"}]})),
            "clients[0].tokens[0].hash",
        ),
        (
            client(json!({"tokens": [{"hash": hash, "expires": "soon"}]})),
            "tokens[0].expires",
        ),
        (
            client(json!({"tokens": [{"hash": hash}, {"hash": hash}]})),
            "stands twice",
        ),
        (
            client(json!({"certificates": ["*.example"]})),
            "certificates",
        ),
        (
            client(json!({"certificates": ["a.example", "A.example."]})),
            "stands twice",
        ),
        (
            json!({"clients": [{"name": "a", "role": "read"}, {"name": "a", "role": "read"}]}),
            "clients[1]: name a stands twice",
        ),
    ] {
        let faults = faults(&file);
        assert!(
            faults.iter().any(|fault| fault.contains(says)),
            "{file}: {faults:?}"
        );
    }
    let both = client(json!({"role": "x", "tokns": []}));
    assert_eq!(faults(&both).len(), 2);
}

#[test]
fn a_role_may_what_those_before_it_may() {
    assert!(Role::ALL.is_sorted());
    assert!(Role::Read < Role::Deploy && Role::Exec < Role::Admin);
}
