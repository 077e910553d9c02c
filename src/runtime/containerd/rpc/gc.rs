//! Garbage collector of containerd: when it runs, and the label by which it ends a lease.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use state::reason::Reason;
use uuid::Uuid;

use super::client::{CallError, ContainerdClient, quick};
use crate::runtime::RuntimeError;

/// Label of the garbage collector itself (containerd, "Garbage Collection").
pub(crate) const EXPIRE: &str = "containerd.io/gc.expire";

/// Deleting a lease with `sync` waits for the garbage collector, which may have gigabytes to
/// remove.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(120);

/// Life of the lease whose deletion triggers a collection, should the agent end before it.
const TRIGGER_LIFE: Duration = Duration::from_secs(3600);

/// Creates a lease that ends by itself at `end`.
pub(crate) async fn create_lease(
    client: &ContainerdClient,
    id: &str,
    mut labels: HashMap<String, String>,
    end: SystemTime,
) -> Result<(), RuntimeError> {
    let expire = humantime::format_rfc3339_seconds(end).to_string();
    labels.insert(EXPIRE.to_owned(), expire);
    let request = api::CreateRequest {
        id: id.to_owned(),
        labels,
    };
    match quick(client.leases().create(request)).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "create a lease")),
    }
}

/// Has containerd collect its garbage now, and waits for it.
pub(crate) async fn collect(client: &ContainerdClient) -> Result<(), RuntimeError> {
    let id = format!("chas-collect-{}", Uuid::new_v4().simple());
    let end = SystemTime::now() + TRIGGER_LIFE;
    create_lease(client, &id, HashMap::new(), end).await?;
    let mut leases = client.leases();
    let deleted = leases.delete(api::DeleteRequest { id, sync: true });
    match tokio::time::timeout(COLLECT_TIMEOUT, deleted).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => {
            Err(CallError::from(status).into_error(Reason::CreateFailed, "collect garbage"))
        }
        Err(_) => {
            let timeout_s = COLLECT_TIMEOUT.as_secs();
            tracing::warn!(timeout_s, "garbage collection of containerd timed out");
            Ok(())
        }
    }
}
