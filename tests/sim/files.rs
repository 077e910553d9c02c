//! Files of the agent: where they are, and the damage done to them while it is down.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::dice;
use crate::plants::{self, Plant};

static NUMBER: AtomicU64 = AtomicU64::new(0);

/// State directory of each life. Dropping the value deletes them all.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    life: u32,
}

/// Damage to the files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// None that matters: nothing may be lost.
    Whole,
    /// sled's files are damaged: no acknowledged change may be lost, but observations may.
    Damaged,
    /// All files are gone: what runs must go on, and the agent learns everything from it.
    Gone,
}

impl Files {
    /// Uses a disk in memory where there is one, for speed: no history tests that syncing works.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() {
            memory.to_owned()
        } else {
            std::env::temp_dir()
        };
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let root = parent.join(format!("chas-sim-{}-{number}", std::process::id()));
        let _left_by_another = fs::remove_dir_all(&root);
        fs::create_dir(&root).unwrap();
        Self { root, life: 0 }
    }

    pub(crate) fn now(&self) -> PathBuf {
        self.root.join(self.life.to_string())
    }

    /// Copies the files as they are now for the next life: what the old agent still writes is lost.
    pub(crate) fn crash(&mut self) {
        let mut from = self.now();
        if plants::is(Plant::LosesWrites) && self.life > 0 {
            from = self.begin();
        }
        self.life += 1;
        // The life may have been denied to create it.
        fs::create_dir_all(&from).unwrap();
        copy(&from, &self.now());
        if plants::is(Plant::LosesWrites) {
            copy(&from, &self.begin());
        }
    }

    /// Copy of the files as the life began with them.
    fn begin(&self) -> PathBuf {
        self.root.join(format!("{}-begin", self.life))
    }

    pub(crate) fn damage(&self) -> Fate {
        let directory = self.now();
        let draw = dice::below(20);
        // The life may have been denied to create it.
        if matches!(draw, 10 | 12..18) && !directory.join("state").exists() {
            return Fate::Whole;
        }
        match draw {
            0..9 => Fate::Whole,
            9 => {
                fs::remove_dir_all(&directory).unwrap();
                Fate::Gone
            }
            10 => {
                fs::remove_dir_all(directory.join("state")).unwrap();
                Fate::Damaged
            }
            11 => {
                let _not_written_yet = fs::remove_file(
                    directory.join(["desired.json.a", "desired.json.b"][dice::index(2)]),
                );
                Fate::Whole
            }
            12..18 => {
                // sled's threads decide where in its log an entry is, so damage to a part would
                // make the history differ between runs. The store's own tests damage every block.
                let path = directory.join("state/db");
                let length = fs::read(&path).map_or(0, |bytes| bytes.len());
                fs::write(&path, vec![[0_u8, 0xff][dice::index(2)]; length]).unwrap();
                Fate::Damaged
            }
            _ => {
                damage(&directory.join(["desired.json.a", "desired.json.b"][dice::index(2)]));
                Fate::Whole
            }
        }
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _next_time = fs::remove_dir_all(&self.root);
    }
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().flatten() {
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            fs::copy(path, to).unwrap();
        }
    }
}

/// Inverts a few blocks, makes them zero, or cuts the file.
fn damage(path: &Path) {
    let Ok(mut bytes) = fs::read(path) else {
        return;
    };
    for _ in 0..=dice::below(3) {
        let block = dice::index(bytes.len().div_ceil(512));
        let (start, end) = (block * 512, (block * 512 + 512).min(bytes.len()));
        match dice::below(3) {
            0 => bytes[start..end].iter_mut().for_each(|byte| *byte = !*byte),
            1 => bytes[start..end].fill(0),
            _ => bytes.truncate(start),
        }
    }
    fs::write(path, bytes).unwrap();
}
