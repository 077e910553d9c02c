//! Host that sent content, and whether it is what its digest says.

use reqwest::Response;
use state::digest::sha256;
use state::reason::Reason;

use super::authority::authority;
use super::endpoint::Endpoint;
use super::fault::RegistryError;

/// Host that sent a body.
pub(super) struct Sender {
    registry: String,
    /// Whether it is the registry itself, and not a host that it led to.
    is_own: bool,
}

impl Sender {
    /// Host that a response of an endpoint came from.
    pub(super) fn of(response: &Response, endpoint: &Endpoint) -> Self {
        let registry = endpoint.authority();
        Self {
            is_own: authority(response.url()) == registry,
            registry,
        }
    }

    /// Checks content (`what` names it) against the digest that it was asked for by.
    ///
    /// # Errors
    /// [`Reason::DigestMismatch`].
    pub(super) fn check(
        &self,
        what: &str,
        wanted: &str,
        bytes: &[u8],
    ) -> Result<(), RegistryError> {
        let got = sha256(bytes);
        if got == wanted {
            return Ok(());
        }
        let registry = &self.registry;
        // The digest of a page would confirm a guess of what is on it.
        let message = if self.is_own {
            format!("registry {registry} sent a {what} with digest {got} instead of {wanted}")
        } else {
            format!("a host where registry {registry} leads sent another {what} than {wanted}")
        };
        Err(RegistryError::passing(Reason::DigestMismatch, message))
    }
}
