//! Secret values on their way into containers: the node's key, and a file system in memory with what
//! each instance is given. It knows no containerd, and which values those are is said to it.
//!
//! An instance that has values finds them in `/.chas`: the variables (`env`), which only its user can
//! read, and the program that sets them (`init`; `reaper` where it stays the first process, `session`
//! where that waits for a caller). Nothing of it is written to a disk; with the machine all of it is
//! gone, and a launch makes it again from the sealed records.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, ErrorKind, Read as _, Write as _};
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
mod replaced;

/// Directory of the values in a container.
pub(crate) const IN_CONTAINER: &str = "/.chas";
/// Program in a container that sets variables, and becomes the program that is named after them.
pub(crate) const INIT: &str = "/.chas/init";
/// The same program, as one that stays the first process.
pub(crate) const REAPER: &str = "/.chas/reaper";
/// The same program, as a first process that waits for the caller of its own program, and as the process
/// that is run for that one.
pub(crate) const SESSION: &str = "/.chas/session";
/// File in a container with the variables of its first process.
pub(crate) const VARIABLES: &str = "/.chas/env";

/// Names of the program, by which it knows what to do.
const PROGRAM_NAMES: [&str; 3] = ["init", "reaper", "session"];
const VARIABLES_NAME: &str = "env";
/// The program, kept once and linked to from each instance.
const PROGRAM_NAME: &str = ".program";
const PROGRAM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/chas-init"));
/// Kind of a file system in memory (`statfs(2)`).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;
/// Options of the file system: room for the values of some hundred containers with the largest ones,
/// and for those of all others; its pages are never on a swap disk.
const OPTIONS: &str = "size=256m,nr_inodes=64k,mode=0700";
/// Bytes of variables that are read back: more than any environment has.
const VARIABLES_BYTES_MAX: u64 = 4 << 20;

/// File that an instance is given.
#[derive(Clone)]
pub(crate) struct GivenFile {
    /// Content.
    pub(crate) content: Vec<u8>,
    /// Permissions.
    pub(crate) mode: u32,
    /// User and group on the host.
    pub(crate) owner: (u32, u32),
}

/// Values that an instance is given.
#[derive(Clone, Default)]
pub(crate) struct GivenValues {
    /// Variables by their names, and the process's user and group on the host. `None`: it sets none.
    pub(crate) variables: Option<(BTreeMap<String, String>, (u32, u32))>,
    /// Files that are mounted each by itself.
    pub(crate) files: Vec<GivenFile>,
    /// Directories whose files change under the process, by the names of the files.
    pub(crate) directories: Vec<BTreeMap<String, GivenFile>>,
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

    /// Directory on the host with an instance's variables, and the program that sets them.
    pub(crate) fn variables_dir(&self, instance: InstanceName) -> PathBuf {
        self.of(instance).join("chas")
    }

    /// File on the host of an instance, by its number.
    pub(crate) fn file(&self, instance: InstanceName, number: usize) -> PathBuf {
        self.of(instance).join(format!("file-{number}"))
    }

    /// Directory on the host of an instance, by its number.
    pub(crate) fn directory(&self, instance: InstanceName, number: usize) -> PathBuf {
        self.of(instance).join(format!("directory-{number}"))
    }

    fn of(&self, instance: InstanceName) -> PathBuf {
        self.directory.join(instance.to_string())
    }

    /// Gives an instance its values; those of before are replaced. Blocks.
    ///
    /// # Errors
    /// The file system cannot be mounted, or is full. No value is in the error.
    pub(crate) fn give(&self, instance: InstanceName, given: &GivenValues) -> io::Result<()> {
        let _turn = lock(&self.turn);
        self.mount()?;
        make_directory(&self.of(instance), 0o700)?;
        if let Some((variables, owner)) = &given.variables {
            let place = self.variables_dir(instance);
            make_directory(&place, 0o755)?;
            self.link_program(&place)?;
            write_variables(&place.join(VARIABLES_NAME), variables, *owner)?;
        }
        for (number, file) in given.files.iter().enumerate() {
            write_given(&self.file(instance, number), file)?;
        }
        self.replace_in(instance, &given.directories)
    }

    /// Replaces what is in the directories of an instance that runs, each in one step. Blocks.
    ///
    /// # Errors
    /// The file system is full, or the directories that the instance was given are gone: one that is
    /// made now would be seen by nobody. No value is in the error.
    pub(crate) fn replace(
        &self,
        instance: InstanceName,
        directories: &[BTreeMap<String, GivenFile>],
    ) -> io::Result<()> {
        let _turn = lock(&self.turn);
        let given = (0..directories.len()).map(|number| self.directory(instance, number));
        if let Some(gone) = given.into_iter().find(|given| !given.exists()) {
            let message = format!(
                "{} is gone, which the running container was given; restart it",
                gone.display()
            );
            return Err(io::Error::other(message));
        }
        self.replace_in(instance, directories)
    }

    fn replace_in(
        &self,
        instance: InstanceName,
        directories: &[BTreeMap<String, GivenFile>],
    ) -> io::Result<()> {
        let directories = directories.iter().enumerate();
        for (number, files) in directories {
            replaced::replace(&self.directory(instance, number), files)?;
        }
        Ok(())
    }

    /// Gives variables to a program that is run beside an instance's first, and answers their file in
    /// the container. Blocks.
    ///
    /// # Errors
    /// The instance has no place for them, or the file system is full.
    pub(crate) fn give_exec(
        &self,
        instance: InstanceName,
        exec: &str,
        variables: &BTreeMap<String, String>,
        owner: (u32, u32),
    ) -> io::Result<String> {
        let name = format!("{VARIABLES_NAME}-{exec}");
        let path = self.variables_dir(instance).join(&name);
        write_variables(&path, variables, owner)?;
        Ok(format!("{IN_CONTAINER}/{name}"))
    }

    /// Takes the variables of such a program away, if it had any. Blocks.
    pub(crate) fn take_exec(&self, instance: InstanceName, exec: &str) {
        let path = self.variables_dir(instance);
        let _there_was_none = fs::remove_file(path.join(format!("{VARIABLES_NAME}-{exec}")));
    }

    /// Whether an instance has values that a launch gave it.
    pub(crate) fn has(&self, instance: InstanceName) -> bool {
        self.of(instance).exists()
    }

    /// Variables that an instance was given.
    ///
    /// # Errors
    /// It has none, or they cannot be read now.
    pub(crate) fn variables(&self, instance: InstanceName) -> io::Result<BTreeMap<String, String>> {
        let mut content = String::new();
        let file = File::open(self.variables_dir(instance).join(VARIABLES_NAME))?;
        file.take(VARIABLES_BYTES_MAX)
            .read_to_string(&mut content)?;
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
        // Whatever is not known to be the last leaves it mounted, under all others.
        let is_last = self.listed().is_ok_and(|left| left.is_empty());
        if is_last && self.is_mounted().unwrap_or(false) {
            let unmounted = on_host(|| Ok(unmount(&self.directory, UnmountFlags::DETACH)?));
            if unmounted.is_ok() {
                let _not_empty_or_gone = fs::remove_dir(&self.directory);
            }
        }
        Ok(true)
    }

    /// Instances that have values.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub(crate) fn listed(&self) -> io::Result<Vec<InstanceName>> {
        let entries = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?.collect::<io::Result<Vec<_>>>()?,
        };
        let names = entries
            .iter()
            .filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter_map(|name| name.parse().ok()).collect())
    }

    fn mount(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.directory)?;
        if self.is_mounted()? {
            return self.is_memory();
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
        first.or(second)?;
        self.is_memory()
    }

    /// Checks that what is mounted is in memory, as the agent itself sees it: what the host mounts may
    /// not be seen here.
    fn is_memory(&self) -> io::Result<()> {
        if rustix::fs::statfs(&self.directory)?.f_type == TMPFS_MAGIC {
            return Ok(());
        }
        let message = format!("{} is no file system in memory", self.directory.display());
        Err(io::Error::other(message))
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
        for name in PROGRAM_NAMES {
            let link = place.join(name);
            match fs::hard_link(&program, &link) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    fs::remove_file(&link)?;
                    fs::hard_link(&program, &link)?;
                }
                linked => linked?,
            }
        }
        Ok(())
    }
}

/// Whether a container with these words begins with the agent's program.
pub(crate) fn begins_with_init(words: &serde_json::Value) -> bool {
    words[0] == INIT || words[0] == REAPER || awaits_caller(words)
}

/// Whether the first process of a container with these words waits for the caller of its program.
pub(crate) fn awaits_caller(words: &serde_json::Value) -> bool {
    words[0] == SESSION
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    fs::set_permissions(path, Permissions::from_mode(mode))
}

fn write_variables(
    path: &Path,
    variables: &BTreeMap<String, String>,
    owner: (u32, u32),
) -> io::Result<()> {
    let mut content = Vec::new();
    for (name, value) in variables {
        content.extend([name.as_bytes(), b"=", value.as_bytes(), b"\0"].concat());
    }
    let mode = 0o400;
    let variables = GivenFile {
        content,
        mode,
        owner,
    };
    write_given(path, &variables)
}

fn write_given(path: &Path, given: &GivenFile) -> io::Result<()> {
    let (user, group) = given.owner;
    write(path, &given.content, given.mode, |new| {
        std::os::unix::fs::chown(new, Some(user), Some(group))
    })
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
mod tests;
