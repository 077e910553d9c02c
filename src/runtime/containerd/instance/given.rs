//! Values of an instance that are not in its OCI spec, since containerd writes that to disk: opened
//! for its launch, put into memory, and taken away after it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use state::desired::Record;
use state::id::InstanceName;
use state::reason::Reason;

use super::Instances;
use crate::oci::Given;
use crate::oci::host_ids::HostIds;
use crate::runtime::RuntimeError;
use crate::secrets::{self, GivenVariables};

/// Variables of a launch, with their values.
pub(super) type Variables = BTreeMap<String, String>;

impl Instances {
    /// Variables that an instance is to be given. `None`: there are none, and it begins with its own
    /// program.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: a value cannot be opened.
    pub(super) fn opened(&self, record: &Record) -> Result<Option<Variables>, RuntimeError> {
        let spec = &record.spec;
        if spec.sealed_environment.is_empty() {
            return Ok(None);
        }
        let opened = spec.opened_environment(&record.name, &self.config.key);
        opened.map(Some).map_err(|error| {
            let message = format!("a value in environment cannot be opened: {error}");
            RuntimeError::failed(Reason::SecretUnavailable, message)
        })
    }

    /// Puts an instance's variables into memory, if it takes them from there. Answers whether it
    /// does: one that an older agent made has them in its OCI spec.
    ///
    /// # Errors
    /// [`Reason::SecretUnavailable`]: the memory takes no more.
    pub(super) async fn give(
        &self,
        instance: InstanceName,
        oci_spec: &[u8],
        variables: &Variables,
    ) -> Result<bool, RuntimeError> {
        let Some(owner) = reader(oci_spec) else {
            return Ok(false);
        };
        let given = GivenVariables {
            variables: variables.clone(),
            owner,
        };
        let memory = self.config.memory.clone();
        let giving = tokio::task::spawn_blocking(move || memory.give(instance, &given));
        let given = giving
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)));
        given.map(|()| true).map_err(|error| {
            let message =
                format!("its values cannot be put into memory below state.run_dir: {error}");
            RuntimeError::failed(Reason::SecretUnavailable, message)
        })
    }

    /// Takes the values of an instance away that is gone.
    pub(super) async fn take_values(&self, instance: InstanceName) {
        let memory = self.config.memory.clone();
        let taking = tokio::task::spawn_blocking(move || memory.remove(instance));
        match taking.await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%instance, %error, "secret values not removed"),
            Err(error) => tracing::warn!(%instance, %error, "secret values not removed"),
        }
    }

    /// Takes away the values of instances without a container. Answers what was removed, in words.
    pub(crate) async fn sweep_values(&self) -> Vec<String> {
        // Before the containers: values come after their container, and go after it.
        let memory = self.config.memory.clone();
        let listed = tokio::task::spawn_blocking(move || memory.listed()).await;
        let listed = listed.unwrap_or_default();
        if listed.is_empty() {
            return Vec::new();
        }
        let Ok(existing) = self.existing().await else {
            return Vec::new();
        };
        let existing: BTreeSet<_> = existing.into_iter().map(|(name, _)| name).collect();
        let mut removed = Vec::new();
        for instance in listed {
            // One that was made meanwhile has them by right.
            if !existing.contains(&instance) && matches!(self.find(instance).await, Ok(None)) {
                self.take_values(instance).await;
                removed.push(format!("secret values of {instance}"));
            }
        }
        removed
    }
}

/// Values as the OCI spec of an instance has its part of them.
pub(super) fn place<'a>(directory: &'a std::path::Path, variables: &'a Variables) -> Given<'a> {
    Given {
        directory: (directory, secrets::IN_CONTAINER),
        init: secrets::INIT,
        variables,
    }
}

/// Ids on the host of the process that reads the values. `None`: it takes none from memory.
fn reader(oci_spec: &[u8]) -> Option<(u32, u32)> {
    let spec: Value = serde_json::from_slice(oci_spec).ok()?;
    let process = &spec["process"];
    if process["args"][0] != secrets::INIT {
        return None;
    }
    let id = |name: &str| {
        let id = process["user"][name].as_u64().unwrap_or_default();
        let id = u32::try_from(id).ok()?;
        HostIds::of(&spec).map_or(Some(id), |ids| ids.on_host(id))
    };
    Some((id("uid")?, id("gid")?))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_values_are_their_reader_s_own_on_the_host() {
        let spec = |args: Value, ids: Value| {
            let user = json!({"uid": 1000, "gid": 50});
            json!({"process": {"args": args, "user": user}, "linux": ids}).to_string()
        };
        let own = json!({"uidMappings": [{"containerID": 0, "hostID": 70_000, "size": 65_536}]});
        let init = json!([secrets::INIT, "sh"]);
        let read = |args: &Value, ids: Value| reader(spec(args.clone(), ids).as_bytes());
        assert_eq!(read(&init, json!({})), Some((1000, 50)));
        assert_eq!(read(&init, own), Some((71_000, 70_050)));
        assert_eq!(read(&json!(["sh"]), json!({})), None, "of an older agent");
    }
}
