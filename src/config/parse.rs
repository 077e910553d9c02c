//! Parsers of configured values; each error says what would be valid.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use state::spec::{CAPABILITIES, DEFAULT_CAPABILITIES};
use state::subnet::Ipv4Subnet;

pub(super) use self::reach::{host_access, is_auto, isolation, subnet_or_auto, subnet6_or_auto};
use super::{LogFormat, Secret};

mod reach;

/// A parsed value, or a sentence that says what would be valid.
pub(super) type Parsed<T> = Result<T, String>;

/// Shortest token: guessing one must not pay.
const TOKEN_CHARS_MIN: usize = 16;

/// Most labels, since every registration carries them.
const LABELS_MAX: usize = 64;

pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Parsed<T>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| {
            format!(
                "{text:?} is not a number from {} to {}",
                range.start(),
                range.end()
            )
        })
    }
}

pub(super) fn flag(text: &str) -> Parsed<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" | "1" => Ok(true),
        "false" | "no" | "off" | "0" => Ok(false),
        _ => Err(format!("{text:?} is not a boolean: write true or false")),
    }
}

pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Parsed<Duration> {
    move |text| {
        // A bare number means seconds; humantime refuses it.
        let parsed = text
            .parse()
            .map(Duration::from_secs)
            .ok()
            .or_else(|| humantime::parse_duration(text).ok());
        let parsed = parsed.ok_or_else(|| {
            format!(
                "{text:?} is not a duration: write seconds, or a text such as \"30s\" or \"5m\""
            )
        })?;
        if range.contains(&parsed) {
            return Ok(parsed);
        }
        let [least, most] =
            [range.start(), range.end()].map(|bound| humantime::format_duration(*bound));
        Err(format!("{text:?} is out of range: write {least} to {most}"))
    }
}

pub(super) fn path(text: &str) -> Parsed<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        Ok(path)
    } else {
        Err(format!(
            "{text:?} is not an absolute path: begin it with a slash"
        ))
    }
}

pub(super) fn address(text: &str) -> Parsed<IpAddr> {
    text.parse()
        .map_err(|_| format!("{text:?} is not an IP address: write for example 127.0.0.1 or ::"))
}

/// Labels as `key=value`, separated by commas; at most [`LABELS_MAX`].
pub(super) fn labels(text: &str) -> Parsed<BTreeMap<String, String>> {
    let fits = |text: &str, least: usize| {
        (least..=253).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
    };
    let label = |part: &str| {
        let (key, value) = part
            .split_once('=')
            .filter(|(key, value)| fits(key, 1) && fits(value, 0))?;
        Some((key.to_owned(), value.to_owned()))
    };
    let parts: Vec<&str> = text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect();
    if parts.len() > LABELS_MAX {
        return Err(format!(
            "{} labels are too many: write at most {LABELS_MAX}",
            parts.len()
        ));
    }
    let labels = parts.iter().map(|part| {
        label(part).ok_or_else(|| format!("{part:?} is not a label: write for example zone=a"))
    });
    labels.collect()
}

pub(super) fn url(text: &str) -> Parsed<Url> {
    // What is wrong is shown to whoever may look at the node.
    let shown = without_password(text);
    let shown = shown.split(['?', '#']).next().unwrap_or_default();
    let mut url = Url::parse(text).map_err(|error| format!("{shown:?} is not a URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("{shown:?} is not a URL of http or https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("credentials in a URL would appear in logs: use chas.token_file".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(format!(
            "{shown:?} has a query or a fragment: end it with its path"
        ));
    }
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    Ok(url)
}

pub(super) fn node_name(text: &str) -> Parsed<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    let begins = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && text.len() <= 253 && text.chars().all(fits) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a node name: write 1 to 253 letters, digits, '.', '-' and '_', beginning \
         with a letter or digit"
    ))
}

/// A containerd identifier, by the rules of its package `identifiers`.
pub(super) fn namespace(text: &str) -> Parsed<String> {
    let part = |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_alphanumeric());
    if text.len() <= 76 && text.split(['.', '-', '_']).all(part) {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a containerd namespace: write at most 76 letters and digits, with single \
         '.', '-' and '_' between them"
    ))
}

/// A network interface name, by the kernel's rules (`dev_valid_name`), of characters that need no
/// quoting anywhere.
pub(super) fn interface(text: &str) -> Parsed<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if !matches!(text, "." | "..")
        && (1..=15).contains(&text.len())
        && text.chars().all(fits)
        && !text.starts_with('-')
    {
        return Ok(text.to_owned());
    }
    Err(format!(
        "{text:?} is not a network interface name: write 1 to 15 letters, digits, '.', '-' and '_'"
    ))
}

pub(super) fn subnet(text: &str) -> Parsed<Ipv4Subnet> {
    let subnet: Ipv4Subnet = text
        .parse()
        .map_err(|wrong: state::subnet::InvalidSubnet| format!("{text:?} {wrong}"))?;
    if !subnet.gateway().is_private() || !subnet.broadcast().is_private() {
        return Err(format!(
            "{text} is not private and would hide hosts of the Internet: choose from 10.0.0.0/8, \
             172.16.0.0/12 or 192.168.0.0/16"
        ));
    }
    Ok(subnet)
}

pub(super) fn port_range(text: &str) -> Parsed<RangeInclusive<u16>> {
    let ends = text
        .split_once('-')
        .and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    match ends {
        Some((first, last)) if 1024 <= first && first <= last => Ok(first..=last),
        _ => Err(format!(
            "{text:?} is not a port range: write two ports from 1024 to 65535, such as \
             \"20000-29999\""
        )),
    }
}

/// Names of this node, separated by commas: each as a host stands in a URL, without a port.
pub(super) fn host_names(text: &str) -> Parsed<Vec<String>> {
    let names: Vec<_> = text.split(',').map(|name| name.trim().to_owned()).collect();
    match names.iter().find(|name| node_name(name).is_err()) {
        Some(wrong) => Err(format!(
            "{wrong:?} is not a host's name: write for example node-1.example, without scheme or \
             port; addresses need not be listed"
        )),
        None => Ok(names),
    }
}

pub(super) fn hosts(text: &str) -> Parsed<Vec<String>> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '[' | ']');
    let hosts: Vec<String> = text
        .split(',')
        .map(|host| host.trim().to_owned())
        .filter(|host| !host.is_empty())
        .collect();
    match hosts.iter().find(|host| !host.chars().all(fits)) {
        Some(wrong) => Err(format!(
            "{wrong:?} is not a registry: write host or host:port, without scheme or path"
        )),
        None => Ok(hosts),
    }
}

/// Capabilities by name, with or without `CAP_`, in any case, separated by commas; or `ALL` or
/// `NONE`. The answer is in the order of their names. `ALL` is docker's list: what is beyond it is
/// granted by name only.
pub(super) fn capabilities(text: &str) -> Parsed<Vec<String>> {
    let bare = |name: &str| name.trim_start_matches("CAP_").to_owned();
    let known = || CAPABILITIES.map(bare);
    let upper = text.to_ascii_uppercase();
    let named: Vec<String> = match upper.as_str() {
        "ALL" => DEFAULT_CAPABILITIES.map(bare).into(),
        // An empty list in the file.
        "NONE" | "" => Vec::new(),
        _ => upper.split(',').map(|name| bare(name.trim())).collect(),
    };
    if let Some(wrong) = named.iter().find(|name| !known().contains(name)) {
        return Err(format!(
            "{wrong:?} is not a capability that a container may have: write names out of {}, or ALL \
             or NONE",
            known().join(", ")
        ));
    }
    let mut granted: Vec<_> = named.iter().map(|name| format!("CAP_{name}")).collect();
    granted.sort_unstable();
    granted.dedup();
    Ok(granted)
}

pub(super) fn proxy(text: &str) -> Parsed<Url> {
    let full = if text.contains("://") {
        text.to_owned()
    } else {
        format!("http://{text}")
    };
    let shown = without_password(text);
    let url = Url::parse(&full).map_err(|error| format!("{shown:?} is not a URL: {error}"))?;
    if matches!(url.scheme(), "http" | "https") && url.host().is_some() {
        Ok(url)
    } else {
        Err(format!(
            "{shown:?} is no proxy that the agent can use: write http://HOST:PORT or https://HOST:PORT"
        ))
    }
}

/// URL without the user and password that it may hold.
pub(super) fn without_password(text: &str) -> String {
    let Some((before, host)) = text.rsplit_once('@') else {
        return text.to_owned();
    };
    match before.split_once("://") {
        Some((scheme, _)) => format!("{scheme}://***@{host}"),
        None => format!("***@{host}"),
    }
}

pub(super) fn no_proxy(text: &str) -> Parsed<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_:/*[]".contains(c);
    let entries = text.split(',').map(str::trim);
    let mut entries = entries.filter(|entry| !entry.is_empty());
    let has_bad_port = |entry: &str| match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            host.is_empty() || !port.parse::<u16>().is_ok_and(|port| port > 0)
        }
        _ => false,
    };
    let is_wrong =
        |entry: &&str| entry.contains("://") || !entry.chars().all(fits) || has_bad_port(entry);
    match entries.find(is_wrong) {
        Some(wrong) => Err(format!(
            "{wrong:?} is not a host: write hosts, domains and networks, such as \
             \"registry.local:5000,.example.com,10.0.0.0/8\""
        )),
        None => Ok(text.to_owned()),
    }
}

pub(crate) fn log_level(text: &str) -> Parsed<String> {
    let level = |word: &str| match word.trim().to_ascii_lowercase().as_str() {
        "warning" => Some("warn".to_owned()),
        "error" | "warn" | "info" | "debug" | "trace" | "off" => {
            Some(word.trim().to_ascii_lowercase())
        }
        _ => None,
    };
    // The filter takes any word for a module name, so a misspelt level would silently switch the
    // log off.
    let directive =
        |part: &str| level(part).or_else(|| part.contains('=').then(|| part.trim().to_owned()));
    let directives: Option<Vec<String>> = text.split(',').map(directive).collect();
    let directives = directives
        .map(|parts| parts.join(","))
        .filter(|text| text.parse::<tracing_subscriber::EnvFilter>().is_ok());
    directives.ok_or_else(|| {
        format!("{text:?} is not a log level: write ERROR, WARN, INFO, DEBUG, TRACE or OFF, or directives such as \"info,hyper=warn\"")
    })
}

pub(super) fn log_format(text: &str) -> Parsed<LogFormat> {
    match text.to_ascii_lowercase().as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format: write text or json")),
    }
}

/// A token; the error never quotes it.
pub(super) fn token(text: &str) -> Parsed<Secret> {
    let text = text.trim();
    if text.chars().count() < TOKEN_CHARS_MIN {
        return Err(format!(
            "the token has fewer than {TOKEN_CHARS_MIN} characters: use a longer one"
        ));
    }
    if !text.chars().all(|c| c.is_ascii_graphic()) {
        return Err(
            "the token does not fit into an HTTP header: use printable ASCII without spaces"
                .to_owned(),
        );
    }
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_without_proxy_may_have_a_port_and_a_port_is_a_number() {
        for good in [
            "r.local:5000",
            "::1, fd00::/8,[fd00::1]:5000",
            "10.0.0.0/8,*",
            "*.r.local",
        ] {
            assert!(no_proxy(good).is_ok(), "{good}");
        }
        for (bad, named) in [
            ("good,r.local:x", "r.local:x"),
            (":5000", ":5000"),
            ("r.local:0", "r.local:0"),
            ("[::1]:70000", "[::1]:70000"),
            ("http://r.local", "http://r.local"),
        ] {
            let fault = no_proxy(bad).unwrap_err();
            assert!(fault.contains(named), "{fault}");
        }
    }

    #[test]
    fn no_fault_of_a_url_shows_what_is_secret_in_it() {
        for text in [
            "https://node:s3cret@chas:port/",
            "ftp://node:s3cret@chas/",
            "https://node:s3cret@chas/",
            "https://node:s3?cret@chas/",
            "https://chas/?token=s3cret",
            "chas?token=s3cret",
        ] {
            let fault = url(text).unwrap_err();
            assert!(!fault.contains("s3") && !fault.contains("cret@"), "{fault}");
        }
    }
}
