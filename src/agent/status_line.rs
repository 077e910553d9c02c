//! The line that `systemctl status` shows: what a person would ask first.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use state::alarm::Weight;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::api::NodeApi as _;
use crate::node::AgentNode;
use crate::notify;
use crate::view::HealthView;

/// Time between two lines: a node that changes all the time is not to tell of it all the time.
const APART: Duration = Duration::from_secs(5);
/// Time after which the line is made again, whatever has changed: an alarm changes no view.
const AT_LEAST: Duration = Duration::from_secs(60);

/// The node, whose line is kept current until the end of the agent. Only another line is told.
pub(super) fn follow(
    of: Arc<AgentNode>,
    stop: &CancellationToken,
    tracker: &TaskTracker,
) -> Arc<AgentNode> {
    let (node, stop) = (Arc::clone(&of), stop.clone());
    let following = async move {
        let (mut changes, mut told) = (node.changes(), String::new());
        loop {
            let now = Instant::now();
            let text = line(&node.health());
            if text != told {
                notify::status(&text);
                told = text;
            }
            sleep_until(now + APART).await;
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                () = sleep_until(now + AT_LEAST) => {}
            }
        }
    };
    tracker.spawn(async move { stop.run_until_cancelled(following).await });
    of
}

fn line(health: &HealthView) -> String {
    let mut text = format!("{}: {} running", health.status(), health.running);
    let mut add = |part: std::fmt::Arguments<'_>| {
        let _a_string_takes_all = text.write_fmt(part);
    };
    if let Some(worst) = health.worst.first() {
        let condition = &worst.condition;
        add(format_args!(", {} not as desired", health.unsettled));
        add(format_args!(
            " (worst: {} {}",
            worst.name,
            condition.status.as_str()
        ));
        match condition.reason {
            Some(reason) => add(format_args!(", {reason})")),
            None => add(format_args!(")")),
        }
    }
    let heavy = health
        .alarms
        .iter()
        .filter(|alarm| alarm.alarm.weight() > Weight::Notice);
    for alarm in heavy.take(3) {
        add(format_args!("; {}", alarm.alarm));
    }
    if !health.containerd_asked {
        add(format_args!("; containerd not asked yet"));
    }
    match &health.link {
        Some(link) if !link.reachable => add(format_args!("; CHaS not reached")),
        Some(_) => add(format_args!("; CHaS reached")),
        None => {}
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::health_seen::seen;

    #[test]
    fn the_line_says_what_a_person_would_ask_first() {
        let mut quiet = seen(true, &[]);
        quiet.unsettled = 0;
        assert_eq!(line(&quiet), "healthy: 3 running");
        quiet.containerd_asked = false;
        assert_eq!(line(&quiet), "healthy: 3 running; containerd not asked yet");
        assert_eq!(
            line(&seen(false, &["web"])),
            "unhealthy: 3 running, 1 not as desired (worst: web failed, ImageNotFound); \
             ContainerdUnreachable"
        );
    }
}
