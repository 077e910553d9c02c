//! Steps that a registry may lead, and those it may not.

use state::subnet::Ipv4Subnet;

use super::*;

fn url(text: &str) -> Url {
    Url::parse(text).unwrap()
}

fn leading() -> Leading {
    let own = |hosts: &[&str]| {
        hosts
            .iter()
            .map(|&host| host.to_owned())
            .collect::<Vec<_>>()
    };
    Leading::new(
        &own(&["127.0.0.1:5000", "Plain.example", "eighty.example:80"]),
        &own(&["tokens.elsewhere", "192.0.2.9:8443", "127.0.0.1:9443"]),
        NearAddresses::new(Some("10.231.0.0/16".parse::<Ipv4Subnet>().unwrap().into())),
    )
}

#[test]
fn a_registry_leads_to_tls_or_to_listed_hosts_and_never_inward() {
    const FAR: &str = "https://r.example/v2";
    const PLAIN: &str = "http://plain.example/v2";
    let long = format!("https://cdn.example/{}", "x".repeat(URL_BYTES_MAX));
    for (from, to, is_near, refusal) in [
        (FAR, "https://cdn.example/x", false, None),
        (FAR, "https://192.0.2.7/x", false, None),
        (FAR, "https://10.1.2.3:5000/x", false, None),
        (PLAIN, "http://eighty.example/x", false, None),
        (PLAIN, "http://127.0.0.1:5000/x", true, None),
        (FAR, "https://127.0.0.1:9443/x", false, None),
        (FAR, "http://plain.example/x", false, None),
        (
            FAR,
            "http://cdn.example/x",
            false,
            Some("registry.insecure"),
        ),
        (
            PLAIN,
            "http://cdn.example/x",
            false,
            Some("registry.insecure"),
        ),
        (
            PLAIN,
            "http://plain.example:8080/x",
            false,
            Some("registry.insecure"),
        ),
        (PLAIN, "ftp://plain.example/x", false, Some("not TLS")),
        (FAR, "file:///etc/shadow", false, Some("not TLS")),
        (FAR, "data:text/plain,x", false, Some("not TLS")),
        (PLAIN, "http://127.0.0.1:5000/x", false, Some("this node")),
        (FAR, "https://127.0.0.1/x", false, Some("this node")),
        (FAR, "https://2130706433/x", false, Some("this node")),
        (FAR, "https://0x7f.1/x", false, Some("this node")),
        (FAR, "https://0/x", false, Some("this node")),
        (FAR, "https://[::1]/x", false, Some("this node")),
        (
            FAR,
            "https://[::ffff:127.0.0.1]/x",
            false,
            Some("this node"),
        ),
        (
            FAR,
            "https://169.254.169.254/latest",
            false,
            Some("this node"),
        ),
        (FAR, "https://[fe80::1]/x", false, Some("this node")),
        (FAR, "https://10.231.0.7/x", false, Some("this node")),
        (
            FAR,
            "https://admin:admin@192.0.2.7/x",
            false,
            Some("a user and a password"),
        ),
        (FAR, long.as_str(), false, Some("bytes")),
    ] {
        let found = leading().check(&url(from), &url(to), is_near, false);
        let found = found.err().map(|error| error.to_string());
        match refusal {
            None => assert_eq!(found, None, "{from} {to}"),
            Some(part) => assert!(
                found.as_ref().is_some_and(|found| found.contains(part)),
                "{from} {to}: {found:?}"
            ),
        }
    }
}

#[test]
fn no_secret_leaves_tls() {
    let (from, to) = (
        url("https://r.example/v2"),
        url("http://plain.example/token"),
    );
    let refused = leading().check(&from, &to, false, true).unwrap_err();
    assert!(refused.to_string().contains("with a secret"), "{refused}");
}

#[test]
fn a_node_from_before_shows_passwords_to_any_realm_with_tls() {
    let any = Leading::new(&[], &["any".to_owned()], NearAddresses::new(None));
    let endpoint = Endpoint {
        root: url("https://r.example/v2"),
        ..Endpoint::own("r.example", false).unwrap()
    };
    for (realm, is_told) in [
        ("https://tokens.elsewhere/x", true),
        ("http://tokens.elsewhere/x", false),
    ] {
        let found = any.check_secret(&endpoint, &url(realm), false);
        assert_eq!(found.is_ok(), is_told, "{realm}");
    }
    // No way inward.
    let inward = url("https://169.254.169.254/x");
    assert!(any.check(&endpoint.root, &inward, false, false).is_err());
}

#[test]
fn a_password_goes_to_the_registry_s_own_domain_and_to_whom_the_operator_names() {
    for (registry, realm, has_entry, is_told) in [
        (
            "https://registry-1.docker.io/v2",
            "https://auth.docker.io/token",
            false,
            true,
        ),
        (
            "https://registry.gitlab.com/v2",
            "https://gitlab.com/jwt/auth",
            false,
            true,
        ),
        ("https://us.icr.io/v2", "https://icr.io/token", false, true),
        (
            "https://r.example:5000/v2",
            "https://r.example:5001/token",
            false,
            true,
        ),
        (
            "http://127.0.0.1:5000/v2",
            "http://127.0.0.1:5001/token",
            false,
            true,
        ),
        (
            "http://registry:5000/v2",
            "http://registry:5001/token",
            false,
            true,
        ),
        (
            "https://r.example/v2",
            "https://tokens.elsewhere/x",
            false,
            true,
        ),
        (
            "https://r.example/v2",
            "https://192.0.2.9:8443/x",
            false,
            true,
        ),
        (
            "https://r.example/v2",
            "https://entry.elsewhere/x",
            true,
            true,
        ),
        (
            "https://r.example/v2",
            "https://evil.example/x",
            false,
            false,
        ),
        (
            "https://r.example/v2",
            "https://notr.example.evil/x",
            false,
            false,
        ),
        (
            "https://r.example/v2",
            "https://tokens.elsewhere:444/x",
            false,
            false,
        ),
        (
            "https://r.one.co.uk/v2",
            "https://r.two.co.uk/x",
            false,
            false,
        ),
        (
            "https://r.one.co.uk/v2",
            "https://t.one.co.uk/x",
            false,
            true,
        ),
        ("https://192.0.2.7/v2", "https://192.0.3.7/x", false, false),
        ("https://r.example/v2", "http://r.example/x", false, false),
        (
            "http://r.example/v2",
            "http://entry.elsewhere/x",
            true,
            false,
        ),
        ("https://registry/v2", "https://evil/x", false, false),
        (
            "https://registry.lan/v2",
            "https://gitlab.lan/x",
            false,
            true,
        ),
        ("https://registry.lan/v2", "https://lan/x", false, false),
        (
            "https://r.example/v2",
            "https://evil.example/x",
            false,
            false,
        ),
    ] {
        let endpoint = Endpoint {
            root: url(registry),
            ..Endpoint::own("r.example", false).unwrap()
        };
        let found = leading().check_secret(&endpoint, &url(realm), has_entry);
        assert_eq!(found.is_ok(), is_told, "{registry} {realm}");
        if let Err(error) = found {
            assert!(
                error.to_string().contains("registry.token_hosts"),
                "{error}"
            );
        }
    }
}
