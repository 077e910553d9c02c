use super::*;

/// Fields of a schema, with the paths of their objects.
fn paths(schema: &Value, path: &str, found: &mut Vec<String>) {
    let members = schema["properties"].as_object().into_iter().flatten();
    for (key, member) in members {
        let path = format!("{path}{key}");
        found.push(path.clone());
        paths(member, &format!("{path}."), found);
        paths(&member["items"], &format!("{path}[]."), found);
        for one in member["anyOf"].as_array().into_iter().flatten() {
            paths(one, &format!("{path}."), found);
        }
    }
}

#[test]
fn every_field_that_the_parser_reads_is_in_the_schema() {
    let bodies = bodies();
    let mut found = Vec::new();
    paths(&bodies["DeployBody"], "", &mut found);
    for path in [
        "name",
        "exposed_ports[].host_ip",
        "resources.io.read_bps",
        "health.http.headers",
        "health.exec.command",
        "network.allow.egress[].cidr",
        "schedule.missed_within",
        "volumes[].propagation",
        "after[].condition",
        "on_disconnect.stop_after",
    ] {
        assert!(found.iter().any(|known| known == path), "{path}: {found:?}");
    }
    assert!(found.len() > 100, "{}", found.len());
    // What a body is shown as has no member that the schema lacks.
    let deploy = parse::deploy(&json!({"name": "web", "image": "nginx"})).unwrap();
    for key in body::of_deploy(&deploy).as_object().unwrap().keys() {
        assert!(found.contains(key), "{key}");
    }
}

#[test]
fn type_range_default_and_words_are_those_of_the_parser() {
    let bodies = bodies();
    let deploy = &bodies["DeployBody"];
    assert_eq!(deploy["required"], json!(["name", "image"]));
    assert_eq!(deploy["additionalProperties"], json!(false));
    assert_eq!(
        deploy["properties"]["resources"]["properties"]["pids"],
        json!({"type": ["integer", "null"], "minimum": 1, "maximum": 4_194_304, "default": 4096,
            "description": "must be a whole number from 1 to 4194304"})
    );
    let timeout = &deploy["properties"]["stop"]["properties"]["timeout"];
    let words = timeout["description"].as_str().unwrap();
    assert!(
        words.starts_with("must be a duration of 1h at most"),
        "{words}"
    );
    assert_eq!(
        (&timeout["default"], &timeout["maximum"]),
        (&json!("10s"), &json!(3600))
    );
    let memory = &deploy["properties"]["resources"]["properties"]["memory"];
    assert_eq!(memory["type"], json!(["string", "number", "null"]));
    let words = memory["description"].as_str().unwrap();
    assert!(
        words.starts_with("must be a size: write a number of bytes"),
        "{words}"
    );
    assert_eq!(
        deploy["properties"]["restart"]["properties"]["policy"]["enum"],
        json!(["always", "on-failure", "never", null])
    );
    assert_eq!(bodies["ExecBody"]["required"], json!(["command"]));
}

#[test]
fn nobody_can_send_the_probe() {
    // It is told by its address; a null, and a text that looks like its answer, are faults.
    let body = json!({"name": null, "image": "\0{}", "priority": "\0{\"type\":\"string\"}"});
    let faults = parse::deploy(&body).unwrap_err();
    assert!(
        faults.iter().all(|fault| !fault.message.contains('\0')),
        "{faults:?}"
    );
}
