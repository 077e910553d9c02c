//! Containers that are to be probed now, from the board and the records.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use state::desired::Record;
use state::event::EventSubject;
use state::health::check_of;
use state::id::ContainerId;
use state::observed::Task;
use state::phase::Goal;
use state::spec::network::NetworkMode;
use state::status::Activity;
use state::store::Store;

use super::ProbeOrder;
use crate::reconcile::{Handle, Known};

/// Containers whose process runs and is to run, and that have a check.
pub(super) fn wanted(handle: &Handle, store: &Store) -> BTreeMap<ContainerId, ProbeOrder> {
    let (desired, policy) = (store.desired(), store.policy());
    let mut all = BTreeMap::new();
    handle.board().each(|id, known| {
        let record = desired.get(id);
        let found = record.and_then(|record| {
            let wanted = of(record, known)?;
            let non_root_rule = policy.non_root_rule(record).map(str::to_owned);
            Some(ProbeOrder {
                non_root_rule,
                ..wanted
            })
        });
        if let Some(wanted) = found {
            all.insert(id, wanted);
        }
    });
    all
}

fn of(record: &Record, known: &Known) -> Option<ProbeOrder> {
    let is_to_run = matches!(
        Goal::of(Some(record)),
        Goal::Running | Goal::Cordoned | Goal::Uncertain
    );
    let instance = known.seen.instance(record).filter(|_| is_to_run)?;
    let is_running = matches!(instance.task, Task::Running { .. });
    let is_ending = known.activity == Some(Activity::Stopping);
    let check = check_of(record, Some(instance)).filter(|_| is_running && !is_ending)?;
    // A turn has taken the look and the record in.
    let health = known.history.health.as_ref();
    let health = health.filter(|health| known.is_looked_at && health.is_of(check))?;
    Some(ProbeOrder {
        instance: record.instance(),
        subject: EventSubject::new(record.id, Some(record)),
        address: address(record),
        non_root_rule: None,
        check: Arc::new(check.clone()),
        started: known.history.started?,
        has_succeeded: health.has_succeeded(),
    })
}

/// Address at which the host reaches the container's ports.
fn address(record: &Record) -> Option<IpAddr> {
    match record.spec.network.mode {
        NetworkMode::Bridge => record.assignment.address.map(IpAddr::V4),
        NetworkMode::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        NetworkMode::None => None,
    }
}
