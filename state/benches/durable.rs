//! Cost of a durable deploy beside a bare fsync, on the same disk in the same run:
//! `cargo bench -p state`.
//!
//! The state directory is created below `TMPDIR`, which must be on a disk: a tmpfs syncs nothing.

#![allow(clippy::unwrap_used, reason = "a benchmark has nobody to tell")]

use std::fs::File;
use std::io::Write as _;
use std::net::Ipv4Addr;
use std::sync::Arc;

use divan::Bencher;
use serde_json::json;
use state::assign::QuietNetwork;
use state::desired::Owner;
use state::spec::parse::{self, Deploy};
use state::store::{Limits, Store, random, sound_disk};

fn main() {
    divan::main();
}

fn store(directory: &tempfile::TempDir) -> Store {
    let addresses = Ipv4Addr::new(10, 0, 0, 2)..=Ipv4Addr::new(10, 0, 3, 254);
    let limits = Limits {
        ports: 20000..=29999,
        network: Arc::new(QuietNetwork(addresses)),
        containers_max: 1000,
        capacity: state::capacity::Capacity::ENDLESS,
        new_privileges: false,
        random,
        disk: sound_disk,
    };
    let store = Store::open(directory.path(), limits).unwrap();
    store.adopt(&[]).unwrap();
    store
}

fn deploy(name: usize, number: u64) -> Deploy {
    let body = json!({"name": format!("web-{name}"), "image": "nginx", "resources": {"cpu": "0.5", "memory": "512m"},
        "exposed_ports": [{"container": 80}], "environment": {"N": number.to_string()}});
    parse::deploy(&body).unwrap()
}

/// Time of the disk alone: a kilobyte is appended and synced.
#[divan::bench(sample_count = 300, sample_size = 1)]
fn bare_fsync(bencher: Bencher<'_, '_>) {
    let directory = tempfile::tempdir().unwrap();
    let mut file = File::create(directory.path().join("file")).unwrap();
    bencher.bench_local(|| {
        file.write_all(&[7; 1024]).unwrap();
        file.sync_all().unwrap();
    });
}

/// Time of a deploy that changes a container, in a store of that many, up to the answer.
#[divan::bench(args = [1, 100, 1000], sample_count = 300, sample_size = 1)]
fn durable_deploy(bencher: Bencher<'_, '_>, containers: usize) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    for name in 0..containers {
        store
            .deploy(deploy(name, 0), Owner::Push, false, 0)
            .unwrap();
    }
    let mut number = 0;
    bencher.bench_local(|| {
        number += 1;
        store
            .deploy(deploy(0, number), Owner::Push, false, 0)
            .unwrap()
    });
}

/// Time of the copy that is written beside it, at most ten times a second and after the answer.
#[divan::bench(args = [1, 100, 1000], sample_count = 100, sample_size = 1)]
fn copy(bencher: Bencher<'_, '_>, containers: usize) {
    let directory = tempfile::tempdir().unwrap();
    let store = store(&directory);
    for name in 0..containers {
        store
            .deploy(deploy(name, 0), Owner::Push, false, 0)
            .unwrap();
    }
    store.copy().unwrap();
    let mut number = 0;
    bencher
        .with_inputs(|| {
            number += 1;
            store
                .deploy(deploy(0, number), Owner::Push, false, 0)
                .unwrap();
        })
        .bench_local_values(|()| store.copy().unwrap());
}
