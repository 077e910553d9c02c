//! Paths of the host: which are opened, and which are refused with what words. Mounts are tried in
//! tests/real.

use std::fs;
use std::os::unix::fs::symlink;

use super::*;

fn wanted(path: &Path, read_only: bool) -> WantedPath {
    WantedPath {
        path: path.display().to_string(),
        propagation: Propagation::Rprivate,
        read_only,
    }
}

#[test]
fn what_is_opened_is_the_path_itself_and_no_link_leads_anywhere_else() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    for made in [
        "given/real/below",
        "given/read",
        "outside/conf",
        "own/state",
    ] {
        fs::create_dir_all(top.join(made)).unwrap();
    }
    fs::write(top.join("given/file"), "").unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(top.join("given/socket")).unwrap();
    for (link, to) in [
        ("given/within", "real"),
        ("given/out", "../outside"),
        ("given/nested", "../outside"),
        ("given/file-link", "file"),
        ("alias", "given"),
    ] {
        symlink(to, top.join(link)).unwrap();
    }
    let grants: Vec<HostPathGrant> = [
        "given",
        "given/read:ro",
        "given/nested/conf",
        "alias",
        "own",
    ]
    .map(|path| format!("{}/{path}", top.display()).parse().unwrap())
    .into();
    let kept = [top.join("own/state")];
    let open = |path: &str, read_only| {
        let wanted = wanted(&top.join(path), read_only);
        let opened = OpenedPath::open(&wanted, &grants, &kept);
        opened.map(|opened| opened.is_directory)
    };
    for (path, read_only, is_directory) in [
        ("given", true, true),
        ("given/real", false, true),
        ("given/real/below", false, true),
        ("given/read", true, true),
        ("given/file", false, false),
        ("given/socket", false, false),
    ] {
        assert_eq!(open(path, read_only), Ok(is_directory), "{path}");
    }
    for (path, part) in [
        ("given/none", "is not there"),
        ("given/none/below", "is not there"),
        ("given/file/below", "no directory"),
        ("given/within", "is a link"),
        ("given/within/below", "is a link"),
        ("given/out", "is a link"),
        ("given/nested/conf", "is a link"),
        ("given/file-link", "is a link"),
        ("alias/real", "is a link"),
        ("given", "does not give it"),
        ("given/read", "does not give it"),
        ("outside", "does not give it"),
        ("own", "nobody is given"),
        ("own/state", "nobody is given"),
    ] {
        let fault = open(path, false).unwrap_err();
        assert!(fault.contains(part), "{path}: {fault}");
    }
    assert!(!top.join("given/none").exists());
    let null: HostPathGrant = HostPathGrant {
        path: "/dev/null".into(),
        read_only: false,
    };
    let device = OpenedPath::open(&wanted(Path::new("/dev/null"), false), &[null], &[]);
    assert!(device.unwrap_err().contains("is a device"));
}

#[tokio::test(start_paused = true)]
async fn looks_that_hang_hold_up_neither_the_agent_s_other_work_nor_other_paths() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let grant = |path: &str| {
        fs::create_dir(top.join(path)).unwrap();
        top.join(path).display().to_string().parse().unwrap()
    };
    let paths = HostPaths::new(&top.join("run"), &[grant("hangs"), grant("well")], &[]);
    let (ends, end) = std::sync::mpsc::channel::<()>();
    let end = Arc::new(Mutex::new(end));
    for _ in 0..3 * LOOKS_MAX {
        let end = Arc::clone(&end);
        let hangs = move |_| {
            let _hangs = lock(&end).recv();
            Ok(())
        };
        let look = paths.look_and(vec![wanted(&top.join("hangs"), false)], Vec::new(), hangs);
        let fault = look.await.unwrap_err();
        assert!(fault.message.contains("does not answer"), "{fault}");
    }
    let look = paths.look_and(vec![wanted(&top.join("hangs"), false)], Vec::new(), |_| {
        Ok(())
    });
    assert!(look.await.is_err(), "no more threads than {LOOKS_MAX}");
    tokio::time::resume();
    let other = paths.look(vec![wanted(&top.join("well"), false)], Vec::new());
    other.await.unwrap();
    drop(ends);
}

#[tokio::test]
async fn every_path_that_cannot_be_had_is_told_and_the_next_try_is_free() {
    let directory = tempfile::tempdir().unwrap();
    let top = directory.path().canonicalize().unwrap();
    let grant = top.join("given").display().to_string().parse().unwrap();
    let paths = HostPaths::new(&top.join("run"), &[grant], &[]);
    let instance: InstanceName = "0123456789ab-1".parse().unwrap();
    for _ in 0..2 {
        let asked = ["given/a", "given/b"].map(|path| wanted(&top.join(path), false));
        let refused = paths.hold(instance, asked.into(), Vec::new()).await;
        let refused = refused.unwrap_err();
        assert_eq!(refused.reason, Reason::HostPathUnusable);
        assert_eq!(
            refused.message.matches("is not there").count(),
            2,
            "{refused}"
        );
    }
    assert!(paths.sweep().await.is_empty());
    assert!(!top.join("run").exists(), "nothing is made for them");
}
