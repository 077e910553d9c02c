//! `support-bundle` by the program itself, with secrets planted wherever there are any: none is in it.

use std::fs::{self, File, Permissions};
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use crate::harness::Testbed;
use crate::harness::agent::{PROGRAM, TOKEN};
use crate::harness::certificates::Authority;
use crate::stand::Stand;

const PROXY: &str = "planted-proxy-7d1f0a";
const REGISTRY: &str = "planted-registry-93ab";
const CHAS: &str = "planted-chas-token-0123456789";
const VALUE: &str = "planted-environment-55";
const SECRET: &str = "planted-secret-value-8";
const ARGUMENT: &str = "planted-argument-1c2d";
const BEFORE: &str = "planted-argument-before-77";
const PROBED: &str = "planted-output-of-a-probe-4e";
const IMAGE: &str = "planted-image-password";
const ISSUED: &str = "planted-issued-token-998877";

/// Gives the order; exit code, output, errors.
fn order(stand: &Stand, without: &[&str], words: &[&str]) -> (i32, String, String) {
    let environment = stand.agent.environment().iter();
    let environment = environment.filter(|(name, _)| !without.contains(&name.as_str()));
    let output = Command::new("timeout")
        .args(["110", PROGRAM, "support-bundle"])
        .args(words)
        .env_clear()
        .envs(environment)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap(),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Files of a bundle.
fn files(path: &Path) -> Vec<(String, String)> {
    let decoder = zstd::stream::read::Decoder::new(File::open(path).unwrap()).unwrap();
    let mut archive = tar::Archive::new(decoder);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().display().to_string();
        (name, String::from_utf8_lossy(&content).into_owned())
    });
    entries.collect()
}

/// Forms of a secret, wherever it begins in what is encoded.
fn forms(secret: &str) -> Vec<String> {
    let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
    let mut forms = vec![secret.to_owned(), hex];
    for before in 0..3 {
        for alphabet in [&BASE64_STANDARD_NO_PAD, &BASE64_URL_SAFE_NO_PAD] {
            let encoded = alphabet.encode(format!("{}{secret}", "x".repeat(before)));
            forms.push(encoded[4..encoded.len() - 2].to_owned());
        }
    }
    forms
}

#[track_caller]
fn none_is_in(files: &[(String, String)], secrets: &[&str]) {
    for secret in secrets {
        for form in forms(secret) {
            for (name, content) in files {
                let line = content.lines().find(|line| line.contains(&form));
                assert_eq!(line, None, "{secret} is in {name}, as {form}");
            }
        }
    }
}

fn of<'a>(files: &'a [(String, String)], name: &str) -> &'a str {
    let name = format!("chas-support/{name}");
    let found = files.iter().find(|(found, _)| *found == name);
    &found.unwrap_or_else(|| panic!("no {name}")).1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bundle_has_all_that_helps_and_none_of_the_planted_secrets() {
    let bed = Testbed::new();
    let dir = bed.dir.clone();
    let authority = Authority::new(dir.join("authority"));
    let certificate = authority.issue("agent", "IP:127.0.0.1");
    let key = fs::read_to_string(&certificate.key).unwrap();
    fs::set_permissions(&certificate.key, Permissions::from_mode(0o600)).unwrap();
    let pair = BASE64_STANDARD.encode(format!("user:{REGISTRY}"));
    let auth = dir.join("auth.json");
    fs::write(
        &auth,
        json!({"auths": {"other.example": {"auth": pair}}}).to_string(),
    )
    .unwrap();
    fs::set_permissions(&auth, Permissions::from_mode(0o600)).unwrap();
    // The log of an agent in debug, as a maintainer asks for it.
    let log = dir.join("own.log");
    let proxy = format!("http://user:{PROXY}@127.0.0.1:9/");
    let mut stand = Stand::with(
        bed,
        &[
            ("CHAS_REGISTRY_AUTH_FILE", auth.to_str().unwrap()),
            ("HTTPS_PROXY", &proxy),
            ("LOG_FILE", log.to_str().unwrap()),
            ("CHAS_API_URL", "http://127.0.0.1:1/"),
            ("CHAS_API_TOKEN", CHAS),
            (
                "CHAS_TLS_CERT_FILE",
                certificate.certificate.to_str().unwrap(),
            ),
            ("CHAS_TLS_KEY_FILE", certificate.key.to_str().unwrap()),
        ],
    )
    .await;
    let issued = dir.join("state/token");
    fs::write(&issued, json!({"token": ISSUED, "for": "x"}).to_string()).unwrap();
    fs::set_permissions(&issued, Permissions::from_mode(0o600)).unwrap();
    let put = stand
        .agent
        .ask("PUT", "/secrets/db", Some(&json!({"value": SECRET})))
        .await;
    assert!(put.0 < 300, "{put:?}");
    // Twice, so that the history of the container has both.
    let more = json!({"environment": {"DB_PASSWORD": VALUE}});
    let before = format!("echo {BEFORE}; sleep 1000 & wait");
    stand
        .agent
        .deploy_and_wait(&stand.script("web", &before, &more))
        .await;
    let script = format!("echo --password={ARGUMENT} {ARGUMENT}; sleep 1000 & wait");
    stand
        .agent
        .deploy_and_wait(&stand.script("web", &script, &more))
        .await;
    stand.printed("web", ARGUMENT).await;
    // Images with passwords, and programs that are run in the container.
    let mut wrong = stand.script("wrong", "exit 1", &json!({}));
    wrong["image"] = json!(format!("https://user:{IMAGE}@127.0.0.1/x:1"));
    stand
        .agent
        .ask("POST", "/containers/deploy", Some(&wrong))
        .await;
    wrong["image"] = json!(format!("user:{IMAGE}@127.0.0.1/x:1"));
    stand
        .agent
        .ask("POST", "/containers/deploy", Some(&wrong))
        .await;
    let run = json!({"command": ["sh", "-c", format!("echo {ARGUMENT}; exit 3")]});
    stand
        .agent
        .ask("POST", "/containers/web/exec", Some(&run))
        .await;
    let failing = stand.script("failing", &format!("echo {ARGUMENT}; exit 4"), &more);
    stand
        .agent
        .ask("POST", "/containers/deploy", Some(&failing))
        .await;
    let probe = json!(["sh", "-c", format!("echo {PROBED}; exit 1")]);
    let health = json!({"health": {"exec": {"command": probe}, "interval": "1s", "retries": 1}});
    let sick = stand.script("sick", "sleep 1000 & wait", &health);
    stand
        .agent
        .ask("POST", "/containers/deploy", Some(&sick))
        .await;
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let [first, second] = [1, 2].map(|number| dir.join(format!("{number}.tar.zst")));
    let key_line = key.lines().nth(1).unwrap().to_owned();
    let planted = [
        PROXY, REGISTRY, CHAS, VALUE, SECRET, ARGUMENT, BEFORE, PROBED, IMAGE, ISSUED, TOKEN,
        &key_line,
    ];
    let made = |without: &[&str], path: &Path, more: &[&str]| {
        let words = [&["-o", path.to_str().unwrap()], more].concat();
        tokio::task::block_in_place(|| order(&stand, without, &words))
    };
    // Also where root's shell has nothing of the agent's environment that is secret.
    let without = ["CHAS_TOKEN", "CHAS_API_TOKEN", "HTTPS_PROXY"];
    for (without, path) in [(&[][..], &first), (&without, &second)] {
        let (code, out, told) = made(without, path, &[]);
        assert_eq!(code, 0, "{out}{told}");
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let found = files(path);
        none_is_in(&found, &planted);
        let manifest: Value = serde_json::from_str(of(&found, "manifest.json")).unwrap();
        assert!(
            manifest["files"].as_array().unwrap().len() > 20,
            "{manifest:#}"
        );
        assert!(of(&found, "config.txt").contains("network.subnet"));
        assert!(of(&found, "doctor.json").contains("containerd-reachable"));
        assert!(of(&found, "agent/health.json").contains("ChasUnreachable"));
        assert!(of(&found, "agent/metrics.txt").contains("# HELP"));
        assert!(of(&found, "agent/events.ndjson").contains("web"));
        assert!(of(&found, "agent/explain/failing.json").contains("reason"));
        let history = of(&found, "agent/history/web.json");
        assert!(history.contains("\"before\""), "two generations: {history}");
        assert!(of(&found, "agent/events.ndjson").contains("exit code 1: ***"));
        assert!(of(&found, "host/rules-of-the-agent.txt").contains(&stand.bed.bridge));
        assert!(of(&found, "state-dir.txt").contains("desired.json"));
        assert!(of(&found, "containerd.json").contains("managed"));
        assert!(of(&found, "agent.log").contains("serving"), "{manifest:#}");
        assert!(
            !found
                .iter()
                .any(|(name, _)| name.contains("container-logs"))
        );
    }
    let (code, _, told) = made(&[], &first, &[]);
    assert!(
        code == 1 && told.contains("exists"),
        "never written over: {told}"
    );
    let third = dir.join("3.tar.zst");
    let (code, _, told) = made(&[], &third, &["--container-logs"]);
    assert!(code == 0 && told.contains("read it before"), "{told}");
    assert!(of(&files(&third), "container-logs/web.txt").contains("password="));

    stand.agent.terminate();
    // A file whose disk does not answer.
    fs::remove_file(&issued).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &issued,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let fourth = dir.join("4.tar.zst");
    let words = ["-o", fourth.to_str().unwrap()];
    let (code, _, told) = tokio::task::block_in_place(|| order(&stand, &[], &words));
    assert_eq!(code, 0, "{told}");
    let found = files(&fourth);
    none_is_in(&found, &planted);
    let manifest: Value = serde_json::from_str(of(&found, "manifest.json")).unwrap();
    let missing = manifest["missing"].as_array().unwrap();
    assert!(
        missing.iter().any(|one| one["name"] == "agent"),
        "{manifest:#}"
    );
    let unread = missing.iter().filter_map(|one| one["name"].as_str());
    let mut unread = unread.filter(|name| name.starts_with("secrets to be masked"));
    assert!(
        unread.next().unwrap().ends_with("state/token"),
        "{manifest:#}"
    );
    assert!(told.contains("a disk hangs"), "{told}");
    fs::remove_file(&issued).unwrap();
    stand.agent.start_again().await;
    stand.end().await;
}
