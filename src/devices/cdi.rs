//! CDI files: what vendors say a container needs for a device of theirs.
//!
//! Source: Container Device Interface 1.0, `SPEC.md`. A part that this agent does not know makes the
//! file one that cannot be read: half of a device would be no device.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Deserialize;
use state::spec::devices::CdiName;

use super::{DeviceGrant, GrantedHook, GrantedMount, GrantedNode, NodeKind, node};

/// Largest file. Those of a GPU's driver have some 100 KiB.
const FILE_BYTES_MAX: u64 = 4 << 20;
/// Most files of one directory.
const FILES_MAX: usize = 256;
/// Versions of the format that are known.
const VERSIONS: [&str; 8] = [
    "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0",
];
/// Times at which a hook may run.
const HOOKS: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// File of a vendor.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CdiFile {
    cdi_version: String,
    kind: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    devices: Vec<CdiDevice>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CdiDevice {
    name: String,
    #[serde(default, rename = "annotations")]
    _annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: ContainerEdits,
}

/// Edits of a container's OCI spec.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct ContainerEdits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<EditNode>,
    #[serde(default)]
    mounts: Vec<EditMount>,
    #[serde(default)]
    hooks: Vec<EditHook>,
    #[serde(default)]
    additional_gids: Vec<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EditNode {
    path: String,
    host_path: Option<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<u32>,
    minor: Option<u32>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EditMount {
    host_path: String,
    container_path: String,
    #[serde(default)]
    options: Vec<String>,
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct EditHook {
    hook_name: String,
    path: String,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: Option<i64>,
}

/// The node's CDI files.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Files by the rank of their directory; a higher one counts more.
    files: Vec<(usize, PathBuf, CdiFile)>,
    /// Files that cannot be read, and why.
    faults: Vec<String>,
    dirs: Vec<PathBuf>,
}

impl Registry {
    /// Reads all files of these directories, which need not exist.
    pub(super) fn read(dirs: &[PathBuf]) -> Self {
        let mut registry = Self {
            dirs: dirs.to_vec(),
            ..Self::default()
        };
        for (rank, dir) in dirs.iter().enumerate() {
            let Ok(entries) = fs::read_dir(dir) else {
                continue;
            };
            let paths = entries.flatten().map(|entry| entry.path());
            let is_file = |path: &PathBuf| {
                path.extension()
                    .is_some_and(|end| matches!(end.to_str(), Some("json" | "yaml" | "yml")))
            };
            let mut paths: Vec<_> = paths.filter(is_file).collect();
            paths.sort();
            if paths.len() > FILES_MAX {
                registry
                    .faults
                    .push(format!("{}: more than {FILES_MAX} files", dir.display()));
                paths.truncate(FILES_MAX);
            }
            for path in paths {
                match read_file(&path) {
                    Ok(file) => registry.files.push((rank, path, file)),
                    Err(fault) => registry.faults.push(format!("{}: {fault}", path.display())),
                }
            }
        }
        registry
    }

    /// Edits for these devices: of each, its own, and once those of the file that names it.
    ///
    /// # Errors
    /// Every device that no file names, or more than one.
    pub(super) fn edits(&self, names: &[&CdiName]) -> Result<Vec<ContainerEdits>, Vec<String>> {
        let (mut edits, mut faults, mut used) = (Vec::new(), Vec::new(), BTreeSet::new());
        for name in names {
            match self.device(name) {
                Ok((index, device)) => {
                    if used.insert(index) {
                        edits.push(self.files[index].2.container_edits.clone());
                    }
                    edits.push(device.container_edits.clone());
                }
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() {
            Ok(edits)
        } else {
            Err(faults)
        }
    }

    fn device(&self, name: &CdiName) -> Result<(usize, &CdiDevice), String> {
        let files = self.files.iter().enumerate();
        let named: Vec<_> = files
            .filter(|(_, (.., file))| file.kind == name.kind)
            .filter_map(|(index, (rank, _, file))| {
                let device = file
                    .devices
                    .iter()
                    .find(|device| device.name == name.name)?;
                Some((*rank, index, device))
            })
            .collect();
        let highest = named.iter().map(|(rank, ..)| *rank).max();
        let mut counting = named.iter().filter(|(rank, ..)| Some(*rank) == highest);
        match (counting.next(), counting.next()) {
            (Some((_, index, device)), None) => Ok((*index, device)),
            (Some((_, one, _)), Some((_, other, _))) => Err(format!(
                "{name} stands in two CDI files, {} and {}; take it out of one",
                self.files[*one].1.display(),
                self.files[*other].1.display()
            )),
            (None, _) => {
                let dirs: Vec<_> = self
                    .dirs
                    .iter()
                    .map(|dir| dir.display().to_string())
                    .collect();
                let faults: String = self
                    .faults
                    .iter()
                    .map(|fault| format!("; {fault}"))
                    .collect();
                Err(format!(
                    "no CDI file in {} names {name}; install the driver's files, as by its vendor's \
                     tool{faults}",
                    dirs.join(" and ")
                ))
            }
        }
    }
}

/// Reads a file. Whoever could write it has the node by its hooks: it is root's alone to write.
fn read_file(path: &Path) -> Result<CdiFile, String> {
    let fault = |error: &dyn std::fmt::Display| error.to_string();
    let flags = OFlags::NONBLOCK.bits().cast_signed();
    let opened = OpenOptions::new().read(true).custom_flags(flags).open(path);
    let file = opened.map_err(|error| fault(&error))?;
    let found = file.metadata().map_err(|error| fault(&error))?;
    if !found.is_file() || found.uid() != 0 || found.mode() & 0o022 != 0 {
        return Err(
            "it must be a file of root that nobody else may write; chown root, chmod go-w"
                .to_owned(),
        );
    }
    let mut text = String::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| fault(&error))?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("it has more than {FILE_BYTES_MAX} bytes"));
    }
    // JSON is YAML as well.
    let file: CdiFile = serde_yaml::from_str(&text).map_err(|error| fault(&error))?;
    if !VERSIONS.contains(&file.cdi_version.as_str()) {
        return Err(format!(
            "its cdiVersion {:?} is not known; this agent knows {}",
            file.cdi_version,
            VERSIONS.join(", ")
        ));
    }
    Ok(file)
}

impl ContainerEdits {
    /// Adds the edits to what a container is given.
    ///
    /// # Errors
    /// A device node of it is not there, or a part of it is none that this agent knows.
    pub(super) fn add_to(&self, grant: &mut DeviceGrant) -> Result<(), String> {
        for node in &self.device_nodes {
            grant.nodes.push(node.granted()?);
        }
        for variable in &self.env {
            if !variable.contains('=') {
                return Err(format!("{variable:?} of a CDI file is no variable"));
            }
        }
        for hook in &self.hooks {
            if !HOOKS.contains(&hook.hook_name.as_str()) {
                return Err(format!(
                    "{:?} of a CDI file is no time for a hook",
                    hook.hook_name
                ));
            }
        }
        grant.environment.extend(self.env.iter().cloned());
        grant
            .mounts
            .extend(self.mounts.iter().map(EditMount::granted));
        grant
            .hooks
            .extend(self.hooks.iter().map(|hook| GrantedHook {
                when: hook.hook_name.clone(),
                path: hook.path.clone(),
                args: hook.args.clone(),
                environment: hook.env.clone(),
                timeout_s: hook.timeout,
            }));
        // Group 0 is nobody's by a device (CDI `SPEC.md`).
        grant
            .groups
            .extend(self.additional_gids.iter().filter(|gid| **gid != 0));
        Ok(())
    }
}

impl EditNode {
    fn granted(&self) -> Result<GrantedNode, String> {
        let host = self.host_path.as_ref().unwrap_or(&self.path);
        let access = self.permissions.as_deref().unwrap_or("rwm");
        let found = node(host, &self.path, access);
        let mut granted = match (found, self.kind.as_deref(), self.major) {
            (Ok(found), ..) => found,
            (Err(_), Some(kind @ ("c" | "u" | "b")), Some(major)) => GrantedNode {
                host: host.clone(),
                container: self.path.clone(),
                kind: if kind == "b" {
                    NodeKind::Block
                } else {
                    NodeKind::Char
                },
                number: (major, self.minor.unwrap_or(0)),
                mode: 0o666,
                owner: (0, 0),
                access: access.to_owned(),
            },
            (Err(error), ..) => return Err(format!("{host}, which a CDI file names: {error}")),
        };
        if let Some(major) = self.major {
            granted.number = (major, self.minor.unwrap_or(granted.number.1));
        }
        granted.mode = self.file_mode.map_or(granted.mode, |mode| mode & 0o777);
        granted.owner = (
            self.uid.unwrap_or(granted.owner.0),
            self.gid.unwrap_or(granted.owner.1),
        );
        Ok(granted)
    }
}

impl EditMount {
    fn granted(&self) -> GrantedMount {
        let mut options = self.options.clone();
        let kind = self.kind.clone().unwrap_or_else(|| "bind".to_owned());
        if kind == "bind"
            && !options
                .iter()
                .any(|option| option == "bind" || option == "rbind")
        {
            options.push("rbind".to_owned());
        }
        GrantedMount {
            source: self.host_path.clone(),
            destination: self.container_path.clone(),
            kind,
            options,
        }
    }
}
