//! Requests of clients with a role and names of their own, for what is beyond them.

use super::requests::{Hostile, JSON};
use crate::harness::Testbed;
use crate::rights::token;

/// Clients of an agent, in their file.
pub(super) struct Clients {
    pub(super) file: String,
    deployer: String,
    reader: String,
    fingerprint: String,
}

impl Clients {
    pub(super) fn on(bed: &Testbed) -> Self {
        let file = bed.dir.join("clients.yaml");
        let make = |arguments: &[&str]| token(&file, arguments).trim().to_owned();
        let deployer = make(&["create", "ci", "--role", "deploy", "--names", "web-*"]);
        let reader = make(&["create", "reader", "--role", "read"]);
        let text = std::fs::read_to_string(&file).unwrap();
        let fingerprint = text.split("hash: ").nth(1).unwrap().lines().next().unwrap();
        Self {
            file: file.to_str().unwrap().to_owned(),
            deployer,
            reader,
            fingerprint: fingerprint.to_owned(),
        }
    }

    /// A head with their tokens in their places.
    pub(super) fn filled(&self, head: &str) -> String {
        head.replace("{deployer}", &self.deployer)
            .replace("{reader}", &self.reader)
            .replace("{fingerprint}", &self.fingerprint)
    }
}

/// What is in the file of clients, and is no token.
pub(super) fn in_place_of_a_token() -> Vec<Hostile> {
    let rows = [
        ("a fingerprint", "{fingerprint}"),
        ("the name of a client", "ci"),
        ("a token with more", "{reader}{reader}"),
    ];
    let row = |(name, token)| Hostile {
        name,
        head: format!(
            "GET /containers HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        ),
        body: Vec::new(),
        answers: &[401],
    };
    rows.map(row).into()
}

/// What clients of a role and of names ask for beyond them. There is a container `db` of another.
pub(super) fn beyond() -> Vec<Hostile> {
    let of = |client: &str, name, first: &str, body: &str, answers| {
        let type_ = if body.is_empty() { "" } else { JSON };
        let length = format!("Content-Length: {}\r\n", body.len());
        let head = format!(
            "{first} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {{{client}}}\r\nConnection: close\r\n{length}{type_}{}\r\n",
            if body.is_empty() { "" } else { "\r\n" },
        );
        Hostile {
            name,
            head,
            body: body.as_bytes().to_vec(),
            answers,
        }
    };
    let other = r#"{"name":"db","image":"nginx"}"#;
    let set = r#"{"containers":[{"name":"web-1","image":"nginx"},{"name":"db","image":"nginx"}]}"#;
    let masked = r#"{"name":"web-1","image":"nginx","environment":{"A":null}}"#;
    let deploy = "POST /containers/deploy";
    vec![
        of("deployer", "a name of another's", deploy, other, &[403]),
        of(
            "deployer",
            "one of another's in a set",
            "PUT /desired-state",
            set,
            &[403],
        ),
        of(
            "deployer",
            "a container of another's",
            "GET /containers/db",
            "",
            &[404],
        ),
        of(
            "deployer",
            "one by way of its own",
            "GET /containers/web-1%2f..%2fdb",
            "",
            &[404],
        ),
        of(
            "deployer",
            "the end of one",
            "DELETE /containers/db",
            "",
            &[404],
        ),
        of(
            "deployer",
            "values",
            "GET /desired-state?reveal=true",
            "",
            &[403],
        ),
        of(
            "deployer",
            "values, asked twice",
            "GET /desired-state?reveal=false&reveal=true",
            "",
            &[400],
        ),
        of(
            "deployer",
            "a value that was not shown",
            deploy,
            masked,
            &[422],
        ),
        of(
            "deployer",
            "a confirmation",
            "POST /desired-state/confirm",
            "",
            &[403],
        ),
        of(
            "reader",
            "a deploy",
            "POST /containers/deploy?dry_run=true",
            other,
            &[403],
        ),
        of("reader", "an end", "DELETE /containers/db", "", &[403]),
        of(
            "reader",
            "a look by HEAD that changes nothing",
            "HEAD /containers/db",
            "",
            &[200],
        ),
        of(
            "reader",
            "values of one",
            "GET /containers/db?reveal=1",
            "",
            &[403],
        ),
    ]
}
