//! Quarantine for damaged files: they are kept, each with the reason beside it.

use std::fs;
use std::path::{Path, PathBuf};

use super::state_dir::{DiskCall, StateDir};

/// Files kept. Beyond that the oldest is deleted, for a failing disk must not fill itself.
const KEPT_MAX: u64 = 20;

/// Moves `path` into `directory`, with `why` in a file beside it where there is room for one.
/// Answers the new path.
pub(super) fn quarantine(
    dir: &StateDir,
    directory: &Path,
    path: &Path,
    why: &str,
) -> std::io::Result<PathBuf> {
    dir.ask(DiskCall::Create)?;
    fs::create_dir_all(directory)?;
    let number = newest(directory) + 1;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let to = directory.join(format!("{number}-{name}"));
    fs::rename(path, &to)?;
    // The log has it too.
    let _told_elsewhere = fs::write(
        directory.join(format!("{number}-{name}.reason")),
        format!("{why}\n"),
    );
    drop_older(directory, number.saturating_sub(KEPT_MAX));
    Ok(to)
}

fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.split_once('-')?.0.parse().ok()
}

fn newest(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| number_of(&entry.path()))
        .max()
        .unwrap_or_default()
}

fn drop_older(directory: &Path, last: u64) {
    let entries = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path());
    for path in entries.filter(|path| number_of(path).is_some_and(|number| number <= last)) {
        // A failure is no matter: the next call tries again.
        let _next_time = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::state_dir::sound_disk;
    use super::*;

    #[test]
    fn damaged_files_are_kept_with_their_reasons_up_to_a_limit() {
        let directory = tempfile::tempdir().unwrap();
        let dir = StateDir::new(directory.path(), sound_disk);
        let (kept, damaged) = (
            directory.path().join("quarantine"),
            directory.path().join("file"),
        );
        for n in 0..KEPT_MAX + 5 {
            fs::write(&damaged, n.to_string()).unwrap();
            let to = quarantine(&dir, &kept, &damaged, "rotten").unwrap();
            assert_eq!(fs::read_to_string(&to).unwrap(), n.to_string());
            assert_eq!(
                fs::read_to_string(format!("{}.reason", to.display())).unwrap(),
                "rotten\n"
            );
        }
        assert!(!damaged.exists());
        assert_eq!(
            fs::read_dir(&kept).unwrap().count(),
            2 * usize::try_from(KEPT_MAX).unwrap()
        );
    }
}
