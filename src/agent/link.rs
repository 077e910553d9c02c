//! The link to CHaS, as it is configured.

use std::sync::Arc;

use state::alarm::Alarm;
use state::store::Defaults;

use crate::chas::client::ChasClient;
use crate::chas::credentials::{ChasCredentials, Tokens, Transport};
use crate::chas::signature::SetKeys;
use crate::chas::{ChasLink, LinkSettings, LinkState};
use crate::config::{ChasSection, Config};
use crate::journal::Journal;
use crate::node::AgentNode;
use crate::node::link::{AgentLink, LinkConfig};

/// Alarm that CHaS is reached in the clear; `None`: it is not.
fn in_the_clear(config: &Config) -> Option<(Alarm, String)> {
    let chas = config.chas.as_ref().filter(|chas| !chas.is_private())?;
    // A node from before goes on as it did.
    let is_accepted = chas.plain_http || config.state.defaults == Defaults::Earlier;
    let alarm = if is_accepted {
        Alarm::ChasPlainHttp
    } else {
        Alarm::ChasInTheClear
    };
    let fault = format!(
        "{} is plain HTTP: whoever is on the way reads the node's token, and decides what runs here",
        chas.url
    );
    Some((alarm, fault))
}

/// Faults of the configuration of the link with which the agent starts all the same.
pub(super) fn review(config: &Config) -> Vec<String> {
    let clear = in_the_clear(config).map(|(alarm, fault)| format!("{fault}; {}", alarm.remedy()));
    let keys = config
        .chas
        .as_ref()
        .and_then(|chas| chas.set_key_file.clone());
    let keys = keys.and_then(|file| SetKeys::new(file).read().err());
    clear.into_iter().chain(keys).collect()
}

/// Link to CHaS. `None`: none is configured.
pub(super) fn link(
    config: &Config,
    node: &Arc<AgentNode>,
    (contact, journal): (Option<Arc<LinkState>>, Journal),
    boot_id: String,
) -> Option<(Arc<AgentLink>, ChasLink<AgentLink>)> {
    let contact = contact?;
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
    // A node from before goes on as it did.
    let accepted = ChasSection {
        plain_http: chas.plain_http || config.state.defaults == Defaults::Earlier,
        ..chas.clone()
    };
    let tokens = Tokens::new(&accepted, Some(config.state.dir.join("token")));
    let credentials = ChasCredentials {
        transport: Arc::new(Transport::new(chas)),
        tokens: Arc::new(tokens),
    };
    let client = ChasClient::new(chas.url.clone(), config.node.id.clone(), credentials)
        .with_set_keys(chas.set_key_file.clone());
    if let Some((alarm, fault)) = in_the_clear(config) {
        journal.set_alarm(alarm, "", Some(fault));
    }
    let settings = LinkSettings {
        boot_id,
        health_interval: config.monitoring.health_interval,
    };
    let link = ChasLink::new(Arc::clone(&this), client, settings, contact, journal);
    Some((this, link))
}
