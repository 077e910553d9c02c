//! Values of an instance that are not in its OCI spec, since containerd writes that to disk: opened
//! for its launch, put into memory, and taken away after it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;

use serde_json::Value;
use state::blobs::{BlobError, BlobTag};
use state::desired::Record;
use state::id::InstanceName;
use state::reason::Reason;
use state::spec::secrets::directories;
use state::spec::{SecretName, SecretUse};

use super::Instances;
use crate::oci::Given;
use crate::oci::host_ids::HostIds;
use crate::runtime::RuntimeError;
use crate::secrets::{self, GivenFile, GivenValues};

mod sweep;

/// File that an instance is given, of which nobody knows yet who it belongs to on the host.
struct OpenedFile {
    content: Vec<u8>,
    mode: u32,
    /// User and group as the container sees them. `None`: its process's.
    owner: Option<(u32, u32)>,
}

/// Values of a launch, and where its container finds them.
#[derive(Default)]
pub(super) struct Opened {
    /// Variables.
    pub(super) variables: BTreeMap<String, String>,
    files: Vec<OpenedFile>,
    directories: Vec<BTreeMap<String, OpenedFile>>,
    mounts: Vec<(PathBuf, String)>,
    /// Words before those of the container's own program.
    init: Vec<String>,
}

impl Opened {
    /// Values as the OCI spec of an instance has its part of them.
    pub(super) fn place(&self) -> Given<'_> {
        Given {
            mounts: &self.mounts,
            init: &self.init,
            variables: &self.variables,
        }
    }

    /// The values, with their owners on the host.
    fn given(self, ids: &Owners) -> Option<GivenValues> {
        let file = |file: OpenedFile| {
            Some(GivenFile {
                content: file.content,
                mode: file.mode,
                owner: ids.on_host(file.owner.unwrap_or(ids.process))?,
            })
        };
        let files: Option<_> = self.files.into_iter().map(file).collect();
        let directories = self.directories.into_iter().map(|directory| {
            let files = directory.into_iter();
            files
                .map(|(name, opened)| Some((name, file(opened)?)))
                .collect()
        });
        let variables = match ids.begins_with_init {
            true => Some((self.variables, ids.on_host(ids.process)?)),
            false => None,
        };
        Some(GivenValues {
            variables,
            files: files?,
            directories: directories.collect::<Option<_>>()?,
        })
    }
}

/// Values that a launch gives its instance.
pub(super) enum LaunchValues {
    /// No values.
    None,
    /// Values of the record.
    Opened(Box<Opened>),
    /// Values that the instance was given before.
    AsBefore,
}

impl LaunchValues {
    /// Values of the record.
    pub(super) fn opened(&self) -> Option<&Opened> {
        match self {
            Self::Opened(opened) => Some(opened),
            Self::None | Self::AsBefore => None,
        }
    }
}

/// Ids of a container, as its OCI spec has them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Owners {
    /// User and group of its process, as it sees them.
    pub(super) process: (u32, u32),
    ids: Option<HostIds>,
    /// Whether it takes its variables from memory: one that an older agent made has them in its OCI
    /// spec.
    pub(super) begins_with_init: bool,
    /// Whether its first process waits for the caller of its program.
    pub(super) awaits_caller: bool,
}

impl Owners {
    pub(super) fn of(oci_spec: &[u8]) -> Option<Self> {
        let spec: Value = serde_json::from_slice(oci_spec).ok()?;
        let process = &spec["process"];
        let id = |name: &str| u32::try_from(process["user"][name].as_u64().unwrap_or_default());
        Some(Self {
            process: (id("uid").ok()?, id("gid").ok()?),
            ids: HostIds::of(&spec),
            begins_with_init: secrets::begins_with_init(&process["args"]),
            awaits_caller: secrets::awaits_caller(&process["args"]),
        })
    }

    pub(super) fn on_host(&self, (user, group): (u32, u32)) -> Option<(u32, u32)> {
        let Some(ids) = self.ids else {
            return Some((user, group));
        };
        Some((ids.on_host(user)?, ids.on_host(group)?))
    }
}

impl Instances {
    /// Values that an instance is to be given. `None`: there are none.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: a value cannot be opened.
    pub(super) fn opened(&self, record: &Record) -> Result<Option<Opened>, RuntimeError> {
        let (spec, instance) = (&record.spec, record.instance());
        let has_values = !spec.sealed_environment.is_empty()
            || !spec.files.is_empty()
            || !spec.secrets.is_empty();
        let has_first_program = spec.init || spec.interactive;
        if !has_values && !has_first_program {
            return Ok(None);
        }
        let variables = spec.opened_environment(&record.name, &self.config.values.key.node_key());
        let variables =
            variables.map_err(|error| unavailable(&format!("a value in environment: {error}")))?;
        let mut opened = Opened {
            variables,
            ..Opened::default()
        };
        // Values that only older versions stored readable are in the OCI spec as they were.
        opened.variables.retain(|name, _| {
            spec.readable_environment()
                .all(|(readable, _)| readable != name)
        });
        for file in &spec.files {
            let content = self.content(file.tag.as_ref());
            let content = content
                .map_err(|error| unavailable(&format!("the file {}: {error}", file.path)))?;
            opened.add(
                self.config.values.memory.file(instance, opened.files.len()),
                &file.path,
                OpenedFile {
                    content,
                    mode: file.mode,
                    owner: Some(file.owner),
                },
            );
        }
        self.open_secrets(record, &mut opened)?;
        if !opened.variables.is_empty() || has_first_program {
            let place = self.config.values.memory.variables_dir(instance);
            let mount = (place, secrets::IN_CONTAINER.to_owned());
            opened.mounts.push(mount);
            let first = match (spec.interactive, spec.init) {
                (true, _) => secrets::SESSION,
                (false, true) => secrets::REAPER,
                (false, false) => secrets::INIT,
            };
            opened.init = [first, secrets::VARIABLES].map(str::to_owned).into();
        }
        Ok(Some(opened))
    }

    fn open_secrets(&self, record: &Record, opened: &mut Opened) -> Result<(), RuntimeError> {
        let (instance, uses) = (record.instance(), &record.spec.secrets);
        let directories = directories(uses);
        let together: BTreeSet<_> = directories
            .values()
            .flatten()
            .filter_map(|(_, using)| using.path.as_deref())
            .collect();
        for using in uses {
            match (&using.env, &using.path) {
                (Some(env), _) => {
                    let value = String::from_utf8(self.secret(using)?).ok();
                    let value = value.filter(|value| !value.contains('\0'));
                    let value = value.ok_or_else(|| {
                        let name = &using.name;
                        unavailable(&format!(
                            "the secret {name} is no text, as a variable must be"
                        ))
                    })?;
                    opened.variables.insert(env.clone(), value);
                }
                (None, Some(path)) if !together.contains(path.as_str()) => {
                    let file = self.secret_file(using)?;
                    let place = self.config.values.memory.file(instance, opened.files.len());
                    opened.add(place, path, file);
                }
                (None, _) => {}
            }
        }
        for (number, (path, files)) in directories.into_iter().enumerate() {
            let files = files.into_iter();
            let files = files.map(|(name, using)| Ok((name.to_owned(), self.secret_file(using)?)));
            let files = files.collect::<Result<_, RuntimeError>>()?;
            let place = self.config.values.memory.directory(instance, number);
            opened.directories.push(files);
            opened.mounts.push((place, path.to_owned()));
        }
        Ok(())
    }

    fn secret_file(&self, using: &SecretUse) -> Result<OpenedFile, RuntimeError> {
        Ok(OpenedFile {
            content: self.secret(using)?,
            mode: using.mode,
            owner: None,
        })
    }

    fn secret(&self, using: &SecretUse) -> Result<Vec<u8>, RuntimeError> {
        let told = |name: &SecretName, error: &BlobError| {
            unavailable(&match error {
                BlobError::Lost => {
                    format!(
                        "the secret {name}: its value is lost; put it again (PUT /secrets/{name})"
                    )
                }
                BlobError::Unread(_) | BlobError::Sealed(_) => {
                    format!("the secret {name}: {error}")
                }
            })
        };
        self.content(using.tag.as_ref())
            .map_err(|error| told(&using.name, &error))
    }

    fn content(&self, tag: Option<&BlobTag>) -> Result<Vec<u8>, BlobError> {
        let key = self.config.values.key.node_key();
        self.config
            .values
            .blobs
            .read(key.sealer()?, tag.ok_or(BlobError::Lost)?)
    }

    /// Values of a launch: those of its record, or, where the key is not there and the same instance is
    /// started again, those that it was given before.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: a value cannot be opened.
    pub(super) fn values(
        &self,
        record: &Record,
        is_new: bool,
    ) -> Result<LaunchValues, RuntimeError> {
        match self.opened(record) {
            Ok(None) => Ok(LaunchValues::None),
            Ok(Some(opened)) => Ok(LaunchValues::Opened(Box::new(opened))),
            Err(error) if is_new || !self.config.values.memory.has(record.instance()) => Err(error),
            Err(error) => {
                tracing::warn!(instance = %record.instance(), ?error, "values kept as they were given");
                Ok(LaunchValues::AsBefore)
            }
        }
    }

    /// Puts an instance's values into memory. Answers the search path among its variables.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: the memory takes no more.
    pub(super) async fn give(
        &self,
        instance: InstanceName,
        oci_spec: &[u8],
        values: LaunchValues,
    ) -> Result<Option<String>, RuntimeError> {
        let opened = match values {
            LaunchValues::None => return Ok(None),
            LaunchValues::AsBefore => {
                let given = self.config.values.memory.variables(instance);
                return Ok(given.ok().and_then(|given| given.get("PATH").cloned()));
            }
            LaunchValues::Opened(opened) => *opened,
        };
        let owners = Owners::of(oci_spec);
        let by_init = owners
            .as_ref()
            .is_some_and(|owners| owners.begins_with_init);
        let search = opened.variables.get("PATH").filter(|_| by_init).cloned();
        let given = owners.and_then(|owners| opened.given(&owners));
        let given = given.ok_or_else(no_owner)?;
        let memory = self.config.values.memory.clone();
        let giving = tokio::task::spawn_blocking(move || memory.give(instance, &given));
        placed(giving.await.map_err(io::Error::other).flatten())?;
        Ok(search)
    }

    /// Replaces the files of secrets that change under the process, which runs.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: a value cannot be opened, the memory takes no more, or the
    /// process would not see them.
    pub(super) async fn replace_secrets(
        &self,
        record: &Record,
        oci_spec: &[u8],
    ) -> Result<(), RuntimeError> {
        if directories(&record.spec.secrets).is_empty() {
            return Ok(());
        }
        let (instance, owners) = (record.instance(), Owners::of(oci_spec));
        let opened = self.opened(record)?;
        let given = opened.zip(owners);
        let given = given.and_then(|(opened, owners)| opened.given(&owners));
        let directories = given.ok_or_else(no_owner)?.directories;
        let memory = self.config.values.memory.clone();
        let replacing = tokio::task::spawn_blocking(move || memory.replace(instance, &directories));
        placed(replacing.await.map_err(io::Error::other).flatten())
    }
}

impl Opened {
    fn add(&mut self, place: PathBuf, path: &str, file: OpenedFile) {
        self.files.push(file);
        self.mounts.push((place, path.to_owned()));
    }
}

fn unavailable(what: &str) -> RuntimeError {
    RuntimeError::failed(Reason::SecretUnavailable, what.to_owned())
}

fn no_owner() -> RuntimeError {
    unavailable("an owner of a file is none of the container's ids, which end at 65535")
}

fn placed(done: io::Result<()>) -> Result<(), RuntimeError> {
    done.map_err(|error| {
        let place = if error.kind() == io::ErrorKind::StorageFull {
            "the memory for the values of all containers, secrets below state.run_dir, is full"
        } else {
            "its values cannot be put into memory below state.run_dir"
        };
        unavailable(&format!("{place}: {error}"))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_values_are_their_reader_s_own_on_the_host() {
        let spec = |args: Value, ids: Value| {
            let user = json!({"uid": 1000, "gid": 50});
            json!({"process": {"args": args, "user": user}, "linux": ids}).to_string()
        };
        let own = json!({"uidMappings": [{"containerID": 0, "hostID": 70_000, "size": 65_536}]});
        let init = json!([secrets::INIT, "sh"]);
        let read = |args: &Value, ids: Value| {
            let owners = Owners::of(spec(args.clone(), ids).as_bytes()).unwrap();
            (owners.on_host(owners.process), owners.begins_with_init)
        };
        assert_eq!(read(&init, json!({})), (Some((1000, 50)), true));
        assert_eq!(read(&init, own.clone()), (Some((71_000, 70_050)), true));
        assert!(!read(&json!(["sh"]), json!({})).1, "of an older agent");
        let owners = Owners::of(spec(init, own).as_bytes()).unwrap();
        assert_eq!(owners.on_host((70_000, 0)), None, "none of its ids");
    }
}
