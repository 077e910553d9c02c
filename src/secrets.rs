//! Secret values on their way into containers: the node's key, and a file system in memory with what
//! each instance is given. It knows no containerd, and which values those are is said to it.
//!
//! An instance that has values finds them in `/.chas`: the variables (`env`), which only its user can
//! read, and the program that sets them (`init`). Nothing of it is written to a disk; with the
//! machine all of it is gone, and a launch makes it again from the sealed records.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use state::id::InstanceName;

use crate::lock::lock;
use crate::mounts::on_host;

pub(crate) mod key;

/// Directory of the values in a container.
pub(crate) const IN_CONTAINER: &str = "/.chas";
/// Program in a container that sets its variables, and becomes the container's own.
pub(crate) const INIT: &str = "/.chas/init";

const INIT_NAME: &str = "init";
const VARIABLES_NAME: &str = "env";
/// The program, kept once and linked to from each instance.
const PROGRAM_NAME: &str = ".program";
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chas-init"));
/// Options of the file system: room for a thousand containers with the largest environments, and its
/// pages never on a swap disk.
const OPTIONS: &str = "size=256m,nr_inodes=64k,mode=0700";
/// Bytes of variables that are read back: more than any environment has.
const VARIABLES_BYTES_MAX: u64 = 4 << 20;

/// Variables of an instance, and the ids on the host of the process that reads them.
#[derive(Clone)]
pub(crate) struct GivenVariables {
    /// Variables by their names.
    pub(crate) variables: BTreeMap<String, String>,
    /// User and group.
    pub(crate) owner: (u32, u32),
}

/// File system in memory with the values of all instances.
#[derive(Clone, Debug)]
pub(crate) struct SecretMemory {
    directory: PathBuf,
    /// Held by whoever mounts, unmounts, or adds an instance.
    turn: Arc<Mutex<()>>,
}

impl SecretMemory {
    /// The file system below the directory for what is gone with the machine. It is mounted with the
    /// first instance that needs it, and unmounted with the last.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            directory: run_dir.join("secrets"),
            turn: Arc::default(),
        }
    }

    /// Directory on the host of an instance's values.
    pub(crate) fn of(&self, instance: InstanceName) -> PathBuf {
        self.directory.join(instance.to_string())
    }

    /// Gives an instance its variables; those of before are replaced. Blocks.
    ///
    /// # Errors
    /// The file system cannot be mounted, or is full. No value is in the error.
    pub(crate) fn give(&self, instance: InstanceName, given: &GivenVariables) -> io::Result<()> {
        let _turn = lock(&self.turn);
        self.mount()?;
        let place = self.of(instance);
        make_directory(&place)?;
        self.link_program(&place)?;
        let mut content = Vec::new();
        for (name, value) in &given.variables {
            content.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
        }
        let (user, group) = given.owner;
        let path = place.join(VARIABLES_NAME);
        write(&path, &content, 0o400, |new| {
            std::os::unix::fs::chown(new, Some(user), Some(group))
        })
    }

    /// Variables that an instance was given. `None`: none.
    ///
    /// # Errors
    /// They cannot be read now.
    pub(crate) fn variables(&self, instance: InstanceName) -> io::Result<BTreeMap<String, String>> {
        let mut content = String::new();
        match File::open(self.of(instance).join(VARIABLES_NAME)) {
            Ok(file) => {
                io::Read::read_to_string(
                    &mut io::Read::take(file, VARIABLES_BYTES_MAX),
                    &mut content,
                )?;
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let entries = content.split_terminator('\0');
        let entries = entries.filter_map(|entry| entry.split_once('='));
        Ok(entries
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect())
    }

    /// Takes an instance's values away. Answers whether there were any. Blocks.
    ///
    /// # Errors
    /// They cannot be removed.
    pub(crate) fn remove(&self, instance: InstanceName) -> io::Result<bool> {
        let place = self.of(instance);
        if !place.exists() {
            return Ok(false);
        }
        let _turn = lock(&self.turn);
        match fs::remove_dir_all(&place) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        if self.listed().is_empty() && self.is_mounted().unwrap_or(false) {
            let unmounted = on_host(|| Ok(unmount(&self.directory, UnmountFlags::DETACH)?));
            if unmounted.is_ok() {
                let _not_empty_or_gone = fs::remove_dir(&self.directory);
            }
        }
        Ok(true)
    }

    /// Instances that have values.
    pub(crate) fn listed(&self) -> Vec<InstanceName> {
        let entries = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| name.parse().ok()).collect()
    }

    fn mount(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        if self.is_mounted()? {
            return Ok(());
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        // Linux before 6.4 does not know the first.
        let mounted = [format!("{OPTIONS},noswap"), OPTIONS.to_owned()].map(|options| {
            let options = CString::new(options).map_err(io::Error::other)?;
            on_host(|| {
                if is_mount_point(&self.directory)? {
                    return Ok(());
                }
                Ok(mount(
                    "chas-secrets",
                    &self.directory,
                    "tmpfs",
                    flags,
                    &*options,
                )?)
            })
        });
        let [first, second] = mounted;
        first.or(second)
    }

    fn is_mounted(&self) -> io::Result<bool> {
        is_mount_point(&self.directory)
    }

    /// Links the program into an instance's directory. It is one file for all, for as long as this
    /// agent's program is the same.
    fn link_program(&self, place: &Path) -> io::Result<()> {
        let program = self.directory.join(PROGRAM_NAME);
        if fs::read(&program).ok().as_deref() != Some(PROGRAM) {
            write(&program, PROGRAM, 0o555, |_| Ok(()))?;
        }
        let link = place.join(INIT_NAME);
        match fs::hard_link(&program, &link) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                fs::remove_file(&link)?;
                fs::hard_link(&program, &link)
            }
            linked => linked,
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(path, Permissions::from_mode(0o755))
}

/// Writes a file that is whole, and its owner's, from the moment at which it has its name.
fn write(
    path: &Path,
    content: &[u8],
    mode: u32,
    own: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut options = File::options();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    file.write_all(content)?;
    own(&new)?;
    file.set_permissions(Permissions::from_mode(mode))?;
    // A file that somebody can still write to cannot be executed.
    drop(file);
    fs::rename(&new, path)
}

fn is_mount_point(directory: &Path) -> io::Result<bool> {
    let parent = directory.parent().unwrap_or(Path::new("/"));
    Ok(fs::metadata(directory)?.dev() != fs::metadata(parent)?.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_back_as_they_were_given_and_an_instance_s_alone() {
        // Without a mount: the directory stands for it.
        let run_dir = tempfile::tempdir().unwrap();
        let memory = SecretMemory::new(run_dir.path());
        let (one, two) = (
            "000000000abc-1".parse().unwrap(),
            "000000000abc-2".parse().unwrap(),
        );
        assert!(memory.variables(one).unwrap().is_empty());
        assert!(!memory.remove(one).unwrap());
        let variables = BTreeMap::from([
            ("A".to_owned(), "x=\ny".to_owned()),
            ("EMPTY".to_owned(), String::new()),
        ]);
        let given = GivenVariables {
            variables: variables.clone(),
            owner: (
                rustix::process::geteuid().as_raw(),
                rustix::process::getegid().as_raw(),
            ),
        };
        if memory.give(one, &given).is_err() {
            // Only root may mount.
            return;
        }
        memory.give(two, &given).unwrap();
        memory.give(two, &given).unwrap();
        assert_eq!(memory.variables(one).unwrap(), variables);
        let path = memory.of(two);
        let mode = |name: &str| fs::metadata(path.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("env"), mode("init")), (0o400, 0o555));
        let ran = std::process::Command::new(path.join("init"))
            .output()
            .unwrap();
        assert_eq!(ran.status.code(), Some(127), "it names no program");
        assert!(memory.remove(one).unwrap());
        assert_eq!(memory.listed(), [two]);
        assert!(memory.remove(two).unwrap());
        assert!(!memory.directory.exists(), "unmounted with the last");
    }
}
