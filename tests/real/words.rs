//! Words of others in the agent's log and answers, and files that are for nobody else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use state::text::is_hidden;

use crate::harness::Testbed;
use crate::harness::agent::Agent;
use crate::harness::image::Image;
use crate::stand::{Stand, eventually};

/// A line of a log that nobody wrote, after what moves a cursor, renames a terminal, hides and turns around.
const FORGED: &str = "x\u{1b}[31m\u{1b}]0;t\u{7}\u{9b}2J\u{202e}\u{200b}\r\n2026-01-01T00:00:00.000000Z ERROR chas_node_agent: FORGED";

/// Texts of a JSON value that hold something else than a line of text.
fn hidden(value: &Value) -> Vec<String> {
    match value {
        Value::String(text) if text.chars().any(is_hidden) => vec![format!("{text:?}")],
        Value::Array(items) => items.iter().flat_map(hidden).collect(),
        // What was asked for is shown as it was asked for.
        Value::Object(members) => {
            let members = members.iter().filter(|(name, _)| *name != "spec");
            members.flat_map(|(_, value)| hidden(value)).collect()
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_foreign_forges_a_line() {
    let stand = Stand::new().await;
    Image::busybox()
        .config("Entrypoint", json!([format!("/{FORGED}")]))
        .push(&stand.registry, "entry:1")
        .await;
    Image::busybox()
        .hard_link("/etc/a", &format!("../../nowhere/{FORGED}"))
        .push(&stand.registry, "link:1")
        .await;
    let asked = |name: &str, image: &str, more: &Value| {
        let mut body =
            json!({"name": name, "image": stand.image(image), "stop": {"timeout": "0s"}});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        body
    };
    let from_the_caller = json!({"command": [format!("/{FORGED}")]});
    for body in [
        asked("entry", "entry:1", &json!({})),
        asked("link", "link:1", &json!({})),
        asked("command", "box:1", &from_the_caller),
        asked(
            "place",
            "box:1",
            &json!({"command": ["true"], "working_dir": format!("/etc/passwd/{FORGED}")}),
        ),
    ] {
        stand
            .agent
            .ask("POST", "/containers/deploy", Some(&body))
            .await;
    }
    for name in ["entry", "link", "command"] {
        eventually(name, async || {
            let (_, shown) = stand.agent.get(&format!("/containers/{name}")).await;
            shown["message"]
                .as_str()
                .is_some_and(|message| message.contains("FORGED"))
        })
        .await;
    }
    // Callers' own words come back to them, and into their terminals.
    let refused = [
        json!({"name": FORGED, "image": "x"}),
        json!({"name": "web", "image": FORGED, FORGED: 1}),
        json!({"name": "web", "image": "x", "environment": {FORGED: 1}, "memory": FORGED}),
    ];
    for body in &refused {
        let (status, problem) = stand
            .agent
            .call("POST", "/containers/deploy", Some(body))
            .await
            .unwrap();
        assert_eq!(status, 422, "{problem}");
        assert_eq!(hidden(&problem), Vec::<String>::new());
    }
    for path in [
        "/containers",
        "/health",
        "/explain?name=link",
        "/containers/entry",
    ] {
        let (_, shown) = stand.agent.get(path).await;
        assert_eq!(hidden(&shown), Vec::<String>::new(), "{path}");
    }
    let log = stand.agent.log();
    assert!(log.contains("FORGED"), "{log}");
    for line in log.split('\n') {
        assert!(!line.chars().any(is_hidden), "{line:?}");
        assert!(!line.starts_with("2026-01-01T"), "{line:?}");
    }
    stand.end().await;
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

fn open(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn state_is_root_s_alone() {
    let bed = Testbed::new();
    let state = bed.dir.join("state");
    fs::create_dir(&state).unwrap();
    open(&state, 0o755);
    let mut stand = Stand::on(bed).await;
    let environment = json!({"environment": {"DB_PASSWORD": "hunter2-of-the-test"}});
    let body = stand.script("web", "sleep 1000 & wait", &environment);
    stand.agent.deploy_and_wait(&body).await;

    let sled = state.join("state");
    let [db, conf] = ["db", "conf"].map(|name| sled.join(name));
    for round in ["new", "from before"] {
        for directory in [&state, &sled, &stand.bed.dir.join("run")] {
            assert_eq!(mode(directory) & 0o077, 0, "{round}: {directory:?}");
        }
        for file in [&db, &conf] {
            assert_eq!(mode(file), 0o600, "{round}: {file:?}");
        }
        // Modes as a version before left them.
        stand.agent.terminate();
        for (path, mode) in [
            (&state, 0o755),
            (&sled, 0o755),
            (&db, 0o644),
            (&conf, 0o644),
        ] {
            open(path, mode);
        }
        stand.agent.start_again().await;
    }
    let nobody = Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "cat",
        ])
        .arg(&db)
        .output()
        .unwrap();
    assert!(!nobody.status.success() && nobody.stdout.is_empty());
    stand.end().await;
}

/// Exposure of the unit as systemd 252 counts it, and as its comment says.
const EXPOSURE: f32 = 3.9;

#[test]
fn the_unit_is_as_closed_as_it_says() {
    let unit = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/contrib/chas-node-agent.service"
    );
    let looked = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", unit])
        .output()
        .unwrap();
    let told = String::from_utf8(looked.stdout).unwrap();
    let overall = told
        .lines()
        .rfind(|line| line.contains("Overall exposure level"));
    let overall = overall.unwrap_or_else(|| panic!("{told}"));
    let (_, number) = overall.rsplit_once(": ").unwrap();
    let number: f32 = number.split(' ').next().unwrap().parse().unwrap();
    assert!(number <= EXPOSURE, "{overall}");
    let text = fs::read_to_string(unit).unwrap();
    assert!(text.contains(&format!("gives {EXPOSURE:.1};")));
    // What it lacks is named in the unit, with the reason.
    for line in told.lines().filter(|line| line.starts_with('✗')) {
        let setting = line.split_whitespace().nth(1).unwrap();
        let (key, value) = setting.split_once('=').unwrap();
        let words = value
            .trim_start_matches('~')
            .split(|c: char| !c.is_ascii_alphanumeric())
            .filter(|word| !word.is_empty());
        let is_named = text.contains(key) || words.into_iter().any(|word| text.contains(word));
        assert!(is_named, "{setting} is not explained");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_file_that_was_moved_away_is_opened_again_whatever_else_is_wrong() {
    let bed = Testbed::new();
    let [log, token] = ["own.log", "token"].map(|name| bed.dir.join(name));
    fs::write(&token, "a-token-of-an-administrator").unwrap();
    fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
    let variables = [
        ("CHAS_TOKEN", ""),
        ("CHAS_TOKEN_FILE", token.to_str().unwrap()),
        ("LOG_FILE", log.to_str().unwrap()),
    ];
    let agent = Agent::start_with(&bed, &variables).await;
    let moved = bed.dir.join("own.log.1");
    fs::rename(&log, &moved).unwrap();
    fs::remove_file(&token).unwrap();
    agent.signal(rustix::process::Signal::HUP);
    eventually("the new file tells why", async || {
        let told = fs::read_to_string(&log).unwrap_or_default();
        told.contains("configuration not reloaded") && told.contains(token.to_str().unwrap())
    })
    .await;
    let before = fs::read_to_string(&moved).unwrap();
    assert!(!before.contains("configuration not reloaded"), "{before}");
}
