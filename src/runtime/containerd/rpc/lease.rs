//! Leases of pulls: each keeps the garbage collector from what is fetched until an image's name
//! keeps it, and what an interrupted pull fetched for the next one, for a day.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use state::digest::sha256;
use state::reason::Reason;
use uuid::Uuid;

use super::client::{CallError, ContainerdClient, quick};
use super::gc::{self, EXPIRE};
use super::labels::MANAGED;
use super::snapshots::{self, SNAPSHOTTER, is_scratch};
use crate::runtime::RuntimeError;

/// Time for which the leftovers of an abandoned pull are kept.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// Least life of a lease that is used again, so that none ends under a pull.
const LIFE_LEFT_MIN: Duration = Duration::from_secs(12 * 3600);

/// Documents of an image: indexes, manifest and configuration.
const DOCUMENTS_MAX: usize = 4;

/// Marks the leases of pulls; the value names the image.
const PULL: &str = "chas.io/pull";

/// Lease of a pull under way.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Client whose creations the lease keeps.
    pub(crate) client: ContainerdClient,
    id: String,
}

/// Lease of a pull as containerd lists it.
#[derive(Clone, Debug)]
pub(crate) struct FoundLease {
    id: String,
    /// Tag of the image's reference, by [`tag`].
    pub(crate) tag: String,
    expires: Option<SystemTime>,
}

impl FoundLease {
    fn life_left(&self, now: SystemTime) -> Duration {
        self.expires
            .and_then(|at| at.duration_since(now).ok())
            .unwrap_or_default()
    }

    /// Whether the lease has ended.
    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.life_left(now).is_zero()
    }
}

/// Short form of an image's reference for a lease's label: a reference is longer than some filters
/// take.
pub(crate) fn tag(reference: &str) -> String {
    sha256(reference.as_bytes())["sha256:".len()..][..16].to_owned()
}

impl Lease {
    /// Lease for pulling `reference`: the one of an earlier try, or a new one that takes over what
    /// that one kept.
    ///
    /// Only for one pull of a reference at a time.
    pub(crate) async fn open(
        client: &ContainerdClient,
        reference: &str,
        now: SystemTime,
    ) -> Result<Self, RuntimeError> {
        let tag = tag(reference);
        let mut left = list(client, Some(&tag)).await?;
        left.sort_by_key(|found| found.life_left(now));
        let youngest = left.pop_if(|found| found.life_left(now) >= LIFE_LEFT_MIN);
        let lease = match youngest {
            Some(found) => {
                let lease = Self {
                    client: client.leased(&found.id),
                    id: found.id,
                };
                lease.clear_scratch().await?;
                lease
            }
            None => Self::create(client, &tag, now).await?,
        };
        for old in left {
            for resource in resources(client, &old.id).await? {
                if !is_scratch(&resource.id) {
                    lease.add(resource).await?;
                }
            }
            delete(client, &old.id).await?;
        }
        Ok(lease)
    }

    /// Lease of a view that is read for long. No sweep takes it for a pull's; it ends with its day.
    pub(crate) async fn of_view(
        client: &ContainerdClient,
        key: &str,
        now: SystemTime,
    ) -> Result<Self, RuntimeError> {
        let id = key.to_owned();
        let labels = HashMap::from([(MANAGED.to_owned(), "1".to_owned())]);
        gc::create_lease(client, &id, labels, now + LIFE).await?;
        Ok(Self {
            client: client.leased(&id),
            id,
        })
    }

    async fn create(
        client: &ContainerdClient,
        tag: &str,
        now: SystemTime,
    ) -> Result<Self, RuntimeError> {
        let id = format!("chas-pull-{tag}-{}", Uuid::new_v4().simple());
        let labels = HashMap::from([
            (MANAGED.to_owned(), "1".to_owned()),
            (PULL.to_owned(), tag.to_owned()),
        ]);
        gc::create_lease(client, &id, labels, now + LIFE).await?;
        Ok(Self {
            client: client.leased(&id),
            id,
        })
    }

    /// Keeps a blob that is stored already.
    pub(crate) async fn keep_blob(&self, digest: &str) -> Result<(), RuntimeError> {
        self.add(api::Resource {
            id: digest.to_owned(),
            r#type: "content".to_owned(),
        })
        .await
    }

    /// Keeps a snapshot that exists, or will.
    pub(crate) async fn keep_snapshot(&self, name: &str) -> Result<(), RuntimeError> {
        self.add(api::Resource {
            id: name.to_owned(),
            r#type: format!("snapshots/{SNAPSHOTTER}"),
        })
        .await
    }

    async fn add(&self, resource: api::Resource) -> Result<(), RuntimeError> {
        let request = api::AddResourceRequest {
            id: self.id.clone(),
            resource: Some(resource),
        };
        match quick(self.client.leases().add_resource(request)).await {
            Ok(()) | Err(CallError::AlreadyExists) => Ok(()),
            Err(error) => Err(error.into_error(Reason::CreateFailed, "add to a lease")),
        }
    }

    /// Removes half-unpacked layers of an earlier try.
    async fn clear_scratch(&self) -> Result<(), RuntimeError> {
        for resource in resources(&self.client, &self.id).await? {
            if is_scratch(&resource.id) {
                snapshots::discard(&self.client, &resource.id).await;
            }
        }
        Ok(())
    }

    /// Ends the lease of a pull that was refused, and has what it alone kept removed from the disk:
    /// with `documents`, also where it is no more than those. Where that fails, the lease ends after
    /// its day.
    pub(crate) async fn abandon(&self, documents: bool) {
        let ended = async {
            let kept = resources(&self.client, &self.id).await?;
            let is_document = |kept: &api::Resource| kept.r#type == "content";
            let is_little = kept.len() <= DOCUMENTS_MAX && kept.iter().all(is_document);
            delete(&self.client, &self.id).await?;
            if is_little && !documents {
                return Ok(());
            }
            gc::collect(&self.client).await
        };
        if let Err(error) = ended.await {
            tracing::warn!(%error, "room of a refused image not given back yet");
        }
    }

    /// Ends the lease of a complete pull: the image's name keeps what was fetched, and leftovers
    /// may go.
    pub(crate) async fn close(self) -> Result<(), RuntimeError> {
        delete(&self.client, &self.id).await
    }
}

async fn resources(
    client: &ContainerdClient,
    id: &str,
) -> Result<Vec<api::Resource>, RuntimeError> {
    match quick(
        client
            .leases()
            .list_resources(api::ListResourcesRequest { id: id.to_owned() }),
    )
    .await
    {
        Ok(reply) => Ok(reply.resources),
        Err(CallError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "list a lease's resources")),
    }
}

/// Leases of pulls, of all images or of the one with `tag`.
pub(crate) async fn list(
    client: &ContainerdClient,
    tag: Option<&str>,
) -> Result<Vec<FoundLease>, RuntimeError> {
    let filter = tag.map_or_else(
        || format!("labels.\"{PULL}\""),
        |tag| format!("labels.\"{PULL}\"==\"{tag}\""),
    );
    let request = api::ListRequest {
        filters: vec![filter],
    };
    let reply = quick(client.leases().list(request))
        .await
        .map_err(|error| error.into_error(Reason::CreateFailed, "list leases"))?;
    let found = reply.leases.into_iter().filter_map(|mut lease| {
        let expires = lease
            .labels
            .get(EXPIRE)
            .and_then(|text| humantime::parse_rfc3339_weak(text).ok());
        Some(FoundLease {
            tag: lease.labels.remove(PULL)?,
            id: lease.id,
            expires,
        })
    });
    Ok(found.collect())
}

async fn delete(client: &ContainerdClient, id: &str) -> Result<(), RuntimeError> {
    match quick(client.leases().delete(api::DeleteRequest {
        id: id.to_owned(),
        sync: false,
    }))
    .await
    {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error.into_error(Reason::CreateFailed, "delete a lease")),
    }
}

/// Deletes a lease that was listed, and names it for the log.
pub(crate) async fn delete_found(
    client: &ContainerdClient,
    found: &FoundLease,
) -> Result<String, RuntimeError> {
    delete(client, &found.id).await?;
    Ok(format!("lease {}", found.id))
}
