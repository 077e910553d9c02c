//! The journal: the one place that takes events. A call of [`Journal::record`] writes the log line,
//! counts, and hands the event to the feed, in this order.
//!
//! Nothing else in the agent logs or counts a fact that is an [`Event`]. Routine events (a store
//! write, a poll, a report) are only counted: a node makes thousands of them a day, and they would
//! push the rest out.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use state::alarm::Alarm;
use state::event::{Event, EventKind, EventSubject};
use state::text::{MESSAGE_CHARS_MAX, shown};

use crate::feed::EventFeed;
use crate::lock::lock;
use crate::metrics::Metrics;

mod alarms;
mod count;
mod line;
mod render;

pub use alarms::StandingAlarm;
use alarms::{Alarms, Change};

/// Events kept for tests, which look at them as they are.
#[cfg(test)]
const ENTRIES_MAX: usize = 1024;
/// Errors kept for `/health`, each once.
const ERRORS_MAX: usize = 20;

/// An event, as the journal keeps it.
#[derive(Clone, Debug, PartialEq)]
pub struct JournalEntry {
    /// The number, as in the feed.
    pub seq: u64,
    /// The wall time.
    pub at: SystemTime,
    /// The event.
    pub event: Event,
}

/// An error, as the journal keeps it: all of a container (or of the node) with one code.
#[derive(Clone, Debug, PartialEq)]
pub struct RecentError {
    /// The code: of a reason, or of an alarm.
    pub code: &'static str,
    /// The newest of them.
    pub last: JournalEntry,
    /// The time of the first of them.
    pub first_at: SystemTime,
    /// The number of them.
    pub count: u64,
}

#[derive(Debug, Default)]
struct EventRing {
    #[cfg(test)]
    entries: VecDeque<JournalEntry>,
    /// Errors, kept apart, since a burst of other events is not to hide them; and each once, since
    /// one container that fails for ever is not to hide the others.
    errors: VecDeque<RecentError>,
    alarms: Alarms,
}

/// The journal. Clones write into the same.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    metrics: Metrics,
    feed: EventFeed,
    ring: Arc<Mutex<EventRing>>,
}

impl Journal {
    /// An empty journal that counts in `metrics`, and whose events nobody reads.
    #[must_use]
    pub fn new(metrics: Metrics) -> Self {
        Self::with_feed(metrics, EventFeed::default())
    }

    /// A journal that counts in `metrics`, and hands its events to this feed.
    #[must_use]
    pub fn with_feed(metrics: Metrics, feed: EventFeed) -> Self {
        count::begin(&metrics);
        Self {
            metrics,
            feed,
            ring: Arc::default(),
        }
    }

    /// The feed of the events.
    #[must_use]
    pub const fn feed(&self) -> &EventFeed {
        &self.feed
    }

    /// Takes in an event.
    pub fn record(&self, event: impl Into<Event>) {
        let event = fit(event.into());
        line::write(&event);
        count::count(&self.metrics, &event);
        if event.kind.is_routine() {
            return;
        }
        let mut ring = lock(&self.ring);
        let at = SystemTime::now();
        let mut seq = 0;
        self.feed.push(|number| {
            seq = number;
            render::render(number, at, &event)
        });
        ring.push(JournalEntry { seq, at, event });
    }

    /// Raises an alarm about `subject` (empty: the node), or clears it where `fault` is `None`.
    /// Whoever may notice such a state calls this after each look; only changes are news.
    ///
    /// Of an alarm that stands already, one subject too many is dropped: more than a person reads stand.
    pub fn set_alarm(&self, alarm: Alarm, subject: &str, fault: Option<String>) {
        self.set(alarm, (subject, None), fault);
    }

    /// [`Self::set_alarm`] about one container, whose events those of the alarm are.
    pub fn set_alarm_of(&self, alarm: Alarm, subject: EventSubject, fault: Option<String>) {
        self.set(alarm, (&subject.to_string(), Some(subject)), fault);
    }

    fn set(
        &self,
        alarm: Alarm,
        (subject, container): (&str, Option<EventSubject>),
        fault: Option<String>,
    ) {
        let subject = shown(subject, MESSAGE_CHARS_MAX);
        let fault = fault.map(|fault| shown(&fault, MESSAGE_CHARS_MAX).into_owned());
        let change = lock(&self.ring).alarms.set(alarm, &subject, fault);
        let (kind, message) = match change {
            Change::None => return,
            Change::Raised(message) => (EventKind::AlarmRaised { alarm }, message),
            Change::Changed(message) => (EventKind::AlarmChanged { alarm }, message),
            Change::Cleared(message) => (EventKind::AlarmCleared { alarm }, message),
        };
        self.record(Event {
            subject: container,
            ..Event::from(kind).saying(message)
        });
    }

    /// The alarms that stand, the heaviest first.
    #[must_use]
    pub fn alarms(&self) -> Vec<StandingAlarm> {
        lock(&self.ring).alarms.all()
    }

    /// The last errors, oldest first.
    #[must_use]
    pub fn errors(&self) -> Vec<RecentError> {
        lock(&self.ring).errors.iter().cloned().collect()
    }

    /// The events after number `seq` that are still kept, oldest first.
    #[cfg(test)]
    pub(crate) fn after(&self, seq: u64) -> Vec<JournalEntry> {
        let ring = lock(&self.ring);
        let entries = ring.entries.iter().filter(|entry| entry.seq > seq);
        entries.cloned().collect()
    }
}

impl EventRing {
    fn push(&mut self, entry: JournalEntry) {
        #[cfg(test)]
        push_bounded(&mut self.entries, entry.clone(), ENTRIES_MAX);
        if let Some(code) = entry.event.error_code() {
            self.push_error(code, entry);
        }
    }

    fn push_error(&mut self, code: &'static str, entry: JournalEntry) {
        let id = |event: &Event| {
            event
                .subject
                .as_ref()
                .map(|subject: &EventSubject| subject.id)
        };
        let is_same = |before: &RecentError| {
            before.code == code && id(&before.last.event) == id(&entry.event)
        };
        let same = self.errors.iter().position(is_same);
        let before = same.and_then(|at| self.errors.remove(at));
        let error = RecentError {
            code,
            first_at: before.as_ref().map_or(entry.at, |before| before.first_at),
            count: before.map_or(0, |before| before.count) + 1,
            last: entry,
        };
        push_bounded(&mut self.errors, error, ERRORS_MAX);
    }
}

/// Event whose message may be shown: it may repeat what others wrote.
fn fit(event: Event) -> Event {
    let message = event.message.as_deref();
    match message.map(|message| shown(message, MESSAGE_CHARS_MAX)) {
        Some(Cow::Owned(message)) => event.saying(message),
        Some(Cow::Borrowed(_)) | None => event,
    }
}

/// Appends an entry, in the place of the oldest if there are `max` already.
fn push_bounded<T>(entries: &mut VecDeque<T>, entry: T, max: usize) {
    if entries.len() == max {
        entries.pop_front();
    }
    entries.push_back(entry);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use state::event::{EventKind, EventSubject};
    use state::id::ContainerId;
    use state::plan::Step;
    use state::reason::Reason;

    use super::*;
    use crate::feed::FeedEvent;

    fn failed(number: u64) -> Event {
        let kind = EventKind::StepFailed {
            step: Step::Pull,
            retry_in: Duration::from_secs(1),
        };
        Event::from(kind)
            .about(EventSubject::new(ContainerId::from_bits(number), None))
            .because(Reason::ImageNotFound)
            .saying(format!("failure {number}"))
    }

    #[test]
    fn an_event_is_counted_and_kept_and_a_routine_one_only_counted() {
        let metrics = Metrics::new();
        let journal = Journal::new(metrics.clone());
        journal.record(failed(0));
        journal.record(EventKind::PollEnded { result: "taken" });
        journal.record(EventKind::ContainerRestarted);
        let text = metrics.text();
        for line in [
            "chas_step_failures_total{step=\"pull\",reason=\"ImageNotFound\"} 1",
            "chas_link_polls_total{result=\"taken\"} 1",
            "chas_restarts_total 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}");
        }
        let kept = journal.after(0);
        let kinds: Vec<_> = kept
            .iter()
            .map(|entry| (entry.seq, entry.event.kind.as_str()))
            .collect();
        assert_eq!(kinds, [(1, "step_failed"), (2, "container_restarted")]);
        assert_eq!(journal.after(1).len(), 1);
    }

    #[test]
    fn the_ring_is_bounded_and_the_last_errors_outlive_a_burst_of_other_events() {
        let journal = Journal::new(Metrics::new());
        for number in 0..=ERRORS_MAX as u64 {
            journal.record(failed(number));
        }
        for _ in 0..ENTRIES_MAX {
            journal.record(EventKind::ContainerRestarted);
        }
        let (kept, errors) = (journal.after(0), journal.errors());
        assert_eq!((kept.len(), errors.len()), (ENTRIES_MAX, ERRORS_MAX));
        assert_eq!(errors[0].last.event.text(), "000000000001: failure 1");
        let is_error = |entry: &JournalEntry| entry.event.error_code().is_some();
        assert!(!kept.iter().any(is_error));
    }

    #[test]
    fn the_events_of_an_alarm_about_one_container_are_that_container_s() {
        let journal = Journal::new(Metrics::new());
        let subject = EventSubject {
            id: ContainerId::from_bits(7),
            name: Some("web".parse().unwrap()),
            generation: Some(1),
        };
        for fault in [Some("full"), Some("fuller"), None] {
            let fault = fault.map(ToOwned::to_owned);
            journal.set_alarm_of(Alarm::OutputLost, subject.clone(), fault);
        }
        let told = journal.feed().read(0, 10).events;
        let name = |event: &FeedEvent| event.name.as_ref().map(ToString::to_string);
        let names: Vec<_> = told.iter().map(|event| name(event)).collect();
        assert_eq!(names, vec![Some("web".to_owned()); 3]);
        let text = String::from_utf8(told[0].data.to_vec()).unwrap();
        for says in ["\"alarm_raised\"", "OutputLost", "/containers/web/explain"] {
            assert!(text.contains(says), "{text}");
        }
        assert_eq!(journal.errors()[0].last.event.text(), "web: fuller");
    }

    #[test]
    fn an_error_that_comes_again_is_counted_and_hides_no_other() {
        let journal = Journal::new(Metrics::new());
        journal.record(failed(1));
        for _ in 0..ERRORS_MAX * 2 {
            journal.record(failed(2));
        }
        let seen = journal.errors().into_iter();
        let seen: Vec<_> = seen
            .map(|error| (error.last.event.text(), error.count))
            .collect();
        let again = (ERRORS_MAX * 2) as u64;
        assert_eq!(
            seen,
            [
                ("000000000001: failure 1".to_owned(), 1),
                ("000000000002: failure 2".to_owned(), again)
            ]
        );
    }

    #[test]
    fn an_alarm_is_news_when_it_begins_changes_and_ends_and_stands_in_between() {
        let journal = Journal::new(Metrics::new());
        let set = |subject: &str, fault: Option<&str>| {
            journal.set_alarm(Alarm::SweepFailing, subject, fault.map(ToOwned::to_owned));
        };
        set("", None);
        assert!(journal.after(0).is_empty() && journal.alarms().is_empty());
        set("a", Some("busy"));
        set("b", Some("busy"));
        set("a", Some("still busy"));
        let messages = |alarms: Vec<StandingAlarm>| -> Vec<_> {
            alarms.into_iter().map(|alarm| alarm.message).collect()
        };
        assert_eq!(messages(journal.alarms()), ["a: still busy", "b: busy"]);
        set("a", None);
        assert_eq!(journal.alarms().len(), 1);
        set("b", None);
        set("b", None);
        assert!(journal.alarms().is_empty());
        let kinds: Vec<_> = journal
            .after(0)
            .into_iter()
            .map(|entry| entry.event.kind.as_str())
            .collect();
        assert_eq!(
            kinds,
            [
                "alarm_raised",
                "alarm_raised",
                "alarm_changed",
                "alarm_cleared",
                "alarm_cleared"
            ]
        );
        let errors = journal.errors();
        let error = (errors[0].code, errors[0].last.event.text());
        assert_eq!(error, ("SweepFailing", "a: still busy".to_owned()));
    }
}
