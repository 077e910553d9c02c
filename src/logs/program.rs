//! Name under which the agent's program is started as a logger: a symbolic link, so that the process
//! has a name of its own (`pkill chas-node-agent` ends no logger).

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use super::logger::NAME;

/// Program of the loggers.
#[derive(Debug)]
pub(crate) struct LoggerProgram {
    link: PathBuf,
    executable: PathBuf,
}

impl LoggerProgram {
    /// Program that is `executable` under another name, in the directory `run_dir`. That may be on
    /// a file system from which nothing can be executed.
    pub(crate) fn new(run_dir: &Path, executable: PathBuf) -> Self {
        let link = run_dir.join(NAME.to_string_lossy().as_ref());
        Self { link, executable }
    }

    /// Path to start the program by, which exists. Where it cannot be linked, or is away, it is the
    /// program's own.
    pub(super) fn path(&self) -> &Path {
        let is_linked = fs::read_link(&self.link).is_ok_and(|to| to == self.executable);
        if self.executable.exists() && (is_linked || self.make_link().is_ok()) {
            &self.link
        } else {
            &self.executable
        }
    }

    fn make_link(&self) -> io::Result<()> {
        if let Some(dir) = self.link.parent() {
            let mut builder = fs::DirBuilder::new();
            builder.recursive(true).mode(0o700).create(dir)?;
        }
        // In one step: a launch at the same moment finds one or the other.
        let new = self.link.with_extension(std::process::id().to_string());
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        symlink(&self.executable, &new)?;
        fs::rename(&new, &self.link)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_follows_the_program_and_where_there_is_none_it_goes_without() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("one"), dir.path().join("two"));
        fs::write(&one, "").unwrap();
        let run_dir = dir.path().join("run");
        let program = LoggerProgram::new(&run_dir, one.clone());
        let link = run_dir.join("chas-logger");
        assert_eq!(program.path(), link);
        assert_eq!(program.path(), link);
        fs::rename(&one, &two).unwrap();
        assert_eq!(program.path(), one, "an error is to name the program");
        let moved = LoggerProgram::new(&run_dir, two.clone());
        assert_eq!(moved.path(), link);
        assert_eq!(fs::read_link(&link).unwrap(), two);
        fs::remove_file(&link).unwrap();
        fs::create_dir(&link).unwrap();
        assert_eq!(moved.path(), two);
        assert_eq!(fs::read_dir(&run_dir).unwrap().count(), 2, "{link:?}");
    }
}
