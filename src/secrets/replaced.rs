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

/// Makes the files of a directory these. What is so already is left alone.
pub(super) fn replace(directory: &Path, files: &BTreeMap<String, GivenFile>) -> io::Result<()> {
    make_directory(directory, 0o755)?;
    let data = directory.join(DATA);
    let before = fs::read_link(&data).ok();
    if before.is_some() && files.iter().all(|(name, file)| is(&data.join(name), file)) {
        return Ok(());
    }
    let number = before.as_ref().and_then(|before| {
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
    fs::rename(&new, &data)?;
    for name in files.keys() {
        let link = directory.join(name);
        if fs::read_link(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    before.map_or(Ok(()), |before| remove(&directory.join(before)))
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
        assert!(!path.join(data).exists(), "the state before is gone");
    }
}
