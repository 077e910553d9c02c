//! Flows that the kernel has decided on, and that lead elsewhere by now.

use std::net::IpAddr;

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

/// Deletes the kernel's flows to and from an instance that is gone, at each of its addresses.
pub(super) async fn delete_of(
    instance: InstanceName,
    addresses: Vec<IpAddr>,
) -> Result<(), NetworkError> {
    if addresses.is_empty() {
        return Ok(());
    }
    blocking(move || {
        for address in addresses {
            match conntrack::delete_of(address) {
                Ok(0) => {}
                Ok(flows) => tracing::debug!(%instance, flows, "flows of an ended instance deleted"),
                Err(error) => tracing::warn!(
                    %instance, %address, %error,
                    "flows of an ended instance not deleted; its clients may wait for their own timeouts"
                ),
            }
        }
        Ok(())
    })
    .await
}
