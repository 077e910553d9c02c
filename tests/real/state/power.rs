//! The power cut under the agent's state: a file system of its own on a loop device, shut down without a flush.

use std::path::PathBuf;
use std::time::Duration;

use super::kills::{Ledger, number};
use crate::harness::agent::Agent;
use crate::harness::{Testbed, run};

/// A small disk of its own.
pub(crate) struct Disk {
    image: PathBuf,
    pub(crate) mount: PathBuf,
    mounted: bool,
    /// Disks that this one went on on so far.
    disks: usize,
}

impl Disk {
    pub(crate) fn make(bed: &Testbed) -> Self {
        let mut disk = Self {
            image: bed.dir.join("disk.img"),
            mount: bed.dir.join("disk"),
            mounted: false,
            disks: 0,
        };
        std::fs::create_dir(&disk.mount).unwrap();
        run("truncate", ["--size", "64M", disk.image.to_str().unwrap()]).unwrap();
        run("mkfs.ext4", ["-q", disk.image.to_str().unwrap()]).unwrap();
        disk.mount();
        disk
    }

    pub(crate) fn mount(&mut self) {
        run(
            "mount",
            [
                "-o",
                "loop",
                self.image.to_str().unwrap(),
                self.mount.to_str().unwrap(),
            ],
        )
        .unwrap();
        self.mounted = true;
    }

    /// Whatever is not on the disk is gone, and nothing more reaches it.
    pub(crate) fn cut(&self) {
        // EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH; perl, since a test may not be unsafe and every Debian has it.
        let script = r#"open(my $f, "<", $ARGV[0]) or die; my $how = pack("L", 2); ioctl($f, 0x8004587d, $how) or die "$!""#;
        run("perl", ["-e", script, self.mount.to_str().unwrap()]).unwrap();
    }

    /// What ext4 does by itself when it finds its disk failing: it takes no write any more.
    pub(super) fn turn_read_only(&self) {
        run(
            "mount",
            ["-o", "remount,abort", self.mount.to_str().unwrap()],
        )
        .unwrap();
    }

    /// Also while files on it are open: a mount would then be of the same file system again, which was shut
    /// down. What is on the disk goes on on another one.
    pub(crate) fn unmount(&mut self) {
        run("umount", ["--lazy", self.mount.to_str().unwrap()]).unwrap();
        self.mounted = false;
        let is_attached = || {
            let devices = run("losetup", ["--associated", self.image.to_str().unwrap()]);
            !devices.unwrap().trim().is_empty()
        };
        let mut tries = 0..20;
        while is_attached() && tries.next().is_some() {
            std::thread::sleep(Duration::from_millis(50));
        }
        if is_attached() {
            let next = self.image.with_extension(format!("{}.img", self.disks));
            self.disks += 1;
            std::fs::copy(&self.image, &next).unwrap();
            self.image = next;
        }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.mounted {
            let _the_test_failed_already = run("umount", ["--lazy", self.mount.to_str().unwrap()]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_outlives_a_power_cut() {
    let bed = Testbed::new();
    let mut disk = Disk::make(&bed);
    let state = disk.mount.join("state").display().to_string();
    let mut agent = Agent::start_with(&bed, &[("CHAS_STATE_DIR", &state)]).await;
    let mut ledger = Ledger::default();
    let cuts = number("CHAS_TEST_POWER_CUTS", 10);
    for cut in 0..cuts {
        let killer = agent.killer();
        let cutting = async {
            tokio::time::sleep(Duration::from_millis(20 + cut * 53 % 200)).await;
            disk.cut();
            killer.kill_9();
        };
        tokio::join!(ledger.write(&agent), cutting);
        agent.kill_9();
        disk.unmount();
        disk.mount();
        agent.start_again().await;
        ledger.check(&agent, &format!("cut {cut}")).await;
    }
    eprintln!("{cuts} cuts, {} writes", ledger.count());
    assert!(ledger.count() > 3 * cuts, "hardly anything was written");
    agent.kill_9();
    disk.unmount();
}
