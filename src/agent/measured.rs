//! The metrics of the node, for a collector that the environment names.

use std::sync::Arc;

use state::access::NameScope;
use tokio_util::sync::CancellationToken;

use crate::api;
use crate::config::{self, Config};
use crate::metrics::{Metrics, MetricsFormat};
use crate::node::AgentNode;
use crate::otlp;

/// Has the metrics sent until the agent is to stop, and spans, as the environment asks for it.
pub(super) fn send(
    config: &Config,
    node: &Arc<AgentNode>,
    metrics: &Metrics,
    stop: &CancellationToken,
) {
    let (of, metrics) = (Arc::clone(node), metrics.clone());
    let collect = move || {
        let (node, metrics) = (Arc::clone(&of), metrics.clone());
        async move {
            let all = NameScope::default();
            api::metrics_text(&*node, &metrics, &all, MetricsFormat::OpenMetrics).await
        }
    };
    let node = (config.node.id.as_str(), config.node.hostname.as_str());
    otlp::start(config::environment, node, (collect, stop));
}
