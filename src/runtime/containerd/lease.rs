//! The lease of a pull: keeps containerd's garbage collection from what is fetched until an image record holds it, and
//! what an interrupted pull fetched for the next try, for a day.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use containerd_client::services::v1 as api;
use state::digest::sha256;
use uuid::Uuid;

use super::client::{CallError, Client, quick};
use super::content::refused;
use super::unpack::{SNAPSHOTTER, is_scratch};
use crate::runtime::RuntimeError;

/// How long what an abandoned pull left is kept.
const LIFE: Duration = Duration::from_secs(24 * 3600);

/// A lease with less life left is replaced, so that none ends under a pull.
const LIFE_LEFT_MIN: Duration = Duration::from_secs(12 * 3600);

/// Marks the leases of pulls; the value names the image.
const PULL: &str = "chas.io/pull";

/// The garbage collector's own label (containerd, "Garbage Collection").
const EXPIRE: &str = "containerd.io/gc.expire";

/// Deleting a lease with `sync` waits for the garbage collector, which may have gigabytes to remove.
const COLLECT_TIMEOUT: Duration = Duration::from_secs(120);

/// A lease held by a pull under way.
#[derive(Debug)]
pub(crate) struct Lease {
    /// Everything it creates is held by the lease.
    pub(crate) client: Client,
    id: String,
}

/// A pull's lease as found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    id: String,
    /// What [`tag`] made of the image's reference.
    pub(crate) tag: String,
    expires: Option<SystemTime>,
}

impl Found {
    fn life_left(&self, now: SystemTime) -> Duration {
        self.expires
            .and_then(|at| at.duration_since(now).ok())
            .unwrap_or_default()
    }

    /// Its time is over.
    pub(crate) fn expired(&self, now: SystemTime) -> bool {
        self.life_left(now).is_zero()
    }
}

/// What stands for an image's reference in a lease's label: a reference is longer than some filters take.
pub(crate) fn tag(reference: &str) -> String {
    sha256(reference.as_bytes())["sha256:".len()..][..16].to_owned()
}

impl Lease {
    /// The lease for pulling `reference`: the one an earlier try left, or a new one that takes over what it held.
    ///
    /// One pull of a reference at a time.
    pub(crate) async fn open(
        client: &Client,
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

    async fn create(client: &Client, tag: &str, now: SystemTime) -> Result<Self, RuntimeError> {
        let id = format!("chas-pull-{tag}-{}", Uuid::new_v4().simple());
        let expire = humantime::format_rfc3339_seconds(now + LIFE).to_string();
        let labels = HashMap::from([
            ("chas.io/managed".to_owned(), "1".to_owned()),
            (PULL.to_owned(), tag.to_owned()),
            (EXPIRE.to_owned(), expire),
        ]);
        let request = api::CreateRequest {
            id: id.clone(),
            labels,
        };
        quick(client.leases().create(request))
            .await
            .map_err(|error| refused(error, "create a lease"))?;
        Ok(Self {
            client: client.leased(&id),
            id,
        })
    }

    /// Holds a blob that is there already.
    pub(crate) async fn hold_blob(&self, digest: &str) -> Result<(), RuntimeError> {
        self.add(api::Resource {
            id: digest.to_owned(),
            r#type: "content".to_owned(),
        })
        .await
    }

    /// Holds a snapshot that is there already.
    pub(crate) async fn hold_snapshot(&self, name: &str) -> Result<(), RuntimeError> {
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
            Err(error) => Err(refused(error, "add to a lease")),
        }
    }

    /// Half-unpacked layers of an earlier try are of no use to anybody.
    async fn clear_scratch(&self) -> Result<(), RuntimeError> {
        for resource in resources(&self.client, &self.id).await? {
            if is_scratch(&resource.id) {
                super::unpack::remove(&self.client, &resource.id).await;
            }
        }
        Ok(())
    }

    /// The pull is complete: what it fetched is held by its image record, and what is left over may go.
    pub(crate) async fn close(self) -> Result<(), RuntimeError> {
        delete(&self.client, &self.id).await
    }
}

async fn resources(client: &Client, id: &str) -> Result<Vec<api::Resource>, RuntimeError> {
    match quick(
        client
            .leases()
            .list_resources(api::ListResourcesRequest { id: id.to_owned() }),
    )
    .await
    {
        Ok(reply) => Ok(reply.resources),
        Err(CallError::NotFound(_)) => Ok(Vec::new()),
        Err(error) => Err(refused(error, "list a lease's resources")),
    }
}

/// The leases of pulls, of all or of one image.
pub(crate) async fn list(client: &Client, tag: Option<&str>) -> Result<Vec<Found>, RuntimeError> {
    let filter = tag.map_or_else(
        || format!("labels.\"{PULL}\""),
        |tag| format!("labels.\"{PULL}\"==\"{tag}\""),
    );
    let request = api::ListRequest {
        filters: vec![filter],
    };
    let reply = quick(client.leases().list(request))
        .await
        .map_err(|error| refused(error, "list leases"))?;
    let found = reply.leases.into_iter().filter_map(|mut lease| {
        let expires = lease
            .labels
            .get(EXPIRE)
            .and_then(|text| humantime::parse_rfc3339_weak(text).ok());
        Some(Found {
            tag: lease.labels.remove(PULL)?,
            id: lease.id,
            expires,
        })
    });
    Ok(found.collect())
}

async fn delete(client: &Client, id: &str) -> Result<(), RuntimeError> {
    match quick(client.leases().delete(api::DeleteRequest {
        id: id.to_owned(),
        sync: false,
    }))
    .await
    {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(refused(error, "delete a lease")),
    }
}

/// Deletes a lease that was listed.
pub(crate) async fn drop_found(client: &Client, found: &Found) -> Result<String, RuntimeError> {
    delete(client, &found.id).await?;
    Ok(format!("lease {}", found.id))
}

/// Has containerd collect its garbage now, and waits for it.
pub(crate) async fn collect(client: &Client) -> Result<(), RuntimeError> {
    let id = format!("chas-collect-{}", Uuid::new_v4().simple());
    let expire = humantime::format_rfc3339_seconds(SystemTime::now() + Duration::from_secs(3600))
        .to_string();
    let labels = HashMap::from([(EXPIRE.to_owned(), expire)]);
    let request = api::CreateRequest {
        id: id.clone(),
        labels,
    };
    quick(client.leases().create(request))
        .await
        .map_err(|error| refused(error, "create a lease"))?;
    let mut leases = client.leases();
    match tokio::time::timeout(
        COLLECT_TIMEOUT,
        leases.delete(api::DeleteRequest { id, sync: true }),
    )
    .await
    {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(refused(status.into(), "collect garbage")),
        Err(_) => {
            tracing::warn!(
                "containerd has not finished collecting garbage within {} s",
                COLLECT_TIMEOUT.as_secs()
            );
            Ok(())
        }
    }
}
