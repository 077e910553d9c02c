//! Where a registry may lead: by a redirect, or by the realm of its challenge. And who may be shown
//! its password.

use std::net::IpAddr;

use reqwest::Url;
use state::reason::Reason;

use super::authority::authority;
use super::endpoint::Endpoint;
use super::fault::RegistryError;
use crate::lookup::NearAddresses;

/// Longest URL that a registry may lead to: those of object stores carry a signature and some 4 kB.
const URL_BYTES_MAX: usize = 16 << 10;

/// Word in `registry.token_hosts` that stands for any host with TLS.
const ANY_HOST: &str = "any";

/// Top domains of private networks, each of which is one owner's.
const PRIVATE: [&str; 7] = [
    "corp",
    "home",
    "internal",
    "intranet",
    "lan",
    "local",
    "localdomain",
];

/// Words below a country's domain that hold the domains of many owners.
const SHARED: [&str; 9] = ["co", "com", "net", "org", "gov", "edu", "ac", "or", "ne"];

/// Rules of where registries may lead.
#[derive(Debug)]
pub(super) struct Leading {
    /// Hosts that may be reached in the clear.
    insecure: Vec<String>,
    /// Hosts beyond a registry's own domain that get its password, and may be near.
    token_hosts: Vec<String>,
    /// Whether any host with TLS gets a registry's password.
    any_gets_passwords: bool,
    near: NearAddresses,
}

impl Leading {
    /// Rules of a configuration.
    pub(super) fn new(insecure: &[String], token_hosts: &[String], near: NearAddresses) -> Self {
        let lower = |hosts: &[String]| hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self {
            insecure: lower(insecure),
            token_hosts: lower(token_hosts),
            any_gets_passwords: token_hosts.iter().any(|host| host == ANY_HOST),
            near,
        }
    }

    /// Addresses of this node.
    pub(super) fn near(&self) -> NearAddresses {
        self.near
    }

    /// Whether an operator named the host of `url` as one that gets passwords.
    pub(super) fn is_named(&self, url: &Url) -> bool {
        is_listed(&self.token_hosts, url)
    }

    /// Checks a step from `from` to `to`. `is_near`: the registry itself is at an address of this
    /// node. `has_secret`: a secret goes along. Names are left to the lookup.
    ///
    /// # Errors
    /// [`Reason::RegistryRedirectRefused`], with what would help.
    pub(super) fn check(
        &self,
        from: &Url,
        to: &Url,
        is_near: bool,
        has_secret: bool,
    ) -> Result<(), RegistryError> {
        let (leader, target) = (authority(from), authority(to));
        if to.as_str().len() > URL_BYTES_MAX {
            return Err(refused(format!(
                "{leader} leads to a URL of more than {URL_BYTES_MAX} bytes"
            )));
        }
        if !to.username().is_empty() || to.password().is_some() {
            return Err(refused(format!(
                "{leader} leads to {target} with a user and a password of its choice"
            )));
        }
        match (from.scheme(), to.scheme()) {
            (_, "https") => {}
            ("http", "http") if is_listed(&self.insecure, to) => {}
            // A store of blobs in the operator's own network: what comes is checked by its digest.
            ("https", "http") if is_listed(&self.insecure, to) && !has_secret => {}
            ("https", "http") if has_secret => {
                return Err(refused(format!(
                    "{leader} leads with a secret from TLS to http://{target}; have it lead to https"
                )));
            }
            (_, scheme) => {
                return Err(refused(format!(
                    "the registry leads to {scheme}://{target}, which is not TLS; list {target} under registry.insecure if you trust it"
                )));
            }
        }
        let is_near_address = address(to).is_some_and(|address| self.near.holds(address));
        if is_near_address && !is_near && !self.is_named(to) {
            return Err(self.inward(from, to));
        }
        Ok(())
    }

    /// Refusal of a host that is this node, or on its link.
    pub(super) fn inward(&self, from: &Url, to: &Url) -> RegistryError {
        let (leader, target) = (authority(from), authority(to));
        refused(format!(
            "{leader} leads to {target}, an address of this node or of its link, where only a registry of this node may lead; \
             have it serve its blobs itself, or list {target} under registry.token_hosts if you trust both"
        ))
    }

    /// Checks whether a token service may be shown the secret of an endpoint. `has_entry`: the
    /// operator's credentials name its host too.
    ///
    /// # Errors
    /// [`Reason::RegistryRedirectRefused`], with the key to write.
    pub(super) fn check_secret(
        &self,
        endpoint: &Endpoint,
        realm: &Url,
        has_entry: bool,
    ) -> Result<(), RegistryError> {
        let root = &endpoint.root;
        // A registry with TLS leads nowhere in the clear; one without has shown the secret already.
        let is_safe = realm.scheme() == "https" || root.scheme() == "http";
        let is_known = root.host_str() == realm.host_str()
            || is_kin(root.domain(), realm.domain())
            || self.is_named(realm)
            || ((has_entry || self.any_gets_passwords) && realm.scheme() == "https");
        if is_safe && is_known {
            return Ok(());
        }
        let (registry, target) = (authority(root), authority(realm));
        Err(refused(format!(
            "registry {registry} sends for tokens to {target}, which is not of its domain, and gets no password there; \
             list {target} under registry.token_hosts if you trust it with the one for {registry}"
        )))
    }
}

fn refused(message: String) -> RegistryError {
    RegistryError::lasting(Reason::RegistryRedirectRefused, message)
}

/// Address that stands in a URL in place of a name.
pub(super) fn address(url: &Url) -> Option<IpAddr> {
    let host = url.host_str()?.trim_start_matches('[');
    host.trim_end_matches(']').parse().ok()
}

/// Whether a list of `host` or `host:port` names the host of `url`.
fn is_listed(list: &[String], url: &Url) -> bool {
    let authority = authority(url);
    let host = url.host_str().unwrap_or_default();
    let full = url
        .port_or_known_default()
        .map(|port| format!("{host}:{port}"));
    list.iter()
        .any(|listed| *listed == authority || Some(listed) == full.as_ref())
}

/// Whether two names are below one domain of one owner: they end alike in two words or more.
fn is_kin(one: Option<&str>, other: Option<&str>) -> bool {
    let (Some(one), Some(other)) = (one, other) else {
        return false;
    };
    let [one, other] = [one, other].map(|name| name.trim_end_matches('.'));
    let are_below = one.contains('.') && other.contains('.');
    let [one, other] = [one, other].map(|name| name.rsplit('.'));
    let alike: Vec<_> = one.zip(other).take_while(|(a, b)| a == b).collect();
    match alike.as_slice() {
        [] => false,
        [(top, _)] => are_below && PRIVATE.contains(top),
        [(top, _), (second, _)] => !(top.len() == 2 && SHARED.contains(second)),
        _ => true,
    }
}

#[cfg(test)]
mod tests;
