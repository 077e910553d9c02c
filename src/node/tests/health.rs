//! The node's health: it names what is not as it should be, whoever notices it.

use state::alarm::Alarm;
use state::event::EventKind;

use super::*;
use crate::runtime::RuntimeError;
use crate::view::HealthView;

#[tokio::test(start_paused = true)]
async fn a_container_that_keeps_ending_is_named_with_its_cause_and_is_in_the_errors() {
    let agent = agent().await;
    let node = &agent.node;
    let deployed = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap();
    let id = deployed.container.record.id;
    for _ in 0..5 {
        until(node, id, runs(1)).await;
        agent.runtime.end(id, 139);
        until(node, id, |view| {
            view.is_some_and(|view| view.condition.status != Status::Running)
        })
        .await;
    }
    let health = node.health();
    assert_eq!((health.status(), health.unsettled), ("degraded", 1));
    let worst = &health.worst[0];
    assert_eq!(worst.name.as_str(), "web");
    assert_eq!(worst.condition.reason, Some(Reason::CrashLoop));
    let error = health.errors.iter().find(|error| error.code == "CrashLoop");
    let message = &error.unwrap().message;
    assert!(message.starts_with("web: ended by signal 11"), "{message}");
    let entries = agent.node.journal.after(0).into_iter();
    let ends = entries.filter(|entry| {
        let end = EventKind::ContainerExited {
            code: 139,
            signal: Some(11),
        };
        entry.event.kind == end
    });
    assert_eq!(ends.count(), 5);
}

#[tokio::test(start_paused = true)]
async fn the_worst_containers_are_named_first_and_only_a_few() {
    let mut views: Vec<_> = ["pending", "running", "failed", "creating"]
        .into_iter()
        .map(|name| {
            let status = Status::ALL
                .into_iter()
                .find(|status| status.as_str() == name);
            crate::view::UnsettledView {
                name: name.parse().unwrap(),
                condition: state::status::Condition {
                    status: status.unwrap(),
                    reason: Some(Reason::PortTaken),
                    message: None,
                    next_attempt: None,
                },
                since: SystemTime::UNIX_EPOCH,
            }
        })
        .collect();
    views.sort_by_key(crate::view::UnsettledView::rank);
    let names: Vec<_> = views.iter().map(|view| view.name.as_str()).collect();
    assert_eq!(names, ["failed", "running", "pending", "creating"]);
}

#[tokio::test(start_paused = true)]
async fn a_standing_alarm_makes_the_node_what_its_weight_says_until_it_is_cleared() {
    let agent = agent().await;
    let node = &agent.node;
    let status = || node.health().status();
    assert_eq!(status(), "healthy");
    for (alarm, expected) in [
        (Alarm::ChasUnreachable, "healthy"),
        (Alarm::SweepFailing, "degraded"),
        (Alarm::NetworkNotReady, "unhealthy"),
    ] {
        node.journal.set_alarm(alarm, "", Some("so".to_owned()));
        assert_eq!(status(), expected);
        assert_eq!(node.health().alarms[0].alarm, alarm);
    }
    for alarm in [Alarm::NetworkNotReady, Alarm::SweepFailing] {
        node.journal.set_alarm(alarm, "", None);
    }
    assert_eq!(status(), "healthy");
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_did_not_answer_is_an_error_too() {
    let agent = agent().await;
    let gone = || RuntimeError::Unavailable("no such socket".to_owned());
    agent.runtime.fail_next([gone(), gone()]);
    let deployed = agent
        .node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await;
    until(&agent.node, deployed.unwrap().container.record.id, runs(1)).await;
    let errors = agent.node.health().errors;
    assert_eq!(errors[0].code, "ContainerdUnreachable");
    assert!(errors[0].message.contains("no such socket"), "{errors:?}");
}

#[tokio::test(start_paused = true)]
async fn a_containerd_that_nobody_has_asked_is_not_told_to_be_gone() {
    let mut agent = agent().await;
    let deployed = agent
        .node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await;
    let id = deployed.unwrap().container.record.id;
    // The agent begins again, and its network cannot be set up.
    let anew = Reconciler::new(
        Arc::clone(&agent.runtime),
        agent.node.writer.clone(),
        agent.node.journal.clone(),
        Clock::start(),
        Duration::from_hours(1),
    );
    let node = Arc::get_mut(&mut agent.node).unwrap();
    node.handle = anew.handle();
    let names =
        |health: &HealthView| -> Vec<_> { health.alarms.iter().map(|alarm| alarm.alarm).collect() };
    let health = node.health();
    assert_eq!(names(&health), []);
    assert_eq!((health.containerd, health.containerd_asked), (false, false));
    let fault = || Some("nft is not there".to_owned());
    node.journal.set_alarm(Alarm::NetworkNotReady, "", fault());
    assert_eq!(names(&node.health()), [Alarm::NetworkNotReady]);
    let told = node.explain(id).unwrap();
    let (blocked, unblock) = (told.blocked.unwrap(), told.unblock);
    assert!(blocked.ends_with("nft is not there"), "{blocked}");
    assert_eq!(unblock, Some(Alarm::NetworkNotReady.remedy()));
    let condition = told.container.condition;
    assert_eq!(condition.reason, Some(Reason::NetworkError));
    // Once it was asked and did not answer, that is told.
    node.board().reached(Some("no such socket".to_owned()));
    let both = [Alarm::ContainerdUnreachable, Alarm::NetworkNotReady];
    let mut now = names(&node.health());
    now.sort();
    assert_eq!(now, both);
}
