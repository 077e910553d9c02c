//! Secrets that this host knows: those of the configuration, of its files, and of the agent's own
//! environment.

use std::fs;
use std::path::{Path, PathBuf};

use reqwest::Url;
use serde_json::Value;

use crate::config::Config;

/// Bytes of a file that is read whole.
const READ_BYTES_MAX: u64 = 1 << 20;
/// Parts of the names of variables of the agent that hold a secret.
const VARIABLES: [&str; 6] = ["AUTH", "KEY", "PASS", "PROXY", "SECRET", "TOKEN"];

/// Secrets that this host knows, besides those in [`secret_files`]. Blocks.
pub(super) fn known_secrets(config: Option<&Config>, agent: Option<u32>) -> Vec<Vec<u8>> {
    let mut known: Vec<Vec<u8>> = Vec::new();
    if let Some(pid) = agent {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        for variable in environment.split(|byte| *byte == 0) {
            let text = String::from_utf8_lossy(variable);
            let Some((name, value)) = text.split_once('=') else {
                continue;
            };
            if VARIABLES.iter().any(|part| name.contains(part)) && !name.ends_with("_FILE") {
                known.push(value.as_bytes().to_vec());
                known.extend(password_of(value));
            }
        }
    }
    let Some(config) = config else { return known };
    let chas = config.chas.as_ref();
    let tokens = [&config.api.token, &chas.and_then(|chas| chas.token.clone())];
    let tokens = tokens.into_iter().flatten();
    known.extend(tokens.map(|token| token.expose().as_bytes().to_vec()));
    let proxies = [&config.registry.https_proxy, &config.registry.http_proxy];
    let proxies = proxies.into_iter().flatten();
    known.extend(proxies.filter_map(|proxy| password_of(proxy.as_str())));
    known
}

/// Files with secrets.
pub(super) fn secret_files(config: &Config) -> Vec<PathBuf> {
    let made = [
        config.state.admin_token(),
        config.state.secrets_key(),
        config.state.dir.join("token"),
    ];
    config.secret_files.iter().cloned().chain(made).collect()
}

fn password_of(url: &str) -> Option<Vec<u8>> {
    let url = Url::parse(url).ok()?;
    Some(url.password()?.as_bytes().to_vec())
}

/// Secrets in a file: all of it, each of its lines, and every text of it where it is JSON, also what is in
/// base64 there. Blocks.
pub(super) fn in_file(path: &Path) -> Vec<Vec<u8>> {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    let is_small = fs::metadata(path).is_ok_and(|found| found.len() <= READ_BYTES_MAX);
    let Some(content) = fs::read(path).ok().filter(|_| is_small) else {
        return Vec::new();
    };
    let mut known = vec![content.clone()];
    let Ok(text) = String::from_utf8(content) else {
        return known;
    };
    let lines = text.lines().filter(|line| !line.starts_with("-----"));
    known.extend(lines.map(|line| line.trim().as_bytes().to_vec()));
    if let Ok(value) = serde_json::from_str::<Value>(&text) {
        let mut texts = Vec::new();
        leaves(&value, &mut texts);
        for text in texts {
            if let Ok(pair) = BASE64_STANDARD.decode(&text) {
                let password = pair.splitn(2, |byte| *byte == b':').nth(1);
                known.extend(password.map(<[u8]>::to_vec));
            }
            known.push(text.into_bytes());
        }
    }
    known
}

fn leaves(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| leaves(item, texts)),
        Value::Object(members) => members.values().for_each(|item| leaves(item, texts)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_of_files_are_known_in_all_their_parts() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("auth.json");
        fs::write(&path, r#"{"auths":{"r":{"auth":"dXNlcjpwbGFudGVk"}}}"#).unwrap();
        let known = in_file(&path);
        for part in ["planted", "dXNlcjpwbGFudGVk"] {
            assert!(
                known.contains(&part.as_bytes().to_vec()),
                "{part}: {known:?}"
            );
        }
        fs::write(
            &path,
            "-----BEGIN PRIVATE KEY-----\nMIIEvQ\n-----END PRIVATE KEY-----\n",
        )
        .unwrap();
        assert!(in_file(&path).contains(&b"MIIEvQ".to_vec()));
        assert!(in_file(&directory.path().join("none")).is_empty());
        assert_eq!(
            password_of("http://u:planted@h/"),
            Some(b"planted".to_vec())
        );
    }
}
