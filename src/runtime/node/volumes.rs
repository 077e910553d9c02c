//! Volumes of an instance: where they are on the host, and that they are there before its task is.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use state::desired::Record;
use state::failure::Failure;
use state::quantity::ByteCount;
use state::reason::Reason;
use state::spec::VolumeName;

use crate::oci::volumes::{VolumeDirectory, uncovered};
use crate::runtime::RuntimeError;
use crate::runtime::engine::{Engine, ImageVolumes};
use crate::volumes::{VolumeKey, Volumes, Wanted, WantedVolume};

/// Makes sure of the volumes of an instance, and answers their directories on the host.
pub(super) async fn prepare<E: Engine>(
    engine: &E,
    volumes: &Volumes,
    record: &Record,
    found: &E::Container,
) -> Result<Vec<VolumeDirectory>, RuntimeError> {
    let ImageVolumes { paths, mounted } = engine.image_volumes(record, found).await?;
    let of_image = uncovered(record, paths);
    are_own(record, &of_image)?;
    let mounts = mounts(record, of_image);
    if mounts.is_empty() {
        return Ok(Vec::new());
    }
    let mut wanted = Wanted::new();
    let sizes = sizes(record);
    for (key, path, _) in &mounts {
        let before = mounted.get(path);
        is_where_it_was(volumes, key, before)?;
        // Of a volume that is mounted twice, the first mount says what it begins with.
        let first = wanted.entry(key.clone()).or_insert(WantedVolume {
            path: path.clone(),
            had_before: false,
            size: match key {
                VolumeKey::Named(name) => sizes.get(name).copied(),
                VolumeKey::OfImage(..) => None,
            },
        });
        first.had_before |= before.is_some();
    }
    let held = volumes.hold(record.instance(), wanted).await?;
    if !held.are_present() {
        let image = record.spec.image.to_string();
        let fill = move |root: &OwnedFd| held.fill(root, &image);
        let filled = engine.in_image(record, fill).await??;
        filled.put().await?;
    }
    let directory = async |(key, destination, read_only)| VolumeDirectory {
        source: volumes.directory(&key),
        destination,
        read_only,
        of_host: None,
        forbidden: volumes.forbidden(&key).await,
    };
    let mut directories = Vec::with_capacity(mounts.len());
    for mount in mounts {
        directories.push(directory(mount).await);
    }
    Ok(directories)
}

/// Sizes that an instance asks for, by volume.
pub(super) fn sizes(record: &Record) -> BTreeMap<VolumeName, ByteCount> {
    let mounts = record.spec.volumes.iter();
    let sizes = mounts.filter_map(|mount| Some((mount.volume()?.clone(), mount.size?)));
    sizes.collect()
}

/// Refuses volumes of the image where another generation writes to them meanwhile.
fn are_own(record: &Record, of_image: &[String]) -> Result<(), Failure> {
    if !record.stands_back() || of_image.is_empty() {
        return Ok(());
    }
    let message = format!(
        "the image has a volume at {}, to which the generation before writes too (update.strategy \"start-first\")",
        of_image.join(", ")
    );
    Err(Failure::new(Reason::VolumeNotShared, message))
}

/// Volumes on disk that an instance mounts: each with its path in the container, and whether it is
/// only read.
fn mounts(record: &Record, of_image: Vec<String>) -> Vec<(VolumeKey, String, bool)> {
    let named = record.spec.volumes.iter().filter_map(|mount| {
        let key = VolumeKey::Named(mount.volume()?.clone());
        Some((key, mount.path.clone(), mount.read_only))
    });
    let own = |path: String| (VolumeKey::OfImage(record.id, path.clone()), path, false);
    named.chain(of_image.into_iter().map(own)).collect()
}

/// Refuses a volume that an instance mounts from elsewhere: it would go on to write there, and its
/// next generation would not find it.
fn is_where_it_was(
    volumes: &Volumes,
    key: &VolumeKey,
    before: Option<&PathBuf>,
) -> Result<(), Failure> {
    let now = volumes.directory(key);
    let Some(before) = before.filter(|before| **before != now) else {
        return Ok(());
    };
    let message = format!(
        "its container mounts {key} from {}, and that would be {} now: state.dir is another; set it \
         back, or move the volumes, and change a variable of the container, which makes it anew",
        before.display(),
        now.display()
    );
    Err(Failure::new(Reason::VolumeMissing, message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::tests::record;

    #[test]
    fn a_volume_that_is_mounted_from_elsewhere_is_refused() {
        let volumes = Volumes::new("/state".into());
        let asked = record(&json!({"volumes": [{"volume": "db", "path": "/data"}]}));
        let mounts = mounts(&asked, vec!["/own".to_owned()]);
        assert_eq!(mounts.len(), 2);
        for (key, ..) in &mounts {
            let now = volumes.directory(key);
            assert!(is_where_it_was(&volumes, key, None).is_ok());
            assert!(is_where_it_was(&volumes, key, Some(&now)).is_ok());
            let other = PathBuf::from("/before").join(&now);
            let other = other.with_file_name("elsewhere");
            let refused = is_where_it_was(&volumes, key, Some(&other)).unwrap_err();
            assert_eq!(refused.reason, Reason::VolumeMissing);
            assert!(
                refused.message.contains("state.dir is another"),
                "{refused}"
            );
        }
    }
}
