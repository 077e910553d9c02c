//! Contact with CHaS: kept on the board, noted on disk, and given to those containers as turns that are
//! to rest while CHaS does not answer.

use std::collections::BTreeSet;
use std::time::Duration;

use state::contact::{Contact, Silence, StoredContact};
use state::desired::Record;
use state::id::ContainerId;
use state::spec::Spec;
use tokio::sync::watch;
use tokio::time::Instant;

use super::{Board, Handle, Reconciler};
use crate::runtime::Runtime;
use crate::writer::Writer;

/// Shortest time between two looks: much changes on a busy node.
const LOOK_AFTER: Duration = Duration::from_millis(500);

impl Board {
    /// Notes a call to CHaS that has ended: with an answer, where CHaS is asked at this interval at
    /// least; or (`None`) in vain.
    pub fn record_call(&self, answered: Option<Duration>) {
        let now = self.clock.now();
        self.contact.send_if_modified(|contact| {
            let Some(contact) = contact else {
                return false;
            };
            let before = *contact;
            match answered {
                Some(asked_every) => contact.record_answer(now, asked_every),
                None => contact.record_failure(),
            }
            *contact != before
        });
    }

    /// The contact with CHaS. `None`: none is configured.
    #[must_use]
    pub fn contact(&self) -> Option<Contact> {
        *self.contact.borrow()
    }

    /// Silence of CHaS for which a container with this spec is not to run. `None`: it may.
    #[must_use]
    pub fn silence(&self, spec: &Spec) -> Option<Silence> {
        spec.on_disconnect.stop_after?;
        self.contact()?.suspension(spec, self.clock.now())
    }

    /// Another contact with each answer, and with the first one that stays out.
    fn contacts(&self) -> watch::Receiver<Option<Contact>> {
        self.contact.subscribe()
    }
}

impl<R: Runtime> Reconciler<R> {
    /// The same, on a node that has a CHaS or none: its silence counts on from where the agent before
    /// knew it.
    #[must_use]
    pub fn with_chas(self, has_chas: bool) -> Self {
        if !has_chas {
            return self;
        }
        let begun = Contact::begun(self.board.clock.now());
        self.board.contact.send_replace(Some(begun));
        self.remember_contact();
        self
    }

    /// Takes the noted contact in: at the start, or once the files that hold it can be opened.
    pub(super) fn remember_contact(&self) {
        let Some(stored) = self.writer.store().contact() else {
            return;
        };
        let clock = &self.board.clock;
        let noted = stored.in_boot(&clock.boot_id(), clock.now());
        self.board.contact.send_if_modified(|contact| {
            let is_asked = contact.is_none_or(|contact| contact.has_asked());
            if !is_asked {
                *contact = Some(noted);
            }
            !is_asked
        });
    }
}

/// Follower of the contact with CHaS: gives a container a turn when its time without an answer is over,
/// and when an answer has come; and notes the contact on disk, now and then. It never ends.
pub async fn follow_contact(writer: Writer, handle: Handle) {
    let board = handle.board();
    let (mut contacts, mut changes) = (board.contacts(), board.changes());
    let mut follower = Follower {
        writer,
        handle: handle.clone(),
        suspended: BTreeSet::new(),
        noted: None,
    };
    follower.noted = follower.writer.store().contact();
    loop {
        let looked = Instant::now();
        contacts.mark_unchanged();
        changes.mark_unchanged();
        let next = follower.look().await;
        let due = async {
            match next {
                Some(wait) => tokio::time::sleep(wait).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = due => {}
            Ok(()) = contacts.changed() => {}
            // Another container, or another spec.
            Ok(()) = changes.changed() => {
                let pause = tokio::time::sleep_until(looked + LOOK_AFTER);
                // The first answer after a silence is noted at once: an agent after a kill goes by it.
                tokio::select! {
                    biased;
                    () = pause => {}
                    Ok(()) = contacts.changed() => {}
                }
            }
        }
    }
}

struct Follower {
    writer: Writer,
    handle: Handle,
    /// Containers that were to rest at the last look, and whether what runs of them was to be stopped.
    suspended: BTreeSet<(ContainerId, bool)>,
    /// Last note.
    noted: Option<StoredContact>,
}

impl Follower {
    /// Gives turns, writes a note that is due, and answers the time until the next look is.
    async fn look(&mut self) -> Option<Duration> {
        let board = self.handle.board();
        let (contact, desired) = (board.contact()?, self.writer.store().desired());
        let now = board.clock.now();
        let ends = |record: &Record| contact.stops_at(&record.spec);
        let records = desired.records().filter(|record| !record.removing);
        let (mut suspended, mut next, mut shortest) = (BTreeSet::new(), None, None);
        for record in records {
            let (Some(at), Some(in_force)) = (ends(record), contact.in_force(&record.spec)) else {
                continue;
            };
            shortest = Some(shortest.map_or(in_force, |least: Duration| least.min(in_force)));
            match now < at {
                true => next = Some(next.map_or(at, |first| at.min(first))),
                false => drop(suspended.insert((record.id, contact.has_asked()))),
            }
        }
        let is_news = suspended != self.suspended;
        let others = suspended.symmetric_difference(&self.suspended);
        let others: BTreeSet<_> = others.map(|(id, _)| *id).collect();
        // What follows from it is to be known to an agent after this one.
        let noted = self.note(&contact, shortest, is_news).await;
        others.iter().for_each(|id| self.handle.wake(*id));
        self.suspended = suspended;
        let next = next.map(|at| at.since(now));
        next.into_iter().chain(noted).min()
    }

    /// Writes a note if it is due; the time until the next one is.
    async fn note(
        &mut self,
        contact: &Contact,
        shortest: Option<Duration>,
        is_news: bool,
    ) -> Option<Duration> {
        // Without a container that asks for it nothing is written, and what was, grows old: an answer
        // after it is noted nowhere.
        let Some(shortest) = shortest else {
            if self.noted.take().is_some() {
                self.writer.note_contact(None).await;
            }
            return None;
        };
        let clock = self.handle.board().clock;
        let (boot_id, now) = (clock.boot_id(), clock.now());
        let last = self.noted.as_ref();
        if is_news || last.is_none_or(|last| last.is_outdated(contact, (&boot_id, shortest), now)) {
            let note = contact.to_store(last, (&boot_id, shortest), now);
            self.noted = Some(note.clone());
            self.writer.note_contact(Some(note)).await;
        }
        let noted = self.noted.as_ref()?;
        Some(noted.note_every.saturating_sub(now.since(noted.noted)))
    }
}
