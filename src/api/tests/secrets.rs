//! Secrets over HTTP: values come in and never go out.

use axum::body::Body;
use axum::http::{Request, header};
use serde_json::{Value, json};
use state::access::Role;
use state::spec::{Content, SecretName};
use state::store::{SECRET_BYTES_MAX, SecretChange, SecretEntry};

use super::rights::{call, client, clients, node};
use super::{Fake, Refusal, of, problem, rules_with, sent};
use crate::api::router;

impl Fake {
    /// Puts a secret; its times tell how many bytes it has.
    pub(super) fn put_secret_of(
        &self,
        name: SecretName,
        value: &Content,
    ) -> Result<SecretChange, Refusal> {
        self.refused()?;
        let mut secrets = self.secrets.lock().unwrap();
        let before = secrets.iter().position(|secret| secret.name == name);
        let is_new = before.is_none();
        before.into_iter().for_each(|at| drop(secrets.remove(at)));
        let secret = SecretEntry {
            name,
            created_ms: 0,
            changed_ms: value.bytes().unwrap_or_default().len() as u64,
            used_by: Vec::new(),
        };
        secrets.push(secret.clone());
        Ok(SecretChange {
            secret,
            is_new,
            is_changed: true,
            records: Vec::new(),
        })
    }

    pub(super) fn remove_secret_of(&self, name: &SecretName) -> Result<(), Refusal> {
        self.refused()?;
        let mut secrets = self.secrets.lock().unwrap();
        secrets.retain(|secret| secret.name != *name);
        Ok(())
    }
}

#[tokio::test]
async fn a_secret_is_put_listed_and_removed_and_its_value_is_in_no_answer() {
    let (list, node) = (clients([client(Role::Deploy, &["web-*"])]), node());
    let none = Value::Null;
    let value = json!({"value": "hunter2"});
    let wrong = json!({"value": 815, "valu": "hunter2"});
    let long = json!({"value": "x".repeat(SECRET_BYTES_MAX + 1)});
    for (method, path, body, expected) in [
        ("PUT", "/secrets/web-token", &value, 201),
        ("PUT", "/secrets/web-token", &value, 200),
        ("PUT", "/secrets/web-token", &wrong, 422),
        ("PUT", "/secrets/web-token", &long, 422),
        ("PUT", "/secrets/web-token", &json!({"value": ""}), 422),
        ("PUT", "/secrets/Web", &value, 422),
        ("PUT", "/secrets/db-token", &value, 403),
        ("DELETE", "/secrets/db-token", &none, 403),
        ("GET", "/secrets?reveal=true", &none, 400),
        ("GET", "/secrets", &none, 200),
        ("DELETE", "/secrets/web-token", &none, 204),
    ] {
        let answer = call(&node, &list, "deploy", (method, path), body).await;
        assert_eq!(answer.status, expected, "{method} {path}: {}", answer.text);
        assert!(!answer.text.contains("hunter2"), "{}", answer.text);
        if (method, expected) == ("GET", 200) {
            let shown = &answer.json()["secrets"];
            assert_eq!(shown[0]["name"], "web-token");
            assert_eq!(shown.as_array().unwrap().len(), 1);
        }
    }
    let uses = json!([{"name": "db-token", "env": "X"}]);
    let body = json!({"name": "web-1", "image": "nginx", "secrets": uses});
    let deploy = ("POST", "/containers/deploy");
    let refused = call(&node, &list, "deploy", deploy, &body).await;
    problem(&refused, 403, "secrets named web-* only");
}

#[tokio::test]
async fn a_value_comes_as_plain_bytes_too() {
    let node = node();
    let request = Request::put("/secrets/key")
        .header(header::CONTENT_TYPE, "application/octet-stream")
        .body(Body::from(vec![0, 255, 7]));
    let request = of(super::ROOT, request.unwrap());
    let router = router(
        std::sync::Arc::clone(&node),
        rules_with(None, clients([])),
        None,
    );
    let answer = sent(router, request).await;
    assert_eq!(answer.status, 201, "{}", answer.text);
    let kept = node.secrets.lock().unwrap()[0].changed_ms;
    assert_eq!(kept, 3, "bytes");
}
