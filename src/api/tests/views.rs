//! Containers as a node of these tests shows them.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;
use state::desired::{Assignment, Owner, Record};
use state::id::ContainerId;
use state::spec::parse::Deploy;
use state::status::{Condition, Status};
use state::time::BootTime;

use super::Fake;
use crate::view::{ManagedView, Moment, UnmanagedView};

pub(in crate::api) fn record(deploy: Deploy, bits: u64) -> Record {
    Record {
        id: ContainerId::from_bits(bits),
        name: deploy.name,
        spec_hash: deploy.spec.hash(),
        spec: deploy.spec,
        owner: Owner::Push,
        generation: 1,
        made_at: None,
        revision: deploy.revision,
        seq: 1,
        run: deploy.run,
        priority: deploy.priority,
        removing: false,
        restart_pending: false,
        restarts_asked: 0,
        finished: None,
        cordoned: false,
        listed_hash: None,
        assignment: Assignment {
            address6: None,
            address: Some(Ipv4Addr::new(10, 0, 0, 2)),
            ports: Vec::new(),
        },
        image_digest: None,
        is_proven: false,
        former_image: None,
        tag_check: None,
        update: None,
        rolled_back: None,
        replaces_at_once: false,
        job: None,
        created_ms: 0,
        is_uncertain: false,
    }
}

pub(in crate::api) fn named(name: &str, bits: u64) -> Record {
    let body = json!({"name": name, "image": "nginx", "environment": {"PASSWORD": "hunter2"}, "labels": {"team": name}});
    record(state::spec::parse::deploy(&body).unwrap(), bits)
}

pub(in crate::api) fn view(record: &Record, status: Status) -> ManagedView {
    ManagedView {
        next_run: None,
        record: Arc::new(record.clone()),
        condition: Condition {
            status,
            reason: None,
            message: None,
            next_attempt: None,
        },
        taken: Moment {
            boot: BootTime::default(),
            wall: SystemTime::UNIX_EPOCH,
        },
        started: None,
        finished: None,
        exit_code: None,
        memory_kills: 0,
        restart_count: 0,
        pull: None,
        applied_generation: (status == Status::Running).then_some(record.generation),
        ready_since: (status == Status::Running).then(BootTime::default),
        health: None,
    }
}

impl Fake {
    /// One that somebody else runs on the node, too.
    pub(super) fn beside(self, id: &str, image: &str) -> Arc<Self> {
        self.unmanaged.lock().unwrap().push(UnmanagedView {
            id: id.to_owned(),
            image: image.to_owned(),
            status: Status::Running,
        });
        Arc::new(self)
    }
}
