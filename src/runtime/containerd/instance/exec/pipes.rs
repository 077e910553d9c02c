//! Pipes of a program: named ones, in a directory of its own, which the shim opens, too.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::OwnedFd;
use rustix::fs::{CWD, FileType, Mode, OFlags, open};
use tokio::net::unix::pipe;

use crate::exec::{ExecName, ExecOrder, ExecStreams};

/// Directory of all programs' pipes, in `run_dir`.
const DIRECTORY: &str = "exec";

/// Pipes of a program, open on the agent's side before anything opens the other.
pub(super) struct ExecPipes {
    /// Empty for those that the program has not.
    paths: [String; 3],
    stdin: Option<pipe::Sender>,
    stdout: pipe::Receiver,
    stderr: Option<pipe::Receiver>,
}

impl ExecPipes {
    /// Makes the pipes that a program needs.
    pub(super) fn make(run_dir: &Path, name: &ExecName, order: &ExecOrder) -> io::Result<Self> {
        let directory = directory(run_dir, name);
        let mut builder = DirBuilder::new();
        builder.mode(0o700).recursive(true);
        builder.create(run_dir.join(DIRECTORY))?;
        builder.recursive(false).create(&directory)?;
        let mut paths: [String; 3] = Default::default();
        let mut make = |number: usize, file: &str| -> io::Result<PathBuf> {
            let path = directory.join(file);
            rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            paths[number] = path.display().to_string();
            Ok(path)
        };
        let mut options = pipe::OpenOptions::new();
        let stdout = options.open_receiver(make(1, "stdout")?)?;
        let stderr = if order.terminal {
            None
        } else {
            Some(options.open_receiver(make(2, "stderr")?)?)
        };
        let stdin = if order.input {
            // For both: nobody reads it yet.
            Some(options.read_write(true).open_sender(make(0, "stdin")?)?)
        } else {
            None
        };
        Ok(Self {
            paths,
            stdin,
            stdout,
            stderr,
        })
    }

    /// Paths of input, output and errors.
    pub(super) fn paths(&self) -> [String; 3] {
        self.paths.clone()
    }

    /// The agent's side of them.
    pub(super) fn streams(self) -> ExecStreams {
        ExecStreams {
            stdin: self.stdin.map(|pipe| Box::new(pipe) as _),
            stdout: Box::new(self.stdout),
            stderr: self.stderr.map(|pipe| Box::new(pipe) as _),
        }
    }
}

fn directory(run_dir: &Path, name: &ExecName) -> PathBuf {
    let (instance, id) = (name.instance, &name.id);
    run_dir.join(DIRECTORY).join(format!("{instance}.{id}"))
}

/// Removes the pipes of a program.
pub(super) fn remove(run_dir: &Path, name: &ExecName) -> io::Result<()> {
    match fs::remove_dir_all(directory(run_dir, name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Opens all pipes that an agent before has left. A shim opens its side of them while it starts a
/// program, and waits for the other side with a lock that every look at its containers needs: of an
/// agent that was killed in that moment, until the deadline of its call.
pub(super) fn open_left(run_dir: &Path) -> Vec<OwnedFd> {
    let directories = left(run_dir)
        .into_iter()
        .map(|name| directory(run_dir, &name));
    let pipes = directories
        .flat_map(|directory| ["stdin", "stdout", "stderr"].map(|pipe| directory.join(pipe)));
    // For both, so that none waits for another.
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let opened = pipes.filter_map(|pipe| open(pipe, flags, Mode::empty()).ok());
    opened.collect()
}

/// Programs of which there are pipes.
pub(super) fn left(run_dir: &Path) -> Vec<ExecName> {
    let Ok(entries) = fs::read_dir(run_dir.join(DIRECTORY)) else {
        return Vec::new();
    };
    let names = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let (instance, id) = name.split_once('.')?;
        Some(ExecName {
            instance: instance.parse().ok()?,
            id: id.to_owned(),
        })
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pipes_are_found_by_their_program_until_they_are_removed() {
        let run_dir = tempfile::tempdir().unwrap();
        let name = ExecName {
            instance: "0123456789ab-7".parse().unwrap(),
            id: "exec-00".to_owned(),
        };
        assert_eq!(left(run_dir.path()), []);
        for (terminal, input) in [(false, false), (true, true)] {
            let order = ExecOrder {
                terminal,
                input,
                ..ExecOrder::default()
            };
            let pipes = ExecPipes::make(run_dir.path(), &name, &order).unwrap();
            let open_now = usize::from(input) + 1 + usize::from(!terminal);
            assert_eq!(open_left(run_dir.path()).len(), open_now);
            let has = pipes.paths().map(|path| !path.is_empty());
            assert_eq!(has, [input, true, !terminal]);
            assert_eq!(left(run_dir.path()), std::slice::from_ref(&name));
            remove(run_dir.path(), &name).unwrap();
            remove(run_dir.path(), &name).unwrap();
            assert_eq!(left(run_dir.path()), []);
        }
    }
}
