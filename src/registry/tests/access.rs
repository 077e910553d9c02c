//! Secrets: which one is shown to whom, and what is asked for with it.

use super::*;

const BEARER: &str = "WWW-Authenticate: Bearer realm=\"http://REGISTRY/token\",service=\"s\",scope=\"repository:other/secret:pull,push\"\r\n";

fn challenge(registry: &str) -> String {
    answer("401 No", &BEARER.replace("REGISTRY", registry), "")
}

fn manifest() -> String {
    answer("200 OK", "Content-Type: application/x\r\n", "{}")
}

/// Lines of request heads that matter here.
fn shown(heads: &[String]) -> Vec<String> {
    let line = |head: &String| {
        let first = head.lines().next().unwrap_or_default();
        let secret = head
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "));
        format!(
            "{} {}",
            first.trim_end_matches(" http/1.1"),
            secret.unwrap_or("-")
        )
    };
    heads.iter().map(line).collect()
}

#[tokio::test]
async fn a_path_s_password_and_token_serve_no_other_path() {
    let (door, registry) = listen();
    let auths = format!(
        r#"{{"auths": {{"{registry}/team-a": {{"auth": "YTpw"}}, "{registry}/team-b": {{"auth": "Yjpw"}}}}}}"#
    );
    let token = |token: &str| answer("200 OK", "", &format!(r#"{{"token": "{token}"}}"#));
    let door = serve(
        door,
        vec![
            challenge(&registry),
            token("a"),
            manifest(),
            challenge(&registry),
            token("b"),
            manifest(),
            manifest(),
            challenge(&registry),
            token("none"),
            manifest(),
        ],
    );
    let (client, _file) = client(&[&registry], &auths);
    for repository in ["team-a/x", "team-b/x", "team-a/x", "team-c/x"] {
        let image: ImageReference = format!("{registry}/{repository}:1").parse().unwrap();
        client.manifest(&image, "1").await.unwrap();
    }
    assert_eq!(
        shown(&door.join().unwrap()),
        [
            "get /v2/team-a/x/manifests/1 -",
            "get /token?service=s&scope=repository%3ateam-a%2fx%3apull basic ytpw",
            "get /v2/team-a/x/manifests/1 bearer a",
            "get /v2/team-b/x/manifests/1 -",
            "get /token?service=s&scope=repository%3ateam-b%2fx%3apull basic yjpw",
            "get /v2/team-b/x/manifests/1 bearer b",
            "get /v2/team-a/x/manifests/1 bearer a",
            "get /v2/team-c/x/manifests/1 -",
            "get /token?service=s&scope=repository%3ateam-c%2fx%3apull -",
            "get /v2/team-c/x/manifests/1 bearer none",
        ]
    );
}

#[tokio::test]
async fn an_identity_token_is_exchanged_for_a_token() {
    let (door, registry) = listen();
    let auths =
        format!(r#"{{"auths": {{"{registry}": {{"auth": "MDA6", "identitytoken": "RT&1"}}}}}}"#);
    let token = answer(
        "200 OK",
        "",
        r#"{"access_token": "x", "refresh_token": "y"}"#,
    );
    let refused = answer("401 No", "", "");
    let door = serve(
        door,
        vec![
            challenge(&registry),
            token,
            manifest(),
            challenge(&registry),
            refused,
        ],
    );
    let (client, _file) = client(&[&registry], &auths);
    let image = |name: &str| {
        format!("{registry}/{name}:1")
            .parse::<ImageReference>()
            .unwrap()
    };
    client.manifest(&image("web"), "1").await.unwrap();
    let error = client.manifest(&image("other"), "1").await.unwrap_err();
    assert!(error.to_string().contains("identitytoken"), "{error}");
    let heads = door.join().unwrap();
    assert_eq!(
        shown(&heads)[..3],
        [
            "get /v2/web/manifests/1 -",
            "post /token -",
            "get /v2/web/manifests/1 bearer x",
        ]
    );
    let form = "service=s&scope=repository%3Aweb%3Apull&grant_type=refresh_token&client_id=chas-node-agent&refresh_token=RT%261";
    assert!(
        heads[1].contains(&format!("content-length: {}", form.len())),
        "{}",
        heads[1]
    );
}

#[tokio::test]
async fn a_bad_entry_is_named_where_its_registry_refuses() {
    let (door, registry) = listen();
    let basic = answer("401 No", "WWW-Authenticate: Basic realm=x\r\n", "");
    let door = serve(door, vec![basic]);
    let auths = format!(
        r#"{{"auths": {{"{registry}": {{"auth": "!!"}}, "good.example": {{"auth": "dTpw"}}}}}}"#
    );
    let (client, file) = client(&[&registry], &auths);
    let image: ImageReference = format!("{registry}/web:1").parse().unwrap();
    let error = client.manifest(&image, "1").await.unwrap_err().to_string();
    let name = file.path().display().to_string();
    assert!(
        error.contains(&name) && error.contains("not base64"),
        "{error}"
    );
    assert_eq!(client.faults().len(), 1, "{:?}", client.faults());
    door.join().unwrap();
}
