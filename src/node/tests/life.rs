//! Orders about a container's life: a stop keeps how it ended, and a start waits for nothing.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_stop_keeps_the_exit_code_and_the_times_of_the_run() {
    let agent = agent().await;
    let node = &agent.node;
    let deployed = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap();
    let id = deployed.container.record.id;
    until(node, id, runs(1)).await;
    node.order(id, Order::Stop, ExpectedTag::Any).await.unwrap();
    until(node, id, |view| {
        view.unwrap().condition.status == Status::Stopped
    })
    .await;
    let view = node.container(id).unwrap();
    assert_eq!(view.exit_code, Some(143));
    let (started, finished) = (view.started, view.finished.unwrap());
    assert!(started.is_some_and(|started| started <= finished));
    let told: Vec<_> = agent.node.journal.after(0);
    let ends = told.iter().filter(|entry| {
        let is_end = entry.event.kind.as_str() == "container_exited";
        is_end && entry.event.reason == Some(Reason::StopRequested)
    });
    assert_eq!(ends.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_start_during_a_backoff_starts_now() {
    let agent = agent().await;
    let node = &agent.node;
    let deployed = node
        .deploy(ExpectedTag::Any, deploy("web", "nginx"), false)
        .await
        .unwrap();
    let id = deployed.container.record.id;
    for _ in 0..6 {
        until(node, id, runs(1)).await;
        agent.runtime.end(id, 1);
        until(node, id, |view| {
            view.unwrap().condition.status == Status::Restarting
        })
        .await;
    }
    let now = node.board().clock.now();
    let next = node.container(id).unwrap().condition.next_attempt.unwrap();
    assert!(next.since(now) > Duration::from_secs(5), "{next:?}");
    node.order(id, Order::Start, ExpectedTag::Any)
        .await
        .unwrap();
    until(node, id, runs(1)).await;
    let took = node.board().clock.now().since(now);
    assert!(took < Duration::from_secs(3), "{took:?}");
}
