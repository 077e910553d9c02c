//! Instances that are not on the bridge: with a netns of their own that leads nowhere, or with the
//! host's.

use std::path::PathBuf;

use state::id::InstanceName;
use state::spec::network::NetworkMode;
use tokio::time::Instant;

use super::{BridgeNetwork, links, veth};
use crate::network::directory::Apart;
use crate::network::threads::{block_on, on_own_thread};
use crate::network::{AssignedInstance, InstanceNames, NetworkError};

impl BridgeNetwork {
    /// Makes what an instance has of a network that is not the bridge, and its hosts files.
    pub(super) async fn connect_apart(
        &self,
        instance: InstanceName,
        names: &InstanceNames,
        mode: NetworkMode,
    ) -> Result<(), NetworkError> {
        self.state().connected_at.insert(instance, Instant::now());
        self.hosts.add_apart(instance, apart(names, mode));
        if mode == NetworkMode::None {
            make_lone(self.netns(instance)).await?;
        }
        self.hosts.write(instance).await
    }

    /// A wanted instance that is not on the bridge and whose hosts files are there.
    pub(super) fn apart(
        &self,
        (instance, names, _, network): &AssignedInstance,
    ) -> Option<(InstanceName, Apart)> {
        let is_apart = !network.mode.has_address() && self.hosts.files(*instance).dir.exists();
        is_apart.then(|| (*instance, apart(names, network.mode)))
    }
}

fn apart(names: &InstanceNames, mode: NetworkMode) -> Apart {
    Apart {
        name: names.container.clone(),
        mode,
        asked: names.asked.clone(),
    }
}

/// Makes a netns with nothing but loopback, or what is missing of it.
async fn make_lone(file: PathBuf) -> Result<(), NetworkError> {
    on_own_thread("netns", move || {
        veth::enter(&file)?;
        block_on(async {
            let (inside, connection) = links::open()?;
            links::drive(connection, veth::raise_loopback(&inside)).await
        })
    })
    .await
}
