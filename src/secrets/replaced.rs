//! Directory whose files change all at once under whoever has it mounted: the files are links through
//! `..data`, itself a link to a directory with one state of them, which one rename leads to the next
//! (as Kubernetes' kubelet does). A file that is open stays as it was.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use super::{GivenFile, make_directory, write_given};

/// Link to the directory with the present state.
const DATA: &str = "..data";

/// Makes the files of a directory these. What is so already is left alone; killed at any point it is
/// brought to its end by the next call.
pub(super) fn replace(directory: &Path, files: &BTreeMap<String, GivenFile>) -> io::Result<()> {
    make_directory(directory, 0o755)?;
    for name in files.keys() {
        let link = directory.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    let data = directory.join(DATA);
    let before = fs::read_link(&data).ok();
    if before.is_none() || !files.iter().all(|(name, file)| is(&data.join(name), file)) {
        lead_on(directory, before.as_deref(), files)?;
    }
    clear(directory)
}

/// Makes another state of the files, and leads the link to it.
fn lead_on(
    directory: &Path,
    before: Option<&Path>,
    files: &BTreeMap<String, GivenFile>,
) -> io::Result<()> {
    let number = before.and_then(|before| {
        let name = before.to_str()?.strip_prefix("..")?;
        name.parse::<u64>().ok()
    });
    let next = format!("..{}", number.map_or(1, |number| number + 1));
    let place = directory.join(&next);
    remove(&place)?;
    make_directory(&place, 0o755)?;
    for (name, file) in files {
        write_given(&place.join(name), file)?;
    }
    let new = directory.join("..data.new");
    remove(&new)?;
    symlink(&next, &new)?;
    fs::rename(&new, directory.join(DATA))
}

/// Removes every state of the files but the present one.
fn clear(directory: &Path) -> io::Result<()> {
    let present = fs::read_link(directory.join(DATA))?;
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let is_ours = name.to_string_lossy().starts_with("..") && name != DATA;
        if is_ours && name != present.as_os_str() {
            remove(&directory.join(name))?;
        }
    }
    Ok(())
}

/// Whether a file is as it is to be.
fn is(path: &Path, file: &GivenFile) -> bool {
    let found = fs::metadata(path).map(|found| (found.mode() & 0o7777, found.uid(), found.gid()));
    let (user, group) = file.owner;
    found.is_ok_and(|found| found == (file.mode, user, group))
        && fs::read(path).is_ok_and(|content| content == file.content)
}

fn remove(path: &Path) -> io::Result<()> {
    let is_directory = fs::symlink_metadata(path).is_ok_and(|found| found.is_dir());
    let removed = match is_directory {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_files_change_in_one_step_and_an_open_one_stays() {
        let directory = tempfile::tempdir().unwrap();
        let owner = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let files = |texts: [&str; 2]| {
            let file = |text: &str| GivenFile {
                content: text.into(),
                mode: 0o400,
                owner,
            };
            BTreeMap::from([
                ("cert".to_owned(), file(texts[0])),
                ("key".to_owned(), file(texts[1])),
            ])
        };
        let path = directory.path().join("tls");
        replace(&path, &files(["c1", "k1"])).unwrap();
        let open = fs::File::open(path.join("key")).unwrap();
        let data = fs::read_link(path.join(DATA)).unwrap();
        replace(&path, &files(["c1", "k1"])).unwrap();
        assert_eq!(fs::read_link(path.join(DATA)).unwrap(), data, "left alone");
        replace(&path, &files(["c2", "k2"])).unwrap();
        assert_eq!(fs::read(path.join("cert")).unwrap(), b"c2");
        assert_eq!(fs::read(path.join("key")).unwrap(), b"k2");
        assert_eq!(io::read_to_string(open).unwrap(), "k1");
        assert!(!path.join(&data).exists(), "the state before is gone");
        // As a kill leaves it: a state before, no link.
        fs::create_dir(path.join(&data)).unwrap();
        fs::write(path.join(&data).join("key"), "k1").unwrap();
        fs::remove_file(path.join("key")).unwrap();
        replace(&path, &files(["c2", "k2"])).unwrap();
        assert_eq!(fs::read(path.join("key")).unwrap(), b"k2");
        assert!(!path.join(data).exists());
    }
}
