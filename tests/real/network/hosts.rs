//! The network on a real kernel: hosts files that a container writes to as well.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use chas_node_agent::network::NetworkDriver as _;

use super::lab::{instance, on_a_private_host};

/// Appends a line, as an entrypoint does.
fn append(file: &Path, line: &str) {
    let mut file = OpenOptions::new().append(true).open(file).unwrap();
    writeln!(file, "{line}").unwrap();
}

fn read(file: &Path) -> String {
    fs::read_to_string(file).unwrap()
}

#[test]
fn lines_that_a_container_appends_survive_every_update() {
    on_a_private_host("append", async |host| {
        let net = host.network().await;
        let one = host.attach(&net, 1, 2, vec![]).await.unwrap();
        append(&one.hosts, "192.0.2.77\tlegacy");
        append(&one.resolv_conf, "options ndots:2");
        host.attach(&net, 2, 3, vec![]).await.unwrap();
        let hosts = read(&one.hosts);
        for part in ["10.99.0.3\tc2\n", "10.99.0.2\tc1\n", "192.0.2.77\tlegacy\n"] {
            assert_eq!(hosts.matches(part).count(), 1, "{part}: {hosts}");
        }
        net.detach(instance(2)).await.unwrap();
        let hosts = read(&one.hosts);
        assert!(hosts.contains("legacy") && !hosts.contains("c2"), "{hosts}");
        assert!(read(&one.resolv_conf).ends_with("options ndots:2\n"));

        // Also with another agent, and if the container writes the whole file anew.
        fs::write(&one.hosts, "192.0.2.78\tmine").unwrap();
        fs::write(&one.resolv_conf, "nameserver 192.0.2.53\n").unwrap();
        let next = host.network().await;
        let wanted = [host.wanted(1, 2, vec![])];
        let lines = next.repair(&wanted, &BTreeSet::new()).await.unwrap();
        let told = |line: &String| line.starts_with("hosts files");
        assert!(lines.iter().any(told), "{lines:?}");
        let hosts = read(&one.hosts);
        assert!(hosts.starts_with("192.0.2.78\tmine\n") && hosts.contains("10.99.0.2\tc1\n"));
        assert_eq!(read(&one.resolv_conf), "nameserver 192.0.2.53\n", "theirs");
        host.repairs_nothing(&next, &wanted).await;
        next.teardown().await.unwrap();
        assert!(!one.hosts.exists());
        let mounts = read(Path::new("/proc/self/mountinfo"));
        let files = one.hosts.ancestors().nth(2).unwrap();
        let place = files.to_str().unwrap();
        assert!(!mounts.contains(place), "a mount is left over");
    });
}

#[test]
fn a_container_that_fills_its_files_harms_only_itself() {
    on_a_private_host("fill", async |host| {
        let net = host.network().await;
        let one = host.attach(&net, 1, 2, vec![]).await.unwrap();
        let before = read(&one.hosts);
        let mut hosts = OpenOptions::new().append(true).open(&one.hosts).unwrap();
        let full = hosts.write_all(&vec![b'\n'; 1 << 20]).unwrap_err();
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
        // One that looks longer than all memory is not read either.
        File::create(&one.resolv_conf)
            .unwrap()
            .set_len(1 << 40)
            .unwrap();

        let two = host.attach(&net, 2, 3, vec![]).await.unwrap();
        assert!(
            read(&two.hosts).contains("10.99.0.2\tc1\n"),
            "the others are served"
        );
        host.attach(&net, 1, 2, vec![])
            .await
            .expect("its own next start is not kept from it");
        let wanted = [host.wanted(1, 2, vec![]), host.wanted(2, 3, vec![])];
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();

        fs::write(&one.hosts, before).unwrap();
        fs::write(&one.resolv_conf, "").unwrap();
        net.repair(&wanted, &BTreeSet::new()).await.unwrap();
        assert!(
            read(&one.hosts).contains("10.99.0.3\tc2\n"),
            "current again"
        );
        net.teardown().await.unwrap();
    });
}

#[test]
fn files_of_the_version_before_are_kept_current_as_they_are() {
    on_a_private_host("plain", async |host| {
        let net = host.network().await;
        let paths = net.paths(instance(1));
        let dir = paths.hosts.parent().unwrap();
        fs::create_dir_all(dir).unwrap();
        let old =
            "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n10.99.0.2\tc1\n";
        fs::write(&paths.hosts, old).unwrap();
        assert!(!net.paths(instance(1)).writable, "they have no limit");
        assert!(net.paths(instance(2)).writable);
        let mounted = File::open(&paths.hosts).unwrap();
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        assert_eq!(
            read(&paths.hosts),
            old,
            "nothing differs, nothing is written"
        );
        host.attach(&net, 2, 3, vec![]).await.unwrap();
        let seen = std::io::read_to_string(mounted).unwrap();
        assert_eq!(
            seen,
            format!("{old}10.99.0.3\tc2\n"),
            "the file that is mounted"
        );
        net.teardown().await.unwrap();
    });
}

#[test]
fn the_version_before_can_remove_the_files_and_this_one_what_is_left() {
    on_a_private_host("back", async |host| {
        let net = host.network().await;
        let dirs = [1, 2].map(|n| net.paths(instance(n)).hosts.parent().unwrap().to_owned());
        host.attach(&net, 1, 2, vec![]).await.unwrap();
        host.attach(&net, 2, 3, vec![]).await.unwrap();
        let mounts = || {
            let mounts = read(Path::new("/proc/self/mountinfo"));
            let files = dirs[0].parent().unwrap().to_str().unwrap();
            mounts.lines().filter(|line| line.contains(files)).count()
        };
        assert_eq!(mounts(), 2);
        fs::remove_dir_all(&dirs[0]).expect("as it removed a plain directory");
        assert!(!dirs[0].exists());
        net.detach(instance(1)).await.unwrap();
        assert_eq!(mounts(), 1);
        fs::remove_dir_all(&dirs[1]).unwrap();
        net.repair(&[], &BTreeSet::new()).await.unwrap();
        net.detach(instance(2)).await.unwrap();
        let next = host.network().await;
        next.repair(&[], &BTreeSet::new()).await.unwrap();
        assert_eq!(mounts(), 0);
        next.teardown().await.unwrap();
    });
}
