//! A drain on a node of which it is not known yet what runs.

use state::cordon::NodeOrder;

use super::*;
use crate::api::NodeMaintenance;

#[tokio::test]
async fn a_node_that_was_not_looked_at_since_the_agent_began_is_not_told_drained() {
    let mut agent = agent().await;
    while agent.node.writer.store().desired().may_lack_records() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    agent.node.order_node(NodeOrder::Drain).await.unwrap();
    let view = agent.node.cordon();
    assert!(view.is_drained(), "{view:?}");
    // The agent begins again, and containerd is away.
    let anew = Reconciler::new(
        Arc::clone(&agent.runtime),
        agent.node.writer.clone(),
        agent.node.journal.clone(),
        Clock::start(),
        Duration::from_hours(1),
    );
    let node = Arc::get_mut(&mut agent.node).unwrap();
    node.handle = anew.handle();
    let view = node.cordon();
    assert!(view.left.is_empty() && !view.is_drained(), "{view:?}");
    assert!(view.unsure.unwrap().contains("not asked yet"));
}
