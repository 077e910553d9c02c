//! Devices of an instance: found anew for each launch, since a restart of the host or a driver may have
//! given them other numbers.

use containerd_client::services::v1 as api;
use state::desired::Record;
use state::id::InstanceName;
use state::reason::Reason;

use super::Instances;
use super::given::LaunchValues;
use crate::devices::{self, DeviceGrant};
use crate::mounts::on_host;
use crate::runtime::RuntimeError;
use crate::runtime::containerd::rpc::containers;
use crate::runtime::engine::Sandbox;

/// Device of tunnels, which is withheld from whom it is not given.
const TUNNELS: (u32, u32) = (10, 200);

impl Instances {
    /// Devices that a record asks for.
    pub(super) async fn devices(&self, record: &Record) -> Result<DeviceGrant, RuntimeError> {
        let asked = record.spec.devices.clone();
        if asked.is_empty() {
            return Ok(DeviceGrant::NONE);
        }
        let found = tokio::task::spawn_blocking(move || devices::find(&asked)).await;
        let found = found.map_err(|error| {
            RuntimeError::failed(
                Reason::CreateFailed,
                format!("devices not looked for: {error}"),
            )
        })?;
        Ok(found?)
    }

    /// A container that exists, with its devices as they are now.
    pub(super) async fn with_devices(
        &self,
        (record, mut container): (&Record, api::Container),
        sandbox: &Sandbox,
        values: &LaunchValues,
    ) -> Result<api::Container, RuntimeError> {
        // What it was given before belongs to the spec that it was made with.
        if record.spec.devices.is_empty() || matches!(values, LaunchValues::AsBefore) {
            return Ok(container);
        }
        let (_, spec) = self.oci_spec(record, sandbox, values.opened()).await?;
        let before = container.spec.as_mut().map(|before| &mut before.value);
        let Some(before) = before.filter(|before| **before != spec) else {
            return Ok(container);
        };
        *before = spec;
        let updated = containers::update(&self.client, container.clone()).await;
        updated.map_err(|error| {
            error.into_error(Reason::CreateFailed, "change the devices of a container")
        })?;
        Ok(container)
    }

    /// Takes the device of tunnels from a task that is not given it: runc's own list of devices has it
    /// on cgroup v1 whatever the spec says, and an image can hold its node.
    pub(super) fn withhold_tunnels(&self, record: &Record, oci_spec: &[u8]) {
        if !gives_tunnels(record, oci_spec) {
            self.deny_tunnels(record.instance());
        }
    }

    pub(super) fn deny_tunnels(&self, instance: InstanceName) {
        let path = self.cgroups_path(instance);
        if let Err(error) = on_host(|| self.host.cgroup.withhold_tunnels(&path)) {
            tracing::warn!(%instance, %error, "device /dev/net/tun not withheld");
        }
    }
}

/// Whether a container of this record, with this OCI spec, is given the device of tunnels.
pub(super) fn gives_tunnels(record: &Record, oci_spec: &[u8]) -> bool {
    if record.spec.devices.is_empty() {
        return false;
    }
    let spec: serde_json::Value = serde_json::from_slice(oci_spec).unwrap_or_default();
    let rules = spec["linux"]["resources"]["devices"].as_array();
    rules.into_iter().flatten().any(|rule| {
        let is_number = |key: &str, number: u32| rule[key].as_u64() == Some(number.into());
        rule["allow"] == true && is_number("major", TUNNELS.0) && is_number("minor", TUNNELS.1)
    })
}
