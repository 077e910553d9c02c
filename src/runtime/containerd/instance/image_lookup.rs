//! Lookup of a container's user, and of its volumes, in the files of its image, which are read once
//! for each image.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use state::failure::Failure;
use state::reason::Reason;
use tokio::sync::OnceCell;

use super::image_root::{ImageReadError, ImageRoot};
use super::image_view::{ViewLength, in_view};
use crate::lock::lock;
use crate::oci::ImageFacts;
use crate::oci::user::{Accounts, is_number, is_numbers, resolve, with_groups};
use crate::oci::volumes::{self, ImageVolume};
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::client::ContainerdClient;

/// Bytes of the largest `/etc/passwd`, of some 50,000 users: a hostile one must not fill the memory.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Images whose accounts are remembered: more than a node runs.
const IMAGES_MAX: usize = 128;

/// Bytes of accounts that are remembered; of an image with more they are read each time.
const REMEMBERED_BYTES_MAX: usize = 64 << 10;

/// Files of an image, as far as they are looked at.
#[derive(Debug)]
struct ReadImage {
    /// `Err`: the image has no such files as can be read, today or later.
    accounts: Result<Accounts, Failure>,
    volumes: Vec<ImageVolume>,
    unread: Option<String>,
}

type Remembered = Arc<OnceCell<Arc<ReadImage>>>;

/// Files of images, by the topmost snapshot, whose name is a hash over all that is in it, and by
/// the volumes that were looked for.
#[derive(Debug, Default)]
pub(super) struct ImageLookup(Mutex<HashMap<String, Remembered>>);

impl ImageLookup {
    /// Identity that `wanted` stands for, with further groups, and state of the volumes, in the image
    /// whose topmost snapshot is `parent`.
    ///
    /// # Errors
    /// [`Reason::UserNotFound`], [`Reason::GroupNotFound`]; [`Reason::CreateFailed`] when the
    /// files are there and cannot be read: without them it would be a guess who the user is.
    /// [`RuntimeError::ImageLost`] when the snapshot is not there.
    pub(super) async fn lookup(
        &self,
        client: &ContainerdClient,
        (wanted, groups): (&str, &BTreeSet<String>),
        volumes: &[String],
        parent: &str,
        run_dir: &Path,
    ) -> Result<ImageFacts, RuntimeError> {
        let volumes: Vec<_> = volumes
            .iter()
            .filter_map(|name| volumes::path(name))
            .collect();
        let key = format!("{parent} {}", volumes.join("\0"));
        let remembered = self.remembered(&key);
        let read = remembered.get_or_try_init(|| read(client, &volumes, parent, run_dir));
        let image = match read.await {
            Ok(image) => Arc::clone(image),
            Err(RuntimeError::Failed(failure)) => Arc::new(ReadImage {
                unread: Some(failure.message.clone()),
                accounts: Err(failure),
                volumes: Vec::new(),
            }),
            Err(error) => return Err(error),
        };
        let user = match &image.accounts {
            Ok(accounts) => {
                if accounts.bytes() > REMEMBERED_BYTES_MAX {
                    lock(&self.0).remove(&key);
                }
                with_groups(resolve(wanted, accounts)?, groups, accounts)?
            }
            // Numbers are who they are; only the home directory is not known.
            Err(failure) if is_numbers(wanted) && groups.iter().all(|group| is_number(group)) => {
                tracing::warn!(snapshot = parent, error = %failure, "users of an image not read; HOME is not set");
                let none = Accounts::default();
                with_groups(resolve(wanted, &none)?, groups, &none)?
            }
            Err(failure) => return Err(failure.clone().into()),
        };
        Ok(ImageFacts {
            user,
            volumes: image.volumes.clone(),
            unread: image.unread.clone(),
        })
    }

    fn remembered(&self, key: &str) -> Remembered {
        let mut images = lock(&self.0);
        if images.len() >= IMAGES_MAX && !images.contains_key(key) {
            images.clear();
        }
        Arc::clone(images.entry(key.to_owned()).or_default())
    }
}

/// Accounts and volumes of the image whose topmost snapshot is `parent`.
async fn read(
    client: &ContainerdClient,
    volumes: &[String],
    parent: &str,
    run_dir: &Path,
) -> Result<Arc<ReadImage>, RuntimeError> {
    let volumes = volumes.to_vec();
    let read = move |root: io::Result<ImageRoot>| {
        let root = root.map_err(|error| unreadable(&error))?;
        files(&root, &volumes)
    };
    let read = in_view(client, (parent, ViewLength::Short), run_dir, read).await?;
    Ok(Arc::new(read?))
}

/// `/etc/passwd` and `/etc/group` of a snapshot, empty where they are absent, and the volumes that
/// are directories, or can be.
fn files(root: &ImageRoot, volumes: &[String]) -> Result<ReadImage, Failure> {
    let accounts = accounts(root);
    if let Err(failure) = &accounts
        && failure.reason != Reason::UserNotFound
    {
        return Err(failure.clone());
    }
    let mut possible = Vec::new();
    for path in volumes {
        if root
            .can_mount_at(path)
            .map_err(|error| unreadable(&error))?
        {
            let found = root.directory(path).map_err(|error| unreadable(&error))?;
            let path = path.clone();
            possible.push(ImageVolume { path, found });
        }
    }
    Ok(ReadImage {
        accounts,
        volumes: possible,
        unread: None,
    })
}

/// Users and groups of a root directory, empty where it has no files of them.
pub(super) fn accounts(root: &ImageRoot) -> Result<Accounts, Failure> {
    let file = |path: &str| match root.read(path, FILE_BYTES_MAX) {
        Ok(bytes) => {
            let bytes = bytes.unwrap_or_default();
            Ok(String::from_utf8(bytes)
                .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
        }
        Err(ImageReadError::Host(error)) => Err(unreadable(&error)),
        Err(ImageReadError::Image(fault)) => Err(Failure::new(
            Reason::UserNotFound,
            format!(
                "the image's /{path} {fault}, so nobody can be looked up; correct the image, or give user and group as numbers, as in \"1000:1000\""
            ),
        )),
    };
    Ok(Accounts {
        passwd: file("etc/passwd")?,
        group: file("etc/group")?,
    })
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::new(
        Reason::CreateFailed,
        format!("the image's users cannot be read: {error}; check containerd's directory and disk"),
    )
}
