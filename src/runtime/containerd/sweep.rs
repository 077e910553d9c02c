//! Taking away what belongs to no container: instances without a record, logs, images, and what the network finds.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use state::desired::{Assignment, Record};
use state::id::{ContainerId, ContainerName, InstanceName};
use state::reference::ImageReference;

use super::Containerd;
use crate::logs;
use crate::runtime::{RuntimeError, StopOrder, Swept};

/// A container as containerd has it, and the record that it was made of.
type Existing = (InstanceName, Option<Record>);

impl Containerd {
    /// Each kind of leftover is swept although another could not be: one task that cannot be ended must not keep the
    /// network from being repaired. The first error is answered when all is done.
    pub(super) async fn clear_leftovers(&self, wanted: &[Record]) -> Result<Swept, RuntimeError> {
        // Without it nothing can be told to be in use, and so nothing is taken away.
        let existing = self.existing().await?;
        let mut swept = Swept::default();
        let orphans = self.clear_orphans(wanted, &mut swept).await;
        let shims = self.clear_shims(wanted, &mut swept).await;
        let network = self.network.settle(&in_network(wanted, &existing)).await;
        let network = network
            .map(|lines| swept.removed.extend(lines))
            .map_err(RuntimeError::from);
        let images = self.images.sweep(&images_of(wanted, &existing)).await;
        let images = images.map(|lines| swept.removed.extend(lines));
        self.sweep_logs(wanted, &mut swept).await;
        match orphans.and(shims).and(network).and(images) {
            Ok(()) => Ok(swept),
            Err(error) => {
                swept
                    .removed
                    .iter()
                    .for_each(|line| tracing::info!(what = %line, "swept"));
                Err(error)
            }
        }
    }

    async fn clear_orphans(
        &self,
        wanted: &[Record],
        swept: &mut Swept,
    ) -> Result<(), RuntimeError> {
        let orphans =
            std::mem::take(&mut *self.orphans.lock().unwrap_or_else(PoisonError::into_inner));
        let mut first = Ok(());
        for orphan in orphans
            .into_iter()
            .filter(|orphan| wanted.iter().all(|record| record.id != orphan.id))
        {
            match self
                .take_away(
                    orphan,
                    &StopOrder {
                        signal: None,
                        grace: Duration::ZERO,
                    },
                )
                .await
            {
                Ok(()) => drop(swept.removed.insert(format!("what was left of {orphan}"))),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    async fn clear_shims(&self, wanted: &[Record], swept: &mut Swept) -> Result<(), RuntimeError> {
        let mut first = Ok(());
        for lost in self.lost_shims(wanted).await? {
            match self
                .take_away(
                    lost,
                    &StopOrder {
                        signal: None,
                        grace: Duration::ZERO,
                    },
                )
                .await
            {
                Ok(()) => drop(swept.removed.insert(format!("the lost shim of {lost}"))),
                Err(error) => first = first.and(Err(error)),
            }
        }
        first
    }

    async fn sweep_logs(&self, wanted: &[Record], swept: &mut Swept) {
        let ids: BTreeSet<ContainerId> = wanted.iter().map(|record| record.id).collect();
        let directory = self.config.logs_dir.clone();
        let stored = tokio::task::spawn_blocking(move || logs::stored(&directory)).await;
        let Ok(Ok(stored)) = stored else { return };
        for id in stored.into_iter().filter(|id| !ids.contains(id)) {
            match logs::remove(&logs::directory(&self.config.logs_dir, id)).await {
                Ok(()) => drop(swept.removed.insert(format!("the logs of {id}"))),
                Err(error) => tracing::warn!(%id, %error, "its logs cannot be removed"),
            }
        }
    }
}

/// Who has a place in the network: what exists, and of the wanted what does not exist yet in any generation.
///
/// The generation before goes on serving until the image of the next is there, which may be never. So what exists counts,
/// with the ports that it was made with; a removal detaches it itself. Current generations come first: where two claim
/// a host port, the network gives it to the first.
fn in_network(
    wanted: &[Record],
    existing: &[Existing],
) -> Vec<(InstanceName, ContainerName, Assignment)> {
    let place = |name: InstanceName, record: &Record| {
        (name, record.name.clone(), record.assignment.clone())
    };
    let is_current = |(name, _): &&Existing| wanted.iter().any(|record| record.instance() == *name);
    let (current, other): (Vec<_>, Vec<_>) = existing.iter().partition(is_current);
    let made_of = |(name, own): &Existing| {
        let record = wanted
            .iter()
            .find(|record| record.instance() == *name)
            .or(own.as_ref());
        let record = record.or_else(|| wanted.iter().find(|record| record.id == name.id));
        record.map(|record| place(*name, record))
    };
    let to_come = wanted
        .iter()
        .filter(|record| existing.iter().all(|(name, _)| name.id != record.id));
    let to_come = to_come.map(|record| place(record.instance(), record));
    current
        .into_iter()
        .filter_map(made_of)
        .chain(to_come)
        .chain(other.into_iter().filter_map(made_of))
        .collect()
}

/// The images that what is wanted and what exists is made of.
fn images_of(wanted: &[Record], existing: &[Existing]) -> Vec<(ImageReference, Option<String>)> {
    let records = wanted
        .iter()
        .chain(existing.iter().filter_map(|(_, own)| own.as_ref()));
    records
        .map(|record| (record.spec.image.clone(), record.image_digest.clone()))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::oci::tests::record;

    fn generation(record: &Record, generation: u64) -> Record {
        Record {
            generation,
            ..record.clone()
        }
    }

    fn names(wanted: &[Record], existing: &[Existing]) -> Vec<InstanceName> {
        in_network(wanted, existing)
            .into_iter()
            .map(|(name, ..)| name)
            .collect()
    }

    #[test]
    fn the_generation_that_exists_keeps_its_network_until_another_one_does() {
        let one = record(&json!({}));
        let (two, of) = (generation(&one, 2), |record: &Record| {
            (record.instance(), Some(record.clone()))
        });
        let wanted = std::slice::from_ref(&two);
        assert_eq!(names(wanted, &[]), [two.instance()]);
        assert_eq!(names(wanted, &[of(&one)]), [one.instance()]);
        assert_eq!(
            names(wanted, &[(one.instance(), None)]),
            [one.instance()],
            "with unreadable labels too"
        );
        assert_eq!(
            names(wanted, &[of(&one), of(&two)]),
            [two.instance(), one.instance()]
        );
        assert_eq!(
            names(&[], &[of(&one)]),
            [one.instance()],
            "its removal detaches it"
        );
        assert!(names(&[], &[(one.instance(), None)]).is_empty());
    }

    #[test]
    fn a_generation_keeps_the_ports_it_was_made_with() {
        let one = record(&json!({}));
        let mut two = generation(&one, 2);
        two.assignment.address = std::net::Ipv4Addr::new(10, 9, 9, 9);
        let placed = in_network(&[two], &[(one.instance(), Some(one.clone()))]);
        assert_eq!(placed[0].2, one.assignment);
    }

    #[test]
    fn the_image_of_what_exists_is_in_use() {
        let mut one = record(&json!({}));
        one.image_digest = Some("sha256:1".to_owned());
        let two = Record {
            image_digest: None,
            ..generation(&one, 2)
        };
        let images = images_of(&[two], &[(one.instance(), Some(one.clone()))]);
        assert!(images.contains(&(one.spec.image.clone(), one.image_digest)));
    }
}
