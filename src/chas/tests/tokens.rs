//! Tests of the token that CHaS issues: how long it lives, and what is kept of it.

use std::path::{Path, PathBuf};

use crate::chas::credentials::{ChasCredentials, Tokens, Transport};
use crate::config::{ChasSection, Secret};

fn chas(url: &str, ca_file: Option<&str>) -> ChasSection {
    ChasSection {
        url: url.parse().unwrap(),
        token: Some(Secret::new("given")),
        token_file: None,
        ca_file: ca_file.map(PathBuf::from),
        identity: None,
        plain_http: true,
        set_key_file: None,
    }
}

/// Token that an agent with this configuration and this file shows.
fn shown(chas: &ChasSection, file: &Path) -> String {
    // Other tests of this process may have.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let tokens = Tokens::new(chas, Some(file.to_owned()));
    let credentials = ChasCredentials {
        // The certificates are none of a token's business.
        transport: std::sync::Arc::new(Transport::default()),
        tokens: std::sync::Arc::new(tokens),
    };
    let (_, current) = credentials.current();
    current.unwrap().1.unwrap().expose().to_owned()
}

#[test]
fn an_issued_token_ends_with_the_configuration_that_it_was_issued_under() {
    const URL: &str = "https://chas.example/";
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let first = chas(URL, Some("/etc/chas/ca.pem"));
    Tokens::new(&first, Some(file.clone())).issue("issued");
    for (what, now, expected) in [
        ("the same", first.clone(), "issued"),
        (
            "another authority",
            chas(URL, Some("/etc/chas/other.pem")),
            "given",
        ),
        ("none", chas(URL, None), "given"),
        (
            "another server",
            chas("https://other.example/", Some("/etc/chas/ca.pem")),
            "given",
        ),
    ] {
        assert_eq!(shown(&now, &file), expected, "{what}");
    }
    // An older agent did not note the authority.
    let old: serde_json::Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let mut old = old.as_object().unwrap().clone();
    assert!(old.remove("trust_sha256").is_some());
    std::fs::write(&file, serde_json::to_vec(&old).unwrap()).unwrap();
    assert_eq!(shown(&first, &file), "issued");
}

#[test]
fn a_token_that_came_in_the_clear_is_not_kept_and_one_of_this_machine_is() {
    for (url, is_kept) in [
        ("https://chas.example/", true),
        ("http://127.0.0.1:8080/", true),
        ("http://[::1]:8080/", true),
        ("http://localhost:8080/", true),
        ("http://chas-api:8080/", false),
        ("http://192.0.2.7/", false),
        ("http://localhost.example/", false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        // Kept by an older agent, and used until there is another.
        let before = format!(r#"{{"url": "{url}", "given_sha256": "", "token": "before"}}"#);
        std::fs::write(&file, before).unwrap();
        let chas = ChasSection {
            token: None,
            plain_http: false,
            ..chas(url, None)
        };
        assert_eq!(shown(&chas, &file), "before", "{url}");
        let tokens = Tokens::new(&chas, Some(file.clone()));
        tokens.issue("issued");
        let kept = std::fs::read_to_string(&file).unwrap_or_default();
        assert_eq!(kept.contains("issued"), is_kept, "{url}");
        assert_eq!(file.exists(), is_kept, "{url}");
        // An operator who accepts that way keeps it over a restart.
        let accepted = ChasSection {
            plain_http: true,
            ..chas
        };
        Tokens::new(&accepted, Some(file.clone())).issue("accepted");
        assert_eq!(shown(&accepted, &file), "accepted", "{url}");
    }
}
