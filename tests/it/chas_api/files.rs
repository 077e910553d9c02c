//! Tests of sets from files.

use std::fs;

use super::*;

async fn start(sets: &Path) -> (Running, String) {
    let api = Running::start_with(Settings {
        sets: Some(sets.to_owned()),
        look_after: Duration::from_millis(10),
        ..Settings::default()
    })
    .await;
    let token = api.join("n1").await;
    (api, token)
}

fn write(path: &Path, text: &str) {
    fs::write(path, text).unwrap();
}

fn names(answer: &Answer) -> Vec<&str> {
    answer.body["containers"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| container["name"].as_str().unwrap())
        .collect()
}

/// A short YAML text that expands to more than an agent accepts.
fn large() -> String {
    let first = format!(
        "containers:\n- {{name: c0, image: nginx, environment: &e {{A: {}}}}}\n",
        "x".repeat(10_000)
    );
    let rest =
        (1..450).map(|number| format!("- {{name: c{number}, image: nginx, environment: *e}}\n"));
    first + &rest.collect::<String>()
}

/// Polls with a wait, until the node's set is another one.
async fn changed(api: &Running, token: &str, old: &Answer) -> Answer {
    let answer = api
        .poll(
            "n1",
            token,
            &[("if-none-match", &old.etag()), ("prefer", "wait=10")],
        )
        .await;
    assert_ne!(answer.status, 304, "nothing changed");
    answer
}

#[tokio::test]
async fn a_file_is_followed_and_a_broken_one_keeps_the_last_good_set() {
    let sets = tempfile::tempdir().unwrap();
    let (default, own) = (
        sets.path().join("_default.yaml"),
        sets.path().join("n1.yaml"),
    );
    write(&default, "containers:\n- {name: a, image: nginx}\n");
    write(&sets.path().join("README"), "no set");
    let (api, token) = start(sets.path()).await;
    let first = api.poll("n1", &token, &[]).await;
    assert_eq!(names(&first), ["a"], "before the first node asks");
    write(
        &own,
        "containers: [{name: b, image: nginx}]\ncordon: true\n",
    );
    let second = changed(&api, &token, &first).await;
    assert_eq!(
        (
            names(&second),
            &second.body["cordon"],
            &second.body["generation"]
        ),
        (vec!["b"], &json!(true), &json!(2))
    );
    for path in ["/nodes/n1/set", "/nodes/_default/set"] {
        assert_eq!(
            api.call("PUT", path, ADMIN, Some(&set(&["x"])))
                .await
                .kind(),
            (409, "set_in_file")
        );
        assert_eq!(
            api.call("DELETE", path, ADMIN, None).await.kind(),
            (409, "set_in_file")
        );
    }
    let twice = "containers: []\ncontainers: []\n";
    let broken = [
        "",
        "containers: [",
        "containers: [{name: B, image: nginx}]",
        "[]",
        "containers: []\nx: 1\n",
        twice,
        &large(),
    ];
    for (index, broken) in broken.into_iter().enumerate() {
        write(&own, broken);
        // Names are taken in their order: once this one is read, the broken one was.
        write(
            &sets.path().join("z.yaml"),
            &format!("containers: [{{name: a, image: 'nginx:{index}'}}]\n"),
        );
        let image = json!(format!("nginx:{index}"));
        while api.call("GET", "/nodes/z/set", ADMIN, None).await.body["containers"][0]["image"]
            != image
        {
            tokio::task::yield_now().await;
        }
        let kept = api.poll("n1", &token, &[]).await;
        assert_eq!(
            (kept.etag(), names(&kept)),
            (second.etag(), vec!["b"]),
            "{:?}",
            &broken[..broken.len().min(80)]
        );
    }
    write(&own, "containers: []\n");
    let third = changed(&api, &token, &second).await;
    assert_eq!(
        (names(&third), &third.body["generation"]),
        (vec![], &json!(3)),
        "an empty set is one, where it is written"
    );
    fs::remove_file(&own).unwrap();
    let fourth = changed(&api, &token, &third).await;
    assert_eq!(
        (names(&fourth), &fourth.body["generation"]),
        (vec!["a"], &json!(4))
    );
    assert_eq!(
        api.call("PUT", "/nodes/n1/set", ADMIN, Some(&set(&["x"])))
            .await
            .status,
        200,
        "it is nobody's file now"
    );
    api.stop().await;
}

#[tokio::test]
async fn a_directory_that_is_gone_or_another_one_changes_nothing() {
    let root = tempfile::tempdir().unwrap();
    let (sets, away) = (root.path().join("sets"), root.path().join("away"));
    fs::create_dir(&sets).unwrap();
    write(
        &sets.join("n1.yaml"),
        "containers: [{name: b, image: nginx}]\n",
    );
    let (api, token) = start(&sets).await;
    let first = api.poll("n1", &token, &[]).await;
    fs::rename(&sets, &away).unwrap();
    let unchanged = async || {
        let answer = api
            .poll(
                "n1",
                &token,
                &[("if-none-match", &first.etag()), ("prefer", "wait=1")],
            )
            .await;
        assert_eq!(answer.status, 304);
    };
    unchanged().await;
    // As a mount that is missing.
    fs::create_dir(&sets).unwrap();
    unchanged().await;
    assert_eq!(
        api.call("DELETE", "/nodes/n1/set", ADMIN, None)
            .await
            .status,
        200,
        "it is nobody's file now"
    );
    assert_eq!(
        api.call("PUT", "/nodes/n1/set", ADMIN, Some(&set(&["b"])))
            .await
            .status,
        200
    );
    let first = api.poll("n1", &token, &[]).await;
    fs::remove_dir(&sets).unwrap();
    fs::rename(&away, &sets).unwrap();
    write(
        &sets.join("n1.yaml"),
        "containers: [{name: c, image: nginx}]\n",
    );
    assert_eq!(names(&changed(&api, &token, &first).await), ["c"]);
    api.stop().await;
}
