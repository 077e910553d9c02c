//! Entries of credentials files: which one counts for which repository.

use super::*;

fn place(text: &str) -> AuthPlace {
    let (host, repository) = text.split_once('/').unwrap();
    AuthPlace {
        host: host.to_owned(),
        repository: repository.to_owned(),
        host_and_port: None,
    }
}

fn password(table: &Table, of: &str) -> Option<String> {
    match table.entry(&place(of))? {
        Ok(RegistrySecret::Password(value)) => Some(value.to_str().unwrap().to_owned()),
        other => panic!("{other:?}"),
    }
}

fn helper(name: &str, hosts: &[&str]) -> HelperChoice {
    HelperChoice {
        name: name.to_owned(),
        hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
    }
}

fn basic(user: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:p")))
}

#[test]
fn every_spelling_that_docker_writes_is_found() {
    let table = Table::parse(
        br#"{"auths": {"https://index.docker.io/v1/": {"auth": "dTpw"}, "R.example:5000": {"username": "u", "password": "p"},
             "http://q.example/v2/": {"auth": "dTpw", "email": "x"}, "empty.example": {}}, "credsStore": ""}"#,
    )
    .unwrap();
    for registry in ["docker.io", "r.example:5000", "q.example"] {
        let found = password(&table, &format!("{registry}/a/b"));
        assert_eq!(found.as_deref(), Some("Basic dTpw"), "{registry}");
    }
    assert_eq!(table.paths().len(), 3);
    assert_eq!(table.faults, [""; 0]);
}

#[test]
fn docker_hub_is_found_without_a_scheme_as_well() {
    for key in [
        "index.docker.io/v1/",
        "registry-1.docker.io/v2",
        "docker.io",
    ] {
        let text = format!(
            r#"{{"auths": {{"{key}": {{"auth": "dTpw"}}}}, "credHelpers": {{"{key}": "pass"}}}}"#
        );
        let table = Table::parse(text.as_bytes()).unwrap();
        let found = password(&table, "docker.io/library/nginx");
        assert_eq!(found.as_deref(), Some("Basic dTpw"), "{key}");
        let found = table.helper(&place("docker.io/library/nginx"));
        assert_eq!(found, Some(helper("pass", &["docker.io"])), "{key}");
    }
}

#[test]
fn a_password_goes_to_the_longest_path_it_was_given_for_and_nowhere_else() {
    let entry = |key: &str, user: &str| {
        (
            key.to_owned(),
            serde_json::json!({"auth": BASE64_STANDARD.encode(format!("{user}:p"))}),
        )
    };
    let auths: Map<String, Value> = [
        entry("r.example/team-a", "a"),
        entry("r.example/team-b", "b"),
        entry("r.example/team-b/secret/", "s"),
        entry("s.example", "all"),
        entry("s.example/one/image", "one"),
    ]
    .into_iter()
    .collect();
    let table = Table::parse(serde_json::json!({"auths": auths}).to_string().as_bytes()).unwrap();
    for (repository, user) in [
        ("r.example/team-a/x", Some("a")),
        ("r.example/team-a", Some("a")),
        ("r.example/team-b/x/y", Some("b")),
        ("r.example/team-b/secret", Some("s")),
        ("r.example/team-b/secret/x", Some("s")),
        ("r.example/team-b/secrets", Some("b")),
        ("r.example/team-ab/x", None),
        ("r.example/other", None),
        ("r.example:443/team-a/x", None),
        ("s.example/one", Some("all")),
        ("s.example/one/image", Some("one")),
    ] {
        assert_eq!(
            password(&table, repository),
            user.map(basic),
            "{repository}"
        );
    }
}

#[test]
fn a_team_called_v2_has_an_entry_of_its_own_and_docker_s_urls_are_whole_hosts() {
    let table = Table::parse(
        br#"{"auths": {"r.example/v2": {"auth": "dTpw"}, "https://s.example/v2/": {"auth": "dTpw"},
             "s.example/v1": {"auth": "djpw"}}}"#,
    )
    .unwrap();
    assert_eq!(password(&table, "r.example/team/x"), None);
    assert_eq!(password(&table, "r.example/v2/x").unwrap(), "Basic dTpw");
    assert_eq!(password(&table, "s.example/team/x").unwrap(), "Basic dTpw");
    assert_eq!(password(&table, "s.example/v1/x").unwrap(), "Basic djpw");
}

#[test]
fn a_host_that_is_also_known_with_its_port_is_found_in_both_spellings() {
    let table = Table::parse(
        br#"{"auths": {"m.example:443": {"auth": "dTpw"}, "m.example/team": {"auth": "djpw"}}}"#,
    )
    .unwrap();
    let mirror = |text| AuthPlace {
        host_and_port: Some("m.example:443".to_owned()),
        ..place(text)
    };
    let found = |text| match table.entry(&mirror(text)) {
        Some(Ok(RegistrySecret::Password(value))) => value.to_str().unwrap().to_owned(),
        other => panic!("{other:?}"),
    };
    assert_eq!(found("m.example/x"), "Basic dTpw");
    assert_eq!(found("m.example/team/x"), "Basic djpw");
    assert_eq!(password(&table, "m.example/x"), None);
}

#[test]
fn a_helper_is_asked_for_the_spelling_that_it_was_found_by() {
    let table = Table::parse(
        br#"{"credHelpers": {"m.example:443": "pass", "m.example/team": "vault", "off.example:443": ""}, "credsStore": "store"}"#,
    )
    .unwrap();
    for (repository, expected) in [
        ("m.example/x", Some(helper("pass", &["m.example:443"]))),
        ("m.example/team/x", Some(helper("vault", &["m.example"]))),
        ("off.example/x", None),
        (
            "n.example/x",
            Some(helper("store", &["n.example", "n.example:443"])),
        ),
    ] {
        let mut mirror = place(repository);
        mirror.host_and_port = Some(format!("{}:443", mirror.host));
        assert_eq!(table.helper(&mirror), expected, "{repository}");
    }
}

#[test]
fn of_two_spellings_the_one_without_scheme_counts_always() {
    for _ in 0..20 {
        let table = Table::parse(
            br#"{"auths": {"https://r.example": {"auth": "dTpw"}, "r.example": {"auth": "djpw"}, "http://r.example": {"auth": "dzpw"}}}"#,
        )
        .unwrap();
        assert_eq!(password(&table, "r.example/x").unwrap(), "Basic djpw");
        assert_eq!(table.faults.len(), 2, "{:?}", table.faults);
    }
}

#[test]
fn a_bad_entry_is_named_and_takes_no_other_away() {
    let table = Table::parse(
        br#"{"auths": {"good.example": {"auth": "dTpw"}, "null.example": null, "number.example": {"auth": 5},
             "bad.example": {"auth": "hunter2 hunter2"}, "text.example": "hunter2", "good.example/bad": {"auth": "hunter2"}},
             "credHelpers": {"helped.example": "../../bin/sh"}}"#,
    )
    .unwrap();
    assert_eq!(password(&table, "good.example/x").unwrap(), "Basic dTpw");
    for bad in [
        "null.example",
        "number.example",
        "bad.example",
        "text.example",
        "good.example/bad",
    ] {
        let found = table.entry(&place(&format!("{bad}/x")));
        assert!(
            matches!(found, Some(Err(fault)) if fault.contains(bad)),
            "{bad}: {found:?}"
        );
    }
    assert_eq!(table.faults.len(), 6, "{:?}", table.faults);
    assert!(!format!("{table:?}{table}").contains("hunter2"));
    assert_eq!(table.helper(&place("helped.example/x")), None);
}

#[test]
fn a_file_that_is_none_is_refused_without_its_secrets() {
    for text in [r#"{"auths": "hunter2"}"#, "hunter2", r#"["hunter2"]"#] {
        let fault = Table::parse(text.as_bytes()).unwrap_err();
        assert!(!fault.contains("hunter2"), "{fault}");
    }
}

#[test]
fn an_old_dockercfg_and_every_kind_of_token_are_read() {
    let table = Table::parse(br#"{"https://r.example": {"auth": "dTpw", "email": "x"}}"#).unwrap();
    assert_eq!(password(&table, "r.example/x").unwrap(), "Basic dTpw");
    let table = Table::parse(
        br#"{"auths": {"a.example": {"auth": "MDA6", "identitytoken": "RT"}, "b.example": {"registrytoken": "T"}},
             "credHelpers": {"c.example": "ecr-login"}, "credsStore": "pass"}"#,
    )
    .unwrap();
    let found = |of: &str| table.entry(&place(of)).cloned().unwrap().unwrap();
    assert!(found("a.example/x") == RegistrySecret::Identity("RT".to_owned()));
    assert!(matches!(found("b.example/x"), RegistrySecret::Token(value) if value == "Bearer T"));
    for (host, name) in [("c.example", "ecr-login"), ("d.example", "pass")] {
        let found = table.helper(&place(&format!("{host}/x")));
        assert_eq!(found, Some(helper(name, &[host])));
    }
}
