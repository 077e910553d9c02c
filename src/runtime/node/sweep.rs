//! Leftovers of a node: what a sweep must keep of network and images, and logs and volumes without a
//! container.

use std::collections::{BTreeMap, BTreeSet};

use state::desired::Record;
use state::id::{ContainerId, InstanceName};
use state::phase::Goal;
use state::reference::ImageReference;

use super::NodeRuntime;
use crate::logs;
use crate::logs::keep::Loggers;
use crate::network::{AssignedInstance, InstanceNames, NetworkDriver};
use crate::runtime::engine::{Engine, Existing};
use crate::runtime::{RuntimeError, Swept, WantedRecords};
use crate::volumes::Volumes;

impl<E: Engine, N: NetworkDriver> NodeRuntime<E, N> {
    pub(super) async fn sweep_lost(
        &self,
        wanted: &WantedRecords,
        swept: &mut Swept,
    ) -> Result<(), RuntimeError> {
        let named = wanted.records.iter().flat_map(Record::with_former);
        let named = named.map(Record::instance).collect();
        let resting = wanted.records.iter().filter(|record| is_at_rest(record));
        let resting = resting.map(Record::instance).collect();
        let mut lost = self.engine.lost(&named, &resting).await?;
        lost.retain(|instance| !wanted.unreadable.contains(&instance.id));
        self.remove_each(lost, "what a lost shim left of", swept)
            .await
    }

    /// Removes images that nothing needs.
    pub(super) async fn sweep_images(
        &self,
        wanted: &WantedRecords,
        existing: &[Existing],
        swept: &mut Swept,
    ) -> Result<(), RuntimeError> {
        if wanted.keeps_images {
            return Ok(());
        }
        let in_use = images_of(&wanted.records, existing);
        swept
            .removed
            .extend(self.engine.sweep_images(&in_use).await?);
        Ok(())
    }
}

/// Whether no task of the container is to be created, unless somebody asks for it.
fn is_at_rest(record: &Record) -> bool {
    matches!(
        Goal::of(Some(record)),
        Goal::Stopped | Goal::Finished | Goal::Scheduled
    )
}

/// Removes the logs of containers that are neither `wanted` nor exist, and ends the loggers that
/// such containers left.
///
/// A container that was deployed after `wanted` was taken has a logger: its log is left alone. The
/// directories are listed before the loggers are, so that no new one is among them.
pub(super) async fn sweep_logs(
    loggers: &Loggers,
    wanted: &BTreeSet<ContainerId>,
    existing: &[Existing],
    swept: &mut Swept,
) {
    let directory = loggers.root().to_owned();
    let stored = tokio::task::spawn_blocking(move || logs::stored(&directory)).await;
    let mut known = wanted.clone();
    known.extend(existing.iter().map(|(name, _)| name.id));
    let (ended, busy) = loggers.sweep(&known).await;
    swept.removed.extend(ended);
    let Ok(Ok(stored)) = stored else { return };
    let is_left = |id: &ContainerId| !known.contains(id) && !busy.contains(id);
    for id in stored.into_iter().filter(is_left) {
        match logs::remove(&loggers.directory(id)).await {
            Ok(()) => drop(swept.removed.insert(format!("logs of {id}"))),
            Err(error) => tracing::warn!(%id, %error, "logs not removed"),
        }
    }
}

/// Removes the volumes that images gave containers which are neither `wanted` nor exist.
pub(super) async fn sweep_volumes(
    volumes: &Volumes,
    wanted: &BTreeSet<ContainerId>,
    existing: &[Existing],
    swept: &mut Swept,
) {
    let is_known =
        |id: &ContainerId| wanted.contains(id) || existing.iter().any(|(name, _)| name.id == *id);
    for id in volumes.of_images().await {
        if is_known(&id) || volumes.was_launched(id) {
            continue;
        }
        match volumes.remove_of_images(id).await {
            Ok(()) => drop(swept.removed.insert(format!("volumes of {id}"))),
            Err(error) => tracing::warn!(%id, %error, "volumes not removed"),
        }
    }
    for name in volumes.sweep_cut().await {
        swept
            .removed
            .insert(format!("what was left of volume {name}"));
    }
}

/// Instances with a place in the network: those that exist, and of the wanted those that exist in
/// no generation yet.
///
/// The generation before goes on serving until the image of the next is there, which may be never.
/// So an instance that exists counts, with the ports that it was made with; a removal detaches it
/// itself. Those that serve come first: where two claim a host port, the network gives it to the
/// first. One that stands back claims none, and its name is that of the one that serves.
pub(super) fn in_network(wanted: &[Record], existing: &[Existing]) -> Vec<AssignedInstance> {
    let there: BTreeSet<InstanceName> = existing.iter().map(|(name, _)| *name).collect();
    let serving: BTreeMap<ContainerId, InstanceName> = wanted
        .iter()
        .filter_map(|record| Some((record.id, record.served_by(|name| there.contains(&name))?)))
        .collect();
    let is_current = |(name, _): &&Existing| serving.get(&name.id) == Some(name);
    let (current, other): (Vec<_>, Vec<_>) = existing.iter().partition(is_current);
    let made_of = |(name, own): &Existing| {
        let asked = wanted.iter().find(|record| record.id == name.id);
        let record = asked.and_then(|asked| asked.of_instance(*name));
        let record = record.or(own.as_ref()).or(asked)?;
        let serving = serving.get(&name.id).copied();
        let (name, mut names, mut assignment, network) = place(*name, record);
        names.stands_back = serving.is_some_and(|serving| serving != name);
        if asked.is_some_and(|asked| !asked.may_publish(name, serving)) {
            assignment.ports.clear();
        }
        Some((name, names, assignment, network))
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

fn place(name: InstanceName, record: &Record) -> AssignedInstance {
    let (assignment, network) = (record.assignment.clone(), record.spec.network.clone());
    (name, names(record), assignment, network)
}

/// Names of a container on the network.
pub(super) fn names(record: &Record) -> InstanceNames {
    InstanceNames {
        container: record.name.clone(),
        asked: record.spec.names.clone(),
        stands_back: record.stands_back(),
    }
}

/// Images of the instances that are wanted or exist, and those that the wanted ones may go back to.
pub(super) fn images_of(
    wanted: &[Record],
    existing: &[Existing],
) -> Vec<(ImageReference, Option<String>)> {
    let records = wanted
        .iter()
        .flat_map(Record::with_former)
        .chain(existing.iter().filter_map(|(_, own)| own.as_ref()));
    let images = records.map(|record| (record.spec.image.clone(), record.image_digest.clone()));
    let former = wanted.iter().filter(|record| !record.removing);
    let former = former.filter_map(|record| record.former_image.clone());
    images
        .chain(former.map(|image| (image.reference, Some(image.digest))))
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use state::desired::update::{Update, UpdateStage};

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
        two.assignment.address = Some(std::net::Ipv4Addr::new(10, 9, 9, 9));
        let placed = in_network(&[two], &[(one.instance(), Some(one.clone()))]);
        assert_eq!(placed[0].2, one.assignment);
    }

    #[test]
    fn a_newer_body_leaves_the_ports_to_what_serves() {
        let ports = json!({"exposed_ports": [{"container": 80, "host": 8080}]});
        let nine = generation(&record(&ports), 9);
        let ten = generation(&nine, 10);
        let of = |record: &Record| (record.instance(), Some(record.clone()));
        // By their names, the later one comes first.
        let existing = [of(&ten), of(&nine)];
        for serving in [&nine, &ten] {
            let mut next = generation(&nine, 11);
            next.update = Some(Update {
                stage: UpdateStage::Leaving,
                is_beside: false,
                serving: Some(serving.generation),
                former: Box::new(nine.clone()),
            });
            let placed = in_network(&[next], &existing);
            let has = |at: usize| {
                let (name, names, assignment, _) = &placed[at];
                (*name, names.stands_back, assignment.ports.len())
            };
            let other = if serving.generation == 9 { &ten } else { &nine };
            assert_eq!(placed.len(), 2);
            assert_eq!(has(0), (serving.instance(), false, 1));
            assert_eq!(has(1), (other.instance(), true, 0));
        }
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

    #[test]
    fn the_image_to_go_back_to_is_in_use_until_its_container_is_removed() {
        let mut one = record(&json!({}));
        let former = state::desired::FormerImage {
            reference: "former:1".parse().unwrap(),
            digest: "sha256:2".to_owned(),
        };
        let expected = (former.reference.clone(), Some(former.digest.clone()));
        one.former_image = Some(former);
        assert!(images_of(std::slice::from_ref(&one), &[]).contains(&expected));
        one.removing = true;
        assert!(!images_of(&[one], &[]).contains(&expected));
    }
}
