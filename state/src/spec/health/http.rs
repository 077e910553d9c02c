//! HTTP probe: the request, and the answers that count as a success.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::super::fields::{Fields, text};
use super::super::is_default;
use super::super::sketch;
use super::port;

const PATH_BYTES_MAX: usize = 1 << 10;
const HEADERS_MAX: usize = 16;
const NAME_BYTES_MAX: usize = 64;
const VALUE_BYTES_MAX: usize = 256;
/// Headers that the agent alone writes: they say how long the request is.
const OWN_HEADERS: [&str; 5] = [
    "connection",
    "content-length",
    "transfer-encoding",
    "upgrade",
    "expect",
];

/// An HTTP request (`GET`) to a port of the container. No redirect is followed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HttpProbe {
    /// Path, with a query if there is one.
    pub path: String,
    /// Port.
    pub port: u16,
    /// Headers beside the agent's own; no name twice, in whatever case.
    #[serde(default, skip_serializing_if = "is_default")]
    pub headers: BTreeMap<String, String>,
    /// Codes that count as a success.
    #[serde(default, skip_serializing_if = "is_default")]
    pub status: StatusRange,
}

/// Status codes that count as a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusRange {
    /// First code, 100 at least.
    pub first: u16,
    /// Last code, 599 at most.
    pub last: u16,
}

impl Default for StatusRange {
    fn default() -> Self {
        Self {
            first: 200,
            last: 399,
        }
    }
}

impl StatusRange {
    /// Whether the code is one of them.
    #[must_use]
    pub const fn has(self, code: u16) -> bool {
        self.first <= code && code <= self.last
    }

    fn read(value: &Value) -> Result<Self, String> {
        let fault = || {
            "must be a code such as 204, or a range such as \"200-399\", of 100 to 599".to_owned()
        };
        let code = |text: &str| {
            let is_code = text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit());
            let code = text.parse().ok().filter(|_| is_code);
            code.filter(|code| (100..=599).contains(code))
                .ok_or_else(fault)
        };
        let written = value.as_u64().map(|number| number.to_string());
        let written = written.as_deref().or_else(|| value.as_str());
        let schema = || json!({"type": ["string", "integer"]});
        let written = written.ok_or_else(|| sketch::fault(value, schema, fault))?;
        let (first, last) = written.split_once('-').unwrap_or((written, written));
        let (first, last) = (code(first)?, code(last)?);
        if first > last {
            return Err(fault());
        }
        Ok(Self { first, last })
    }
}

impl std::fmt::Display for StatusRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}

impl HttpProbe {
    pub(super) fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let path = fields.read("path", path).unwrap_or_else(|| "/".to_owned());
        let port = fields.required("port", port);
        let headers = read_headers(fields).unwrap_or_default();
        let status = fields.read("status", StatusRange::read);
        Some(Self {
            path,
            port: port?,
            headers,
            status: status.unwrap_or_default(),
        })
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "path": self.path, "port": self.port, "headers": self.headers,
            "status": self.status.to_string(),
        })
    }
}

fn path(value: &Value) -> Result<String, String> {
    let path = text(value)?;
    let is_written = path
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if path.starts_with('/') && path.len() <= PATH_BYTES_MAX && is_written {
        Ok(path.to_owned())
    } else {
        Err("must begin with \"/\", and be 1 KiB at most of visible ASCII without \"#\"".to_owned())
    }
}

fn read_headers(fields: &mut Fields<'_>) -> Option<BTreeMap<String, String>> {
    let headers = fields.text_map("headers")?;
    if headers.len() > HEADERS_MAX {
        fields.fault("headers", "must not be more than 16");
    }
    let mut names = std::collections::BTreeSet::new();
    for (name, value) in headers.iter().take(HEADERS_MAX) {
        let is_letter =
            |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let is_name = (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_letter);
        let is_value = value.len() <= VALUE_BYTES_MAX
            && value
                .bytes()
                .all(|byte| byte == b' ' || byte.is_ascii_graphic());
        let lower = name.to_ascii_lowercase();
        let fault = if !is_name {
            "is no name of a header"
        } else if OWN_HEADERS.contains(&lower.as_str()) {
            "is the agent's own"
        } else if !names.insert(lower) {
            "is there twice, in another case"
        } else if !is_value {
            "must be 256 bytes at most of visible ASCII"
        } else {
            continue;
        };
        fields.fault(&format!("headers.{name}"), fault);
    }
    Some(headers)
}
