//! Text of a `hosts.toml`, by the rules of containerd's `remotes/docker/config`: mirrors in the
//! order of the file, the server last.

use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use crate::registry::clients::Trust;

/// Host of a `hosts.toml`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HostEntry {
    /// Root of its API, without a slash at the end; `None`: the registry's own.
    pub(super) root: Option<Url>,
    pub(super) resolves: bool,
    pub(super) serves: bool,
    pub(super) headers: HeaderMap,
    pub(super) trust: Trust,
}

/// Hosts of a file in `dir`, the one to ask first first.
///
/// # Errors
/// A phrase that repeats nothing of the file but names of keys and hosts: headers are secrets.
pub(super) fn parse(text: &str, dir: &Path) -> Result<Vec<HostEntry>, String> {
    let file: Table = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| {
            1 + text
                .bytes()
                .take(span.start)
                .filter(|byte| *byte == b'\n')
                .count()
        });
        format!(
            "line {line}: {}",
            error.message().lines().next().unwrap_or_default()
        )
    })?;
    let mut hosts = Vec::new();
    match file.get("host") {
        None => {}
        Some(Value::Table(tables)) => {
            for (server, table) in tables {
                let table = table
                    .as_table()
                    .ok_or_else(|| format!("host {server:?} is not a table"))?;
                let entry = entry(Some(server), table, dir);
                hosts.push(entry.map_err(|fault| format!("host {server:?}: {fault}"))?);
            }
        }
        Some(_) => return Err("\"host\" is not a table by URL".to_owned()),
    }
    let server = match file.get("server") {
        None => None,
        Some(Value::String(server)) => Some(server.as_str()),
        Some(_) => return Err("\"server\" is not a text".to_owned()),
    };
    hosts.push(entry(server, &file, dir)?);
    Ok(hosts)
}

fn entry(server: Option<&str>, table: &Table, dir: &Path) -> Result<HostEntry, String> {
    let overrides = match table.get("override_path") {
        None => false,
        Some(Value::Boolean(overrides)) => *overrides,
        Some(_) => return Err("\"override_path\" is neither true nor false".to_owned()),
    };
    let (resolves, serves) = capabilities(table)?;
    let is_blind = match table.get("skip_verify") {
        None => false,
        Some(Value::Boolean(is_blind)) => *is_blind,
        Some(_) => return Err("\"skip_verify\" is neither true nor false".to_owned()),
    };
    let trust = Trust {
        authorities: texts(table, "ca")?
            .into_iter()
            .map(|file| dir.join(file))
            .collect(),
        identity: identity(table, dir)?,
        is_blind,
        connect_timeout: connect_timeout(table)?,
    };
    let server = server.filter(|server| !server.is_empty());
    Ok(HostEntry {
        root: server.map(|server| root(server, overrides)).transpose()?,
        resolves,
        serves,
        headers: headers(table)?,
        trust,
    })
}

fn root(server: &str, overrides: bool) -> Result<Url, String> {
    let text = if server.contains("://") {
        server.to_owned()
    } else {
        format!("https://{server}")
    };
    let mut url = Url::parse(&text).map_err(|error| format!("{server:?} is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(format!("{server:?} is neither an http nor an https URL"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(
            "a URL holds no user and password: they belong to registry.auth_file".to_owned(),
        );
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if overrides || path.ends_with("/v2") {
        url.set_path(&path);
    } else {
        url.set_path(&format!("{path}/v2"));
    }
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}

/// Whether a host resolves tags, and whether it serves content by digest.
fn capabilities(table: &Table) -> Result<(bool, bool), String> {
    let names = texts(table, "capabilities")?;
    if names.is_empty() {
        return Ok((true, true));
    }
    let (mut resolves, mut serves) = (false, false);
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "resolve" => resolves = true,
            "pull" => serves = true,
            "push" => {}
            _ => {
                return Err(format!(
                    "{name:?} is no capability: write pull, resolve or push"
                ));
            }
        }
    }
    Ok((resolves, serves))
}

/// A text, or a list of them.
fn texts<'a>(table: &'a Table, key: &str) -> Result<Vec<&'a str>, String> {
    let strange = || format!("{key:?} is neither a text nor a list of texts");
    match table.get(key) {
        None => Ok(Vec::new()),
        Some(Value::String(text)) => Ok(vec![text]),
        Some(Value::Array(list)) => {
            let texts = list.iter().map(|text| text.as_str().ok_or_else(strange));
            texts.collect()
        }
        Some(_) => Err(strange()),
    }
}

/// Client certificate: one file, a list of files, or a list of pairs. A connection shows the first.
fn identity(table: &Table, dir: &Path) -> Result<Option<(PathBuf, Option<PathBuf>)>, String> {
    let strange = || {
        "\"client\" is neither a file, a list of files, nor a list of [certificate, key]".to_owned()
    };
    let first = match table.get("client") {
        None => return Ok(None),
        Some(Value::Array(list)) => match list.first() {
            None => return Ok(None),
            Some(first) => first,
        },
        Some(one) => one,
    };
    if let Some(file) = first.as_str() {
        return Ok(Some((dir.join(file), None)));
    }
    match first.as_array().map(Vec::as_slice) {
        Some([Value::String(certificate), Value::String(key)]) => {
            let key = Some(key).filter(|key| !key.is_empty());
            Ok(Some((dir.join(certificate), key.map(|key| dir.join(key)))))
        }
        _ => Err(strange()),
    }
}

fn connect_timeout(table: &Table) -> Result<Option<Duration>, String> {
    match table.get("dial_timeout") {
        None => Ok(None),
        Some(Value::String(text)) if text.is_empty() => Ok(None),
        Some(Value::String(text)) => humantime::parse_duration(text)
            .map(|timeout| Some(timeout).filter(|timeout| !timeout.is_zero()))
            .map_err(|_| format!("\"dial_timeout\" {text:?} is no time: write one as \"3s\"")),
        Some(_) => Err("\"dial_timeout\" is not a text".to_owned()),
    }
}

fn headers(table: &Table) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    let given = match table.get("header") {
        None => return Ok(headers),
        Some(Value::Table(given)) => given,
        Some(_) => return Err("\"header\" is not a table".to_owned()),
    };
    for name in given.keys() {
        let wrong = || format!("header {name:?} is no header");
        let key = HeaderName::from_bytes(name.as_bytes()).map_err(|_| wrong())?;
        for text in texts(given, name)? {
            let mut value = HeaderValue::from_str(text).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<HostEntry> {
        parse(text, Path::new("/certs.d/r.example")).unwrap()
    }

    fn roots(text: &str) -> Vec<String> {
        let root = |entry: HostEntry| entry.root.map_or("-".to_owned(), |root| root.to_string());
        read(text).into_iter().map(root).collect()
    }

    #[test]
    fn hosts_come_in_the_order_of_the_file_and_the_server_last() {
        let text = r#"
server = "https://registry-1.docker.io"

[host."https://zzz.example"]
  capabilities = ["pull", "resolve"]
[host."http://10.1.2.3:5000"]
  capabilities = ["pull"]
  skip_verify = true
[host."https://aaa.example/v2/proxy"]
  override_path = true
[host."https://aaa.example/v2/proxy".header]
  x-custom = ["one", "two"]
[host."bare.example/sub/"]
"#;
        assert_eq!(
            roots(text),
            [
                "https://zzz.example/v2",
                "http://10.1.2.3:5000/v2",
                "https://aaa.example/v2/proxy",
                "https://bare.example/sub/v2",
                "https://registry-1.docker.io/v2",
            ]
        );
        let hosts = read(text);
        assert_eq!((hosts[0].resolves, hosts[0].serves), (true, true));
        assert_eq!((hosts[1].resolves, hosts[1].serves), (false, true));
        assert!(hosts[1].trust.is_blind && !hosts[0].trust.is_blind);
        assert_eq!(hosts[2].headers.get_all("X-Custom").iter().count(), 2);
        assert_eq!(
            roots("[host.\"https://m.example\"]"),
            ["https://m.example/v2", "-"]
        );
        assert_eq!(roots(""), ["-"]);
    }

    #[test]
    fn certificates_are_files_beside_it_in_every_form() {
        let dir = Path::new("/certs.d/r.example");
        for (text, certificate, key) in [
            (r#"client = "both.pem""#, "both.pem", None),
            (r#"client = ["both.pem", "other.pem"]"#, "both.pem", None),
            (r#"client = [["a.cert", "a.key"]]"#, "a.cert", Some("a.key")),
            (r#"client = [["a.pem", ""]]"#, "a.pem", None),
        ] {
            let expected = (dir.join(certificate), key.map(|key| dir.join(key)));
            assert_eq!(read(text)[0].trust.identity, Some(expected), "{text}");
        }
        let trust = |text| read(text).remove(0).trust;
        assert_eq!(
            trust(r#"ca = "/etc/ca.pem""#).authorities,
            [Path::new("/etc/ca.pem")]
        );
        assert_eq!(trust(r#"ca = ["a.crt", "b.crt"]"#).authorities.len(), 2);
        let timeout = trust(r#"dial_timeout = "1500ms""#).connect_timeout;
        assert_eq!(timeout, Some(Duration::from_millis(1500)));
    }

    #[test]
    fn a_fault_is_named_and_nothing_of_a_header_is_repeated() {
        for (text, part) in [
            ("server = \"https://a\"\nserver = x", "line 2"),
            ("server = 5", "server"),
            ("host = 5", "host"),
            ("[host]\n\"https://a\" = 5", "https://a"),
            ("[host.\"ftp://a\"]", "ftp://a"),
            ("[host.\"https://a\"]\ncapabilities = [\"read\"]", "read"),
            ("[host.\"https://a\"]\nca = 5", "ca"),
            ("[host.\"https://a\"]\nclient = [5]", "client"),
            ("[host.\"https://a\"]\nskip_verify = \"yes\"", "skip_verify"),
            (
                "[host.\"https://a\"]\ndial_timeout = \"soon\"",
                "dial_timeout",
            ),
            ("[host.\"https://u:hunter2@a\"]", "auth_file"),
            ("[host.\"https://a\".header]\nx = \"hunter2\\n\"", "\"x\""),
            (
                "[host.\"https://a\".header]\nauthorization = hunter2",
                "line 2",
            ),
        ] {
            let fault = parse(text, Path::new("/x")).unwrap_err();
            assert!(fault.contains(part), "{text}: {fault}");
            assert!(
                !fault.replace("u:hunter2@a", "").contains("hunter2"),
                "{fault}"
            );
        }
    }
}
