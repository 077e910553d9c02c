//! Alarms about output that is lost: one for each of the first containers, and one for all others.

use std::collections::BTreeMap;

use state::alarm::Alarm;
use state::event::EventSubject;

use super::Loggers;
use crate::lock::lock;

/// Containers that have an alarm of their own. A disk that is full takes the output of all at once,
/// and a line for each is in `logs.silent` of `/health`.
const TOLD_MAX: usize = 8;

/// Loss that an alarm is about.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Loss {
    /// The container. `None`: all that have no alarm of their own.
    subject: Option<EventSubject>,
    /// Fault and its consequence.
    fault: String,
}

impl Loggers {
    /// Raises and clears the alarms about output that is lost; after each change of a fault.
    pub(super) fn set_alarms(&self) {
        // Held to the end, so that of two at once the later look is told last.
        let mut alarmed = lock(&self.0.alarmed);
        let kept = lock(&self.0.kept);
        let silent = kept.values().filter_map(|kept| {
            let fault = kept.fault.clone()?;
            let subject = Some(kept.subject.clone());
            Some((kept.subject.to_string(), Loss { subject, fault }))
        });
        let silent: BTreeMap<_, _> = silent.collect();
        drop(kept);
        let now = alarms(&alarmed, silent);
        let set = |loss: &Loss, fault| match &loss.subject {
            Some(subject) => {
                let journal = &self.0.journal;
                journal.set_alarm_of(Alarm::OutputLost, subject.clone(), fault);
            }
            None => self.0.journal.set_alarm(Alarm::OutputLost, "", fault),
        };
        let over = alarmed.iter().filter(|(name, _)| !now.contains_key(*name));
        over.for_each(|(_, loss)| set(loss, None));
        for loss in now.values() {
            set(loss, Some(loss.fault.clone()));
        }
        *alarmed = now;
    }
}

/// The alarms about these containers, by name; empty is that of all that have none of their own. A
/// container that has an alarm keeps it while its output is lost.
fn alarms(
    before: &BTreeMap<String, Loss>,
    mut silent: BTreeMap<String, Loss>,
) -> BTreeMap<String, Loss> {
    let kept = silent.extract_if(.., |container, _| before.contains_key(container));
    let mut told: BTreeMap<_, _> = kept.collect();
    while told.len() < TOLD_MAX
        && let Some((container, loss)) = silent.pop_first()
    {
        told.insert(container, loss);
    }
    if !silent.is_empty() {
        let more = silent.len();
        let fault = format!("{more} more containers lose their output; logs.silent lists them");
        let subject = None;
        told.insert(String::new(), Loss { subject, fault });
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn silent(containers: impl Iterator<Item = u32>) -> BTreeMap<String, Loss> {
        let silent = containers.map(|number| {
            let fault = "no room".to_owned();
            let subject = None;
            (format!("c{number:03}"), Loss { subject, fault })
        });
        silent.collect()
    }

    fn subjects(alarms: &BTreeMap<String, Loss>) -> Vec<&str> {
        alarms.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_few_containers_have_alarms_of_their_own_and_the_others_one_for_all() {
        let many = alarms(&BTreeMap::new(), silent(90..190));
        assert_eq!(many.len(), TOLD_MAX + 1);
        assert_eq!(subjects(&many)[..2], ["", "c090"]);
        assert_eq!(
            many[""].fault,
            "92 more containers lose their output; logs.silent lists them"
        );
        // Another one before them in the list takes nobody's alarm away, and one that is well again
        // makes room.
        let more = alarms(&many, silent(1..190));
        assert_eq!(subjects(&more), subjects(&many));
        let fewer = alarms(&more, silent((1..4).chain(94..98)));
        let expected = ["c001", "c002", "c003", "c094", "c095", "c096", "c097"];
        assert_eq!(subjects(&fewer), expected);
        assert!(alarms(&fewer, BTreeMap::new()).is_empty());
    }
}
