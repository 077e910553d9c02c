//! Host ports and names on their way from one generation to the next.

use state::desired::{Assignment, Record};
use state::id::InstanceName;

use super::{NodeRuntime, sweep};
use crate::network::{NetworkDriver, NetworkError};
use crate::runtime::RuntimeError;
use crate::runtime::engine::Engine;

impl<E: Engine, N: NetworkDriver> NodeRuntime<E, N> {
    /// Opens the host ports of an instance that has an address, and does not stand back.
    pub(super) async fn publish(
        &self,
        record: &Record,
        assignment: Option<Assignment>,
    ) -> Result<(), NetworkError> {
        match assignment.filter(|_| !record.stands_back()) {
            Some(assignment) => self.network.publish(record.instance(), &assignment).await,
            None => Ok(()),
        }
    }

    /// Checks that the instance could have its host ports now.
    pub(super) async fn can_serve(&self, record: &Record) -> Result<(), RuntimeError> {
        let (instance, assignment) = (record.instance(), &record.assignment);
        if record.spec.network.mode.has_address() {
            self.network.check_ports(instance, assignment).await?;
        }
        Ok(())
    }

    /// Gives the instance host ports and names, and counts the connections of the other one.
    pub(super) async fn serve(
        &self,
        record: &Record,
        other: InstanceName,
    ) -> Result<Option<usize>, RuntimeError> {
        let (instance, names) = (record.instance(), sweep::names(record));
        let (assignment, network) = (&record.assignment, &record.spec.network);
        let attaching = self.network.attach(instance, &names, assignment, network);
        attaching.await?;
        // The ports have moved, whatever the count says.
        let counted = self.network.connections(other).await;
        let counted = counted.inspect_err(|error| {
            tracing::warn!(instance = %other, %error, "connections not counted");
        });
        Ok(counted.ok())
    }
}
