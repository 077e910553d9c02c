//! Files section: contents that a container finds at paths of its own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::content::{Content, ContentTag};
use super::fields::{Fields, text};
use super::is_default;
use super::volumes::place;

/// Files of one container.
const FILES_MAX: usize = 128;
/// Bytes of all files of a container.
const BYTES_MAX: usize = 1 << 20;
const MODE: u32 = 0o644;

/// Content that a container finds at a path, and can only read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSpec {
    /// Path in the container: absolute, without `.`, `..` and empty parts.
    pub path: String,
    /// Permissions.
    pub mode: u32,
    /// User and group that it belongs to, as the container sees them.
    #[serde(default, skip_serializing_if = "is_default")]
    pub owner: (u32, u32),
    /// Size of the content.
    pub size_bytes: usize,
    /// Content, by its fingerprint. `None`: it has not passed the store's door.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tag: ContentTag,
    /// Content, as it comes in.
    #[serde(skip)]
    pub content: Content,
}

impl FileSpec {
    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let path = fields.required("path", place);
        let plain = fields.read("content", |value| Ok(text(value)?.as_bytes().to_vec()));
        let encoded = fields.read("content_base64", base64);
        match (fields.has("content"), fields.has("content_base64")) {
            (false, false) => fields.fault("content", "is required, or \"content_base64\""),
            (true, true) => fields.fault("content_base64", "another content is named beside it"),
            (true, false) | (false, true) => {}
        }
        let mode = read_mode(fields).unwrap_or(MODE);
        let owner = fields.read("user", owner).unwrap_or_default();
        let content = plain.or(encoded)?;
        Some(Self {
            path: path?,
            mode,
            owner,
            size_bytes: content.len(),
            tag: None,
            content: Content::readable(content),
        })
    }

    fn to_json(&self) -> Value {
        let mut shown = Map::new();
        let mut show = |key: &str, value| drop(shown.insert(key.to_owned(), value));
        show("path", json!(self.path));
        match self.content.bytes() {
            Some(bytes) => match std::str::from_utf8(bytes) {
                Ok(text) => show("content", json!(text)),
                Err(_) => show("content_base64", json!(STANDARD.encode(bytes))),
            },
            None => {
                show("content", Value::Null);
                show("size", json!(self.size_bytes));
                show("fingerprint", json!(self.tag));
            }
        }
        show("mode", json!(format!("{:04o}", self.mode)));
        show("user", json!(format!("{}:{}", self.owner.0, self.owner.1)));
        Value::Object(shown)
    }
}

/// Reads all files.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Vec<FileSpec>> {
    let items = top.objects("files", FILES_MAX, FileSpec::read)?;
    let files = items.iter().enumerate();
    let files: Vec<_> = files
        .filter_map(|(index, item)| top.item("files", index, item, FileSpec::read))
        .collect();
    if files.iter().map(|file| file.size_bytes).sum::<usize>() > BYTES_MAX {
        top.fault("files", "must not exceed 1 MiB in all");
    }
    Some(files)
}

pub(super) fn to_json(files: &[FileSpec]) -> Value {
    files.iter().map(FileSpec::to_json).collect()
}

/// Bytes of a text in base64.
pub(super) fn base64(value: &Value) -> Result<Vec<u8>, String> {
    let fault = |_| "must be base64 (RFC 4648, with its padding)".to_owned();
    STANDARD.decode(text(value)?.trim()).map_err(fault)
}

/// Permissions of a file that nobody writes to, as octal digits.
pub(super) fn read_mode(fields: &mut Fields<'_>) -> Option<u32> {
    fields.read("mode", |value| {
        let digits = text(value)?;
        let mode = u32::from_str_radix(digits, 8).ok();
        let is_octal = (3..=4).contains(&digits.len()) && !digits.starts_with('+');
        mode.filter(|mode| is_octal && *mode <= 0o777)
            .ok_or_else(|| "must be octal digits in quotes, such as \"0640\"".to_owned())
    })
}

fn owner(value: &Value) -> Result<(u32, u32), String> {
    let text = text(value)?;
    let (user, group) = text.split_once(':').unwrap_or((text, "0"));
    let id = |text: &str| text.parse().ok().filter(|id| *id < i32::MAX.unsigned_abs());
    match (id(user), id(group)) {
        (Some(user), Some(group)) => Ok((user, group)),
        _ => Err("must be numbers, such as \"1000:1000\"; without a group it is 0".to_owned()),
    }
}
