//! Order in which the hosts of a registry are asked for one thing, and the error when none has it.

use std::collections::VecDeque;
use std::sync::Arc;

use state::reason::Reason;
use state::reference::ImageReference;

use super::endpoint::Endpoint;
use super::fault::RegistryError;

/// Thing that a host is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Meaning of a tag.
    Resolve,
    /// Content by its digest, which proves it.
    Content,
}

/// Hosts left to ask, and the failures of those that were.
#[derive(Debug)]
pub(super) struct Route {
    left: VecDeque<Arc<Endpoint>>,
    failures: Vec<(String, RegistryError)>,
}

impl Route {
    /// Hosts that may be asked for `need`: in the order of the configuration, but those that failed
    /// just now last.
    ///
    /// # Errors
    /// [`Reason::RegistryConfigInvalid`] when there is none.
    pub(super) fn new(
        image: &ImageReference,
        endpoints: &[Arc<Endpoint>],
        need: Need,
    ) -> Result<Self, RegistryError> {
        let fits = |endpoint: &&Arc<Endpoint>| match need {
            Need::Resolve => endpoint.resolves,
            Need::Content => endpoint.serves,
        };
        let mut left: Vec<_> = endpoints.iter().filter(fits).cloned().collect();
        left.sort_by_key(|endpoint| endpoint.is_shunned());
        if left.is_empty() {
            let (registry, capability) = match need {
                Need::Resolve => (image.registry(), "resolve"),
                Need::Content => (image.registry(), "pull"),
            };
            let message = format!(
                "no host of {registry} has the capability {capability:?} in its hosts.toml"
            );
            return Err(RegistryError::lasting(
                Reason::RegistryConfigInvalid,
                message,
            ));
        }
        Ok(Self {
            left: left.into(),
            failures: Vec::new(),
        })
    }

    /// Next host to ask.
    pub(super) fn next(&mut self) -> Option<Arc<Endpoint>> {
        self.left.pop_front()
    }

    /// Whether no host is left.
    pub(super) fn is_last(&self) -> bool {
        self.left.is_empty()
    }

    /// Notes that a host does not have it.
    pub(super) fn failed(&mut self, endpoint: &Endpoint, error: RegistryError) {
        tracing::debug!(host = %endpoint.authority(), %error, "registry host failed");
        self.failures.push((endpoint.authority(), error));
    }

    /// Error when no host had it: of the last one, with the others' beside it.
    pub(super) fn failure(mut self) -> RegistryError {
        let Some((_, mut last)) = self.failures.pop() else {
            return RegistryError::passing(
                Reason::RegistryError,
                "no host of the registry answered",
            );
        };
        let (RegistryError::Passing(failure) | RegistryError::Lasting(failure)) = &mut last;
        for (host, error) in &self.failures {
            failure.message += &format!("; asked before it, {host}: {error}");
        }
        last
    }
}
