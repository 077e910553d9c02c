//! Flows that the kernel has decided on, and that lead elsewhere by now.

use std::net::Ipv4Addr;

use state::id::InstanceName;

use super::conntrack;
use super::nftables::Published;
use crate::network::NetworkError;
use crate::network::threads::blocking;

/// Deletes the kernel's UDP flows that lead past an instance's host ports: to the kernel, a client
/// that went on asking while nobody answered is a flow that leads nowhere.
pub(super) async fn delete_stale(
    instance: InstanceName,
    published: Published,
) -> Result<(), NetworkError> {
    blocking(move || {
        match conntrack::delete_stale(&published) {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(%instance, flows, "stale UDP flows deleted"),
            Err(error) => tracing::warn!(
                %instance, %error,
                "stale UDP flows not deleted; clients that asked too early may go unanswered until \
                 they pause for 30 s"
            ),
        }
        Ok(())
    })
    .await
}

/// Deletes the kernel's flows to an instance that is gone.
pub(super) async fn delete_of(
    instance: InstanceName,
    address: Option<Ipv4Addr>,
) -> Result<(), NetworkError> {
    let Some(address) = address else {
        return Ok(());
    };
    blocking(move || {
        match conntrack::delete_of(address) {
            Ok(0) => {}
            Ok(flows) => tracing::debug!(%instance, flows, "flows to an ended instance deleted"),
            Err(error) => tracing::warn!(
                %instance, %error,
                "flows to an ended instance not deleted; its clients may wait for their own timeouts"
            ),
        }
        Ok(())
    })
    .await
}
