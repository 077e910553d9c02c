//! The health of a node as these tests show it.

use std::time::{Duration, SystemTime};

use state::alarm::Alarm;
use state::status::Status;

use super::looks::failed;
use super::named;
use crate::monitor::NodeFacts;
use crate::view::{
    AlarmView, BacklogView, ConfinementView, CordonView, ErrorView, HealthView, UnsettledView,
};

/// Health of a node on which these containers are the worst, maybe without containerd.
pub(crate) fn seen(containerd: bool, worst: &[&str]) -> HealthView {
    let unsettled = |name: &&str| UnsettledView {
        name: name.parse().unwrap(),
        condition: failed(&named(name, 1), Status::Failed).condition,
        since: SystemTime::UNIX_EPOCH,
    };
    HealthView {
        known: true,
        writable: true,
        rebuilding: false,
        losses: Vec::new(),
        facts: NodeFacts::default(),
        running: 3,
        unsettled: 1,
        worst: worst.iter().map(unsettled).collect(),
        unsettled_for: Duration::ZERO,
        backlog: BacklogView::default(),
        containerd,
        containerd_asked: true,
        containerd_since: SystemTime::UNIX_EPOCH,
        containerd_answered: None,
        containerd_error: None,
        cordon: CordonView::default(),
        link: None,
        confinement: ConfinementView::default(),
        silent: Vec::new(),
        errors: vec![ErrorView {
            at: SystemTime::UNIX_EPOCH,
            code: "PortTaken",
            message: "8080".to_owned(),
            first_at: SystemTime::UNIX_EPOCH,
            count: 7,
        }],
        alarms: (!containerd)
            .then(|| AlarmView {
                alarm: Alarm::ContainerdUnreachable,
                since: SystemTime::UNIX_EPOCH,
                message: "connection refused".to_owned(),
            })
            .into_iter()
            .collect(),
    }
}
