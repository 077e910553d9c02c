//! Sizes that containers ask of volumes which are there: set live, kept, and taken away.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use state::failure::Failure;
use state::quantity::ByteCount;
use state::reason::Reason;
use state::spec::VolumeName;

use super::key::VolumeKey;
use super::quota::{self, Occasion, SizeFault};
use super::{BoundedUse, Volumes};

/// Sizes that were not given to volumes which containers use, as they were told last.
#[derive(Debug, Default)]
pub(crate) struct ToldFaults(BTreeSet<(VolumeName, String)>);

impl Volumes {
    /// Looks whether a volume, which may not be there yet, can have a size where it is.
    ///
    /// # Errors
    /// [`SizeFault::NoQuotas`], with what to do about it.
    pub(crate) fn can_have_size(&self, name: &VolumeName) -> Result<(), SizeFault> {
        let key = VolumeKey::Named(name.clone());
        quota::is_possible(&self.shelf.place(&key))
    }

    /// Looks whether volumes can have these sizes, so that nothing that runs is ended for a successor
    /// that could not start.
    ///
    /// # Errors
    /// [`Reason::LimitRefused`], with each that cannot be had.
    pub(crate) async fn look_at_sizes(
        &self,
        sizes: BTreeMap<VolumeName, ByteCount>,
    ) -> Result<(), Failure> {
        let looked = self.each_size(sizes, |data, size| match data.exists() {
            true => quota::look(data, size),
            false => quota::is_possible(data),
        });
        match looked.await {
            Some(message) => Err(Failure::new(Reason::LimitRefused, message)),
            None => Ok(()),
        }
    }

    /// Sets the sizes of volumes that containers run on. One that is not there is left to the next
    /// launch.
    ///
    /// # Errors
    /// [`Reason::LimitRefused`], with each that is refused. The others are set.
    pub(crate) async fn bound(
        &self,
        sizes: BTreeMap<VolumeName, ByteCount>,
    ) -> Result<(), Failure> {
        let set = self.each_size(sizes, |data, size| bound(data, size, Occasion::Live));
        match set.await {
            Some(refused) => {
                let message = format!("{refused}; the container runs on as it is");
                Err(Failure::new(Reason::LimitRefused, message))
            }
            None => Ok(()),
        }
    }

    /// Does `work` for each size. Answers all that is refused; `None`: nothing is.
    async fn each_size(
        &self,
        sizes: BTreeMap<VolumeName, ByteCount>,
        work: fn(&Path, ByteCount) -> Result<(), SizeFault>,
    ) -> Option<String> {
        if sizes.is_empty() {
            return None;
        }
        let done = self.on_shelf(move |shelf| {
            let refused = sizes.into_iter().filter_map(|(name, size)| {
                let key = VolumeKey::Named(name);
                let fault = work(&shelf.data(&key), size).err()?;
                Some(refused(&key, &fault).message)
            });
            Ok(refused.collect::<Vec<_>>())
        });
        let refused = done.await.unwrap_or_else(|error| vec![error.to_string()]);
        (!refused.is_empty()).then(|| refused.join("; "))
    }

    /// Keeps the sizes of all volumes that containers name; `None`: none of them says one. Answers
    /// what the bounded ones use.
    pub(crate) async fn keep_sizes(
        &self,
        wanted: BTreeMap<VolumeName, Option<ByteCount>>,
        told: ToldFaults,
    ) -> (BTreeMap<VolumeName, BoundedUse>, ToldFaults) {
        let kept = self.on_shelf(move |shelf| {
            let (mut uses, mut faults) = (BTreeMap::new(), BTreeSet::new());
            for (name, size) in wanted {
                let data = shelf.data(&VolumeKey::Named(name.clone()));
                let kept = match size {
                    Some(size) => bound(&data, size, Occasion::Kept),
                    None => unbound(&name, &data),
                };
                if let Err(fault) = kept {
                    let fault = (name.clone(), fault.to_string());
                    if !told.0.contains(&fault) {
                        tracing::warn!(volume = %name, error = %fault.1, "size of a volume not kept");
                    }
                    faults.insert(fault);
                }
                uses.extend(quota::bounded(&data).ok().flatten().map(|bounded| (name, bounded)));
            }
            Ok((uses, ToldFaults(faults)))
        });
        kept.await.unwrap_or_default()
    }
}

/// Sets the size of a volume that is there.
fn bound(data: &Path, size: ByteCount, occasion: Occasion) -> Result<(), SizeFault> {
    if data.exists() {
        quota::bound(data, size, occasion)
    } else {
        Ok(())
    }
}

fn unbound(name: &VolumeName, data: &Path) -> Result<(), SizeFault> {
    if data.exists() && quota::unbound(data)? {
        tracing::info!(volume = %name, "limit of a volume taken away: no container says its size");
    }
    Ok(())
}

pub(super) fn refused(key: &VolumeKey, fault: &SizeFault) -> Failure {
    Failure::new(Reason::LimitRefused, format!("{key}: {fault}"))
}
