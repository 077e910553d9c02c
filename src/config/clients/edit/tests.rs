//! Orders about tokens, on a file.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use state::access::Role;

use super::*;

fn order(name: &str, role: Option<Role>, names: &[&str], days: Option<u64>) -> TokenOrder {
    TokenOrder::Create(NewToken {
        name: name.to_owned(),
        role,
        names: names.iter().map(|name| name.parse().unwrap()).collect(),
        expires_in: days.map(|days| Duration::from_hours(24 * days)),
    })
}

#[test]
fn a_token_is_shown_once_and_known_by_its_fingerprint_until_it_is_taken_back() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("etc/clients.yaml");
    let begin = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 20_000);
    let at = |days: u64| begin + Duration::from_hours(24 * days);
    let carry = |order: &TokenOrder, days| order.carry_out(&path, at(days));
    let list = |days| carry(&TokenOrder::List, days).unwrap();
    assert!(list(0).contains("No clients"));
    let deployer = order("ci", Some(Role::Deploy), &["web-*", "api"], Some(90));
    let first = carry(&deployer, 0).unwrap();
    let second = carry(&order("ci", None, &[], None), 1).unwrap();
    assert!(first.starts_with("chas_") && first.trim().len() == 48 && first != second);
    carry(&order("root", Some(Role::Admin), &[], None), 1).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    assert!(
        !text.contains(first.trim()) && text.starts_with(HEAD),
        "{text}"
    );
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let known = |token: &str| ClientToken::of(token.trim(), None);
    let clients = read(&path).unwrap().unwrap();
    let hashes: Vec<_> = clients[0].tokens.iter().map(|token| &token.hash).collect();
    assert_eq!(hashes, [&known(&first).hash, &known(&second).hash]);
    assert!(
        list(89).contains("ci  deploy  web-* api\n") && list(89).contains("expires 2025-01-02"),
        "{}",
        list(89)
    );
    assert!(list(91).contains("expired 2025-01-02"), "{}", list(91));
    // What is over is taken out with the next one.
    carry(
        &order("ci", Some(Role::Deploy), &["web-*", "api"], None),
        91,
    )
    .unwrap();
    assert!(!list(91).contains(known(&first).id()));
    let taken = carry(&TokenOrder::Revoke(known(&second).id().to_owned()), 91).unwrap();
    assert!(taken.contains("of ci"), "{taken}");
    assert_eq!(read(&path).unwrap().unwrap()[0].tokens.len(), 1);
    carry(&TokenOrder::Revoke("ci".to_owned()), 91).unwrap();
    assert!(!list(91).contains("ci  deploy") && list(91).contains("root  admin  *\n"));
}

#[test]
fn an_order_that_cannot_be_carried_out_says_why_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("clients.yaml");
    let now = SystemTime::now();
    order("ci", Some(Role::Read), &[], None)
        .carry_out(&path, now)
        .unwrap();
    let before = fs::read_to_string(&path).unwrap();
    for (order, says) in [
        (order("new", None, &[], None), "--role"),
        (
            order("ci", Some(Role::Admin), &[], None),
            "has the role read for *",
        ),
        (
            order("ci", None, &["web-*"], None),
            "has the role read for *",
        ),
        (order("a b", Some(Role::Read), &[], None), "must be 1 to 63"),
        (
            order("x", Some(Role::Admin), &["web-*"], None),
            "an admin has to do with all",
        ),
        (TokenOrder::Revoke("nobody".to_owned()), "token list"),
        (TokenOrder::Revoke("sha256:".to_owned()), "token list"),
    ] {
        let fault = order.carry_out(&path, now).unwrap_err();
        assert!(fault.contains(says), "{fault}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
    for _ in 1..TOKENS_MAX {
        order("ci", None, &[], None).carry_out(&path, now).unwrap();
    }
    let fault = order("ci", None, &[], None)
        .carry_out(&path, now)
        .unwrap_err();
    assert!(fault.contains("8 tokens"), "{fault}");
    // A file that others could have read or written is nobody's word.
    for mode in [0o640, 0o604, 0o620] {
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        let fault = TokenOrder::List.carry_out(&path, now).unwrap_err();
        assert!(fault.contains("chmod 600"), "{fault}");
    }
}
