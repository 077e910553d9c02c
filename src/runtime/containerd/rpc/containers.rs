//! Container service of containerd: the containers of its namespace, with labels and OCI spec.

use std::collections::HashMap;

use containerd_client::services::v1 as api;
use prost_types::{Any, FieldMask};
use state::id::InstanceName;

use super::client::{CallError, ContainerdClient, quick};

/// Type of the OCI spec in a container, as containerd names it.
const SPEC_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/Spec";

/// Container without image and snapshot. containerd 1.6 takes none without a spec.
pub(crate) fn bare(
    instance: InstanceName,
    labels: HashMap<String, String>,
    runtime: api::container::Runtime,
    oci_spec: Vec<u8>,
) -> api::Container {
    api::Container {
        id: instance.to_string(),
        labels,
        runtime: Some(runtime),
        spec: Some(Any {
            type_url: SPEC_TYPE.to_owned(),
            value: oci_spec,
        }),
        ..api::Container::default()
    }
}

/// Container of that name, with whatever labels; `None`: there is none.
pub(crate) async fn get(
    client: &ContainerdClient,
    instance: InstanceName,
) -> Result<Option<api::Container>, CallError> {
    let request = api::GetContainerRequest {
        id: instance.to_string(),
    };
    match quick(client.containers().get(request)).await {
        Ok(reply) => Ok(reply.container),
        Err(CallError::NotFound(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Containers that `filter` selects; `None`: all.
pub(crate) async fn list(
    client: &ContainerdClient,
    filter: Option<String>,
) -> Result<Vec<api::Container>, CallError> {
    let request = api::ListContainersRequest {
        filters: filter.into_iter().collect(),
    };
    let reply = quick(client.containers().list(request)).await?;
    Ok(reply.containers)
}

/// Creates a container. One of that name that exists stays as it is, and is no error.
pub(crate) async fn create(
    client: &ContainerdClient,
    container: api::Container,
) -> Result<(), CallError> {
    let request = api::CreateContainerRequest {
        container: Some(container),
    };
    match quick(client.containers().create(request)).await {
        Ok(_) | Err(CallError::AlreadyExists) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Replaces labels and OCI spec of a container, both or none. Answers whether there is one.
pub(crate) async fn update(
    client: &ContainerdClient,
    container: api::Container,
) -> Result<bool, CallError> {
    let paths = ["labels", "spec"].map(str::to_owned);
    let request = api::UpdateContainerRequest {
        container: Some(container),
        update_mask: Some(FieldMask {
            paths: paths.into(),
        }),
    };
    match quick(client.containers().update(request)).await {
        Ok(_) => Ok(true),
        Err(CallError::NotFound(_)) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes a container. One that is absent is no error.
pub(crate) async fn delete(
    client: &ContainerdClient,
    instance: InstanceName,
) -> Result<(), CallError> {
    let request = api::DeleteContainerRequest {
        id: instance.to_string(),
    };
    match quick(client.containers().delete(request)).await {
        Ok(()) | Err(CallError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
