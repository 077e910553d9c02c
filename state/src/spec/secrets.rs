//! Secrets section: values that the node keeps by their names, and where a container finds them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::Spec;
use super::content::ContentTag;
use super::fields::{FieldError, Fields, parsed, text};
use super::files;
use super::is_default;
use super::security::{OWN_IDS, UserNamespace};
use super::volumes::{AGENT_FILES, KERNEL_DIRECTORIES, place};
use crate::id::{ContainerName, InvalidName};

/// Secrets of one container.
const SECRETS_MAX: usize = 64;
const MODE: u32 = 0o400;

/// Name of a secret: a DNS label, as a container's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(ContainerName);

impl SecretName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// The name as one of a container, by which a caller of some names is judged.
    #[must_use]
    pub const fn as_container(&self) -> &ContainerName {
        &self.0
    }
}

impl FromStr for SecretName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse().map(Self)
    }
}

stored_as_text!(SecretName);

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Consequence of another value for a container that uses a secret.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnChange {
    /// The container is made anew with it.
    #[default]
    Restart,
    /// The file changes under the running process.
    Replace,
}

/// Use of a secret by a container: in a variable or in a file, of which one is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretUse {
    /// Name of the secret.
    pub name: SecretName,
    /// Variable that has the value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub env: Option<String>,
    /// Path of a file that has the value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub path: Option<String>,
    /// Permissions of the file.
    pub mode: u32,
    /// Consequence of another value.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on_change: OnChange,
    /// Value, by its fingerprint. `None`: it has not passed the store's door.
    #[serde(default, skip_serializing_if = "is_default")]
    pub tag: ContentTag,
}

impl SecretUse {
    /// The same use, whatever its value is, where another value leaves the container as it is.
    #[must_use]
    pub(super) fn fixed(&self) -> Self {
        let tag = match self.on_change {
            OnChange::Restart => self.tag.clone(),
            OnChange::Replace => None,
        };
        Self {
            tag,
            ..self.clone()
        }
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        let name = fields.required("name", parsed::<SecretName>);
        let env = fields.read("env", variable);
        let path = fields.read("path", place);
        match (fields.has("env"), fields.has("path")) {
            (false, false) => fields.fault("path", "is required, or \"env\""),
            (true, true) => fields.fault("env", "a path is named beside it; list it twice"),
            (true, false) | (false, true) => {}
        }
        let mode = files::read_mode(fields);
        if mode.is_some() && fields.has("env") {
            fields.fault("mode", "is for \"path\" only");
        }
        let changes = [
            ("restart", OnChange::Restart),
            ("replace", OnChange::Replace),
        ];
        let on_change = fields.choice("on_change", &changes).unwrap_or_default();
        if on_change == OnChange::Replace {
            if fields.has("env") {
                fields.fault("on_change", "a variable of a running process cannot change");
            } else if path.as_deref().is_some_and(|path| directory(path) == "/") {
                fields.fault("path", "to be replaced it needs a directory of its own");
            }
        }
        if env.is_none() && path.is_none() {
            return None;
        }
        Some(Self {
            name: name?,
            env,
            path,
            mode: mode.unwrap_or(MODE),
            on_change,
            tag: None,
        })
    }

    fn to_json(&self) -> Value {
        let mut shown = Map::new();
        let mut show = |key: &str, value| drop(shown.insert(key.to_owned(), value));
        show("name", json!(self.name));
        if let Some(env) = &self.env {
            show("env", json!(env));
        }
        if let Some(path) = &self.path {
            show("path", json!(path));
            show("mode", json!(format!("{:04o}", self.mode)));
        }
        show("on_change", json!(self.on_change));
        Value::Object(shown)
    }
}

impl Spec {
    /// Whether it is the same as another but for the values of its secrets.
    #[must_use]
    pub fn is_but_for_values(&self, other: &Self) -> bool {
        self == other || (!self.secrets.is_empty() && self.bare() == other.bare())
    }

    /// Fingerprint that values of secrets do not change. `None`: it uses none.
    #[must_use]
    pub(crate) fn bare_hash(&self) -> Option<String> {
        (!self.secrets.is_empty()).then(|| self.bare().hash())
    }

    fn bare(&self) -> Self {
        let mut spec = self.clone();
        for using in &mut spec.secrets {
            using.tag = None;
        }
        spec
    }
}

/// Directory that a path is in.
fn directory(path: &str) -> &str {
    match path.rsplit_once('/') {
        Some(("", _)) | None => "/",
        Some((directory, _)) => directory,
    }
}

/// Whether a path is below a directory.
fn is_in(path: &str, directory: &str) -> bool {
    let rest = path.strip_prefix(directory);
    rest.is_some_and(|rest| rest.starts_with('/'))
}

/// Directories that are a container's for its secrets: those of secrets that are replaced, each with
/// all secrets that are in it, by the names of their files.
#[must_use]
pub fn directories(uses: &[SecretUse]) -> BTreeMap<&str, Vec<(&str, &SecretUse)>> {
    let replaced = |using: &&SecretUse| using.on_change == OnChange::Replace;
    let replaced = uses.iter().filter(replaced);
    let replaced: BTreeSet<_> = replaced
        .filter_map(|using| using.path.as_deref().map(directory))
        .collect();
    let mut all = BTreeMap::<_, Vec<_>>::new();
    for using in uses {
        if let Some((directory, file)) =
            using.path.as_deref().and_then(|path| path.rsplit_once('/'))
            && replaced.contains(directory)
        {
            all.entry(directory).or_default().push((file, using));
        }
    }
    all
}

fn variable(value: &Value) -> Result<String, String> {
    let name = text(value)?;
    if name.is_empty() || name.contains(['=', '\0']) {
        return Err("must not be empty or hold '=' or NUL".to_owned());
    }
    Ok(name.to_owned())
}

/// Reads all secrets.
pub(super) fn read(top: &mut Fields<'_>) -> Option<Vec<SecretUse>> {
    let items = top.objects("secrets", SECRETS_MAX, SecretUse::read)?;
    let uses = items.iter().enumerate();
    Some(
        uses.filter_map(|(index, item)| top.item("secrets", index, item, SecretUse::read))
            .collect(),
    )
}

/// Reads the members of the body that gives a secret its value.
pub(super) fn read_value(top: &mut Fields<'_>) -> Option<Vec<u8>> {
    let plain = top.read("value", |value| Ok(text(value)?.as_bytes().to_vec()));
    let encoded = top.read("value_base64", files::base64);
    match (top.has("value"), top.has("value_base64")) {
        (false, false) => top.fault("value", "is required, or \"value_base64\""),
        (true, true) => top.fault("value_base64", "another value is named beside it"),
        (true, false) | (false, true) => {}
    }
    plain.or(encoded)
}

/// Reads the body that gives a secret its value.
///
/// # Errors
/// Every fault in it; no value is in any.
pub fn value(body: &Value) -> Result<Vec<u8>, Vec<FieldError>> {
    let mut faults = Vec::new();
    let mut value = None;
    if let Some(mut top) = Fields::of(body, "", &mut faults) {
        value = read_value(&mut top);
        top.finish();
    }
    match value {
        Some(value) if faults.is_empty() => Ok(value),
        _ => Err(faults),
    }
}

/// Notes owners that only the host's ids have.
fn check_owners(spec: &Spec, top: &mut Fields<'_>) {
    if spec.security.user_namespace == UserNamespace::Host {
        return;
    }
    for (index, file) in spec.files.iter().enumerate() {
        if file.owner.0.max(file.owner.1) >= OWN_IDS {
            let most = OWN_IDS - 1;
            top.fault(
                &format!("files[{index}].user"),
                &format!(
                    "must have ids of {most} at most, unless security.user_namespace is \"host\""
                ),
            );
        }
    }
}

/// Notes a file whose replaced directory hides others, or is hidden by one.
fn check_place(
    path: &str,
    directories: &BTreeMap<&str, Vec<(&str, &SecretUse)>>,
    field: &str,
    top: &mut Fields<'_>,
) {
    let own = directory(path);
    let mut others = directories.keys().filter(|other| **other != own);
    if others.any(|other| is_in(path, other)) {
        top.fault(
            field,
            "a secret that is replaced has a directory above it for itself; choose another path",
        );
    }
    if !directories.contains_key(own) {
        return;
    }
    let mut kept = AGENT_FILES.iter().chain(&KERNEL_DIRECTORIES);
    if let Some(kept) = kept.find(|kept| is_in(kept, own)) {
        let fault = format!(
            "to be replaced it needs a directory of its own, and {own} has {kept} and more in it"
        );
        top.fault(field, &fault);
    }
    // The links of such a directory begin so.
    if path
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .starts_with("..")
    {
        top.fault(field, "to be replaced its name must not begin with \"..\"");
    }
}

/// Notes what is twice at one place: variables, and paths of files, secrets and volumes.
pub(super) fn check(spec: &Spec, top: &mut Fields<'_>) {
    check_owners(spec, top);
    let (uses, files, volumes) = (&spec.secrets, &spec.files, &spec.volumes);
    let mut variables: BTreeSet<&str> = spec.environment_names().collect();
    let mut paths: BTreeSet<&str> = volumes.iter().map(|volume| volume.path.as_str()).collect();
    let directories = directories(uses);
    paths.extend(directories.keys());
    let another = "another volume, file or secret is at this path";
    // What is mounted before the directory would be hidden by it.
    let is_below = |path: &str| directories.keys().any(|top| is_in(path, top));
    let inside = "a secret that is replaced has the directory for itself; choose another path";
    for (index, file) in files.iter().enumerate() {
        let field = format!("files[{index}].path");
        if !paths.insert(&file.path) {
            top.fault(&field, another);
        } else if is_below(&file.path) {
            top.fault(&field, inside);
        }
    }
    for (index, using) in uses.iter().enumerate() {
        if let Some(path) = &using.path
            && !paths.insert(path)
        {
            top.fault(&format!("secrets[{index}].path"), another);
        }
        if let Some(path) = &using.path {
            check_place(path, &directories, &format!("secrets[{index}].path"), top);
        }
        if let Some(env) = &using.env
            && !variables.insert(env)
        {
            top.fault(
                &format!("secrets[{index}].env"),
                "another value has this variable",
            );
        }
    }
    for (index, volume) in volumes.iter().enumerate() {
        if directories.contains_key(volume.path.as_str()) || is_below(&volume.path) {
            top.fault(&format!("volumes[{index}].path"), inside);
        }
    }
}

pub(super) fn to_json(uses: &[SecretUse]) -> Value {
    uses.iter().map(SecretUse::to_json).collect()
}

#[cfg(test)]
mod tests;
