//! Volumes on a disk, without containers.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use state::spec::VolumeName;

use super::shelf::VolumeNote;
use super::*;

fn key(name: &str) -> VolumeKey {
    VolumeKey::Named(name.parse().unwrap())
}

fn instance() -> InstanceName {
    "0123456789ab-1".parse().unwrap()
}

fn root(path: &Path) -> OwnedFd {
    let file = fs::File::open(path).unwrap();
    OwnedFd::from(file)
}

fn volume(path: &str, had_before: bool) -> WantedVolume {
    let path = path.to_owned();
    WantedVolume {
        path,
        had_before,
        size: None,
    }
}

struct Stand {
    dir: tempfile::TempDir,
    volumes: Volumes,
}

impl Stand {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("image/data/below")).unwrap();
        fs::write(dir.path().join("image/data/file"), "image").unwrap();
        fs::write(dir.path().join("image/file"), "").unwrap();
        let volumes = Volumes::new(dir.path().join("state"));
        Self { dir, volumes }
    }

    async fn launch(&self, name: &str, path: &str) -> Result<(), Failure> {
        self.launch_again(name, path, false).await
    }

    async fn launch_again(&self, name: &str, path: &str, had_before: bool) -> Result<(), Failure> {
        let wanted = Wanted::from([(key(name), volume(path, had_before))]);
        let held = self.volumes.hold(instance(), wanted).await?;
        if held.are_present() {
            return Ok(());
        }
        let image = root(&self.dir.path().join("image"));
        held.fill(&image, "image:1")?.put().await
    }

    fn data(&self, name: &str) -> PathBuf {
        self.volumes.directory(&key(name))
    }
}

#[tokio::test]
async fn a_volume_is_filled_once_and_then_only_mounted() {
    let stand = Stand::new();
    stand.launch("db", "/data").await.unwrap();
    let file = stand.data("db").join("file");
    assert_eq!(fs::read(&file).unwrap(), b"image");
    assert!(stand.data("db").join("below").is_dir());
    fs::remove_file(&file).unwrap();
    stand.launch("db", "/data").await.unwrap();
    assert!(!file.exists(), "what its container removed stays removed");
    stand.launch("empty", "/none").await.unwrap();
    let mode = fs::metadata(stand.data("empty")).unwrap().permissions();
    assert_eq!(mode.mode() & 0o7777, 0o755);
    let above = stand.data("empty");
    let above = fs::metadata(above.parent().unwrap()).unwrap().permissions();
    assert_eq!(above.mode() & 0o077, 0, "no user of the host gets in");
    let note = stand.volumes.shelf.note(&key("db")).unwrap().unwrap();
    assert_eq!(note.image.as_deref(), Some("image:1"));
    assert!(note.made_ms.is_some());
}

#[tokio::test]
async fn a_volume_that_is_lost_is_never_begun_anew() {
    let stand = Stand::new();
    stand.launch("db", "/data").await.unwrap();
    let away = stand.dir.path().join("away");
    fs::rename(stand.data("db"), &away).unwrap();
    let lost = stand.launch("db", "/data").await.unwrap_err();
    assert_eq!(lost.reason, Reason::VolumeMissing);
    assert!(lost.message.contains("mount its disk"), "{lost}");
    assert!(!stand.data("db").exists());
    fs::rename(&away, stand.data("db")).unwrap();
    stand.launch("db", "/data").await.unwrap();
    // Its note alone is lost: the next look writes another.
    let note = stand.dir.path().join("state/volume-notes/db.json");
    fs::remove_file(&note).unwrap();
    stand.launch("db", "/data").await.unwrap();
    assert!(note.exists());
    fs::write(&note, "{").unwrap();
    fs::rename(stand.data("db"), &away).unwrap();
    let lost = stand.launch("db", "/data").await.unwrap_err();
    assert_eq!(lost.reason, Reason::VolumeMissing, "by a damaged note too");
}

#[tokio::test]
async fn a_fill_that_was_cut_off_begins_again_and_leaves_nothing_half() {
    let stand = Stand::new();
    let place = stand.data("db").parent().unwrap().to_owned();
    fs::create_dir_all(place.join(".new/half")).unwrap();
    stand.launch("db", "/data").await.unwrap();
    assert!(!place.join(".new").exists());
    assert!(!stand.data("db").join("half").exists());
    for (path, fault) in [
        ("/file", "is no directory"),
        ("/file/below", "is no directory"),
    ] {
        let failed = stand.launch("other", path).await.unwrap_err();
        assert_eq!(failed.reason, Reason::MountFailed);
        assert!(failed.message.contains(fault), "{failed}");
        assert!(!stand.data("other").exists());
    }
    stand.launch("other", "/data").await.unwrap();
    assert!(stand.data("other").join("file").exists());
}

#[tokio::test]
async fn one_volume_is_made_by_one_container_at_a_time() {
    let stand = Stand::new();
    let wanted = |name| Wanted::from([(key(name), volume("/data", false))]);
    let held = stand.volumes.hold(instance(), wanted("db")).await.unwrap();
    let mut second = Box::pin(stand.volumes.hold(instance(), wanted("db")));
    assert!(futures_util::poll!(&mut second).is_pending());
    let other = stand.volumes.hold(instance(), wanted("other")).await;
    assert!(!other.unwrap().are_present());
    let image = root(&stand.dir.path().join("image"));
    held.fill(&image, "image:1").unwrap().put().await.unwrap();
    assert!(second.await.unwrap().are_present());
}

#[tokio::test]
async fn volumes_of_images_are_their_container_s_and_go_with_it() {
    let stand = Stand::new();
    let [one, other]: [ContainerId; 2] =
        ["0123456789ab", "ba9876543210"].map(|id| id.parse().unwrap());
    let image = root(&stand.dir.path().join("image"));
    for id in [one, other] {
        let paths = ["/data", "/a/path/of/its/own"];
        let wanted =
            paths.map(|path| (VolumeKey::OfImage(id, path.to_owned()), volume(path, false)));
        let wanted = Wanted::from(wanted);
        let keys: Vec<_> = wanted.keys().cloned().collect();
        let held = stand.volumes.hold(instance(), wanted).await.unwrap();
        held.fill(&image, "image:1").unwrap().put().await.unwrap();
        assert!(stand.volumes.was_launched(id));
        assert_ne!(
            stand.volumes.directory(&keys[0]),
            stand.volumes.directory(&keys[1])
        );
    }
    let of_one = |id| {
        stand
            .volumes
            .directory(&VolumeKey::OfImage(id, "/data".to_owned()))
    };
    assert_eq!(fs::read(of_one(one).join("file")).unwrap(), b"image");
    assert_eq!(stand.volumes.of_images().await, [one, other].into());
    stand.volumes.remove_of_images(one).await.unwrap();
    assert!(!of_one(one).exists() && of_one(other).exists());
    assert!(!stand.volumes.was_launched(one) && stand.volumes.was_launched(other));
    assert_eq!(stand.volumes.of_images().await, [other].into());
    stand.volumes.remove_of_images(one).await.unwrap();
}

#[tokio::test]
async fn a_volume_that_its_container_has_is_lost_also_where_no_note_tells_of_it() {
    let stand = Stand::new();
    let lost = stand.launch_again("db", "/data", true).await.unwrap_err();
    assert_eq!(lost.reason, Reason::VolumeMissing);
    assert!(!stand.data("db").exists());
    stand.launch("db", "/data").await.unwrap();
    stand.launch_again("db", "/data", true).await.unwrap();
}

#[tokio::test]
async fn a_fill_that_is_not_put_is_no_volume() {
    let stand = Stand::new();
    let wanted = Wanted::from([(key("db"), volume("/data", false))]);
    let held = stand.volumes.hold(instance(), wanted).await.unwrap();
    let image = root(&stand.dir.path().join("image"));
    drop(held.fill(&image, "image:1").unwrap());
    assert!(!stand.data("db").exists());
    stand.launch("db", "/data").await.unwrap();
}

#[tokio::test]
async fn the_place_of_a_removed_volume_goes_though_somebody_looks_at_it_meanwhile() {
    let stand = Stand::new();
    stand.launch("data", "/image").await.unwrap();
    let name: VolumeName = "data".parse().unwrap();
    let place = stand.data("data").parent().unwrap().to_path_buf();
    let turn = stand.volumes.turn(&name).await.unwrap();
    // Queued before the removal gives its turn on, so it has it while the content is cleared.
    let looks = async {
        let turn = stand.volumes.turn(&name).await.unwrap();
        while fs::read_dir(&place).unwrap().next().is_some() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        drop(turn);
    };
    let (_, removed) = tokio::join!(looks, stand.volumes.remove(&name, turn));
    removed.unwrap();
    let gone = async {
        while place.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), gone)
        .await
        .expect("the place is left behind");
}

#[tokio::test]
async fn a_directory_whose_disk_is_not_mounted_is_no_volume() {
    let stand = Stand::new();
    stand.launch("db", "/data").await.unwrap();
    let note = stand.volumes.shelf.note(&key("db")).unwrap().unwrap();
    let mounted = VolumeNote {
        is_mount: true,
        ..note
    };
    stand
        .volumes
        .shelf
        .write_note(&key("db"), &mounted)
        .unwrap();
    let lost = stand.launch("db", "/data").await.unwrap_err();
    assert_eq!(lost.reason, Reason::VolumeMissing);
    fs::remove_file(stand.volumes.shelf.note_path(&key("db"))).unwrap();
    stand.launch("db", "/data").await.unwrap();
}
