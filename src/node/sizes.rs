//! Sizes of volumes, as deploys ask for them: refused at once where the disk cannot keep them, and kept
//! for the containers that name them.

use std::collections::BTreeMap;

use state::desired::set::Desired;
use state::quantity::ByteCount;
use state::spec::VolumeName;
use state::spec::parse::{Deploy, FieldError};

use super::AgentNode;
use crate::api::Refusal;
use crate::volumes::SizeFault;

impl AgentNode {
    /// Refuses a deploy that asks for sizes which the disk of the volumes cannot keep. Those of CHaS
    /// are taken in: their containers wait until it can.
    pub(super) async fn check_sizes(&self, deploy: &Deploy) -> Result<(), Refusal> {
        let faults = self.size_faults([deploy], |_, field| field).await;
        refuse(faults)
    }

    /// The same for a set, in whose faults the container's name comes first.
    pub(super) async fn check_set_sizes(&self, wanted: &[Deploy]) -> Result<(), Refusal> {
        let named = |deploy: &Deploy, field| format!("{}.{field}", deploy.name);
        let faults = self.size_faults(wanted, named).await;
        refuse(faults)
    }

    async fn size_faults<'d>(
        &self,
        deploys: impl IntoIterator<Item = &'d Deploy>,
        field: impl Fn(&Deploy, String) -> String,
    ) -> Vec<FieldError> {
        let mut asked = Vec::new();
        for deploy in deploys {
            for (index, mount) in deploy.spec.volumes.iter().enumerate() {
                if let (Some(volume), Some(_)) = (mount.volume(), mount.size) {
                    let field = field(deploy, format!("volumes[{index}].size"));
                    asked.push((field, volume.clone()));
                }
            }
        }
        let Some(node) = self.volumes.as_ref().filter(|_| !asked.is_empty()) else {
            return Vec::new();
        };
        let volumes = node.volumes.clone();
        let look = move || {
            let faults = asked.into_iter().filter_map(|(field, volume)| {
                match volumes.can_have_size(&volume) {
                    Err(SizeFault::NoQuotas(fault)) => Some(FieldError {
                        field,
                        message: format!("cannot be kept by this node: {fault}"),
                    }),
                    // What cannot be told now is told by the launch.
                    Ok(()) | Err(_) => None,
                }
            });
            faults.collect()
        };
        tokio::task::spawn_blocking(look).await.unwrap_or_default()
    }
}

fn refuse(faults: Vec<FieldError>) -> Result<(), Refusal> {
    if faults.is_empty() {
        Ok(())
    } else {
        Err(Refusal::Invalid(faults))
    }
}

/// Sizes of the volumes that containers name; `None`: no container says one. Of several, which only a
/// set of CHaS can have left, the smallest.
pub(super) fn wanted(desired: &Desired) -> BTreeMap<VolumeName, Option<ByteCount>> {
    let mut wanted: BTreeMap<_, Option<ByteCount>> = BTreeMap::new();
    let records = desired.records().filter(|record| !record.removing);
    for mount in records.flat_map(|record| &record.spec.volumes) {
        if let Some(volume) = mount.volume() {
            let size = wanted.entry(volume.clone()).or_default();
            *size = (*size).into_iter().chain(mount.size).min();
        }
    }
    wanted
}
