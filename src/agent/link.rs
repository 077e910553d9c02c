//! The link to CHaS, as it is configured.

use std::sync::Arc;

use crate::chas::client::ChasClient;
use crate::chas::credentials::{ChasCredentials, Tokens, Transport};
use crate::chas::{ChasLink, LinkSettings, LinkState};
use crate::config::Config;
use crate::journal::Journal;
use crate::node::AgentNode;
use crate::node::link::{AgentLink, LinkConfig};

/// Link to CHaS. `None`: none is configured.
pub(super) fn link(
    config: &Config,
    node: &Arc<AgentNode>,
    contact: Arc<LinkState>,
    journal: Journal,
    boot_id: String,
) -> Option<(Arc<AgentLink>, ChasLink<AgentLink>)> {
    let chas = config.chas.as_ref()?;
    let host = chas.url.host_str();
    let registered = LinkConfig {
        node: config.node.clone(),
        port: config.api.listen.port(),
        chas_address: host.and_then(|host| host.trim_matches(['[', ']']).parse().ok()),
    };
    let this = Arc::new(AgentLink::new(
        Arc::clone(node),
        Arc::clone(&contact),
        registered,
    ));
    let tokens = Tokens::new(chas, Some(config.state.dir.join("token")));
    let credentials = ChasCredentials {
        transport: Arc::new(Transport::new(chas)),
        tokens: Arc::new(tokens),
    };
    let client = ChasClient::new(chas.url.clone(), config.node.id.clone(), credentials);
    let settings = LinkSettings {
        boot_id,
        health_interval: config.monitoring.health_interval,
    };
    let link = ChasLink::new(Arc::clone(&this), client, settings, contact, journal);
    Some((this, link))
}
